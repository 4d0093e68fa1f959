"""DCLW: decoupled contrastive learning with weighted positives."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl.losses import DCL, check_number, mean_over_pairs


class DCLW(DCL):
    r"""Weighted decoupled contrastive learning: DCL that pulls most at the pairs that are still far apart.

    DCL, its positive term multiplied by a weight that is the smaller, the closer the pair already is (in
    comparison with the other pairs of the batch):

    .. math::
        \ell_i = -w_i \, s_{i,p(i)} / \tau + \log \sum_{k \notin \{i, p(i)\}} \exp(s_{i,k} / \tau)

        w_i = 2 - \frac{\exp(s_{i,p(i)} / \sigma)}{\frac1n \sum_j \exp(s_{j,p(j)} / \sigma)}

    where p(i) is the other view of i, s the cosine similarity, and the loss is the mean over all 2n anchors.
    The weights (negative von Mises-Fisher densities) have mean one and pass no gradient. Negative
    values of the loss are right, and so are negative weights, of pairs that are far closer than the others.

    Parameters
    ----------
    temperature : float, default=0.5
        :math:`\tau`. Lower values look at the hardest negatives only, which in small data are often of
        the same kind as the image; the paper uses 0.1 (ImageNet) and 0.07 (CIFAR-10).
    sigma : float, default=0.5
        :math:`\sigma`, the paper's. Larger, and the weights are more alike: at infinity this is DCL.

    Notes
    -----
    Memory grows as n d, as DCL's does.

    References
    ----------
    Yeh et al., "Decoupled Contrastive Learning", ECCV 2022, arXiv:2110.06848, equation 6 and the weights
    of section 3.
    """

    family = "contrastive"

    def __init__(self, temperature: float = 0.5, sigma: float = 0.5):
        super().__init__(temperature)
        self.sigma = check_number("loss__sigma", sigma, above=0)

    def forward(self, *z: Tensor) -> Tensor:
        return super().forward(*z) + mean_over_pairs(self._by_weights, z)

    def _by_weights(self, z1: Tensor, z2: Tensor) -> Tensor:
        """What the weights change of a pair's DCL."""
        s = F.cosine_similarity(z1, z2, dim=1)  # (n,)
        w = 2 - len(s) * (s.detach() / self.sigma).softmax(dim=0)
        return ((1 - w) * s).mean() / self.temperature
