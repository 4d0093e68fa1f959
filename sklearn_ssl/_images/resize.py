"""Resizing and centre-cropping."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Sides of the view: no image is made longer than that on the way to it.
LONGEST = 4
Size = tuple[int, int]  # (height, width), in pixels


def resize_and_center(images: Tensor, size: Size) -> Tensor:
    """Resize until the short side fits, then cut out the centre: a view without randomness.

    Parameters
    ----------
    images : Tensor of shape (n, channels, height, width), float
    size : tuple of two ints
        (height, width) wanted.

    Returns
    -------
    Tensor of shape (n, channels, *size)
        Bilinear, antialiased where it shrinks; the images themselves when their size fits.
    """
    images = cut_ends(images, size)
    given, wanted = tuple(images.shape[-2:]), tuple(size)
    if given == wanted:
        return images
    ratio = max(new / old for new, old in zip(wanted, given, strict=True))
    resized = [max(new, round(old * ratio)) for new, old in zip(wanted, given, strict=True)]
    images = F.interpolate(images, size=resized, mode="bilinear", align_corners=False, antialias=True)
    top, left = ((large - small) // 2 for large, small in zip(resized, wanted, strict=True))
    return images[..., top : top + wanted[0], left : left + wanted[1]].contiguous()  # (n, C, *size)


def cut_ends(images: Tensor, size: Size) -> Tensor:
    """The middle of images that are far longer than `size` is, in relation to their width.

    What is made of an image of 1 x 10,000 pixels stays bounded: four times the view, whose middle is cut out.
    """
    smallest = min(old / new for old, new in zip(images.shape[-2:], size, strict=True))
    for axis, new in zip((-2, -1), size, strict=True):
        surplus = images.shape[axis] - math.ceil(LONGEST * new * smallest)
        if surplus > 1:  # as much on either side
            images = images.narrow(axis, surplus // 2, images.shape[axis] - surplus // 2 * 2)
    return images


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resized and centred, in the images' own dtype."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    made = resize_and_center(images.to(torch.float32), size)
    return made.round().clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else made
