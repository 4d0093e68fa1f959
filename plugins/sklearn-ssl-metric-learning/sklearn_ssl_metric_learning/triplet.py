"""Triplet loss with hard negatives of the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl.losses import SSLLoss, check_choice, check_number, mean_over_pairs
from sklearn_ssl_metric_learning.distances import pair_distances

NEGATIVES = ("violating", "hardest")


class Triplet(SSLLoss):
    r"""Triplet margin loss with hard negatives [1]_ [2]_.

    Each of the 2n projections is an anchor a, its other view the positive p, and each view of another image a
    negative n. The positive has to be closer to the anchor than the negative, by a margin; only the order of
    distances matters, not their size:

    .. math::
        \ell_{a,n} = \max\bigl(0, \; d(a, p)^2 - d(a, n)^2 + m\bigr),
        \qquad d(a, b) = \Bigl\| \frac{a}{\|a\|} - \frac{b}{\|b\|} \Bigr\|

    and the loss is the mean over the triplets that violate the margin, :math:`\ell > 0`; or, depending on
    `negatives`, over all anchors, each with its nearest negative.

    Parameters
    ----------
    margin : float, default=1.0
        Margin m between squared distances of unit vectors, which are from 0 to 4. With a larger margin, more
        triplets contribute; FaceNet uses 0.2, with labels.
    negatives : {"violating", "hardest"}, default="violating"
        Selection of negatives. "violating": all that violate the margin. "hardest": only the nearest one
        (batch hard). Without labels, the nearest image is often of the same class.

    Raises
    ------
    ValueError
        If `negatives` is not one of the two options, or `margin` is negative.

    References
    ----------
    .. [1] Schroff, Kalenichenko and Philbin, "FaceNet: A Unified Embedding for Face Recognition and
       Clustering", CVPR 2015, arXiv:1503.03832, equation 2.
    .. [2] Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017,
       arXiv:1703.07737, section 2 (both selections of negatives, without squares).
    """

    family = "contrastive"

    def __init__(self, margin: float = 1.0, negatives: str = "violating"):
        super().__init__()
        self.margin = check_number("loss__margin", margin, at_least=0)
        self.negatives = check_choice("loss__negatives", negatives, NEGATIVES)

    def forward(self, *z: Tensor) -> Tensor:
        return mean_over_pairs(self._pair, z)

    def _pair(self, z1: Tensor, z2: Tensor) -> Tensor:
        positive, negative = (d.square() for d in pair_distances(z1, z2))
        positive = torch.cat([positive, positive])[:, None]  # (2n, 1): the distance is symmetric
        if self.negatives == "hardest":
            return F.relu(positive - negative.amin(dim=1, keepdim=True) + self.margin).mean()
        violation = F.relu(positive - negative + self.margin)  # (2n, 2n)
        return violation.sum() / violation.count_nonzero().clamp(min=1)
