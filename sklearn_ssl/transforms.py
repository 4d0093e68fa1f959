"""Transforms of torchvision, each of one image, as an augmentation of whole batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class OneByOne:
    """Apply a transform to each image of a batch, so that each has random numbers of its own.

    Parameters
    ----------
    transform : callable
        From a float tensor of shape (channels, height, width) to another; all results have one shape. It may
        draw from the global generators of torch, numpy and Python.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor]):
        self.transform = transform

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return torch.stack([self.transform(image) for image in images])


def is_transform(augment: Any) -> bool:
    """Return whether it is a transform of torchvision (v1 or v2), or an `nn.Sequential` of such."""
    if isinstance(augment, nn.Sequential):
        return len(augment) > 0 and all(map(is_transform, augment))
    return any(kind.__module__.startswith("torchvision.transforms") for kind in type(augment).__mro__)
