"""VISReg: agreement of views, with separate terms for center, scale and shape of the distribution."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sklearn_ssl_cca.lejepa import wide_then_narrow
from sklearn_ssl_cca.slices import SlicedLoss, distance_to_center

# Added to standard deviations before they divide.
EPS = 1e-4


class VISReg(SlicedLoss):
    r"""Variance-invariance-sketching regularization (VISReg) loss [1]_.

    The projections of all views of an image are pulled toward the mean of its full-size views, as in LeJEPA.
    Three terms keep the projections of each view distributed as a standard Gaussian over the batch: the mean
    of each dimension is zero (center), its standard deviation one (scale), and the standardized projections
    are normally distributed along random directions (shape), measured by the Wasserstein distance. Unlike
    LeJEPA's, their gradient does not vanish where the projections collapse:

    .. math::
        \ell = (1 - \lambda) \frac{1}{V n d} \sum_{v, i} \Bigl\| z_{vi} - \frac1G \sum_g z_{gi} \Bigr\|^2
        + \frac{\lambda}{V} \sum_v \Bigl[
        \frac1d \sum_j \mu_{vj}^2 + \frac1d \sum_j (1 - \sigma_{vj})^2
        + \frac{1}{A n} \sum_{a, k} \bigl( s_{(k)}^{va} - \Phi^{-1}(\tfrac{k}{n + 1}) \bigr)^2 \Bigr]

    for V views of n images, of which the first G are full-size views, projections of width d with mean
    :math:`\mu` and standard deviation :math:`\sigma` (divided by n) over the batch, and A random directions a
    of unit length, drawn again in each step. :math:`s_{(k)}^{va}` is the k-th smallest of the inner products
    of a with the standardized projections :math:`(z_{vi} - \mu_v) / \sigma_v`, in which :math:`\sigma` is a
    constant to the gradient, and :math:`\Phi^{-1}` is the quantile function of the normal distribution.

    Parameters
    ----------
    lambd : float, default=0.6
        Weight :math:`\lambda` of the three terms, between 0 and 1. The paper recommends 0.6 for small data
        sets and 0.9 for large ones.
    n_directions : int, default=256
        Number of random directions A. The authors use 4,096, which take several times as long on a CPU.
    n_views : int, default=2
        Number of full-size views G.
    local_crops : int or "auto", default=0
        Number of local crops of each image, in addition to the `n_views` full-size views. "auto": 4, or 0 if
        they would have less than 24 pixels on the short side or the backbone rejects them.
    local_size : float or tuple of floats, default=0.5
        Side of a local crop, as a fraction of the full size. 1.0: small parts of the image, enlarged. A tuple
        gives the sides of several crops in turn.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range.

    References
    ----------
    .. [1] Wu et al., "VISReg", 2026, arXiv:2606.02572, equations 1, 2, 5, 6 and 8.
    """

    family = "cca"
    defaults: ClassVar[dict] = {"projector": wide_then_narrow}

    def __init__(
        self,
        lambd: float = 0.6,
        n_directions: int = 256,
        n_views: int = 2,
        local_crops: int | str = 0,
        local_size: float | tuple[float, ...] = 0.5,
    ):
        super().__init__(lambd, n_directions, n_views, local_crops, local_size)

    def forward(self, *z: Tensor, directions: Tensor) -> dict[str, Tensor]:
        """Compute the loss of the projections.

        Parameters
        ----------
        *z : Tensor of shape (n, dim)
            Projections, one tensor for each view; full-size views come first.
        directions : Tensor of shape (dim, n_directions)
            Directions of unit length, in columns.

        Returns
        -------
        dict of str to Tensor of shape ()
            The loss, and its terms invariance, center, scale and shape, unweighted.
        """
        views = torch.stack(z)
        invariance = distance_to_center(views, self.view_spec.n)
        variance, mean = torch.var_mean(views, dim=1, correction=0, keepdim=True)
        # A root of the variance alone has an infinite gradient at zero.
        std = (variance + EPS**2).sqrt()
        center = mean.square().mean()
        scale = (1 - std).square().mean()
        shape = wasserstein_to_normal((views - mean) / (std.detach() + EPS) @ directions).mean()
        loss = (1 - self.lambd) * invariance + self.lambd * (center + scale + shape)
        return {"loss": loss, "invariance": invariance, "center": center, "scale": scale, "shape": shape}


def wasserstein_to_normal(x: Tensor) -> Tensor:
    """Return the squared 2-Wasserstein distance from the standard normal distribution.

    Parameters
    ----------
    x : Tensor of shape (..., n, m)
        n observations of m variables.

    Returns
    -------
    Tensor of shape (..., m)
        Distance of each variable, with the quantiles of the normal distribution at k / (n + 1).
    """
    n = x.shape[-2]
    ranks = torch.arange(1, n + 1, dtype=x.dtype, device=x.device) / (n + 1)
    quantiles = torch.special.ndtri(ranks)[:, None]
    return (x.sort(dim=-2).values - quantiles).square().mean(dim=-2)
