"""What pixel values mean, learned from the training images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sklearn_ssl._images.sources import Source


@dataclass
class PixelScale:
    """What pixel values mean, learned from the training images.

    Views are drawn in units in which black is about 0 and white about 1, then standardised:

    - uint8: the value divided by 255;
    - other types with all values in [0, 1]: as they are;
    - anything else: the 0.1 and 99.9 percentiles of the training images become 0 and 1 (for each
      channel; for three channels together, so that colours stay), and nothing is clipped.

    Attributes
    ----------
    low, span, mean, std : Tensor of shape (channels,)
        unit = (pixel - low) / span; standardised = (unit - mean) / std.
    bounded : bool
        Whether unit values lie in [0, 1] by their nature.
    """

    low: Tensor
    span: Tensor
    mean: Tensor
    std: Tensor
    bounded: bool

    @classmethod
    def of(cls, source: Source, n_images: int = 1024, n_values: int = 2**20) -> PixelScale:
        """Statistics of up to `n_images` evenly spaced images (`n_values` of their pixels)."""
        index = evenly_spaced(len(source), n_images)
        pixels = torch.cat(
            [_some_pixels(source.batch(part), n_values // len(index)) for part in index.split(64)]
        )
        low, span, bounded = _range(pixels, source.dtype)
        unit = (pixels - low) / span  # (n_values, C)
        return cls(low, span, unit.mean(0), unit.std(0, correction=0).clamp(min=1e-3), bounded)

    def to_unit(self, images: Tensor) -> Tensor:
        """(n, C, H, W) pixels as given -> float32 unit values."""
        low, span = (t.to(images.device)[:, None, None] for t in (self.low, self.span))
        return images.to(torch.float32).sub(low).div_(span)


class Standardize(torch.nn.Module):
    """Pixels as the user gives them -> what the backbone was trained on: the first part of an encoder."""

    def __init__(self, pixels: PixelScale):
        super().__init__()
        shape = (-1, 1, 1)
        self.register_buffer("mean", (pixels.low + pixels.mean * pixels.span).reshape(shape))
        self.register_buffer("std", (pixels.std * pixels.span).reshape(shape))

    def forward(self, images: Tensor) -> Tensor:
        return (images.to(torch.float32) - self.mean) / self.std


def evenly_spaced(n: int, k: int) -> Tensor:
    """Up to `k` positions among `n`, the first and the last among them; int64.

    Whole numbers throughout: ``torch.linspace`` is float32, and rounds past the last one from 2^24 on.
    """
    gaps = max(1, min(k, n) - 1)
    return (torch.arange(min(k, n)) * (n - 1) + gaps // 2) // gaps


def _some_pixels(images: Tensor, per_image: int) -> Tensor:
    """Evenly spaced pixels of each image, float32, of shape (some, C)."""
    flat = images.flatten(2)  # (n, C, H*W)
    stride = max(1, flat.shape[2] // max(1, per_image))
    return flat[:, :, ::stride].movedim(1, 2).flatten(0, 1).to(torch.float32)


def _range(pixels: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, bool]:
    """(low, span, bounded) of pixels (n, C); see PixelScale."""
    zero, one = torch.zeros(pixels.shape[1]), torch.ones(pixels.shape[1])
    if dtype == torch.uint8:
        return zero, 255 * one, True
    if pixels.min() >= 0 and pixels.max() <= 1:
        return zero, one, True
    values = pixels.numpy().reshape(-1, 1) if pixels.shape[1] == 3 else pixels.numpy()
    low, high = torch.from_numpy(np.percentile(values, [0.1, 99.9], axis=0)).to(torch.float32)
    span = (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    return low.expand_as(zero), torch.where(high > low, span, 1.0).expand_as(one), False
