"""Conversion between images and patches, and random masks of patches."""

from __future__ import annotations

import math

import torch
from einops import rearrange, repeat
from torch import Tensor

# Maximum aspect ratio of a block in `blockwise_mask`.
MAX_ASPECT = 3.3


def patchify(images: Tensor, side: int) -> Tensor:
    """Cut images (n, channels, height, width) into patches (n, patches, side * side * channels)."""
    pattern = "n channels (rows a) (columns b) -> n (rows columns) (a b channels)"
    return rearrange(images, pattern, a=side, b=side)


def unpatchify(patches: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
    """Invert `patchify`; `grid` is the number of (rows, columns) of patches."""
    rows, columns = grid
    pattern = "n (rows columns) (a b channels) -> n channels (rows a) (columns b)"
    return rearrange(patches, pattern, rows=rows, columns=columns, a=side, b=side)


def as_pixels(hidden: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
    """Expand a mask of patches (n, patches) to pixels (n, 1, height, width)."""
    pattern = "n (rows columns) -> n 1 (rows a) (columns b)"
    return repeat(hidden, pattern, rows=grid[0], columns=grid[1], a=side, b=side)


def shown_and_made(x: Tensor, hidden: Tensor, painted: Tensor) -> tuple[Tensor, Tensor]:
    """Return images with NaN at masked pixels (n, 1, height, width), and with the prediction there."""
    return x.masked_fill(hidden, torch.nan), torch.where(hidden, painted, x)


def number_hidden(patches: int, ratio: float) -> int:
    """Return the number of masked patches: at least one, and not all.

    Parameters
    ----------
    patches : int
        Number of patches of an image.
    ratio : float
        Masking ratio.

    Returns
    -------
    int
        Number of masked patches.

    Raises
    ------
    ValueError
        If there is only one patch.
    """
    if patches < 2:
        raise ValueError(
            "an image is a single patch here, of which nothing can be hidden: set a smaller backbone__patch, "
            "or a larger image_size."
        )
    return min(max(1, round(ratio * patches)), patches - 1)


def shuffled(n: int, patches: int, generator: torch.Generator) -> Tensor:
    """Draw a permutation of the patch indices for each of n images, (n, patches)."""
    return torch.rand(n, patches, generator=generator, device=generator.device).argsort(dim=1)


def random_mask(n: int, patches: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Draw a mask with the same number of masked patches in each of n images, (n, patches)."""
    ranks = shuffled(n, patches, generator).argsort(dim=1)
    return ranks < number_hidden(patches, ratio)


def blockwise_mask(n: int, grid: tuple[int, int], ratio: float, generator: torch.Generator) -> Tensor:
    """Draw a mask of rectangular blocks, up to a masking ratio (BEiT, algorithm 1).

    Parameters
    ----------
    n : int
        Number of images.
    grid : tuple of two ints
        Number of (rows, columns) of patches.
    ratio : float
        Masking ratio, a lower bound for the fraction of masked patches, as far as one patch remains visible.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    Tensor of shape (n, rows * columns), bool
        True for masked patches. The area of a block is at least a sixteenth of the grid (the paper: 16
        patches of 14 x 14) and at most the number of patches left to mask; its aspect ratio is at most 3.3 in
        either direction. At least one patch is visible.
    """
    rows, columns = grid
    patches = rows * columns
    wanted = number_hidden(patches, ratio)
    mask = torch.zeros(n, rows, columns, dtype=torch.bool, device=generator.device)
    row, column = torch.arange(rows, device=mask.device), torch.arange(columns, device=mask.device)
    while (left := wanted - mask.sum(dim=(1, 2))).max() > 0:
        area, aspect, top, start = torch.rand(4, n, generator=generator, device=generator.device)
        least = torch.minimum(left, torch.tensor(max(1, patches // 16))).clamp(min=1)
        area = least + area * (left.clamp(min=1) - least)
        aspect = torch.exp((2 * aspect - 1) * math.log(MAX_ASPECT))
        height = (area * aspect).sqrt().round().clamp(1, rows)
        width = (area / aspect).sqrt().round().clamp(1, columns)
        top, start = (top * (rows - height + 1)).floor(), (start * (columns - width + 1)).floor()
        inside = (row >= top[:, None]) & (row < (top + height)[:, None])
        across = (column >= start[:, None]) & (column < (start + width)[:, None])
        # An image that has enough masked patches gets no further block.
        block = inside[:, :, None] & across[:, None, :]
        mask |= block & (left > 0)[:, None, None]
    return _with_one_shown(mask.flatten(1), generator)


def _with_one_shown(mask: Tensor, generator: torch.Generator) -> Tensor:
    """Unmask one random patch of each image whose patches are all masked."""
    uncovered = torch.randint(mask.shape[1], (len(mask), 1), generator=generator, device=generator.device)
    return mask & ~(mask.all(dim=1, keepdim=True) & torch.zeros_like(mask).scatter(1, uncovered, True))
