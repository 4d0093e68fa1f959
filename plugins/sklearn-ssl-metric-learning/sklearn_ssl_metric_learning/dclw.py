"""DCLW: decoupled contrastive learning with weighted positives."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl.losses import DCL, check_number, mean_over_pairs


class DCLW(DCL):
    r"""Weighted decoupled contrastive loss (DCLW) [1]_.

    DCL whose positive term is multiplied by a weight. The weight is the smaller, the closer the positive pair
    is compared with the other pairs of the batch, so that pairs that are still far apart are attracted most:

    .. math::
        \ell_i = -w_i \, s_{i,p(i)} / \tau + \log \sum_{k \notin \{i, p(i)\}} \exp(s_{i,k} / \tau)

        w_i = 2 - \frac{\exp(s_{i,p(i)} / \sigma)}{\frac1n \sum_j \exp(s_{j,p(j)} / \sigma)}

    where p(i) is the other view of i, s the cosine similarity, and the loss is the mean over all 2n anchors.
    The weights (negative von Mises-Fisher densities) have a mean of one, and the gradient does not flow
    through them (stop-gradient). The loss may be negative, and so may be the weights of pairs that are far
    closer than the others.

    Parameters
    ----------
    temperature : float, default=0.5
        Temperature :math:`\tau`. Lower values weight the hardest negatives more, which on small data sets are
        often of the same class as the image; the paper uses 0.1 (ImageNet) and 0.07 (CIFAR-10).
    sigma : float, default=0.5
        Concentration :math:`\sigma` of the weights. The default is the paper's. Larger values make the
        weights more equal; at infinity the loss is DCL.

    See Also
    --------
    sklearn_ssl.losses.DCL : The unweighted loss.

    Notes
    -----
    Memory grows as n d, as for DCL.

    References
    ----------
    .. [1] Yeh et al., "Decoupled Contrastive Learning", ECCV 2022, arXiv:2110.06848, equation 6 and the
       weights of section 3.
    """

    family = "contrastive"

    def __init__(self, temperature: float = 0.5, sigma: float = 0.5):
        super().__init__(temperature)
        self.sigma = check_number("loss__sigma", sigma, above=0)

    def forward(self, *z: Tensor) -> Tensor:
        return super().forward(*z) + mean_over_pairs(self._by_weights, z)

    def _by_weights(self, z1: Tensor, z2: Tensor) -> Tensor:
        """Return the difference between the weighted and the unweighted loss of a pair of views."""
        s = F.cosine_similarity(z1, z2, dim=1)  # (n,)
        # n times the softmax is the ratio of exp(s / sigma) to its mean over the batch.
        w = 2 - len(s) * (s.detach() / self.sigma).softmax(dim=0)
        return ((1 - w) * s).mean() / self.temperature
