"""Random crops, flips, rotations and shear: one affine matrix per image and one `grid_sample`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl._images.resize import Size, resize_and_center
from sklearn_ssl._views.draws import Draws
from sklearn_ssl.augment import Augment

Scale = tuple[float, float]  # range of the fraction of the image's area that a view covers


def change_geometry(images: Tensor, augment: Augment, scale: Scale, size: Size, draws: Draws) -> Tensor:
    """Apply a random crop, flips, rotation and shear, and resize; (n, C, H, W) -> (n, C, *size)."""
    moves = ("flip", "vertical_flip", "rotation", "quarter_turns", "shear")
    if min(scale) == 1 and not any(getattr(augment, name) for name in moves):
        return resize_and_center(images, size)
    matrix = draw_place(augment, scale, images.shape[-2:], size, draws)
    return affine_sample(shrink_first(images, scale, size), matrix, size)


def draw_place(augment: Augment, scale: Scale, image_size: Sequence[int], size: Size, draws: Draws) -> Tensor:
    """Draw where the views of `change_geometry` lie: affine matrices (n, 2, 3) from view to image."""
    crop = draw_crop(scale, image_size, size, draws)
    return crop_matrix(*crop, turn_matrix(*draw_turn(augment, draws), size))


def draw_crop(
    scale: Scale, image_size: Sequence[int], size: Size, draws: Draws
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw top, left, height and width of the crops, (n,) each, as fractions of the image's height and width.

    If the aspect ratios of image and view differ, fractions of the area refer to the largest part of the
    image with the view's aspect ratio, so that the distortion stays within 3/4 .. 4/3.
    """
    area, aspect, y, x = draws.uniform(4)
    area = scale[0] + (scale[1] - scale[0]) * area
    aspect = torch.exp(math.log(4 / 3) * (2 * aspect - 1))
    # With the aspect ratio in [area, 1 / area], neither side of the crop exceeds the part it is taken from.
    aspect = aspect.minimum(1 / area).maximum(area)  # clipped to fit, where torchvision draws again
    tallest, widest = largest_part(image_size, size)
    height, width = tallest * (area / aspect).sqrt(), widest * (area * aspect).sqrt()
    if scale[0] == 1:  # no cropping: always the center
        y = x = 0.5
    return (1 - height) * y, (1 - width) * x, height, width


def largest_part(image_size: Sequence[int], size: Size) -> tuple[float, float]:
    """Return height and width, as fractions, of the image's largest part with the view's aspect ratio."""
    ratio = (size[1] / size[0]) * (image_size[0] / image_size[1])
    return min(1.0, 1 / ratio), min(1.0, ratio)


def draw_turn(augment: Augment, draws: Draws) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw angles and shears in degrees, and horizontal and vertical flips as bools; (n,) each."""
    angle, shear, turned, quarters, flip, vertical_flip = draws.uniform(6)
    quarters = (1 + (3 * quarters).floor()) * (turned < augment.quarter_turns)
    return (
        augment.rotation * (2 * angle - 1) + 90 * quarters,
        augment.shear * (2 * shear - 1),
        flip < augment.flip,
        vertical_flip < augment.vertical_flip,
    )


def turn_matrix(angle: Tensor, shear: Tensor, flip: Tensor, vertical_flip: Tensor, size: Size) -> Tensor:
    """Return matrices (n, 2, 2) from points of a view to points of its crop.

    Points are (x, y) in -1 .. 1 about the center. Angles are in degrees, counterclockwise, for views of
    `size` = (height, width).
    """
    cos, sin, tan = angle.deg2rad().cos(), angle.deg2rad().sin(), shear.deg2rad().tan()
    right, down = 1 - 2 * flip.float(), 1 - 2 * vertical_flip.float()  # -1 where flipped
    stretch = size[0] / size[1]  # angles refer to pixels, while x and y are scaled to -1 .. 1 separately
    # The product rotation @ shear @ flips: a point of the view is flipped first and rotated last.
    rows = (
        torch.stack([right * cos, stretch * down * (cos * tan - sin)], dim=1),
        torch.stack([right * sin / stretch, down * (sin * tan + cos)], dim=1),
    )
    return torch.stack(rows, dim=1)  # (n, 2, 2)


def crop_matrix(
    top: Tensor, left: Tensor, height: Tensor, width: Tensor, turn: Tensor | None = None
) -> Tensor:
    """Return affine matrices (n, 2, 3) for `affine_sample`: a crop, transformed by matrices (n, 2, 2).

    The crop is given in fractions of the image's height and width, (n,) each.
    """
    scale = torch.stack([width, height], dim=1)
    shift = torch.stack([2 * left + width - 1, 2 * top + height - 1], dim=1)
    turn = torch.eye(2) if turn is None else turn
    return torch.cat([scale[:, :, None] * turn, shift[:, :, None]], dim=2)


def shrink_first(images: Tensor, scale: Scale, size: Size) -> Tensor:
    """Downsample images whose resolution is at least twice that of the average crop's view.

    `grid_sample` interpolates between four pixels only, without antialiasing, so that a view of less than
    half the resolution of its source would be aliased. Such sources are averaged first, by an integer factor;
    other images are returned unchanged.
    """
    height, width = images.shape[-2:]
    factor = int(math.sqrt(sum(scale) / 2) * min(height / size[0], width / size[1]))
    return F.adaptive_avg_pool2d(images, (height // factor, width // factor)) if factor > 1 else images


def affine_sample(images: Tensor, matrix: Tensor, size: Size) -> Tensor:
    """Sample views (n, C, *size) of images (n, C, H, W) bilinearly, by affine matrices (n, 2, 3) on the CPU.

    Points outside the image are reflected into it: black corners would reveal the angle, and replicated
    border pixels resemble nothing in the data.
    """
    matrix = matrix.to(images.device, non_blocking=True)
    y, x = ((2 * torch.arange(side, device=images.device) + 1) / side - 1 for side in size)  # pixel centers
    by_x, by_y, shift = matrix[:, :, None].unbind(3)  # (n, 2, 1) each
    # One addition: F.affine_grid computes the same grid by a slow product of (n, h * w, 3) and (n, 3, 2).
    grid = (by_y * y + shift)[:, :, :, None] + (by_x * x)[:, :, None]  # (n, 2, *size)
    grid = grid.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
