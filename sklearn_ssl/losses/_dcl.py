"""DCL: NT-Xent without the positive pair in the denominator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl._checks import check_number
from sklearn_ssl.losses._base import SSLLoss
from sklearn_ssl.losses._blockwise import mean_logsumexp
from sklearn_ssl.losses._pairs import mean_over_pairs


class DCL(SSLLoss):
    r"""Decoupled contrastive learning (DCL) loss: NT-Xent without the positive in the denominator.

    The gradient of NT-Xent vanishes for pairs that are already close, the more so the smaller the batch [1]_.
    Removing the positive from the denominator decouples attraction and repulsion, so that small batches
    learn well:

    .. math::
        \ell_i = -s_{i,p(i)} / \tau + \log \sum_{k \notin \{i, p(i)\}} \exp(s_{i,k} / \tau)

    where p(i) is the other view of i, s the cosine similarity, and the loss is the mean over all 2n
    anchors. The loss has no lower bound: negative values are expected. It requires at least two images.

    Parameters
    ----------
    temperature : float, default=0.5
        Temperature :math:`\tau`. Lower values weight the hardest negatives more, which on small data sets
        are often of the same class as the image; the paper uses 0.1 (ImageNet) and 0.07 (CIFAR-10).

    See Also
    --------
    NTXent : The same loss with the positive in the denominator.

    Notes
    -----
    The (2n, 2n) similarity matrix is processed in blocks of rows: memory grows as n d, not as n², and value
    and gradient are exact.

    References
    ----------
    .. [1] Yeh et al., "Decoupled Contrastive Learning", ECCV 2022, arXiv:2110.06848, equation 6.
    """

    family = "contrastive"

    def __init__(self, temperature: float = 0.5):
        super().__init__()
        self.temperature = check_number("loss__temperature", temperature, above=0)

    def forward(self, *z: Tensor) -> Tensor:
        """Compute the loss of the projections.

        Parameters
        ----------
        *z : Tensor of shape (n, dim), float32
            Projections, one tensor for each view; at least two.

        Returns
        -------
        Tensor of shape ()
            Mean over all pairs of views.

        Raises
        ------
        ValueError
            If there are fewer than two views.
        """
        return mean_over_pairs(self._pair, z)

    def _pair(self, z1: Tensor, z2: Tensor) -> Tensor:
        n = len(z1)
        z1, z2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
        positive = (z1 * z2).sum(dim=1)  # (n,): s is symmetric, so one number for both views
        # Exclude the anchor itself (offset 0) and its other view, which is n rows below or above.
        negatives = mean_logsumexp(torch.cat([z1, z2]), self.temperature, left_out=(-n, 0, n))
        return negatives - positive.mean() / self.temperature
