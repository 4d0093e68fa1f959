"""The margin loss on pairs: the oldest contrastive loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl import SSLLoss
from sklearn_ssl.losses import check_number, mean_over_pairs
from sklearn_ssl_metric_learning.distances import pair_distances


class Margin(SSLLoss):
    r"""Contrastive margin loss: views of one image together, different images a margin apart.

    Two views of one image attract each other at any distance; views of different images repel each other
    only while they are closer than the margin, so what is far enough apart is left alone:

    .. math::
        \ell = \frac1n \sum_i d(z_i, z'_i) + \frac1{|A|} \sum_{(a, b) \in A} \bigl(m - d(a, b)\bigr),
        \qquad d(a, b) = \Bigl\| \frac{a}{\|a\|} - \frac{b}{\|b\|} \Bigr\|

    where A holds the pairs of views, of both kinds, that are of different images and closer than m.

    Parameters
    ----------
    margin : float, default=1.4
        m, a distance between unit vectors, which are 0 to 2 apart. 1.4 is nearly :math:`\sqrt2`, right
        angles: what random vectors in many dimensions have anyway. Smaller, and fewer of the other images
        are pushed away; pytorch-metric-learning's default is 1.0, 60 degrees.

    Notes
    -----
    The paper squares both terms and leaves z unnormalised. Distances as they are, unit vectors, and the mean
    over those pairs alone that are too close are pytorch-metric-learning's ContrastiveLoss
    (with LpDistance); a mean over all pairs would fade as most of them come to lie far enough apart.

    References
    ----------
    Hadsell, Chopra and LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006,
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
