"""Scale of pixel values, estimated from the training images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sklearn_ssl._images.outliers import main_range, warn_of_constant_channels, warn_of_mixed_units
from sklearn_ssl._images.sources import Source, evenly_spaced
from sklearn_ssl._images.units import Units

# Seed of the positions of the pixels that are sampled.
SAMPLE_SEED = 0


@dataclass
class PixelScale:
    """Scale of pixel values, estimated from the training images.

    Augmentations operate on unit values, for which black is about 0 and white about 1; views are standardized
    afterward. Unit values are

    - for uint8: the pixel value divided by 255;
    - for other dtypes with all values in [0, 1]: the pixel value;
    - otherwise: the pixel value, scaled such that the 0.1 and 99.9 percentiles of the training images become
      0 and 1. Percentiles are computed per channel, but jointly for three channels, so that colors are
      preserved. Only hot pixels and values for no data are clipped, if there are any (see `main_range`).

    Parameters
    ----------
    low, span, mean, std : Tensor of shape (channels,)
        unit = (pixel - low) / span; standardized = (unit - mean) / std.
    bounded : bool
        Whether all possible unit values lie in [0, 1].
    units : Units
        Range of the training images, with which later images are compared.
    clip : Tensor of shape (2, channels), default=None
        Smallest and largest value to which pixels are clipped; None: they are not.
    """

    low: Tensor
    span: Tensor
    mean: Tensor
    std: Tensor
    bounded: bool
    units: Units
    clip: Tensor | None = None

    @classmethod
    def of(cls, source: Source, n_images: int = 1024, n_values: int = 2**20) -> PixelScale:
        """Estimate the scale from about `n_values` pixels of up to `n_images` evenly spaced images."""
        index = evenly_spaced(len(source), n_images)
        per_image = max(1, n_values // len(index))
        parts = [_some_pixels(source.batch(part), per_image) for part in index.split(64)]
        pixels = torch.cat([part.flatten(0, 1) for part in parts])  # (n_values, C)
        clip = None
        if source.dtype != torch.uint8:
            clip = main_range(source, pixels)
            pixels = pixels if clip is None else pixels.clamp(*clip)
            warn_of_mixed_units(pixels.reshape(len(index), -1, pixels.shape[1]))
        low, span, bounded = _range(pixels, source.dtype)
        unit = (pixels - low) / span  # (n_values, C)
        std = unit.std(0, correction=0).clamp(min=1e-3)  # the std of a constant channel is 0
        std = std.where(~warn_of_constant_channels(pixels, source.dtype), std.max())
        units = replace(Units.of(pixels), bits8=source.dtype == torch.uint8)
        return cls(low, span, unit.mean(0), std, bounded, units, clip)

    def to_unit(self, images: Tensor) -> Tensor:
        """Convert pixel values (n, C, H, W) to float32 unit values."""
        low, span = (t.to(images.device)[:, None, None] for t in (self.low, self.span))
        return self.clipped(images.to(torch.float32)).sub(low).div_(span)

    def clipped(self, images: Tensor) -> Tensor:
        """Clip pixel values (n, C, H, W), where the training images had hot pixels or values for no data."""
        if self.clip is None:
            return images
        return images.clamp(*self.clip.to(images.device)[:, :, None, None])

    def unit_of(self, standardized: Tensor) -> Tensor:
        """Convert standardized values (..., C, H, W) on the CPU to unit values."""
        return standardized * self.std[:, None, None] + self.mean[:, None, None]


class Standardize(torch.nn.Module):
    """Standardize pixel values in the units of the user; the first layer of an encoder."""

    mean: Tensor
    std: Tensor
    clip: Tensor

    def __init__(self, pixels: PixelScale):
        super().__init__()
        shape = (-1, 1, 1)
        self.register_buffer("mean", (pixels.low + pixels.mean * pixels.span).reshape(shape))
        self.register_buffer("std", (pixels.std * pixels.span).reshape(shape))
        self.is_clipped = pixels.clip is not None
        if pixels.clip is not None:
            self.register_buffer("clip", pixels.clip.reshape(2, *shape))

    def forward(self, images: Tensor) -> Tensor:
        images = images.to(torch.float32)
        if self.is_clipped:
            images = torch.clamp(images, self.clip[0], self.clip[1])
        return (images - self.mean) / self.std


def _some_pixels(images: Tensor, per_image: int) -> Tensor:
    """Return pixels of all images at the same random positions, float32 of shape (n, n_pixels, C)."""
    flat = images.flatten(2)  # (n, C, H*W)
    if flat.shape[2] > per_image:  # evenly spaced ones might all lie in a few columns
        generator = torch.Generator().manual_seed(SAMPLE_SEED)
        flat = flat[:, :, torch.randint(flat.shape[2], (per_image,), generator=generator)]
    return flat.movedim(1, 2).to(torch.float32)


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
