"""SupCon: the supervised contrastive loss, for labels that may be few."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl import SSLLoss
from sklearn_ssl.losses import check_number


class SupCon(SSLLoss):
    r"""Supervised contrastive learning: all views of one class together, the rest apart.

    NT-Xent, in which not only an image's other view but every view of its class in the batch is a right
    answer. Labels may be given for some images only:

    .. math::
        \ell_i = -\frac{1}{|P(i)|} \sum_{p \in P(i)} \log
        \frac{\exp(s_{ip} / \tau)}{\sum_{k \neq i} \exp(s_{ik} / \tau)},
        \qquad s_{ik} = \frac{z_i^\top z_k}{\|z_i\| \|z_k\|}

    where i and k run over all views of all n images, P(i) holds all others of the class of i, and the loss
    is the mean over i. An image without a label (y = -1) is a class of its own: P(i) holds its other views
    only. A batch without any label is a batch of NT-Xent.

    Parameters
    ----------
    temperature : float, default=0.5
        :math:`\tau`. Lower values look at the hardest negatives only, which with few labels are often
        unlabeled images of the same class. The paper, where every image has a label, uses 0.1.

    References
    ----------
    Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, arXiv:2004.11362, equation 2. (The
    authors' code multiplies the loss by :math:`\tau / 0.07`.)
    """

    family = "contrastive"
    uses_labels = True

    def __init__(self, temperature: float = 0.5):
        super().__init__()
        self.temperature = check_number("loss__temperature", temperature, above=0)

    def forward(self, *z: Tensor, y: Tensor) -> Tensor:
        if len(z) < 2:
            raise ValueError(f"an image without a label needs at least two views, got {len(z)}.")
        positive = _same_class(y).repeat(len(z), len(z)).fill_diagonal_(False)  # (vn, vn), v views
        z = F.normalize(torch.cat(z), dim=1)
        s = z @ z.T / self.temperature
        mean_of_positives = (s * positive).sum(dim=1) / positive.sum(dim=1)
        itself = torch.eye(len(s), dtype=torch.bool, device=s.device)
        return (s.masked_fill(itself, float("-inf")).logsumexp(dim=1) - mean_of_positives).mean()


def _same_class(y: Tensor) -> Tensor:
    """Which images are of one class, (n, n); an unlabeled one is a class of its own."""
    own = -1 - torch.arange(len(y), device=y.device)
    y = torch.where(y < 0, own, y)
    return y[:, None] == y
