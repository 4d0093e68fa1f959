"""Relative location: where is this tile, seen from that one?"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sklearn_ssl import Batch, Spec, SSLLoss, ViewSpec
from sklearn_ssl.losses import check_bool, check_number, mlp
from sklearn_ssl_pretext.answers import graded
from sklearn_ssl_pretext.tiles import (
    check_grid,
    check_is_taken,
    cut_tiles,
    is_small,
    tile_size,
    tiles_in_a_row,
    with_colours_dropped,
)

# (down, to the right), of the second tile seen from the first.
DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


class RelativeLocation(SSLLoss):
    r"""Context prediction: two tiles; in which of eight directions does the second lie?

    One tile of a grid and one of those around it, each seen alone by the backbone. Who knows that this is an
    eye and that an ear, knows which is above which:

    .. math::
        \ell = -\log p \bigl( k \mid h(x_0), h(x_k) \bigr)

    averaged over the images, with a direction :math:`k \in \{1, \dots, 8\}` drawn for each, and a tile
    :math:`x_0` that has a neighbour :math:`x_k` there.

    Parameters
    ----------
    grid : {"auto", 2, 3}, default="auto"
        Tiles in a row and in a column. "auto": 3 from 64 pixels on (short side), 2 below, whose tiles are
        larger.
    drop_colors : bool or "auto", default="auto"
        Of colour images two of three channels are replaced by noise, since lenses bend colours by an amount
        that tells the place in the image (section 3.1 of the paper). "auto": from 64 pixels on (short side);
        smaller images do not show it.
    head_width : int, default=512
        Of the layers between the features of both tiles and the answer. The paper's have 4,096.
    head_depth : int, default=2
        How many there are: the features keep more of the image, the farther they are from the answer (Bordes
        et al.). 0: a linear layer alone.

    Raises
    ------
    ValueError
        When `build` finds that tiles would be too small, or a grid that cannot be.

    Notes
    -----
    Against another shortcut, as in the paper: a gap between tiles, each cut at a random place of its cell.

    References
    ----------
    Doersch et al., "Unsupervised Visual Representation Learning by Context Prediction", ICCV 2015,
    arXiv:1505.05192.
    Bordes et al., "Guillotine Regularization: Why removing layers is needed to improve generalization in
    Self-Supervised Learning", TMLR 2023, arXiv:2206.13378.
    """

    family = "pretext"
    view_spec = ViewSpec(1, recipes=("weak",))
    defaults: ClassVar[dict] = {"projector": ()}

    def __init__(
        self,
        grid: int | str = "auto",
        drop_colors: bool | str = "auto",
        head_width: int = 512,
        head_depth: int = 2,
    ):
        super().__init__()
        self.grid = check_grid(grid)
        self.drop_colors = check_bool("loss__drop_colors", drop_colors, instead=("auto",))
        self.head_width = check_number("loss__head_width", head_width, whole=True, at_least=1)
        self.head_depth = check_number("loss__head_depth", head_depth, whole=True, at_least=0)

    def build(self, spec: Spec) -> None:
        self.side = tiles_in_a_row(self.grid, spec)
        self.size = tile_size(spec, self.side)
        check_is_taken(spec, self.size, "tiles")
        self.drops_colors = not is_small(spec) if self.drop_colors == "auto" else self.drop_colors
        hidden = [self.head_width] * self.head_depth
        self.head = mlp(2 * spec.feature_dim, *hidden, len(DIRECTIONS))

    def step(self, batch: Batch, student, teacher) -> dict[str, Tensor]:
        x, generator = batch.views[0], batch.generator
        k, which = self._drawn(len(x), generator)
        tiles = cut_tiles(x, self.side, self.size, generator)
        pair = tiles[torch.arange(len(x), device=x.device)[:, None], which.to(x.device)]
        if self.drops_colors:
            pair = with_colours_dropped(pair, generator)
        h = student.features(pair.flatten(0, 1)).reshape(len(x), -1)
        return graded(self.head(h), k.to(x.device))

    def _drawn(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Directions, (n,), and the numbers of two tiles that lie so, (n, 2)."""
        device = generator.device
        k = torch.randint(len(DIRECTIONS), (n,), generator=generator, device=device)
        step = torch.tensor(DIRECTIONS, device=device)[k]
        places = self.side - step.abs()  # rows and columns where the first can be
        first = (torch.rand(n, 2, generator=generator, device=device) * places).long() + (step < 0)
        both = torch.stack([first, first + step], dim=1)  # (n, 2, row and column)
        return k, both[:, :, 0] * self.side + both[:, :, 1]
