"""Scale of pixel values, estimated from the training images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sklearn_ssl._images.sources import Source


@dataclass
class PixelScale:
    """Scale of pixel values, estimated from the training images.

    Augmentations operate on unit values, for which black is about 0 and white about 1; views are standardized
    afterward. Unit values are

    - for uint8: the pixel value divided by 255;
    - for other dtypes with all values in [0, 1]: the pixel value;
    - otherwise: the pixel value, scaled such that the 0.1 and 99.9 percentiles of the training images become
      0 and 1. Percentiles are computed per channel, but jointly for three channels, so that colors are
      preserved. Nothing is clipped.

    Parameters
    ----------
    low, span, mean, std : Tensor of shape (channels,)
        unit = (pixel - low) / span; standardized = (unit - mean) / std.
    bounded : bool
        Whether all possible unit values lie in [0, 1].
    """

    low: Tensor
    span: Tensor
    mean: Tensor
    std: Tensor
    bounded: bool

    @classmethod
    def of(cls, source: Source, n_images: int = 1024, n_values: int = 2**20) -> PixelScale:
        """Estimate the scale from about `n_values` pixels of up to `n_images` evenly spaced images."""
        index = evenly_spaced(len(source), n_images)
        pixels = torch.cat(
            [_some_pixels(source.batch(part), n_values // len(index)) for part in index.split(64)]
        )
        low, span, bounded = _range(pixels, source.dtype)
        unit = (pixels - low) / span  # (n_values, C)
        std = unit.std(0, correction=0).clamp(min=1e-3)  # the std of a constant channel is 0
        return cls(low, span, unit.mean(0), std, bounded)

    def to_unit(self, images: Tensor) -> Tensor:
        """Convert pixel values (n, C, H, W) to float32 unit values."""
        low, span = (t.to(images.device)[:, None, None] for t in (self.low, self.span))
        return images.to(torch.float32).sub(low).div_(span)

    def unit_of(self, standardized: Tensor) -> Tensor:
        """Convert standardized values (..., C, H, W) on the CPU to unit values."""
        return standardized * self.std[:, None, None] + self.mean[:, None, None]


class Standardize(torch.nn.Module):
    """Standardize pixel values in the units of the user; the first layer of an encoder."""

    mean: Tensor
    std: Tensor

    def __init__(self, pixels: PixelScale):
        super().__init__()
        shape = (-1, 1, 1)
        self.register_buffer("mean", (pixels.low + pixels.mean * pixels.span).reshape(shape))
        self.register_buffer("std", (pixels.std * pixels.span).reshape(shape))

    def forward(self, images: Tensor) -> Tensor:
        return (images.to(torch.float32) - self.mean) / self.std


def evenly_spaced(n: int, k: int) -> Tensor:
    """Return up to `k` evenly spaced positions among `n`, including the first and the last; int64."""
    # Integer arithmetic: torch.linspace computes in float32, and exceeds the last position from 2^24 on.
    gaps = max(1, min(k, n) - 1)
    return (torch.arange(min(k, n)) * (n - 1) + gaps // 2) // gaps


def _some_pixels(images: Tensor, per_image: int) -> Tensor:
    """Return evenly spaced pixels of all images, float32 of shape (n_pixels, C)."""
    flat = images.flatten(2)  # (n, C, H*W)
    stride = max(1, flat.shape[2] // max(1, per_image))
    return flat[:, :, ::stride].movedim(1, 2).flatten(0, 1).to(torch.float32)


def _range(pixels: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, bool]:
    """Return low, span and bounded for pixels (n, C); see `PixelScale`."""
    zero, one = torch.zeros(pixels.shape[1]), torch.ones(pixels.shape[1])
    if dtype == torch.uint8:
        return zero, 255 * one, True
    if pixels.min() >= 0 and pixels.max() <= 1:
        return zero, one, True
    # For three channels, all values form a single column: one percentile for all.
    values = pixels.numpy().reshape(-1, 1) if pixels.shape[1] == 3 else pixels.numpy()
    low, high = torch.from_numpy(np.percentile(values, [0.1, 99.9], axis=0)).to(torch.float32)
    span = (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    # A constant channel is only shifted to 0. The clamp guards against a difference that underflows.
    return low.expand_as(zero), torch.where(high > low, span, 1.0).expand_as(one), False
