"""NT-Xent: the contrastive loss of SimCLR."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl._checks import check_number
from sklearn_ssl.losses._base import Spec, SSLLoss
from sklearn_ssl.losses._blockwise import mean_logsumexp
from sklearn_ssl.losses._local_crops import multi_crop
from sklearn_ssl.losses._pairs import mean_over_pairs


class NTXent(SSLLoss):
    r"""Normalized temperature-scaled cross-entropy (NT-Xent) loss of SimCLR.

    Each of the 2n projections is an anchor that has to identify the other view of its image among the
    other 2n - 1 projections; the loss is the cross-entropy of this classification [1]_:

    .. math::
        \ell_i = -\log \frac{\exp(s_{i,p(i)} / \tau)}{\sum_{k \neq i} \exp(s_{i,k} / \tau)},
        \qquad s_{i,k} = \frac{z_i^\top z_k}{\|z_i\| \|z_k\|}

    where p(i) is the other view of i, and the loss is the mean over all 2n anchors.

    Parameters
    ----------
    temperature : float, default=0.5
        Temperature :math:`\tau`. Lower values weight the hardest negatives more, which on small data sets
        are often of the same class as the image. SimCLR uses 0.5 for CIFAR-10 and 0.1 for ImageNet.
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
    DCL : The same loss without the positive in the denominator.

    Notes
    -----
    The (2n, 2n) similarity matrix is processed in blocks of rows: memory grows as n d, not as n², and value
    and gradient are exact.

    References
    ----------
    .. [1] Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020,
       arXiv:2002.05709, equation 1.
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
        z1, z2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
        positive = (z1 * z2).sum(dim=1)  # (n,): s is symmetric, so one number for both views
        # Offset 0: an anchor is not among its own candidates.
        log_of_sum = mean_logsumexp(torch.cat([z1, z2]), self.temperature, left_out=(0,))
        return log_of_sum - positive.mean() / self.temperature
