"""MMCR: maximum manifold capacity representations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl.losses import Spec, SSLLoss, ViewSpec, check_number


class MMCR(SSLLoss):
    r"""Maximum manifold capacity representation (MMCR) loss [1]_.

    The views of an image form a manifold on the unit sphere. A representation has a large capacity if each
    manifold is compact and the manifolds' centers extend in many directions. The sum of the singular values
    of the centers (their nuclear norm) is large in just this case: a center is as long as its views agree.

    .. math::
        \ell = -\| C \|_* + \frac{\lambda}{n} \sum_i \| Z_i \|_*,
        \qquad C_i = \frac1V \sum_v \bar z_{vi}

    for V views of n images, where the bar denotes scaling to unit length, C has the centers in its n rows,
    and :math:`Z_i` has the V projections of image i.

    Parameters
    ----------
    lambd : float, default=0.0
        Weight :math:`\lambda` of the manifolds' own nuclear norm. The default is the authors', who found that
        maximizing the first term also minimizes the second one.
    n_views : int, default=2
        Number of views V.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range.

    Notes
    -----
    The rank of C is at most the smaller one of batch size and width of the projections: a batch should have
    at least as many images as the projections have dimensions. The authors use a teacher for ImageNet, which
    is left out here.

    References
    ----------
    .. [1] Yerxa et al., "Learning Efficient Coding of Natural Images with Maximum Manifold Capacity
       Representations", NeurIPS 2023, arXiv:2303.03307, section 3.
    """

    family = "cca"

    def __init__(self, lambd: float = 0.0, n_views: int = 2):
        super().__init__()
        self.lambd = check_number("loss__lambd", lambd, at_least=0)
        self.n_views = check_number("loss__n_views", n_views, whole=True, at_least=2, at_most=100)

    def build(self, spec: Spec) -> None:
        self.view_spec = ViewSpec(self.n_views)

    def forward(self, *z: Tensor) -> Tensor:
        """Compute the loss of the projections.

        Parameters
        ----------
        *z : Tensor of shape (n, dim)
            Projections, one tensor for each view.

        Returns
        -------
        Tensor of shape ()
            The loss.
        """
        views = torch.stack([F.normalize(view, dim=1) for view in z])  # (views, n, dim)
        loss = -torch.linalg.svdvals(views.mean(dim=0)).sum()
        if self.lambd:
            of_images = torch.linalg.svdvals(views.transpose(0, 1))  # (n, min(views, dim))
            loss = loss + self.lambd * of_images.sum(dim=1).mean()
        return loss
