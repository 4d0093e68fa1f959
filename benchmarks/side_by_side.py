"""Helpers of the benchmarks: description of the machine, interleaved cases, table of medians."""

from __future__ import annotations

import functools
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from sklearn_ssl._hardware.devices import is_fast_in_bf16


def machine() -> str:
    """Describe the machine in two lines: processor, threads, instructions, GPU, torch, GEMM peaks."""
    instructions = {
        "AMX": torch.cpu._is_amx_tile_supported(),
        "AVX512-BF16": torch.cpu._is_avx512_bf16_supported(),
    }
    there = (
        ", ".join(name for name, is_there in instructions.items() if is_there)
        or "neither AMX nor AVX512-BF16"
    )
    # bf16 emulated in software would take minutes.
    precisions = ("float32", "bf16") if is_fast_in_bf16(torch.device(best_device())) else ("float32",)
    peaks = ", ".join(f"{gemm_peak(precision):,.0f} in {precision}" for precision in precisions)
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{processor()}, {torch.get_num_threads()} threads, {there}{gpu}, torch {torch.__version__}\n"
        f"GEMM peaks in GFLOP/s: {peaks}"
    )


@functools.cache
def gemm_peak(precision: str, device: str | None = None, size: int = 2048, repeats: int = 20) -> float:
    """Return the GFLOP/s of a matrix product in "bf16" or "float32", the best of several."""
    device = device or best_device()
    dtype = {"bf16": torch.bfloat16, "float32": torch.float32}[precision]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / min(seconds(lambda: a @ b) for _ in range(repeats)) / 1e9


def line(*cells: str) -> None:
    """Print a row of a Markdown table."""
    print("| " + " | ".join(cells) + " |", flush=True)


def alternate(cases: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Measure the cases in turn, `repeats` times, so that a slow minute of the machine affects all cases."""
    values: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats):
        for name, measure in cases.items():
            values[name].append(measure())
            print(f"  {repeat + 1}/{repeats} {name}: {number(values[name][-1])}", file=sys.stderr, flush=True)
    return values


def show(
    values: dict[str, list[float]],
    unit: str,
    reference: str | None = None,
    more: Callable[[str, float], str] = lambda name, median: "",
) -> None:
    """Print median, range and ratio to the reference case; `more(name, median)` may add to each line."""
    base = np.median(values[reference]) if reference else None
    width = max(map(len, values))
    for name, measured in values.items():
        median = float(np.median(measured))
        ratio = f"{median / base:9.2f}x" if base else ""
        spread = f"({number(min(measured))} - {number(max(measured))})"
        print(
            f"{name:{width}}{number(median):>12} {unit} {spread:22}{ratio}  {more(name, median)}".rstrip(),
            flush=True,
        )


def number(value: float) -> str:
    """Format a number with four digits, and large ones without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds that a function takes, including its work on the GPU."""
    wait_for_gpu()
    started = time.perf_counter()
    work()
    wait_for_gpu()
    return time.perf_counter() - started


def best_device() -> str:
    """Return the device that `device="auto"` selects."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
