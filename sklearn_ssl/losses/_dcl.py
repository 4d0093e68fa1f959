"""DCL: NT-Xent without the positive in the denominator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl._checks import check_number
from sklearn_ssl.losses._base import SSLLoss, mean_over_pairs
from sklearn_ssl.losses._blockwise import mean_logsumexp


class DCL(SSLLoss):
    r"""Decoupled contrastive learning: pull the pair together, push the rest apart, independently.

    NT-Xent's gradient fades for pairs that are already close, the more so the smaller the batch.
    Leaving the positive out of the denominator removes that coupling, so small batches learn well:

    .. math::
        \ell_i = -s_{i,p(i)} / \tau + \log \sum_{k \notin \{i, p(i)\}} \exp(s_{i,k} / \tau)

    where p(i) is the other view of i, s the cosine similarity, and the loss is the mean over all 2n
    anchors. It has no lower bound: negative values are right. Needs at least two images.

    Parameters
    ----------
    temperature : float, default=0.5
        :math:`\tau`. Lower values look at the hardest negatives only, which in small data are often of
        the same kind as the image; the paper uses 0.1 (ImageNet) and 0.07 (CIFAR-10).

    Notes
    -----
    The (2n, 2n) matrix of similarities is worked through in blocks of rows: memory grows as n d, not as
    n², and value and gradient are exact.

    References
    ----------
    Yeh et al., "Decoupled Contrastive Learning", ECCV 2022, arXiv:2110.06848, equation 6.
    """

    family = "contrastive"

    def __init__(self, temperature: float = 0.5):
        super().__init__()
        self.temperature = check_number("loss__temperature", temperature, above=0)

    def forward(self, *z: Tensor) -> Tensor:
        return mean_over_pairs(self._pair, z)

    def _pair(self, z1: Tensor, z2: Tensor) -> Tensor:
        n = len(z1)
        z1, z2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
        positive = (z1 * z2).sum(dim=1)  # (n,): s is symmetric, so one number for both views
        # The sample itself, and its other view, which is n rows below or above.
        negatives = mean_logsumexp(torch.cat([z1, z2]), self.temperature, left_out=(-n, 0, n))
        return negatives - positive.mean() / self.temperature
