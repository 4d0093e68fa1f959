"""VICReg: variance-invariance-covariance regularization."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl._checks import check_number
from sklearn_ssl.losses._base import Spec, SSLLoss
from sklearn_ssl.losses._local_crops import multi_crop
from sklearn_ssl.losses._pairs import mean_over_pairs


def three_times_the_features(feature_dim: int) -> tuple[int, ...]:
    """Return the widths of the projector's layers, all equal to the width of the features."""
    return feature_dim, feature_dim, feature_dim


class VICReg(SSLLoss):
    r"""Variance-invariance-covariance regularization (VICReg) loss.

    The projections of two views are pulled together (invariance), while each dimension keeps a standard
    deviation of at least one over the batch (variance) and the dimensions are decorrelated (covariance).
    There are no negatives, so small batches work [1]_:

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
        Weight :math:`\lambda` of the invariance term.
    std_coeff : float, default=25.0
        Weight :math:`\mu` of the variance term. If it is too small, the embedding collapses.
    cov_coeff : float, default=1.0
        Weight :math:`\nu` of the covariance term. Larger values make the dimensions less redundant.
    local_crops : int or "auto", default=0
        Number of local crops of each image, in addition to the two full-size views (multi-crop, as in SwAV
        [2]_); each is compared with the full-size views. "auto": 4, or 0 if they would have less than 24
        pixels on the short side or the backbone rejects them. Four crops at half the side take about the time
        of one full-size view.
    local_size : float or tuple of floats, default=0.5
        Side of a local crop, as a fraction of the full size. 1.0: small parts of the image, enlarged. A tuple
        gives the sides of several crops in turn.

    Notes
    -----
    The sum over :math:`C_{ij}^2` equals that over the (n, n) matrix of inner products between the centered
    rows, so the covariance term takes memory for :math:`\min(n, d)^2` numbers.

    References
    ----------
    .. [1] Bardes, Ponce and LeCun, "VICReg: Variance-Invariance-Covariance Regularization for
       Self-Supervised Learning", ICLR 2022, arXiv:2105.04906, equations 1 to 6; constants from
       github.com/facebookresearch/vicreg.
    .. [2] Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
       NeurIPS 2020, arXiv:2006.09882, section 3.2.
    """

    family = "cca"
    # Wider than for a contrastive loss: the covariance term decorrelates the dimensions of the projections.
    defaults: ClassVar[dict] = {"projector": three_times_the_features}

    def __init__(
        self,
        sim_coeff: float = 25.0,
        std_coeff: float = 25.0,
        cov_coeff: float = 1.0,
        local_crops: int | str = 0,
        local_size: float | tuple[float, ...] = 0.5,
    ):
        super().__init__()
        self.sim_coeff = check_number("loss__sim_coeff", sim_coeff, at_least=0)
        self.std_coeff = check_number("loss__std_coeff", std_coeff, at_least=0)
        self.cov_coeff = check_number("loss__cov_coeff", cov_coeff, at_least=0)
        self.local_crops = local_crops
        self.local_size = local_size

    def build(self, spec: Spec) -> None:
        """Declare the views; see `SSLLoss.build`."""
        self.view_spec = multi_crop(self.local_crops, self.local_size, spec)

    def forward(self, *z: Tensor) -> dict[str, Tensor]:
        """Compute the loss of the projections.

        Parameters
        ----------
        *z : Tensor of shape (n, dim), float32
            Projections, one tensor for each view; at least two.

        Returns
        -------
        dict of str to Tensor of shape ()
            The loss, and its terms invariance, variance and covariance, unweighted.

        Raises
        ------
        ValueError
            If there are fewer than two views.
        """
        invariance = mean_over_pairs(F.mse_loss, z, self.view_spec.local)
        # Variance and covariance are summed over the two views of a pair: twice the mean over all views. The
        # variance term's factor of one half cancels the two.
        variance = torch.stack([_variance(view) for view in z]).mean()
        covariance = 2 * torch.stack([_covariance(view) for view in z]).mean()
        loss = self.sim_coeff * invariance + self.std_coeff * variance + self.cov_coeff * covariance
        return {"loss": loss, "invariance": invariance, "variance": variance, "covariance": covariance}


def _variance(z: Tensor) -> Tensor:
    # A root of the variance alone has an infinite gradient at zero, hence epsilon.
    return F.relu(1 - (z.var(dim=0) + 1e-4).sqrt()).mean()


def _covariance(z: Tensor) -> Tensor:
    n, d = z.shape
    z = (z - z.mean(dim=0)) / math.sqrt(n - 1)  # C = Z^T Z
    if n < d:
        # (n, n), whose sum of squares is that of C; (d,)
        gram, variances = z @ z.T, z.square().sum(dim=0)
    else:
        gram = z.T @ z  # (d, d)
        variances = gram.diagonal()
    return (gram.square().sum() - variances.square().sum()) / d
