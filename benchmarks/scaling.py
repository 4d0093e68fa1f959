"""Time and memory of a fit by the number of images, and the effect of `micro_batches` on memory.

    python benchmarks/scaling.py

First, grayscale images of 8 pixels, a small module as backbone, one epoch: seconds of the whole fit, images/s
of the epoch, and the increase of the peak memory in MB over the memory just before the fit, when the images
and the libraries that a first fit imports are loaded (on a GPU: of the GPU's memory). Then the same for one
batch of --batch-size images of 32 pixels and ResNet-18 with the 3x3 stem, which passes through the network in
`micro_batches` parts. Each measurement is made in a separate process; medians of --repeats.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import machine
from torch import Tensor, nn

from sklearn_ssl import SSLImageEmbedder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", nargs="*", type=int, default=[1000, 5000, 20000, 50000])
    parser.add_argument("--parts", nargs="*", type=int, default=[1, 2, 4], help="values of micro_batches")
    parser.add_argument("--batch-size", type=int, default=256, help="batch size of the second part")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--run", type=json.loads, help=argparse.SUPPRESS
    )  # one measurement, in a separate process
    args = parser.parse_args()
    if args.run:
        print(json.dumps(measure(**args.run)))
        return
    print(machine())
    small = [dict(n=n, size=8, channels=1, backbone="small", batch_size=256) for n in args.images]
    compare("n", small, args.repeats)
    large = dict(n=args.batch_size, size=32, channels=3, backbone="resnet18", batch_size=args.batch_size)
    compare("micro_batches", [{**large, "micro_batches": k} for k in args.parts], args.repeats)


def compare(what: str, cases: list[dict], repeats: int) -> None:
    print(f"\n{what:>10}{'seconds':>10}{'images/s':>10}{'MB more':>10}")
    results = [[in_own_process(case) for case in cases] for _ in range(repeats)]
    for case, measured in zip(cases, zip(*results, strict=True), strict=True):
        seconds, speed, more = np.median(measured, axis=0)
        print(f"{case[what]:10,}{seconds:10.2f}{speed:10,.0f}{more / 2**20:10.1f}", flush=True)


def in_own_process(case: dict) -> list[float]:
    command = [sys.executable, __file__, "--run", json.dumps(case)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(n: int, size: int, channels: int, backbone: str, **settings: Any) -> list[float]:
    """Return seconds of a fit of one epoch, images/s of the epoch, and additional peak memory in bytes."""
    images = np.random.default_rng(0).integers(0, 255, (n, size, size, channels), dtype=np.uint8)
    if backbone == "small":
        settings["backbone"] = Small
    else:
        settings |= {"backbone": "resnet18", "backbone__stem": "3x3"}
    embedder = SSLImageEmbedder(max_epochs=1, random_state=0, **settings)
    SSLImageEmbedder(backbone=Small, max_epochs=1, batch_size=16).fit(images[:16])  # imports libraries
    forget_peak()
    before = memory_now()
    started = time.perf_counter()
    embedder.fit(images)
    seconds = time.perf_counter() - started
    return [seconds, embedder.history_[0]["images_per_second"], memory_peak() - before]


class Small(nn.Module):
    """One convolution, so small that the rest of the fit dominates."""

    def __init__(self, in_channels: int):
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, 16, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x).relu().mean((2, 3))  # (n, 16)


def memory_now() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else of_process("VmRSS")


def forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def memory_peak() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else of_process("VmHWM")


def of_process(what: str) -> int:
    """Return a number of bytes from Linux; the peak of `resource.getrusage` starts at that of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))


if __name__ == "__main__":
    main()
