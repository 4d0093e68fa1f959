"""Resizing and center-cropping."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Maximum length of an image before it is center-cropped, relative to the wanted size.
MAX_RELATIVE_LENGTH = 4
Size = tuple[int, int]  # (height, width), in pixels


def resize_and_center(images: Tensor, size: Size) -> Tensor:
    """Resize images such that the short side fits, then crop the center.

    Parameters
    ----------
    images : Tensor of shape (n, channels, height, width), float
        Images.
    size : tuple of two ints
        (height, width) of the result.

    Returns
    -------
    Tensor of shape (n, channels, *size)
        Interpolated bilinearly, with antialiasing if reduced; the same tensor if its size is `size` already.
    """
    images = _crop_elongated(images, size)
    given, wanted = tuple(images.shape[-2:]), tuple(size)
    if given == wanted:
        return images
    ratio = max(new / old for new, old in zip(wanted, given, strict=True))
    resized = [max(new, round(old * ratio)) for new, old in zip(wanted, given, strict=True)]
    images = F.interpolate(images, size=resized, mode="bilinear", align_corners=False, antialias=True)
    top, left = ((large - small) // 2 for large, small in zip(resized, wanted, strict=True))
    return images[..., top : top + wanted[0], left : left + wanted[1]].contiguous()  # (n, C, *size)


def _crop_elongated(images: Tensor, size: Size) -> Tensor:
    """Crop the center of images that are far more elongated than `size`.

    Otherwise an image of 1 x 10,000 pixels would be enlarged to height x 10,000 height pixels, all but the
    center of which is then discarded.
    """
    smallest = min(old / new for old, new in zip(images.shape[-2:], size, strict=True))
    for axis, new in zip((-2, -1), size, strict=True):
        surplus = images.shape[axis] - math.ceil(MAX_RELATIVE_LENGTH * new * smallest)
        if surplus > 1:  # an equal number on either side, so that the center stays
            images = images.narrow(axis, surplus // 2, images.shape[axis] - surplus // 2 * 2)
    return images


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize and center-crop images of any dtype, which is preserved."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    made = resize_and_center(images.to(torch.float32), size)
    return made.round().clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else made
