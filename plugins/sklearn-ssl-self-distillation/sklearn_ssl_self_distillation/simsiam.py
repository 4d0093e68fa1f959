"""SimSiam: prediction of another view's projection, with a stop-gradient instead of a teacher."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_ssl.losses import Batch, Spec, SSLLoss, Student, Teacher, check_number, mlp
from sklearn_ssl_self_distillation.heads import make_predictor


def three_times_the_features(feature_dim: int) -> tuple[int, ...]:
    """Return the widths of the projector's layers, as in the paper (2048, 2048, 2048 for 2048 features)."""
    return feature_dim, feature_dim, feature_dim


class SimSiam(SSLLoss):
    r"""Simple Siamese representation learning (SimSiam) [1]_.

    From one view, the projection of the other is predicted, with a stop-gradient on the target; without it,
    all projections would become equal (collapse). There are no negatives, no teacher and no queue:

    .. math::
        \ell = -\tfrac12 \cos(p_1, \operatorname{sg} z_2) - \tfrac12 \cos(p_2, \operatorname{sg} z_1)

    averaged over the images, where :math:`p_v = h(z_v)` is the output of the predictor h for the projection
    of view v, and sg is the stop-gradient. The loss is between -1 and 1.

    Parameters
    ----------
    predictor_dim : int, default=None
        Width of the predictor's hidden layer, a bottleneck. None: a quarter of the width of the projections
        (the paper: 512 for 2048).

    Attributes
    ----------
    predictor : nn.Module
        Predictor.

    Raises
    ------
    ValueError
        If `predictor_dim` is not a positive integer.

    Notes
    -----
    The authors keep the predictor's learning rate constant, so that the predictor adapts to the projections
    while the learning rate of the other layers decays; here it decays with the others.

    References
    ----------
    .. [1] Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021, arXiv:2011.10566,
       equations 3 and 4.
    """

    family = "self-distillation"
    defaults: ClassVar[dict] = {"projector": three_times_the_features}

    def __init__(self, predictor_dim: int | None = None):
        super().__init__()
        self.predictor_dim = check_number(
            "loss__predictor_dim", predictor_dim, whole=True, at_least=1, instead=(None,)
        )

    def make_projector(self, in_dim: int, widths: tuple[int, ...]) -> nn.Module:
        """Build an MLP whose output is standardized over the batch, too, as in the paper."""
        return mlp(in_dim, *widths, norm_output=True)

    def build(self, spec: Spec) -> None:
        self.predictor = make_predictor(spec.dim, self.predictor_dim, default=max(1, spec.dim // 4))

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        z1, z2 = student(batch.views)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        return -(similarity(p1, z2.detach()) + similarity(p2, z1.detach())) / 2


def similarity(p: Tensor, z: Tensor) -> Tensor:
    """Return the mean cosine similarity between corresponding rows."""
    return F.cosine_similarity(p, z).mean()
