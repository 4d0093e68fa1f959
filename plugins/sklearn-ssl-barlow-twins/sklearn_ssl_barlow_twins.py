"""Barlow Twins: redundancy reduction, as a plugin of sklearn_ssl."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl.losses import Spec, SSLLoss, check_number, mean_over_pairs, multi_crop


def twice_as_wide_as_the_features(feature_dim: int) -> tuple[int, ...]:
    """Return the widths of the projector's layers, all twice the width of the features."""
    return (2 * feature_dim,) * 3


class BarlowTwins(SSLLoss):
    r"""Barlow Twins redundancy-reduction loss [1]_.

    The cross-correlation matrix between the projections of two views is driven to the identity: each
    dimension agrees between the views (invariance), and different dimensions are decorrelated (redundancy
    reduction):

    .. math::
        \ell = \sum_i (1 - C_{ii})^2 + \lambda \sum_{i \neq j} C_{ij}^2,
        \qquad C = \frac1n \hat z^\top \hat z'

    where :math:`\hat z` is z standardized over the batch (statistics of each view, divided by n). The loss is
    multiplied by `scale`.

    Parameters
    ----------
    lambd : float, default=0.0051
        Weight :math:`\lambda` of the redundancy-reduction term. The default is the authors' value.
    scale : float, default=0.1
        Factor of the whole loss. The default is solo-learn's for CIFAR-10; the authors use 1/32 and 1/40.
    local_crops : int or "auto", default=0
        Number of local crops of each image, in addition to the two full-size views (multi-crop, as in SwAV
        [2]_); each is compared with the full-size views. "auto": 4, or 0 if they would have less than 24
        pixels on the short side or the backbone rejects them. Four crops at half the side take about the time
        of one full-size view.
    local_size : float or tuple of floats, default=0.5
        Side of a local crop, as a fraction of the full size. 1.0: small parts of the image, enlarged. A tuple
        gives the sides of several crops in turn.

    References
    ----------
    .. [1] Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", ICML 2021,
       arXiv:2103.03230, equations 1 and 2.
    .. [2] Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
       NeurIPS 2020, arXiv:2006.09882, section 3.2.
    """

    family = "cca"
    defaults = {"projector": twice_as_wide_as_the_features}  # noqa: RUF012

    def __init__(
        self,
        lambd: float = 0.0051,
        scale: float = 0.1,
        local_crops: int | str = 0,
        local_size: float | tuple[float, ...] = 0.5,
    ):
        super().__init__()
        self.lambd = check_number("loss__lambd", lambd, at_least=0)
        self.scale = check_number("loss__scale", scale, above=0)
        self.local_crops = local_crops
        self.local_size = local_size

    def build(self, spec: Spec) -> None:
        self.view_spec = multi_crop(self.local_crops, self.local_size, spec)

    def forward(self, *z: Tensor) -> Tensor:
        return mean_over_pairs(self._pair, z, self.view_spec.local)

    def _pair(self, z1: Tensor, z2: Tensor) -> Tensor:
        z1, z2 = (F.batch_norm(z, None, None, training=True) for z in (z1, z2))
        c = z1.T @ z2 / len(z1)  # (d, d)
        on_diagonal = (1 - c.diagonal()).square().sum()
        off_diagonal = c.square().sum() - c.diagonal().square().sum()
        return self.scale * (on_diagonal + self.lambd * off_diagonal)
