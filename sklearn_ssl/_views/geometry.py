"""Random crop, flips, turns and shear: one matrix per image and one `grid_sample`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl._images.resize import Size, resize_and_center
from sklearn_ssl.augment import Augment

Scale = tuple[float, float]  # smallest and largest share of the image's area that a view covers


# --- Geometry: crop, resize, flips, turns and shear are one matrix an image and one `grid_sample` ----------


def change_geometry(
    images: Tensor, augment: Augment, scale: Scale, size: Size, generator: torch.Generator
) -> Tensor:
    """Random crop, flips, rotation and shear, to the size wanted; (n, C, H, W) -> (n, C, *size)."""
    moves = ("flip", "vertical_flip", "rotation", "quarter_turns", "shear")
    if min(scale) == 1 and not any(getattr(augment, name) for name in moves):
        return resize_and_center(images, size)
    crop = draw_crop(len(images), scale, images.shape[-2:], size, generator)
    turn = turn_matrix(*draw_turn(len(images), augment, generator), size)
    return affine_sample(shrink_first(images, scale, size), crop_matrix(*crop, turn), size)


def draw_crop(
    n: int, scale: Scale, image_size: Sequence[int], size: Size, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width of n crops, (n,) each, as shares of the image's height and width.

    Where the image has another shape than the view, shares of the area count within the largest part
    that has the view's shape, so that nothing is distorted by more than 3/4 .. 4/3.
    """
    area, aspect, y, x = torch.rand(4, n, generator=generator)
    area = scale[0] + (scale[1] - scale[0]) * area
    aspect = torch.exp(math.log(4 / 3) * (2 * aspect - 1))
    aspect = aspect.minimum(1 / area).maximum(area)  # torchvision draws again until a crop fits
    tallest, widest = largest_part(image_size, size)
    height, width = tallest * (area / aspect).sqrt(), widest * (area * aspect).sqrt()
    if scale[0] == 1:  # no cropping: no other place than the centre
        y = x = 0.5
    return (1 - height) * y, (1 - width) * x, height, width


def largest_part(image_size: Sequence[int], size: Size) -> tuple[float, float]:
    """Height and width, as shares of the image, of its largest part that has the shape of the view."""
    ratio = (size[1] / size[0]) * (image_size[0] / image_size[1])
    return min(1.0, 1 / ratio), min(1.0, ratio)


def draw_turn(n: int, augment: Augment, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Angle and shear in degrees, horizontal and vertical flips as bools; (n,) each."""
    angle, shear, turned, quarters, flip, vertical_flip = torch.rand(6, n, generator=generator)
    quarters = (1 + (3 * quarters).floor()) * (turned < augment.quarter_turns)
    return (
        augment.rotation * (2 * angle - 1) + 90 * quarters,
        augment.shear * (2 * shear - 1),
        flip < augment.flip,
        vertical_flip < augment.vertical_flip,
    )


def turn_matrix(angle: Tensor, shear: Tensor, flip: Tensor, vertical_flip: Tensor, size: Size) -> Tensor:
    """Where each point of a view comes from, (n, 2, 2); points are (x, y) in -1 .. 1 about the centre.

    Angles are in degrees, counterclockwise, for views of `size` = (height, width).
    """
    cos, sin, tan = angle.deg2rad().cos(), angle.deg2rad().sin(), shear.deg2rad().tan()
    right, down = 1 - 2 * flip.float(), 1 - 2 * vertical_flip.float()  # -1 where flipped
    stretch = size[0] / size[1]  # the angle is one in pixels, the points are not
    rows = (
        torch.stack([right * cos, stretch * down * (cos * tan - sin)], dim=1),
        torch.stack([right * sin / stretch, down * (sin * tan + cos)], dim=1),
    )
    return torch.stack(rows, dim=1)  # (n, 2, 2)


def crop_matrix(
    top: Tensor, left: Tensor, height: Tensor, width: Tensor, turn: Tensor | None = None
) -> Tensor:
    """Affine matrices for `affine_sample`, (n, 2, 3): a turned view, (n, 2, 2), of a part of the image.

    The part is given in shares of the image's height and width, (n,) each.
    """
    scale = torch.stack([width, height], dim=1)
    shift = torch.stack([2 * left + width - 1, 2 * top + height - 1], dim=1)
    turn = torch.eye(2) if turn is None else turn
    return torch.cat([scale[:, :, None] * turn, shift[:, :, None]], dim=2)


def shrink_first(images: Tensor, scale: Scale, size: Size) -> Tensor:
    """Images of a resolution that the average crop can use.

    `grid_sample` reads four pixels only, so that a view less than half as fine as its source would flicker
    with its position: such sources are averaged down first, by a whole factor. Below that nothing is done.
    """
    height, width = images.shape[-2:]
    factor = int(math.sqrt(sum(scale) / 2) * min(height / size[0], width / size[1]))
    return F.adaptive_avg_pool2d(images, (height // factor, width // factor)) if factor > 1 else images


def affine_sample(images: Tensor, matrix: Tensor, size: Size) -> Tensor:
    """Bilinear views (n, C, *size) of images (n, C, H, W), by affine matrices (n, 2, 3) on the CPU.

    What lies outside the image is its reflection: black corners would give the angle away, and drawn-out
    border pixels look like nothing in the data.
    """
    matrix = matrix.to(images.device, non_blocking=True)
    y, x = ((2 * torch.arange(side, device=images.device) + 1) / side - 1 for side in size)  # pixel centres
    by_x, by_y, shift = matrix[:, :, None].unbind(3)  # (n, 2, 1) each
    # one addition, where F.affine_grid makes the same grid by a slow product of (n, h * w, 3) and (n, 3, 2)
    grid = (by_y * y + shift)[:, :, :, None] + (by_x * x)[:, :, None]  # (n, 2, *size)
    grid = grid.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
