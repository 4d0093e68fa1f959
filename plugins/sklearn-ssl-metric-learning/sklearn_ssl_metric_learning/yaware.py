"""y-Aware InfoNCE: images are as close as their continuous labels, such as the ages of patients."""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_ssl.losses import SSLLoss, check_number
from sklearn_ssl_metric_learning.weighted import weighted_ntxent


class YAware(SSLLoss):
    r"""y-Aware InfoNCE loss, for images with continuous labels [1]_.

    NT-Xent in which every other image is a positive in proportion to the similarity of its label, a number or
    a vector of numbers such as age, dose or position:

    .. math::
        \ell_i = -\sum_{k \neq i} \frac{w_{ik}}{\sum_{j \neq i} w_{ij}} \log
        \frac{\exp(s_{ik} / \tau)}{\sum_{j \neq i} \exp(s_{ij} / \tau)},
        \qquad w_{ik} = \exp\Bigl(-\frac{\|y_i - y_k\|^2}{2 \sigma^2}\Bigr),
        \qquad s_{ik} = \frac{z_i^\top z_k}{\|z_i\| \|z_k\|}

    where i, j and k run over all views of all n images, and the loss is the mean over i. The views of one
    image have the weight 1. An image without a label (NaN) has the weight 0 with all other images. For a
    batch without labels, the loss is NT-Xent.

    Parameters
    ----------
    temperature : float, default=0.1
        Temperature :math:`\tau`. The default is that of the authors' code.
    sigma : float, default=1.0
        Distance :math:`\sigma` between labels, in their unit, at which the weight has fallen to 0.61. The
        authors' code uses 5 years for ages. With labels that are standardized (`StandardScaler`), 1.0 is one
        standard deviation.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range.

    Notes
    -----
    Weights are normalized for each i, as in the paper; the authors' code divides by the sum of the other
    image's weights.

    References
    ----------
    .. [1] Dufumier et al., "Contrastive Learning with Continuous Proxy Meta-Data for 3D MRI Classification",
       MICCAI 2021, arXiv:2106.08808, equation 3; constants from
       github.com/Duplums/yAwareContrastiveLearning.
    """

    family = "contrastive"
    uses_labels = "values"

    def __init__(self, temperature: float = 0.1, sigma: float = 1.0):
        super().__init__()
        self.temperature = check_number("loss__temperature", temperature, above=0)
        self.sigma = check_number("loss__sigma", sigma, above=0)

    def forward(self, *z: Tensor, y: Tensor) -> Tensor:
        """Compute the loss of the projections.

        Parameters
        ----------
        *z : Tensor of shape (n, dim)
            Projections, one tensor for each view.
        y : Tensor of shape (n, n_values)
            Labels, NaN for unlabeled images.

        Returns
        -------
        Tensor of shape ()
            The loss.

        Raises
        ------
        ValueError
            If there are fewer than two views.
        """
        return weighted_ntxent(z, self._weights(y), self.temperature)

    def _weights(self, y: Tensor) -> Tensor:
        """Return the similarities of the labels, (n, n); an unlabeled image is like itself alone."""
        distances = torch.cdist(y, y, compute_mode="donot_use_mm_for_euclid_dist")
        return (-0.5 * (distances / self.sigma).square()).exp().nan_to_num(0).fill_diagonal_(1)
