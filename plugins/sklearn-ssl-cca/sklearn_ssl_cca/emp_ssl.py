"""EMP-SSL: extreme multi-patch learning."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl.losses import Spec, SSLLoss, ViewSpec, check_number


def wide_hidden_layer(feature_dim: int) -> tuple[int, ...]:
    """Return the widths of the projector's layers: a wide hidden layer, and the width of the features."""
    return 4 * feature_dim, feature_dim


class EMPSSL(SSLLoss):
    r"""Extreme multi-patch self-supervised learning (EMP-SSL) loss [1]_.

    Each image is seen as a bag of patches of one size, taken from all over it. The projections of the patches
    agree with the mean over the image's patches, while the total coding rate spreads the projections of
    different images over as many directions as possible. Many patches of an image in each step replace many
    passes over the images:

    .. math::
        \ell = \frac1V \sum_v \Bigl[ -\frac12 \log\det \Bigl( I + \frac{d}{n \epsilon}
        \bar Z_v^\top \bar Z_v \Bigr) - \frac{\lambda}{n} \sum_i \cos(z_{vi}, m_i) \Bigr],
        \qquad m_i = \frac1V \sum_v \bar z_{vi}

    for V patches of each of n images and projections of width d, where the bar denotes scaling to unit
    length and the rows of :math:`\bar Z_v` are the projections of the v-th patches.

    Parameters
    ----------
    n_patches : int, default=8
        Number of patches V of each image. The authors use 20 and more; the time of a step is proportional.
    patch_area : float, default=0.25
        Fraction of the image's area that a patch covers, enlarged to the size of a view. The default is the
        authors'.
    weight : float, default=200.0
        Weight :math:`\lambda` of the agreement. The default is the authors'.
    epsilon : float, default=0.2
        Distortion :math:`\epsilon` of the coding rate. The default is the authors'.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range.

    Notes
    -----
    For their evaluation, the authors average the embeddings of 128 patches of each image; `transform` embeds
    whole images.

    References
    ----------
    .. [1] Tong et al., "EMP-SSL: Towards Self-Supervised Learning in One Training Epoch", 2023,
       arXiv:2304.03977, section 2; loss and constants from github.com/tsb0601/EMP-SSL.
    """

    family = "cca"
    defaults: ClassVar[dict] = {"projector": wide_hidden_layer}

    def __init__(
        self,
        n_patches: int = 8,
        patch_area: float = 0.25,
        weight: float = 200.0,
        epsilon: float = 0.2,
    ):
        super().__init__()
        self.n_patches = check_number("loss__n_patches", n_patches, whole=True, at_least=2, at_most=1000)
        self.patch_area = check_number("loss__patch_area", patch_area, above=0, at_most=1)
        self.weight = check_number("loss__weight", weight, at_least=0)
        self.epsilon = check_number("loss__epsilon", epsilon, above=0)

    def build(self, spec: Spec) -> None:
        self.view_spec = ViewSpec(self.n_patches, scale=(self.patch_area, self.patch_area))

    def forward(self, *z: Tensor) -> dict[str, Tensor]:
        """Compute the loss of the projections.

        Parameters
        ----------
        *z : Tensor of shape (n, dim)
            Projections, one tensor for each patch.

        Returns
        -------
        dict of str to Tensor of shape ()
            The loss, and its terms coding_rate and similarity, unweighted.
        """
        patches = torch.stack([F.normalize(view, dim=1) for view in z])  # (patches, n, dim)
        similarity = F.cosine_similarity(patches, patches.mean(dim=0), dim=2).mean()
        coding_rate = torch.stack([total_coding_rate(view, self.epsilon) for view in patches]).mean()
        loss = -coding_rate - self.weight * similarity
        return {"loss": loss, "coding_rate": coding_rate, "similarity": similarity}


def total_coding_rate(z: Tensor, epsilon: float) -> Tensor:
    """Return half the log-determinant of I + d / (n epsilon) Z^T Z, for rows z, (n, d)."""
    n, d = z.shape
    z = z * (d / (n * epsilon)) ** 0.5
    gram = z @ z.T if n < d else z.T @ z  # of equal determinant with I added
    identity = torch.eye(len(gram), dtype=z.dtype, device=z.device)
    # Unlike `cholesky`, `cholesky_ex` does not synchronize with the device to check for success.
    factor = torch.linalg.cholesky_ex(gram + identity).L
    return factor.diagonal().log().sum()
