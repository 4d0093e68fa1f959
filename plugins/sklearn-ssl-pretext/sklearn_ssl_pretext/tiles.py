"""Tiles of an image, cut so that their edges do not give away their position."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from sklearn_ssl.losses import Spec, check_number, patch_side, why_size_is_rejected

# Side of a tile as a fraction of the cell's: 64 of 75 pixels in Noroozi and Favaro, arXiv:1603.09246. The gap
# prevents the use of edges that continue from one tile to the next.
TILE_FRACTION = 0.85
# Minimum short side of a tile, in pixels.
MIN_TILE_SIDE = 4
# Short side in pixels below which images count as small.
SMALL_IMAGE_SIDE = 64
# Standard deviation of the noise that replaces a dropped channel, as a fraction of the kept channel's.
NOISE_SCALE = 0.01


def is_small(spec: Spec) -> bool:
    """Return whether images are so small that parts of them show little."""
    return min(spec.image_size) < SMALL_IMAGE_SIDE


def check_grid(grid: int | str) -> int | str:
    """Return the number of tiles in a row if it is valid, or raise a ValueError."""
    return check_number("loss__grid", grid, whole=True, at_least=2, at_most=3, instead=("auto",))


def tiles_in_a_row(grid: int | str, spec: Spec) -> int:
    """Return the number of tiles in a row; for "auto", 2 for small images and 3 for others."""
    if grid == "auto":
        return 2 if is_small(spec) else 3
    return grid


def tile_size(spec: Spec, grid: int) -> tuple[int, int]:
    """Return the size of a tile, a multiple of the backbone's patch size if it has patches.

    Parameters
    ----------
    spec : Spec
        Sizes and backbone of the fit.
    grid : int
        Number of tiles in a row and in a column.

    Returns
    -------
    tuple of two ints
        (height, width) of a tile, in pixels.

    Raises
    ------
    ValueError
        If the tiles would be too small.
    """
    patch = patch_side(spec)
    size = tuple(round(TILE_FRACTION * (side // grid)) // patch * patch for side in spec.image_size)
    if min(size) < MIN_TILE_SIDE:
        raise ValueError(
            f"tiles of a {grid} x {grid} grid would have {size[0]} x {size[1]} pixels, of images of "
            f"{spec.image_size[0]} x {spec.image_size[1]}: too small to show anything. Set "
            f"image_size={(MIN_TILE_SIDE * 2 + patch) * grid} or more"
            + (", or a smaller backbone__patch." if patch > 1 else ".")
        )
    return size


def check_is_taken(spec: Spec, size: tuple[int, int], what: str) -> None:
    """Raise a ValueError if the backbone rejects parts of an image of this size."""
    reason = why_size_is_rejected(spec, size)
    if reason is not None:
        raise ValueError(
            f"the backbone cannot take {what} of {size[0]} x {size[1]} pixels: {reason}. Leave backbone at "
            "'auto', or set a larger image_size."
        )


def cut_tiles(x: Tensor, grid: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Cut a tile from each cell of a grid, at a random position in the cell.

    Parameters
    ----------
    x : Tensor of shape (n, channels, height, width)
        Images.
    grid : int
        Number of cells in a row and in a column.
    size : tuple of two ints
        (height, width) of a tile.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    Tensor of shape (n, grid * grid, channels, *size)
        Tiles, row by row.
    """
    n = len(x)
    inside = []
    for side, length in zip(x.shape[2:], size, strict=True):
        cell = side // grid
        shift = torch.randint(
            cell - length + 1, (n, grid, grid), generator=generator, device=generator.device
        )
        inside.append((shift.to(x.device), torch.arange(grid, device=x.device) * cell))
    # Position of each tile: the corner of its cell plus a random shift.
    (down, tops), (across, starts) = inside
    tops, starts = tops[:, None] + down, starts + across  # (n, grid, grid)
    rows = tops[..., None] + torch.arange(size[0], device=x.device)
    columns = starts[..., None] + torch.arange(size[1], device=x.device)
    image = torch.arange(n, device=x.device).view(n, 1, 1, 1, 1)
    tiles = x.movedim(1, -1)[image, rows[..., :, None], columns[..., None, :]]  # (n, g, g, h, w, channels)
    return rearrange(tiles, "n rows columns h w channels -> n (rows columns) channels h w")


def standardized(tiles: Tensor) -> Tensor:
    """Standardize each channel of each tile, since equal brightness gives away neighboring tiles."""
    std, mean = torch.std_mean(tiles, dim=(-2, -1), keepdim=True, correction=0)
    return (tiles - mean) / (std + 1e-3)


def with_colors_dropped(tiles: Tensor, generator: torch.Generator) -> Tensor:
    """Replace two of three channels by noise, against the chromatic aberration that gives away the position.

    Parameters
    ----------
    tiles : Tensor of shape (n, k, channels, height, width)
        Tiles of n images. The channel that is kept is drawn for each image and is the same for all its tiles.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    Tensor of shape (n, k, channels, height, width)
        Tiles; unchanged if the number of channels is not three.
    """
    n = len(tiles)
    if tiles.shape[2] != 3:
        return tiles
    kept = torch.randint(3, (n,), generator=generator, device=generator.device).to(tiles.device)
    noise = torch.randn(tiles.shape, generator=generator, device=generator.device).to(tiles.device)
    is_kept = (torch.arange(3, device=tiles.device) == kept[:, None]).view(n, 1, 3, 1, 1)
    strength = (tiles * is_kept).sum(dim=2, keepdim=True).std(dim=(-2, -1), keepdim=True)
    return torch.where(is_kept, tiles, NOISE_SCALE * strength * noise)
