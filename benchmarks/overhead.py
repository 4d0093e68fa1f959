"""Overhead of `fit` over the same training in plain PyTorch, and time until its first step.

    python benchmarks/overhead.py

Both sides have the same network, views (`RandomViews`), loss, optimizer, precision, memory layout and context
(`autocast`, `retain_freed_memory`), and a cosine; epochs after the first. Two networks: ResNet-18 at 32
pixels, in percent, and a small module, where a step is short, in microseconds per step. Then, in fresh
processes: seconds to import the package, and from `fit` to the first step.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import alternate, machine, show, wait_for_gpu
from skorch.callbacks import Callback
from torch import Tensor, nn

from sklearn_ssl import SSLImageEmbedder
from sklearn_ssl._hardware.allocator import retain_freed_memory
from sklearn_ssl._hardware.devices import resolve_device, resolve_precision
from sklearn_ssl._networks.backbones import build_backbone
from sklearn_ssl._networks.student import autocast
from sklearn_ssl._training.optimizers import AUTO_OPTIMIZER, base_settings, decay_groups, resolve_optimizer
from sklearn_ssl._views.augmentation import make_augment
from sklearn_ssl._views.random_views import RandomViews
from sklearn_ssl.losses import NTXent, ViewSpec, mlp


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=4, help="per epoch of the ResNet")
    parser.add_argument("--small-steps", type=int, default=200, help="per epoch of the small module")
    parser.add_argument("--epochs", type=int, default=3, help="the first is not counted")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print(machine())
    compare("resnet18", size=32, batch_size=128, steps=args.steps, epochs=args.epochs, repeats=args.repeats)
    compare(Small, size=8, batch_size=32, steps=args.small_steps, epochs=args.epochs, repeats=args.repeats)
    print("\nfresh processes, 2,000 images of 32 px")
    starts = [first_step_in_a_fresh_process() for _ in range(args.repeats)]
    names = ("import torch", "import sklearn_ssl", "fit to first step")
    show(dict(zip(names, zip(*starts, strict=True), strict=True)), "s")


class Small(nn.Module):
    """Two convolutions, such as a user might write for small images."""

    def __init__(self, in_channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3))  # (n, 32)


def compare(backbone: Any, size: int, batch_size: int, steps: int, epochs: int, repeats: int) -> None:
    name = "ResNet-18" if backbone == "resnet18" else "small module"
    print(f"\n{name}, {size} px, batch {batch_size}, {steps} steps per epoch")
    shape = (batch_size * steps, size, size, 3)
    images = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    cases: dict[str, Callable[[], float]] = {
        "by hand": lambda: by_hand(images, backbone, batch_size, epochs),
        "ours": lambda: ours(images, backbone, batch_size, epochs),
    }
    times = alternate(cases, repeats)
    show({case: [1e6 * t / steps for t in each] for case, each in times.items()}, "us per step", "by hand")
    hand, fit = (np.median(times[case]) for case in ("by hand", "ours"))
    print(f"ours beyond by hand: {fit / hand - 1:+.1%}, {1e6 * (fit - hand) / steps:+,.0f} us per step")


def ours(images: np.ndarray, backbone: Any, batch_size: int, epochs: int) -> float:
    """Return the median seconds of an epoch after the first."""
    embedder = SSLImageEmbedder(backbone=backbone, batch_size=batch_size, max_epochs=epochs, random_state=0)
    embedder.fit(images)
    return float(np.median([row["dur"] for row in embedder.history_[1:]]))


def by_hand(pixels: np.ndarray, backbone: Any, batch_size: int, epochs: int) -> float:
    """Run the same training in one loop, and return the median seconds of an epoch after the first."""
    torch.manual_seed(0)
    device = resolve_device("auto")
    precision = resolve_precision("auto", device)
    size = pixels.shape[1:3]
    network, width = build_backbone(backbone, {}, in_channels=3, image_size=size)
    network = nn.Sequential(network, mlp(width, 512, 128)).to(device, memory_format=torch.channels_last)
    criterion = NTXent()
    settings = base_settings(AUTO_OPTIMIZER)
    peak = settings["lr"] * batch_size / 256
    groups = decay_groups(network.parameters(), settings["weight_decay"])
    optimizer = resolve_optimizer(AUTO_OPTIMIZER)(groups, peak)
    draw = RandomViews(make_augment("photo", {}), size, torch.full((3,), 0.5), torch.full((3,), 0.25))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    n_steps = epochs * (len(images) // batch_size)
    step, times = 0, []
    with retain_freed_memory():
        for _ in range(epochs):
            started = time.perf_counter()
            for index in torch.randperm(len(images)).split(batch_size):
                for group in optimizer.param_groups:
                    group["lr"] = peak * (1 + math.cos(math.pi * step / n_steps)) / 2
                unit = images[index].to(device).to(torch.float32).div_(255)
                views = torch.cat(draw(unit, ViewSpec(n=2), seed=step))
                with autocast(device, precision):
                    z = network(views)
                loss = criterion(*z.float().chunk(2))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
            wait_for_gpu()
            times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))


# ------------------------------------------------------------------ time until the first step


def first_step_in_a_fresh_process() -> list[float]:
    """Return seconds to import torch, to import sklearn_ssl after it, and from `fit` to the first step."""
    code = (
        "import time; t0 = time.perf_counter(); import torch; t1 = time.perf_counter(); import sklearn_ssl; "
        "t2 = time.perf_counter(); import overhead; overhead.report_first_step(t1 - t0, t2 - t1)"
    )
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=here, check=True, capture_output=True, text=True)
    return [float(word) for word in done.stdout.split()]


def report_first_step(*imports: float) -> None:
    """Measure a first fit in this process, a fresh one, and print it after the times of the imports."""
    images = np.random.default_rng(0).integers(0, 255, (2000, 32, 32, 3), dtype=np.uint8)
    started = time.perf_counter()
    embedder = SSLImageEmbedder(max_epochs=1, callbacks=[LeaveAtFirstStep()])
    with contextlib.suppress(LeaveAtFirstStep.Left):
        embedder.fit(images)
    print(*imports, time.perf_counter() - started, flush=True)
    os._exit(0)  # there is nothing to clean up


class LeaveAtFirstStep(Callback):
    """Callback that ends a fit at the beginning of its first step."""

    class Left(Exception):
        pass

    def on_batch_begin(self, net, **kwargs):
        raise self.Left


if __name__ == "__main__":
    main()
