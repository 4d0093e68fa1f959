"""SupCon: supervised contrastive loss for partially labeled data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl.losses import SSLLoss, check_number


class SupCon(SSLLoss):
    r"""Supervised contrastive (SupCon) loss, for data that may be partially labeled [1]_.

    NT-Xent in which all views of the same class in the batch are positives, not only the other views of the
    image:

    .. math::
        \ell_i = -\frac{1}{|P(i)|} \sum_{p \in P(i)} \log
        \frac{\exp(s_{ip} / \tau)}{\sum_{k \neq i} \exp(s_{ik} / \tau)},
        \qquad s_{ik} = \frac{z_i^\top z_k}{\|z_i\| \|z_k\|}

    where i and k run over all views of all n images, P(i) is the set of all other views of the class of i,
    and the loss is the mean over i. An unlabeled image (y = -1) is a class of its own: P(i) is the set of its
    other views. For a batch without labels, the loss is NT-Xent.

    Parameters
    ----------
    temperature : float, default=0.5
        Temperature :math:`\tau`. Lower values weight the hardest negatives more, which with few labels are
        often unlabeled images of the same class. The paper, with a label for each image, uses 0.1.

    References
    ----------
    .. [1] Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, arXiv:2004.11362, equation 2. (The
       authors' code multiplies the loss by :math:`\tau / 0.07`.)
    """

    family = "contrastive"
    uses_labels = True

    def __init__(self, temperature: float = 0.5):
        super().__init__()
        self.temperature = check_number("loss__temperature", temperature, above=0)

    def forward(self, *z: Tensor, y: Tensor) -> Tensor:
        """Compute the loss of the projections.

        Parameters
        ----------
        *z : Tensor of shape (n, dim)
            Projections, one tensor for each view.
        y : Tensor of shape (n,), int64
            Encoded class labels, -1 for unlabeled images.

        Returns
        -------
        Tensor of shape ()
            The loss.

        Raises
        ------
        ValueError
            If there are fewer than two views.
        """
        if len(z) < 2:
            raise ValueError(f"an image without a label needs at least two views, got {len(z)}.")
        positive = _same_class(y).repeat(len(z), len(z)).fill_diagonal_(False)  # (vn, vn), v views
        z = F.normalize(torch.cat(z), dim=1)
        s = z @ z.T / self.temperature
        mean_of_positives = (s * positive).sum(dim=1) / positive.sum(dim=1)
        itself = torch.eye(len(s), dtype=torch.bool, device=s.device)
        return (s.masked_fill(itself, float("-inf")).logsumexp(dim=1) - mean_of_positives).mean()


def _same_class(y: Tensor) -> Tensor:
    """Return the mask of pairs of images of the same class, (n, n); an unlabeled image is its own class."""
    # A distinct negative label for each unlabeled image.
    own = -1 - torch.arange(len(y), device=y.device)
    y = torch.where(y < 0, own, y)
    return y[:, None] == y
