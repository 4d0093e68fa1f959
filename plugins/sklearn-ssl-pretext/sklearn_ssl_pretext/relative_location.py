"""Relative location: prediction of the position of one tile relative to another."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor

from sklearn_ssl.losses import Batch, Spec, SSLLoss, Student, Teacher, ViewSpec, check_bool, check_number, mlp
from sklearn_ssl_pretext.answers import graded
from sklearn_ssl_pretext.sizes import enlarged
from sklearn_ssl_pretext.tiles import (
    check_grid,
    check_is_taken,
    cut_tiles,
    is_small,
    tile_size,
    tiles_in_a_row,
    with_colors_dropped,
)

# Offset (rows, columns) of the second tile from the first.
DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


class RelativeLocation(SSLLoss):
    r"""Context prediction: relative location of two tiles, one of eight directions [1]_.

    The backbone encodes a tile of a grid and one of its neighbors separately; from both features, a head
    classifies the direction. To solve the task, the features have to represent parts of objects:

    .. math::
        \ell = -\log p \bigl( k \mid h(x_0), h(x_k) \bigr)

    averaged over the images, with a direction :math:`k \in \{1, \dots, 8\}` drawn for each, and a tile
    :math:`x_0` that has a neighbor :math:`x_k` in this direction.

    Parameters
    ----------
    grid : {"auto", 2, 3}, default="auto"
        Number of tiles in a row and in a column. "auto": 3 from 64 pixels on (short side), 2 below, which
        gives larger tiles.
    drop_colors : bool or "auto", default="auto"
        Whether to replace two of the three channels of color images by noise: the chromatic aberration of
        lenses gives away the position in the image (section 3.1 of the paper). "auto": from 64 pixels on
        (short side); smaller images do not show it.
    head_width : int, default=512
        Width of the hidden layers between the features of both tiles and the logits. The paper's have 4,096.
    head_depth : int, default=2
        Number of hidden layers: the features keep more of the image, the further they are from the output
        [2]_. 0: a single linear layer.

    Attributes
    ----------
    head : nn.Module
        Classifier of the direction.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range; in `build`, if the tiles would be too small or the backbone
        rejects them.

    Notes
    -----
    Against another shortcut, as in the paper, there is a gap between tiles, and each tile is cut at a random
    position in its cell.

    References
    ----------
    .. [1] Doersch et al., "Unsupervised Visual Representation Learning by Context Prediction", ICCV 2015,
       arXiv:1505.05192.
    .. [2] Bordes et al., "Guillotine Regularization: Why removing layers is needed to improve generalization
       in Self-Supervised Learning", TMLR 2023, arXiv:2206.13378.
    """

    family = "pretext"
    view_spec = ViewSpec(1, recipes=("weak",))
    defaults: ClassVar[dict] = {"projector": (), "image_size": partial(enlarged, short_side=32)}

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

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        x, generator = batch.views[0], batch.generator
        k, which = self._drawn(len(x), generator)
        tiles = cut_tiles(x, self.side, self.size, generator)
        pair = tiles[torch.arange(len(x), device=x.device)[:, None], which.to(x.device)]
        if self.drops_colors:
            pair = with_colors_dropped(pair, generator)
        h = student.features(rearrange(pair, "n tile ... -> (n tile) ..."))
        h = rearrange(h, "(n tile) d -> n (tile d)", n=len(x))
        return graded(self.head(h), k.to(x.device))

    def _drawn(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw directions, (n,), and the indices of two tiles that have this relative location, (n, 2)."""
        device = generator.device
        k = torch.randint(len(DIRECTIONS), (n,), generator=generator, device=device)
        step = torch.tensor(DIRECTIONS, device=device)[k]
        places = self.side - step.abs()  # number of possible (rows, columns) of the first tile
        # The first possible row or column is 1 if the neighbor is above or to the left, else 0.
        first = (torch.rand(n, 2, generator=generator, device=device) * places).long() + (step < 0)
        both = torch.stack([first, first + step], dim=1)  # (n, 2, row and column)
        return k, both[:, :, 0] * self.side + both[:, :, 1]
