"""Tiles of an image, cut so that their edges do not give away where they come from."""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_ssl import Spec
from sklearn_ssl.losses import check_number, patch_side, why_size_is_rejected

# Side of a tile, as a share of its cell's: 64 of 75 pixels in Noroozi and Favaro, arXiv:1603.09246. The gap
# keeps lines from going on from one tile to the next.
SHARE = 0.85
# Pixels on the short side, below which a tile shows nothing.
SMALLEST_SIDE = 4
# Pixels on the short side, below which images are small.
SMALL = 64
# Standard deviation of what stands in the place of a dropped colour, as a share of the one that is kept.
NOISE = 0.01


def is_small(spec: Spec) -> bool:
    """Images have few pixels, and parts of them next to none."""
    return min(spec.image_size) < SMALL


def check_grid(grid: int | str) -> int | str:
    """Return the number of tiles in a row if tiles can be cut by it, else raise a ValueError."""
    return check_number("loss__grid", grid, whole=True, at_least=2, at_most=3, instead=("auto",))


def tiles_in_a_row(grid: int | str, spec: Spec) -> int:
    """As given, or 2 where images are small."""
    if grid == "auto":
        return 2 if is_small(spec) else 3
    return grid


def tile_size(spec: Spec, grid: int) -> tuple[int, int]:
    """(height, width) of the tiles of a grid x grid, whole patches where the backbone has some.

    Raises
    ------
    ValueError
        They would be too small.
    """
    patch = patch_side(spec)
    size = tuple(round(SHARE * (side // grid)) // patch * patch for side in spec.image_size)
    if min(size) < SMALLEST_SIDE:
        raise ValueError(
            f"tiles of a {grid} x {grid} grid would have {size[0]} x {size[1]} pixels, of images of "
            f"{spec.image_size[0]} x {spec.image_size[1]}: too small to show anything. Set "
            f"image_size={(SMALLEST_SIDE * 2 + patch) * grid} or more"
            + (", or a smaller backbone__patch." if patch > 1 else ".")
        )
    return size


def check_is_taken(spec: Spec, size: tuple[int, int], what: str) -> None:
    """Raise a ValueError where the backbone cannot take parts of an image that are as small as that."""
    reason = why_size_is_rejected(spec, size)
    if reason is not None:
        raise ValueError(
            f"the backbone cannot take {what} of {size[0]} x {size[1]} pixels: {reason}. Leave backbone at "
            "'auto', or set a larger image_size."
        )


def cut_tiles(x: Tensor, grid: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """One tile of each cell, at a random place in it.

    Parameters
    ----------
    x : Tensor of shape (n, channels, height, width)
    grid : int
        Cells in a row and in a column.
    size : (height, width) of a tile
    generator : torch.Generator

    Returns
    -------
    Tensor of shape (n, grid * grid, channels, *size)
        Row by row.
    """
    n = len(x)
    inside = []
    for side, length in zip(x.shape[2:], size, strict=True):
        cell = side // grid
        shift = torch.randint(
            cell - length + 1, (n, grid, grid), generator=generator, device=generator.device
        )
        inside.append((shift.to(x.device), torch.arange(grid, device=x.device) * cell))
    (down, tops), (across, starts) = inside
    tops, starts = tops[:, None] + down, starts + across  # (n, grid, grid)
    rows = tops[..., None] + torch.arange(size[0], device=x.device)
    columns = starts[..., None] + torch.arange(size[1], device=x.device)
    image = torch.arange(n, device=x.device).view(n, 1, 1, 1, 1)
    tiles = x.movedim(1, -1)[image, rows[..., :, None], columns[..., None, :]]  # (n, g, g, h, w, channels)
    return tiles.movedim(-1, 3).flatten(1, 2)


def standardised(tiles: Tensor) -> Tensor:
    """Each tile with mean 0 and deviation 1 in each channel: brightness does not tell neighbours."""
    std, mean = torch.std_mean(tiles, dim=(-2, -1), keepdim=True, correction=0)
    return (tiles - mean) / (std + 1e-3)


def with_colours_dropped(tiles: Tensor, generator: torch.Generator) -> Tensor:
    """Two of three channels become noise: lenses bend colours differently, which tells the place.

    One channel is drawn for each image, and kept in all its tiles (n, k, channels, height, width). Others
    than colour images stay as they are.
    """
    n = len(tiles)
    if tiles.shape[2] != 3:
        return tiles
    kept = torch.randint(3, (n,), generator=generator, device=generator.device).to(tiles.device)
    noise = torch.randn(tiles.shape, generator=generator, device=generator.device).to(tiles.device)
    is_kept = (torch.arange(3, device=tiles.device) == kept[:, None]).view(n, 1, 3, 1, 1)
    strength = (tiles * is_kept).sum(dim=2, keepdim=True).std(dim=(-2, -1), keepdim=True)
    return torch.where(is_kept, tiles, NOISE * strength * noise)
