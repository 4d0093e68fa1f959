"""InfoNCE: the loss of contrastive predictive coding, between two views."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl import SSLLoss
from sklearn_ssl.losses import check_number, mean_over_pairs


class InfoNCE(SSLLoss):
    r"""InfoNCE: a first view picks its image out of the second views of the batch.

    A classification with as many classes as there are images in the batch, whose class vectors are the
    images' second views:

    .. math::
        \ell_i = -\log \frac{\exp(s_{ii} / \tau)}{\sum_k \exp(s_{ik} / \tau)},
        \qquad s_{ik} = \frac{z_i^\top z'_k}{\|z_i\| \|z'_k\|}

    and the loss is the mean over the n images. Unlike NT-Xent it asks in one direction only, from z to z',
    and views of the same kind never meet: n - 1 negatives each instead of 2n - 2. Of three views or more,
    each asks all that come after it.

    Parameters
    ----------
    temperature : float, default=0.5
        :math:`\tau`. Lower values look at the hardest negatives only, which in small data are often of
        the same kind as the image. 0.5 is SimCLR's for CIFAR-10 (arXiv:2002.05709); MoCo's for ImageNet is
        0.07 (arXiv:1911.05722). The paper's own score is a bilinear form without a temperature.

    References
    ----------
    van den Oord, Li and Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018,
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
