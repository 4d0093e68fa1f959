"""InfoNCE: the loss of contrastive predictive coding, applied to two views."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl.losses import SSLLoss, check_number, mean_over_pairs


class InfoNCE(SSLLoss):
    r"""InfoNCE loss between two views [1]_.

    Each projection of the first view has to identify its image among the second views of the batch; the loss
    is the cross-entropy of this classification, with as many classes as images in the batch:

    .. math::
        \ell_i = -\log \frac{\exp(s_{ii} / \tau)}{\sum_k \exp(s_{ik} / \tau)},
        \qquad s_{ik} = \frac{z_i^\top z'_k}{\|z_i\| \|z'_k\|}

    and the loss is the mean over the n images. Unlike NT-Xent it is computed in one direction only, from z to
    z', and projections of the same view are not compared: there are n - 1 negatives instead of 2n - 2. With
    three views or more, this applies to each pair of an earlier and a later view.

    Parameters
    ----------
    temperature : float, default=0.5
        Temperature :math:`\tau`. Lower values weight the hardest negatives more, which on small data sets are
        often of the same class as the image. SimCLR uses 0.5 for CIFAR-10 (arXiv:2002.05709); MoCo uses 0.07
        for ImageNet (arXiv:1911.05722). The score of the paper is a bilinear form without a temperature.

    References
    ----------
    .. [1] van den Oord, Li and Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018,
       arXiv:1807.03748, equation 4.
    """

    family = "contrastive"

    def __init__(self, temperature: float = 0.5):
        super().__init__()
        self.temperature = check_number("loss__temperature", temperature, above=0)

    def forward(self, *z: Tensor) -> Tensor:
        return mean_over_pairs(self._pair, z)

    def _pair(self, z1: Tensor, z2: Tensor) -> Tensor:
        s = F.normalize(z1, dim=1) @ F.normalize(z2, dim=1).T  # (n, n)
        own = torch.arange(len(s), device=s.device)
        return F.cross_entropy(s / self.temperature, own)
