"""BYOL: predict what a slower self sees in another view."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_ssl import Batch, Spec, SSLLoss
from sklearn_ssl.losses import check_number, mlp
from sklearn_ssl_self_distillation.heads import make_predictor
from sklearn_ssl_self_distillation.schedules import CosineToOne


def twice_then_half_the_features(feature_dim: int) -> tuple[int, ...]:
    """Widths of the projector: the paper's 4096 and 256, made for ResNet-50's 2048 features."""
    return 2 * feature_dim, max(1, feature_dim // 2)


class BYOL(SSLLoss):
    r"""Bootstrap your own latent: from one view, predict the teacher's projection of the other.

    The teacher is a moving average of the student, so it knows a little more than any one state of the
    student, and by predicting it the student learns what the views have in common. There are no
    negatives, so small batches work. That all projections become equal is prevented by the predictor,
    which only the student has, and by the gradient, which does not enter the teacher:

    .. math::
        \ell = \left\| \bar p_1 - \bar t_2 \right\|^2 + \left\| \bar p_2 - \bar t_1 \right\|^2
        = 4 - 2 \, \bar p_1^\top \bar t_2 - 2 \, \bar p_2^\top \bar t_1

    averaged over the images, where :math:`p_v = q(z_v)` is the predictor q of the student's projection
    of view v, :math:`t_v` the teacher's projection, and the bar scales to length 1.

    Parameters
    ----------
    momentum : float, default=0.99
        :math:`\tau`, the share of itself that the teacher keeps in the first step; it rises to 1 as a
        cosine. Higher is slower. 0.99 is solo-learn's for CIFAR-10; the paper's for ImageNet is 0.996.
    predictor_dim : int, optional
        Width of the predictor's hidden layer. None: twice as wide as the features (the paper: 4096 for
        2048 features).

    Notes
    -----
    Unlike the paper's, the projections are standardised over the batch (BatchNorm, without weights of its
    own, as in SimSiam): else they share one large direction at first, and for some hundred steps the student
    learns little but to predict it.

    References
    ----------
    Grill et al., "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning", NeurIPS 2020,
    arXiv:2006.07733, equations 2 and 3.
    """

    family = "self-distillation"
    defaults: ClassVar[dict] = {"projector": twice_then_half_the_features}

    def __init__(self, momentum: float = 0.99, predictor_dim: int | None = None):
        super().__init__()
        self.momentum = check_number("loss__momentum", momentum, at_least=0, at_most=1)
        self.predictor_dim = check_number(
            "loss__predictor_dim", predictor_dim, whole=True, at_least=1, instead=(None,)
        )
        self.teacher_momentum = CosineToOne(self.momentum)

    def make_projector(self, in_dim: int, widths: tuple[int, ...]) -> nn.Module:
        """An MLP with BatchNorm on its output too; see the notes."""
        return mlp(in_dim, *widths, norm_output=True)

    def build(self, spec: Spec) -> None:
        self.predictor = make_predictor(spec.dim, self.predictor_dim, default=2 * spec.feature_dim)

    def step(self, batch: Batch, student, teacher) -> Tensor:
        p1, p2 = (self.predictor(z) for z in student(batch.views))
        t1, t2 = teacher(batch.views)
        return distance(p1, t2) + distance(p2, t1)


def distance(p: Tensor, t: Tensor) -> Tensor:
    """Mean squared distance of the rows, scaled to length 1: 2 - 2 cos."""
    return 2 - 2 * F.cosine_similarity(p, t).mean()
