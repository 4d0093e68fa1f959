"""DCL: NT-Xent without the positive pair in the denominator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl._checks import check_number
from sklearn_ssl.losses._base import Spec, SSLLoss
from sklearn_ssl.losses._blockwise import mean_logsumexp
from sklearn_ssl.losses._local_crops import multi_crop
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
    local_crops : int or "auto", default=0
        Number of local crops of each image, in addition to the two full-size views (multi-crop, as in SwAV
        [2]_); each is compared with the full-size views. "auto": 4, or 0 if they would have less than 24
        pixels on the short side or the backbone rejects them. Four crops at half the side take about the time
        of one full-size view.
    local_size : float or tuple of floats, default=0.5
        Side of a local crop, as a fraction of the full size. 1.0: small parts of the image, enlarged. A tuple
        gives the sides of several crops in turn.

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
    .. [2] Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
       NeurIPS 2020, arXiv:2006.09882, section 3.2.
    """

    family = "contrastive"

    def __init__(
        self,
        temperature: float = 0.5,
        local_crops: int | str = 0,
        local_size: float | tuple[float, ...] = 0.5,
    ):
        super().__init__()
        self.local_crops = local_crops
        self.local_size = local_size
        self.temperature = check_number("loss__temperature", temperature, above=0)

    def build(self, spec: Spec) -> None:
        """Declare the views; see `SSLLoss.build`."""
        self.view_spec = multi_crop(self.local_crops, self.local_size, spec)

    def forward(self, *z: Tensor) -> Tensor:
        """Compute the loss of the projections.

        Parameters
        ----------
        *z : Tensor of shape (n, dim), float32
            Projections, one tensor for each view; at least two.

        Returns
        -------
        Tensor of shape ()
            Mean over the pairs of views, except for pairs of two local crops.

        Raises
        ------
        ValueError
            If there are fewer than two views.
        """
        return mean_over_pairs(self._pair, z, self.view_spec.local)

    def _pair(self, z1: Tensor, z2: Tensor) -> Tensor:
        n = len(z1)
        z1, z2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
        positive = (z1 * z2).sum(dim=1)  # (n,): s is symmetric, so one number for both views
        # Exclude the anchor itself (offset 0) and its other view, which is n rows below or above.
        negatives = mean_logsumexp(torch.cat([z1, z2]), self.temperature, left_out=(-n, 0, n))
        return negatives - positive.mean() / self.temperature
