"""Milliseconds of a step of each optimizer for ResNet-18 and the vision transformer, without the gradient.

    python benchmarks/optimizers.py

Interleaved, medians of --repeats. "muon, whole" orthogonalizes whole matrices in five iterations, as its
author does; torch's own Muon does not accept convolution kernels, so it is measured on the vision transformer
only.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from side_by_side import alternate, best_device, machine, seconds, show
from torch import nn
from torch.optim import Optimizer

from sklearn_ssl._hardware.allocator import retain_freed_memory
from sklearn_ssl._networks.backbones import build_backbone
from sklearn_ssl._networks.vit import ViT
from sklearn_ssl._training.optimizers import OPTIMIZERS, decay_groups

WHOLE = {"rows": 10**9, "iterations": 5}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    print(machine())
    for name in ("resnet18", "vit"):
        network, _ = build_backbone(name, {}, in_channels=3, image_size=(args.side, args.side))
        network.to(best_device(), memory_format=torch.channels_last)
        with retain_freed_memory():
            values = alternate(cases(network), args.repeats)
        print(f"\n{name}, {sum(p.numel() for p in network.parameters()):,} weights")
        show(values, "ms", "adamw")


def cases(network: nn.Module) -> dict[str, Callable[[], float]]:
    """Return a function for each optimizer that measures a step, after a first one that allocates memory."""
    for p in network.parameters():
        p.grad = torch.randn_like(p)
    groups = decay_groups(network.parameters(), 1e-2)
    made = {name: make(copied(groups), 1e-6) for name, make in OPTIMIZERS.items()}
    made["muon, whole"] = OPTIMIZERS["muon"](copied(groups), 1e-6, **WHOLE)
    if isinstance(network, ViT):
        matrices = [p for p in network.parameters() if p.ndim == 2]
        made["torch's muon (matrices alone)"] = torch.optim.Muon(matrices, 1e-6)
    for optimizer in made.values():
        optimizer.step()
    return {name: milliseconds_of(optimizer) for name, optimizer in made.items()}


def milliseconds_of(optimizer: Optimizer) -> Callable[[], float]:
    return lambda: 1000 * seconds(optimizer.step)


def copied(groups: list[dict]) -> list[dict]:
    """Copy parameter groups, as optimizers write their settings into them."""
    return [dict(group) for group in groups]


if __name__ == "__main__":
    main()
