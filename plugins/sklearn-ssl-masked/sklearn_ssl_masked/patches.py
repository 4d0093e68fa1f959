"""Images as rows of patches, and which of them are hidden."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Of a block's shape in `blockwise_mask`.
LARGEST_ASPECT = 3.3


def patchify(images: Tensor, side: int) -> Tensor:
    """Images (n, channels, height, width) to patches (n, patches, side * side * channels), row by row."""
    n, channels, height, width = images.shape
    cut = images.reshape(n, channels, height // side, side, width // side, side)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, side * side * channels)


def unpatchify(patches: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of `patchify`; `grid` is the number of patches in a column and in a row."""
    rows, columns = grid
    cut = patches.reshape(len(patches), rows, columns, side, side, -1)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, rows * side, columns * side)


def as_pixels(hidden: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
    """Hidden patches (n, patches) as hidden pixels (n, 1, height, width)."""
    return unpatchify(hidden[:, :, None].expand(-1, -1, side * side), side, grid)


def shown_and_made(x: Tensor, hidden: Tensor, painted: Tensor) -> tuple[Tensor, Tensor]:
    """Images with NaN where pixels (n, 1, height, width) are hidden, and with what was painted there."""
    return x.masked_fill(hidden, torch.nan), torch.where(hidden, painted, x)


def number_hidden(patches: int, ratio: float) -> int:
    """How many patches are hidden: at least one, and not all.

    Raises
    ------
    ValueError
        There is one patch only.
    """
    if patches < 2:
        raise ValueError(
            "an image is a single patch here, of which nothing can be hidden: set a smaller backbone__patch, "
            "or a larger image_size."
        )
    return min(max(1, round(ratio * patches)), patches - 1)


def shuffled(n: int, patches: int, generator: torch.Generator) -> Tensor:
    """The numbers of all patches in a random order for each of n images, (n, patches)."""
    return torch.rand(n, patches, generator=generator, device=generator.device).argsort(dim=1)


def random_mask(n: int, patches: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Exactly as many hidden patches in each of n images: (n, patches), True where hidden."""
    ranks = shuffled(n, patches, generator).argsort(dim=1)
    return ranks < number_hidden(patches, ratio)


def blockwise_mask(n: int, grid: tuple[int, int], ratio: float, generator: torch.Generator) -> Tensor:
    """Hidden blocks, one after the other until a share of the patches is hidden (BEiT, algorithm 1).

    Parameters
    ----------
    n : int
        Images.
    grid : (rows, columns)
    ratio : float
        Share that is hidden at least.
    generator : torch.Generator

    Returns
    -------
    Tensor of shape (n, rows * columns), bool
        True where hidden. Blocks cover a sixteenth of the grid at least (the paper: 16 patches of 14 x 14)
        and what is left to hide at most, and are up to 3.3 times as high as wide, or as wide as high. At
        least one patch is shown.
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
        aspect = torch.exp((2 * aspect - 1) * math.log(LARGEST_ASPECT))
        height = (area * aspect).sqrt().round().clamp(1, rows)
        width = (area / aspect).sqrt().round().clamp(1, columns)
        top, start = (top * (rows - height + 1)).floor(), (start * (columns - width + 1)).floor()
        inside = (row >= top[:, None]) & (row < (top + height)[:, None])
        across = (column >= start[:, None]) & (column < (start + width)[:, None])
        block = inside[:, :, None] & across[:, None, :]
        mask |= block & (left > 0)[:, None, None]
    return _with_one_shown(mask.flatten(1), generator)


def _with_one_shown(mask: Tensor, generator: torch.Generator) -> Tensor:
    """One random patch is uncovered where all are hidden."""
    uncovered = torch.randint(mask.shape[1], (len(mask), 1), generator=generator, device=generator.device)
    return mask & ~(mask.all(dim=1, keepdim=True) & torch.zeros_like(mask).scatter(1, uncovered, True))
