"""VICReg: variance, invariance, covariance."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl._checks import check_number
from sklearn_ssl.losses._base import SSLLoss, mean_over_pairs


def three_times_the_features(feature_dim: int) -> tuple[int, ...]:
    """Widths of the projector."""
    return feature_dim, feature_dim, feature_dim


class VICReg(SSLLoss):
    r"""Variance-invariance-covariance regularisation: agree, but spread out and do not repeat.

    The two views' projections shall be equal (invariance), while each dimension keeps a standard
    deviation of at least one over the batch (variance) and no two dimensions say the same
    (covariance). There are no negatives, so small batches work:

    .. math::
        \ell = \lambda \, \mathrm{MSE}(z, z') + \mu \tfrac12 [v(z) + v(z')] + \nu [c(z) + c(z')]

        v(z) = \frac1d \sum_j \max\bigl(0, 1 - \sqrt{\mathrm{Var}(z_{\cdot j}) + \epsilon}\bigr),
        \qquad c(z) = \frac1d \sum_{i \neq j} C(z)_{ij}^2

    where C(z) is the covariance matrix over the batch (divided by n - 1), d the width of z and
    :math:`\epsilon = 10^{-4}`. The halved variance term follows the authors' code; the paper's
    formula has no half.

    Parameters
    ----------
    sim_coeff : float, default=25.0
        :math:`\lambda`, the weight of invariance.
    std_coeff : float, default=25.0
        :math:`\mu`, the weight of variance: too small, and the embedding collapses.
    cov_coeff : float, default=1.0
        :math:`\nu`, the weight of covariance: larger, and the dimensions share less.

    Notes
    -----
    The sum over :math:`C_{ij}^2` is also that over the (n, n) matrix of inner products between the centred
    rows, so the covariance takes :math:`\min(n, d)^2` numbers of memory.

    References
    ----------
    Bardes, Ponce and LeCun, "VICReg: Variance-Invariance-Covariance Regularization for
    Self-Supervised Learning", ICLR 2022, arXiv:2105.04906, equations 1 to 6; constants from
    github.com/facebookresearch/vicreg.
    """

    family = "cca"
    # Wider than for a contrastive loss: what is decorrelated is the embedding's dimensions.
    defaults: ClassVar[dict] = {"projector": three_times_the_features}

    def __init__(self, sim_coeff: float = 25.0, std_coeff: float = 25.0, cov_coeff: float = 1.0):
        super().__init__()
        self.sim_coeff = check_number("loss__sim_coeff", sim_coeff, at_least=0)
        self.std_coeff = check_number("loss__std_coeff", std_coeff, at_least=0)
        self.cov_coeff = check_number("loss__cov_coeff", cov_coeff, at_least=0)

    def forward(self, *z: Tensor) -> dict[str, Tensor]:
        invariance = mean_over_pairs(F.mse_loss, z)
        # The mean over pairs of a sum over the pair's views is a mean over views.
        variance = torch.stack([_variance(view) for view in z]).mean()
        covariance = 2 * torch.stack([_covariance(view) for view in z]).mean()
        loss = self.sim_coeff * invariance + self.std_coeff * variance + self.cov_coeff * covariance
        return {"loss": loss, "invariance": invariance, "variance": variance, "covariance": covariance}


def _variance(z: Tensor) -> Tensor:
    return F.relu(1 - (z.var(dim=0) + 1e-4).sqrt()).mean()


def _covariance(z: Tensor) -> Tensor:
    n, d = z.shape
    z = (z - z.mean(dim=0)) / math.sqrt(n - 1)  # C = Z^T Z
    if n < d:
        gram, variances = z @ z.T, z.square().sum(dim=0)  # (n, n), whose sum of squares is that of C; (d,)
    else:
        gram = z.T @ z  # (d, d)
        variances = gram.diagonal()
    return (gram.square().sum() - variances.square().sum()) / d
