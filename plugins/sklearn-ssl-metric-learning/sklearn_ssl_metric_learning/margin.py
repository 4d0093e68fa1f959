"""Margin loss on pairs of views, the original contrastive loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl.losses import SSLLoss, check_number, mean_over_pairs
from sklearn_ssl_metric_learning.distances import pair_distances


class Margin(SSLLoss):
    r"""Contrastive loss with a margin [1]_.

    Two views of an image attract each other at any distance. Views of different images repel each other only
    while they are closer than the margin:

    .. math::
        \ell = \frac1n \sum_i d(z_i, z'_i) + \frac1{|A|} \sum_{(a, b) \in A} \bigl(m - d(a, b)\bigr),
        \qquad d(a, b) = \Bigl\| \frac{a}{\|a\|} - \frac{b}{\|b\|} \Bigr\|

    where A is the set of pairs of projections, from either view, of different images and closer than m.

    Parameters
    ----------
    margin : float, default=1.4
        Margin m, a distance between unit vectors, from 0 to 2. The default is nearly :math:`\sqrt2`, a right
        angle, which is about the distance of random vectors in many dimensions. With smaller values fewer of
        the other images are repelled; the default of pytorch-metric-learning is 1.0, an angle of 60 degrees.

    Notes
    -----
    The paper squares both terms and does not normalize z. Unsquared distances, unit vectors, and the mean
    over only those pairs that are too close follow pytorch-metric-learning's ContrastiveLoss (with
    LpDistance); a mean over all pairs would vanish as most of them become far enough apart.

    References
    ----------
    .. [1] Hadsell, Chopra and LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006,
       equation 4.
    """

    family = "contrastive"

    def __init__(self, margin: float = 1.4):
        super().__init__()
        self.margin = check_number("loss__margin", margin, above=0)

    def forward(self, *z: Tensor) -> Tensor:
        return mean_over_pairs(self._pair, z)

    def _pair(self, z1: Tensor, z2: Tensor) -> Tensor:
        positive, negative = pair_distances(z1, z2)
        missing = F.relu(self.margin - negative)  # (2n, 2n)
        return positive.mean() + missing.sum() / missing.count_nonzero().clamp(min=1)
