"""Jigsaw: in which order were the tiles shuffled?"""

from __future__ import annotations

import functools
import itertools
from typing import ClassVar

import torch
from torch import Tensor, nn

from sklearn_ssl import Batch, Spec, SSLLoss, Views
from sklearn_ssl_pretext.answers import graded
from sklearn_ssl_pretext.tiles import cut_tiles, standardised, tile_size

# Pixels on the short side, where the user leaves the grid to us.
THREE_TILES_FROM = 64


class Jigsaw(SSLLoss):
    r"""Solve jigsaw puzzles: tiles of an image in a wrong order; which one?

    The backbone sees each tile alone; a small network on all their features says which of a set of
    permutations was applied. For that, the features have to tell parts of things, and what is next to what:

    .. math::
        \ell = - \log p \bigl( k \mid h(x_{\pi_k(1)}), \dots, h(x_{\pi_k(g^2)}) \bigr)

    averaged over the images, with tiles :math:`x_i` and a permutation :math:`\pi_k` drawn for each image.

    Parameters
    ----------
    grid : {"auto", 2, 3}, default="auto"
        g tiles in a row and in a column. "auto": the paper's 3 from 64 pixels on (short side), 2 below, whose
        tiles are larger, with 24 permutations.
    permutations : int, default=100
        Size of the set, chosen so that any two differ in as many places as can be; all of them if there are
        fewer. The paper's best have 1,000, of ImageNet's images.
    head_width : int, default=256
        Of the layer that sees all tiles. The paper's have 4,096.

    Raises
    ------
    ValueError
        When `build` finds that tiles would be too small, or a grid or set that cannot be.

    Notes
    -----
    Against shortcuts, as in the paper: a gap between tiles, each cut at a random place of its cell, and
    standardised in each channel.

    References
    ----------
    Noroozi and Favaro, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles", ECCV
    2016, arXiv:1603.09246, section 3 and algorithm 1.
    """

    family = "pretext"
    views = Views(1, recipes=("weak",))
    defaults: ClassVar[dict] = {"projector": ()}

    def __init__(self, grid: int | str = "auto", permutations: int = 100, head_width: int = 256):
        super().__init__()
        if grid not in ("auto", 2, 3):
            raise ValueError(
                f"loss__grid={grid!r}: give 2 or 3, or 'auto'; of more tiles there are too many orders."
            )
        if permutations < 2:
            raise ValueError(f"loss__permutations={permutations}: give at least 2 to choose from.")
        self.grid = grid
        self.permutations = permutations
        self.head_width = head_width

    def build(self, spec: Spec) -> None:
        self.side = self.grid  # in tiles
        if self.grid == "auto":
            self.side = 3 if min(spec.image_size) >= THREE_TILES_FROM else 2
        self.size = tile_size(spec, self.side)
        self.register_buffer("orders", far_permutations(self.side**2, self.permutations, spec.generator))
        self.head = nn.Sequential(
            nn.Linear(spec.feature_dim * self.side**2, self.head_width),
            nn.ReLU(),
            nn.Linear(self.head_width, len(self.orders)),
        )

    def step(self, batch: Batch, student, teacher) -> dict[str, Tensor]:
        x, generator = batch.views[0], batch.generator
        tiles = standardised(cut_tiles(x, self.side, self.size, generator))
        k = torch.randint(len(self.orders), (len(x),), generator=generator, device=generator.device)
        k = k.to(x.device)
        shuffled = tiles[torch.arange(len(x), device=x.device)[:, None], self.orders[k]]
        h = student.features(shuffled.flatten(0, 1)).reshape(len(x), -1)
        return graded(self.head(h), k)


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
