"""Jigsaw: in which order were the tiles shuffled?"""

from __future__ import annotations

import functools
import itertools
import math
from typing import ClassVar

import torch
from torch import Tensor

from sklearn_ssl import Batch, Spec, SSLLoss, ViewSpec
from sklearn_ssl.losses import check_choice, check_number, mlp
from sklearn_ssl_pretext.answers import graded
from sklearn_ssl_pretext.tiles import (
    check_grid,
    check_is_taken,
    cut_tiles,
    standardised,
    tile_size,
    tiles_in_a_row,
)

TILES = ("together", "apart")


class Jigsaw(SSLLoss):
    r"""Solve jigsaw puzzles: tiles of an image in a wrong order; which one?

    A small network on the features says which of a set of permutations was applied. For that, the features
    have to tell parts of things, and what is next to what:

    .. math::
        \ell = - \log p \bigl( k \mid h(x_{\pi_k(1)}, \dots, x_{\pi_k(g^2)}) \bigr)

    averaged over the images, with tiles :math:`x_i` and a permutation :math:`\pi_k` drawn for each image. The
    backbone sees the shuffled tiles together, as one image (Carlucci et al.), or each alone, with one h for
    the features of all (Noroozi and Favaro).

    Parameters
    ----------
    grid : {"auto", 2, 3}, default="auto"
        g tiles in a row and in a column. "auto": the paper's 3 from 64 pixels on (short side), 2 below, whose
        tiles are larger, with 24 permutations.
    permutations : int, default=100
        Size of the set, chosen so that any two differ in as many places as can be; all of them if there are
        fewer. The paper's best have 1,000, of ImageNet's images.
    tiles : {"together", "apart"}, default="together"
        How the backbone sees them. "apart" is the original, in which it learns from parts of images and
        never sees one that is nearly whole.
    head_width : int, default=512
        Of the layers between the features and the answer. The paper's have 4,096.
    head_depth : int, default=2
        How many there are. Those next to the answer keep nothing but what it takes; with enough of them the
        features keep more of the image (Bordes et al.). 0: a linear layer alone.

    Raises
    ------
    ValueError
        When `build` finds that tiles would be too small, or a grid or set that cannot be.

    Notes
    -----
    Against shortcuts, as in the paper: a gap between tiles, each cut at a random place of its cell, and
    standardised in each channel where it is seen alone.

    References
    ----------
    Noroozi and Favaro, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles", ECCV
    2016, arXiv:1603.09246, section 3 and algorithm 1.
    Carlucci et al., "Domain Generalization by Solving Jigsaw Puzzles", CVPR 2019, arXiv:1903.06864.
    Bordes et al., "Guillotine Regularization: Why removing layers is needed to improve generalization in
    Self-Supervised Learning", TMLR 2023, arXiv:2206.13378.
    """

    family = "pretext"
    view_spec = ViewSpec(1, recipes=("weak",))
    defaults: ClassVar[dict] = {"projector": ()}

    def __init__(
        self,
        grid: int | str = "auto",
        permutations: int = 100,
        tiles: str = "together",
        head_width: int = 512,
        head_depth: int = 2,
    ):
        super().__init__()
        self.grid = check_grid(grid)
        self.permutations = check_number("loss__permutations", permutations, whole=True, at_least=2)
        self.tiles = check_choice("loss__tiles", tiles, TILES)
        self.head_width = check_number("loss__head_width", head_width, whole=True, at_least=1)
        self.head_depth = check_number("loss__head_depth", head_depth, whole=True, at_least=0)

    def build(self, spec: Spec) -> None:
        self.side = tiles_in_a_row(self.grid, spec)
        self.size = tile_size(spec, self.side)
        in_a_row, parts = (self.side, 1) if self.tiles == "together" else (1, self.side**2)
        check_is_taken(spec, tuple(in_a_row * length for length in self.size), f"tiles {self.tiles}")
        self.register_buffer("orders", far_permutations(self.side**2, self.permutations, spec.generator))
        hidden = [self.head_width] * self.head_depth
        self.head = mlp(spec.feature_dim * parts, *hidden, len(self.orders))

    def step(self, batch: Batch, student, teacher) -> dict[str, Tensor]:
        x, generator = batch.views[0], batch.generator
        tiles = cut_tiles(x, self.side, self.size, generator)
        k = torch.randint(len(self.orders), (len(x),), generator=generator, device=generator.device)
        k = k.to(x.device)
        shuffled = tiles[torch.arange(len(x), device=x.device)[:, None], self.orders[k]]
        if self.tiles == "together":
            h = student.features(as_one_image(shuffled))
        else:
            h = student.features(standardised(shuffled).flatten(0, 1)).reshape(len(x), -1)
        return graded(self.head(h), k)


def as_one_image(tiles: Tensor) -> Tensor:
    """Tiles (n, g * g, channels, h, w), row by row, side by side: (n, channels, g * h, g * w)."""
    side = math.isqrt(tiles.shape[1])
    rows = tiles.unflatten(1, (side, side)).movedim(3, 1)  # (n, channels, g, g, h, w)
    return rows.transpose(3, 4).flatten(4).flatten(2, 3)


def far_permutations(n: int, wanted: int, generator: torch.Generator) -> Tensor:
    """Orders of n things, each as far as can be from the nearest of those before it.

    Distance is the number of places in which two differ, and the first one is drawn. (Algorithm 1 of the
    paper goes by the sum of the distances, which lets two be near.)

    Returns
    -------
    Tensor of shape (wanted or n!, n), int64
    """
    every = all_permutations(n)
    count = every.shape[1]
    chosen = torch.randint(count, (1,), generator=generator)
    distance = torch.full((count,), n, dtype=torch.uint8)
    while True:
        differ = every != every[:, chosen[-1], None]
        distance = torch.minimum(distance, differ.sum(dim=0, dtype=torch.uint8))
        if len(chosen) == min(wanted, count):
            return every[:, chosen].T.long()
        chosen = torch.cat([chosen, distance.argmax()[None]])


@functools.cache
def all_permutations(n: int) -> Tensor:
    """Every order of n things in a column, (n, n!), uint8."""
    return torch.tensor(list(itertools.permutations(range(n))), dtype=torch.uint8).T.contiguous()
