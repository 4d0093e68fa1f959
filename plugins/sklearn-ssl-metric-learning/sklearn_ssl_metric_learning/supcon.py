"""SupCon: supervised contrastive loss for partially labeled data."""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_ssl.losses import SSLLoss, check_number
from sklearn_ssl_metric_learning.weighted import weighted_ntxent


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
        return weighted_ntxent(z, _same_class(y), self.temperature)


def _same_class(y: Tensor) -> Tensor:
    """Return the mask of pairs of images of the same class, (n, n); an unlabeled image is its own class."""
    # A distinct negative label for each unlabeled image.
    own = -1 - torch.arange(len(y), device=y.device)
    y = torch.where(y < 0, own, y)
    return y[:, None] == y
