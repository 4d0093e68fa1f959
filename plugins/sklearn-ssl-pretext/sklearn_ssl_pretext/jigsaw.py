"""Jigsaw: prediction of the permutation of shuffled tiles."""

from __future__ import annotations

import functools
import itertools
import math
from functools import partial
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor

from sklearn_ssl.losses import (
    Batch,
    Spec,
    SSLLoss,
    Student,
    Teacher,
    ViewSpec,
    check_choice,
    check_number,
    mlp,
)
from sklearn_ssl_pretext.answers import graded
from sklearn_ssl_pretext.sizes import enlarged
from sklearn_ssl_pretext.tiles import (
    check_grid,
    check_is_taken,
    cut_tiles,
    standardized,
    tile_size,
    tiles_in_a_row,
)

TILES = ("together", "apart")


class Jigsaw(SSLLoss):
    r"""Jigsaw puzzles: prediction of the permutation that was applied to the tiles of an image [1]_.

    A small head on the features classifies which permutation of a fixed set was applied. To solve the task,
    the features have to distinguish parts of objects and their arrangement:

    .. math::
        \ell = - \log p \bigl( k \mid h(x_{\pi_k(1)}, \dots, x_{\pi_k(g^2)}) \bigr)

    averaged over the images, with tiles :math:`x_i` and a permutation :math:`\pi_k` drawn for each image. The
    backbone sees the shuffled tiles together, as one image [2]_, or each tile separately, with one head h on
    the features of all [1]_.

    Parameters
    ----------
    grid : {"auto", 2, 3}, default="auto"
        Number of tiles g in a row and in a column. "auto": the paper's 3 from 64 pixels on (short side), 2
        below, which gives larger tiles and 24 permutations.
    permutations : int, default=100
        Number of permutations in the set, chosen so that any two differ in as many positions as possible; all
        permutations if there are fewer. The paper's best result has 1,000, for ImageNet.
    tiles : {"together", "apart"}, default="together"
        Input of the backbone: the shuffled tiles as one image, or each tile separately. "apart" is the
        original method, in which the backbone learns from parts of images and never sees a nearly complete
        one.
    head_width : int, default=512
        Width of the hidden layers between the features and the logits. The paper's have 4,096.
    head_depth : int, default=2
        Number of hidden layers. The layers next to the output discard all information that the task does not
        need; with enough of them the features keep more of the image [3]_. 0: a single linear layer.

    Attributes
    ----------
    orders : Tensor of shape (n_permutations, g * g), int64
        The set of permutations.
    head : nn.Module
        Classifier of the permutation.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range; in `build`, if the tiles would be too small or the backbone
        rejects them.

    Notes
    -----
    Against shortcuts, as in the paper, there is a gap between tiles, each tile is cut at a random position in
    its cell, and tiles that are seen separately are standardized in each channel.

    References
    ----------
    .. [1] Noroozi and Favaro, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles",
       ECCV 2016, arXiv:1603.09246, section 3 and algorithm 1.
    .. [2] Carlucci et al., "Domain Generalization by Solving Jigsaw Puzzles", CVPR 2019, arXiv:1903.06864.
    .. [3] Bordes et al., "Guillotine Regularization: Why removing layers is needed to improve generalization
       in Self-Supervised Learning", TMLR 2023, arXiv:2206.13378.
    """

    family = "pretext"
    view_spec = ViewSpec(1, recipes=("weak",))
    defaults: ClassVar[dict] = {"projector": (), "image_size": partial(enlarged, short_side=32)}

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
        # Number of tiles along each side of the backbone's input, and number of inputs per image.
        in_a_row, parts = (self.side, 1) if self.tiles == "together" else (1, self.side**2)
        check_is_taken(spec, tuple(in_a_row * length for length in self.size), f"tiles {self.tiles}")
        self.register_buffer("orders", far_permutations(self.side**2, self.permutations, spec.generator))
        hidden = [self.head_width] * self.head_depth
        self.head = mlp(spec.feature_dim * parts, *hidden, len(self.orders))

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        x, generator = batch.views[0], batch.generator
        tiles = cut_tiles(x, self.side, self.size, generator)
        k = torch.randint(len(self.orders), (len(x),), generator=generator, device=generator.device)
        k = k.to(x.device)
        shuffled = tiles[torch.arange(len(x), device=x.device)[:, None], self.orders[k]]
        if self.tiles == "together":
            h = student.features(as_one_image(shuffled))
        else:
            h = student.features(rearrange(standardized(shuffled), "n tile ... -> (n tile) ..."))
            h = rearrange(h, "(n tile) d -> n (tile d)", n=len(x))
        return graded(self.head(h), k)


def as_one_image(tiles: Tensor) -> Tensor:
    """Assemble tiles (n, g * g, channels, h, w), given row by row, to images (n, channels, g * h, g * w)."""
    side = math.isqrt(tiles.shape[1])
    return rearrange(tiles, "n (rows columns) channels h w -> n channels (rows h) (columns w)", rows=side)


def far_permutations(n: int, wanted: int, generator: torch.Generator) -> Tensor:
    """Return permutations, each as far as possible from the nearest of the previous ones.

    The distance is the number of positions in which two permutations differ (Hamming distance), and the first
    permutation is drawn at random. (Algorithm 1 of the paper maximizes the sum of the distances, by which two
    permutations may be close.)

    Parameters
    ----------
    n : int
        Number of elements.
    wanted : int
        Number of permutations.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    Tensor of shape (min(wanted, n!), n), int64
        Permutations.
    """
    every = all_permutations(n)
    count = every.shape[1]
    chosen = torch.randint(count, (1,), generator=generator)
    # Distance of every permutation from the nearest chosen one.
    distance = torch.full((count,), n, dtype=torch.uint8)
    while True:
        differ = every != every[:, chosen[-1], None]
        distance = torch.minimum(distance, differ.sum(dim=0, dtype=torch.uint8))
        if len(chosen) == min(wanted, count):
            return every[:, chosen].T.long()
        chosen = torch.cat([chosen, distance.argmax()[None]])


@functools.cache
def all_permutations(n: int) -> Tensor:
    """Return all permutations of n elements, one in each column: (n, n!), uint8."""
    return torch.tensor(list(itertools.permutations(range(n))), dtype=torch.uint8).T.contiguous()
