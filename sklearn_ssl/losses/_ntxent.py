"""NT-Xent: the loss of SimCLR."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl._checks import check_number
from sklearn_ssl.losses._base import SSLLoss, mean_over_pairs
from sklearn_ssl.losses._blockwise import mean_logsumexp


class NTXent(SSLLoss):
    r"""Normalised temperature-scaled cross entropy (SimCLR): pick your other view out of the batch.

    Each of the 2n projections asks "which of the other 2n - 1 is the other view of my image?" and
    pays the cross entropy of the answer:

    .. math::
        \ell_i = -\log \frac{\exp(s_{i,p(i)} / \tau)}{\sum_{k \neq i} \exp(s_{i,k} / \tau)},
        \qquad s_{i,k} = \frac{z_i^\top z_k}{\|z_i\| \|z_k\|}

    where p(i) is the other view of i, and the loss is the mean over all 2n anchors.

    Parameters
    ----------
    temperature : float, default=0.5
        :math:`\tau`. Lower values look at the hardest negatives only, which in small data are often of
        the same kind as the image. 0.5 is SimCLR's for CIFAR-10; on ImageNet it uses 0.1.

    Notes
    -----
    The (2n, 2n) matrix of similarities is worked through in blocks of rows: memory grows as n d, not as
    n², and value and gradient are exact.

    References
    ----------
    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020,
    arXiv:2002.05709, equation 1.
    """

    family = "contrastive"

    def __init__(self, temperature: float = 0.5):
        super().__init__()
        self.temperature = check_number("loss__temperature", temperature, above=0)

    def forward(self, *z: Tensor) -> Tensor:
        return mean_over_pairs(self._pair, z)

    def _pair(self, z1: Tensor, z2: Tensor) -> Tensor:
        z1, z2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
        positive = (z1 * z2).sum(dim=1)  # (n,): s is symmetric, so one number for both views
        # A sample is not among its own candidates.
        log_of_sum = mean_logsumexp(torch.cat([z1, z2]), self.temperature, left_out=(0,))
        return log_of_sum - positive.mean() / self.temperature
