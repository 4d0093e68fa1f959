"""Rotation: prediction of the rotation of an image."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from sklearn_ssl.losses import Batch, Spec, SSLLoss, Student, Teacher, ViewSpec
from sklearn_ssl_pretext.answers import graded
from sklearn_ssl_pretext.sizes import enlarged


class Rotation(SSLLoss):
    r"""Rotation prediction (RotNet) [1]_.

    Each image is shown in all four rotations by multiples of 90 degrees, and a linear layer on the features
    classifies them. To recognize the upright orientation, the features have to represent the content:

    .. math::
        \ell = -\frac14 \sum_{k=0}^{3} \log p(k \mid R_k x)

    averaged over the images, where :math:`R_k` rotates by k quarter turns.

    Attributes
    ----------
    head : nn.Linear
        Classifier of the rotation.

    Notes
    -----
    The task is meaningless for images without an upright orientation (cells, satellite tiles, leaves on a
    table), and with augmentations that rotate images, such as "overhead". Images that are not square are
    cropped to a central square of the shorter side.

    References
    ----------
    .. [1] Gidaris et al., "Unsupervised Representation Learning by Predicting Image Rotations", ICLR 2018,
       arXiv:1803.07728, equations 2 and 3.
    """

    family = "pretext"
    mean_over_images = True
    view_spec = ViewSpec(1, recipes=("weak",))
    defaults: ClassVar[dict] = {"projector": (), "image_size": partial(enlarged, short_side=16)}

    def build(self, spec: Spec) -> None:
        self.head = nn.Linear(spec.feature_dim, 4)

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        turned = all_turns(batch.views[0])
        k = torch.arange(4, device=turned.device).repeat_interleave(len(turned) // 4)
        return graded(self.head(student.features(turned)), k)


def all_turns(x: Tensor) -> Tensor:
    """Rotate the central squares of images (n, ...) by 0, 90, 180 and 270 degrees: (4 n, ...)."""
    side = min(x.shape[2:])
    top, left = (x.shape[2] - side) // 2, (x.shape[3] - side) // 2
    square = x[:, :, top : top + side, left : left + side]
    return torch.cat([square.rot90(k, (2, 3)) for k in range(4)])
