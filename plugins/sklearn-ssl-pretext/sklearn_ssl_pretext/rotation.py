"""Rotation: which way is up?"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from sklearn_ssl import Batch, Spec, SSLLoss, ViewSpec
from sklearn_ssl_pretext.answers import graded


class Rotation(SSLLoss):
    r"""RotNet: by how many quarter turns was the image rotated?

    Each image is shown in all four rotations, and a linear layer on the features tells them apart. To know
    which way is up, one has to know what is in the image:

    .. math::
        \ell = -\frac14 \sum_{k=0}^{3} \log p(k \mid R_k x)

    averaged over the images, where :math:`R_k` rotates by k quarter turns.

    Useless where images have no upright: cells, satellite tiles, leaves on a table; and with augmentations
    that turn them, such as "overhead". Images that are not square are turned in a square of the shorter side.

    References
    ----------
    Gidaris et al., "Unsupervised Representation Learning by Predicting Image Rotations", ICLR 2018,
    arXiv:1803.07728, equations 2 and 3.
    """

    family = "pretext"
    view_spec = ViewSpec(1, recipes=("weak",))
    defaults: ClassVar[dict] = {"projector": ()}

    def build(self, spec: Spec) -> None:
        self.head = nn.Linear(spec.feature_dim, 4)

    def step(self, batch: Batch, student, teacher) -> dict[str, Tensor]:
        turned = all_turns(batch.views[0])
        k = torch.arange(4, device=turned.device).repeat_interleave(len(turned) // 4)
        return graded(self.head(student.features(turned)), k)


def all_turns(x: Tensor) -> Tensor:
    """(n, channels, height, width) -> (4 n, channels, side, side): by 0, 90, 180 and 270 degrees."""
    side = min(x.shape[2:])
    top, left = (x.shape[2] - side) // 2, (x.shape[3] - side) // 2
    square = x[:, :, top : top + side, left : left + side]
    return torch.cat([square.rot90(k, (2, 3)) for k in range(4)])
