"""TiCo: invariance to transformations, and contrast by the covariance of earlier projections."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl.losses import Batch, Spec, SSLLoss, Student, Teacher, check_number


def four_times_then_half(feature_dim: int) -> tuple[int, ...]:
    """Return the widths of the projector's layers: the paper's 4096 and 256, scaled from 2048 features."""
    return 2 * feature_dim, max(2, feature_dim // 2)


class TiCo(SSLLoss):
    r"""Transformation invariance and covariance contrast (TiCo) loss [1]_.

    The projection of one view agrees with the teacher's projection of the other, and has small components
    along the directions in which the projections of all images of this and earlier batches are large. The
    second moments C of earlier projections stand for a queue of negatives, in memory that does not grow with
    their number:

    .. math::
        \ell = 1 - \frac1n \sum_i \bar z_i^\top \bar t_i
        + \rho \, \frac1n \sum_i \bar z_i^\top C \bar z_i,
        \qquad C \leftarrow \beta C + (1 - \beta) \frac1n \sum_i \bar z_i \bar z_i^\top

    where z are the student's projections of the first view, t the teacher's of the second, the bar denotes
    scaling to unit length, and C, which is updated before the loss is computed, is a constant to the
    gradient. The teacher is an exponential moving average of the student.

    Parameters
    ----------
    beta : float, default=0.9
        Momentum :math:`\beta` of the second moments. The default is the paper's.
    rho : float, default=8.0
        Weight :math:`\rho` of the contrast. The default is the paper's.
    momentum : float, default=0.99
        Momentum of the teacher. The paper increases it from 0.99 to 1.

    Attributes
    ----------
    moments : Tensor of shape (dim, dim)
        Second moments C.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range.

    References
    ----------
    .. [1] Zhu et al., "TiCo: Transformation Invariance and Covariance Contrast for Self-Supervised Visual
       Representation Learning", 2022, arXiv:2206.10698, section 3.
    """

    family = "cca"
    defaults: ClassVar[dict] = {"projector": four_times_then_half}

    def __init__(self, beta: float = 0.9, rho: float = 8.0, momentum: float = 0.99):
        super().__init__()
        self.beta = check_number("loss__beta", beta, at_least=0, at_most=1)
        self.rho = check_number("loss__rho", rho, at_least=0)
        self.teacher_momentum = check_number("loss__momentum", momentum, at_least=0, at_most=1)

    def build(self, spec: Spec) -> None:
        self.register_buffer("moments", torch.zeros(spec.dim, spec.dim))

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        first, second = batch.views
        [z], [t] = student([first]), teacher([second])
        z, t = F.normalize(z, dim=1), F.normalize(t, dim=1)
        own = z.detach()
        self.moments.lerp_(own.T @ own / len(own), 1 - self.beta)
        invariance = 1 - (z * t).sum(dim=1).mean()
        contrast = ((z @ self.moments.clone()) * z).sum(dim=1).mean()
        return {"loss": invariance + self.rho * contrast, "invariance": invariance, "contrast": contrast}
