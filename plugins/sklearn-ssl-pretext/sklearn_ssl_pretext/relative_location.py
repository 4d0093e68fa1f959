"""Relative location: where is this tile, seen from that one?"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from sklearn_ssl import Batch, Spec, SSLLoss, Views
from sklearn_ssl_pretext.answers import graded
from sklearn_ssl_pretext.tiles import cut_tiles, tile_size, with_colours_dropped

MIDDLE = 4
# Of the 3 x 3 cells, without the middle.
NEIGHBOURS = (0, 1, 2, 3, 5, 6, 7, 8)


class RelativeLocation(SSLLoss):
    r"""Context prediction: two tiles; in which of eight directions does the second lie?

    The middle tile of a 3 x 3 grid and one of those around it, each seen alone by the backbone. Who knows
    that this is an eye and that an ear, knows which is above which:

    .. math::
        \ell = -\log p \bigl( k \mid h(x_0), h(x_k) \bigr)

    averaged over the images, with a neighbour :math:`k \in \{1, \dots, 8\}` drawn for each.

    Parameters
    ----------
    head_width : int, default=256
        Of the layer that sees both tiles. The paper's have 4,096.

    Raises
    ------
    ValueError
        When `build` finds that tiles would be too small.

    Notes
    -----
    Against shortcuts, as in the paper: a gap between tiles, each cut at a random place of its cell, and of
    colour images two of three channels replaced by noise, since lenses bend colours by an amount that tells
    the place in the image (section 3.1 there).

    References
    ----------
    Doersch et al., "Unsupervised Visual Representation Learning by Context Prediction", ICCV 2015,
    arXiv:1505.05192.
    """

    family = "pretext"
    views = Views(1, recipes=("weak",))
    defaults: ClassVar[dict] = {"projector": ()}

    def __init__(self, head_width: int = 256):
        super().__init__()
        self.head_width = head_width

    def build(self, spec: Spec) -> None:
        self.size = tile_size(spec, 3)
        self.head = nn.Sequential(
            nn.Linear(2 * spec.feature_dim, self.head_width), nn.ReLU(), nn.Linear(self.head_width, 8)
        )

    def step(self, batch: Batch, student, teacher) -> dict[str, Tensor]:
        x, generator = batch.views[0], batch.generator
        n = len(x)
        tiles = cut_tiles(x, 3, self.size, generator)
        k = torch.randint(8, (n,), generator=generator, device=generator.device).to(x.device)
        neighbour = torch.tensor(NEIGHBOURS, device=x.device)[k]
        pair = torch.stack([tiles[:, MIDDLE], tiles[torch.arange(n, device=x.device), neighbour]], dim=1)
        pair = with_colours_dropped(pair, generator)
        h = student.features(pair.flatten(0, 1)).reshape(n, -1)
        return graded(self.head(h), k)
