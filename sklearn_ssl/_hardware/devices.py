"""Device and precision of the computation."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from joblib import cpu_count

from sklearn_ssl._checks import shortened
from sklearn_ssl._warnings import warn


def resolve_device(device: Any) -> torch.device:
    """Return the device that the parameter `device` denotes.

    Parameters
    ----------
    device : "auto", str or torch.device
        Value of the parameter. "auto": CUDA if it is available, else the CPU.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If the device is unknown to torch or not available on this machine.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda", local_gpu()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        torch.zeros(1, device=device).cpu()  # .cpu() rejects "meta", whose tensors have no data
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ValueError(
            f"device={device!r} is not there: {str(error).splitlines()[0]} This machine has {there}; "
            f"device='auto' takes the best of them."
        ) from error


def local_gpu() -> int:
    """Return the number of this process's GPU, on a machine with several.

    A GPU that the program or a launcher (Ray) has selected is kept. Of processes of `torch.distributed`, each
    has the GPU of its local rank; of the workers of joblib, in which the fits of a search run, each has the
    one of the number in its name ("LokyProcess-3"), so that the fits are spread over the GPUs.
    """
    n, selected = torch.cuda.device_count(), torch.cuda.current_device()
    if selected or n < 2:
        return selected
    if dist.is_available() and dist.is_initialized():
        return int(os.environ.get("LOCAL_RANK", dist.get_rank())) % n
    number = multiprocessing.current_process().name.removeprefix("LokyProcess-")
    return (int(number) - 1) % n if number.isdecimal() else 0


def local_threads() -> int:
    """Return the number of threads that read images in this process.

    The number of torch's threads, which joblib limits in its workers. It does not tell for processes that
    `torchrun` has started, which it gives one thread each: they share the processors of the machine.
    """
    if dist.is_available() and dist.is_initialized() and "LOCAL_WORLD_SIZE" in os.environ:
        return max(1, cpu_count() // int(os.environ["LOCAL_WORLD_SIZE"]))
    return min(cpu_count(), torch.get_num_threads())


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return the precision of the computation, "bf16" or "float32".

    "auto" selects bf16 on devices with instructions for it: CUDA from compute capability 8 on, and CPUs with
    AMX or AVX512-BF16.

    Raises
    ------
    ValueError
        If the precision is unknown, or is bf16 on a GPU that does not support it.

    Warns
    -----
    UserWarning
        If the precision is bf16 on a CPU without instructions for it.
    """
    if not isinstance(precision, str) or precision not in ("auto", "bf16", "bfloat16", "float32"):
        raise ValueError(f"precision={shortened(precision)}: give 'auto', 'bf16' or 'float32'.")
    fast = is_fast_in_bf16(device)
    if precision == "auto":
        return "bf16" if fast else "float32"
    if precision == "float32":
        return precision
    if not fast and device.type == "cuda":
        raise ValueError(
            f"precision={precision!r}: {device} has no arithmetic for it (CUDA: from compute capability 8 "
            f"on). Set precision='auto', which takes float32 here."
        )
    if not fast and device.type == "cpu":
        warn(
            f"precision={precision!r}: this CPU has no instructions for it (AMX or AVX512-BF16) and is "
            f"slower in it than in float32. Set precision='auto', which takes the faster one."
        )
    return "bf16"


def is_fast_in_bf16(device: torch.device) -> bool:
    """Return whether the device has instructions for bf16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return False


def resolve_compile(compile: bool, device: torch.device) -> bool:
    """Return whether to compile; if `torch.compile` does not work here, warn and return False."""
    if not compile:
        return False
    problem = _compiling_fails(device.type)
    if problem:
        warn(
            f"compile=True, but torch.compile does not work here ({problem}): continuing without it. It "
            f"needs a C++ compiler (Linux: g++, macOS: Xcode's command line tools, Windows: Visual Studio's "
            f"build tools), and on a GPU triton."
        )
    return problem is None


@functools.cache
def _compiling_fails(device_type: str) -> str | None:
    """Return the error of compiling a small function, or None if it succeeds."""
    try:
        torch.compile(lambda x: (x + 1).sin(), dynamic=False)(torch.zeros(2, device=device_type))
    except Exception as error:  # from torch, triton, the compiler or the file system
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return None


@contextmanager
def fast_float32(device: torch.device) -> Iterator[None]:
    """Context manager in which float32 matrix products on CUDA may use TF32, with 10 bits of mantissa.

    Convolutions use it by default.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def memory_advice(batch_size: int, micro_batches: int) -> Iterator[None]:
    """Context manager that converts torch's out-of-memory errors to a MemoryError with advice.

    Raises
    ------
    MemoryError
        If a step does not fit into the memory of the device.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(
            f"A step on batch_size={batch_size} images, micro_batches={micro_batches}, does not fit into "
            f"memory. Set micro_batches={2 * micro_batches}, to take the batch through the network in more "
            f"parts, or a smaller batch_size. torch says: {str(error).splitlines()[0]}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch failed to allocate memory, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
