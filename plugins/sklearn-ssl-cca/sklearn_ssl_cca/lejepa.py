"""LeJEPA: agreement of views whose projections are distributed as an isotropic Gaussian."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sklearn_ssl_cca.slices import SlicedLoss, distance_to_center

# Largest frequency at which characteristic functions are compared, and number of frequencies from 0 on; the
# authors' values.
LARGEST_FREQUENCY = 3.0
N_FREQUENCIES = 17


def wide_then_narrow(feature_dim: int) -> tuple[int, ...]:
    """Return the widths of the projector's layers: two wide hidden layers and a narrow output."""
    return 2 * feature_dim, 2 * feature_dim, max(2, feature_dim // 8)


class LeJEPA(SlicedLoss):
    r"""Latent-Euclidean joint-embedding predictive architecture (LeJEPA) loss [1]_.

    The projections of all views of an image are pulled toward the mean of its full-size views, while sketched
    isotropic Gaussian regularization (SIGReg) makes the projections of each view follow a standard normal
    distribution over the batch, which excludes collapse. The distribution is tested along random directions,
    by the statistic of Epps and Pulley: the distance of the empirical characteristic function from that of
    the normal distribution. There is neither a teacher nor a stop-gradient, and one weight to choose:

    .. math::
        \ell = (1 - \lambda) \frac{1}{V n d} \sum_{v, i} \Bigl\| z_{vi} - \frac1G \sum_g z_{gi} \Bigr\|^2
        + \lambda \frac{1}{V A} \sum_{v, a} n \int_{-3}^{3} e^{-t^2/2}
        \Bigl| \frac1n \sum_i e^{\mathrm{i} t \, a^\top z_{vi}} - e^{-t^2/2} \Bigr|^2 dt

    for V views of n images, of which the first G are full-size views, projections of width d, and A random
    directions a of unit length, drawn again in each step. The integral is computed by the trapezoidal rule
    with 17 frequencies from 0 to 3, as the integrand is even.

    Parameters
    ----------
    lambd : float, default=0.05
        Weight :math:`\lambda` of the regularization, between 0 and 1. The default is the paper's; the
        authors' minimal example has 0.02.
    n_directions : int, default=256
        Number of random directions A. The default is that of the authors' minimal example; the paper uses
        1,024.
    n_views : int, default=2
        Number of full-size views G. The authors' minimal example has 4, which take twice the time.
    local_crops : int or "auto", default=0
        Number of local crops of each image, in addition to the `n_views` full-size views. "auto": 4, or 0 if
        they would have less than 24 pixels on the short side or the backbone rejects them. The paper: 6.
    local_size : float or tuple of floats, default=0.5
        Side of a local crop, as a fraction of the full size. 1.0: small parts of the image, enlarged. A tuple
        gives the sides of several crops in turn.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range.

    Notes
    -----
    The statistic is multiplied by n, as the authors do: it does not depend on the batch size if the
    projections are normally distributed.

    References
    ----------
    .. [1] Balestriero and LeCun, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the
       Heuristics", 2025, arXiv:2511.08544; constants from github.com/rbalestr-lab/lejepa.
    """

    family = "cca"
    defaults: ClassVar[dict] = {"projector": wide_then_narrow}

    def __init__(
        self,
        lambd: float = 0.05,
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
            The loss, and its terms invariance and sigreg, unweighted.
        """
        views = torch.stack(z)
        invariance = distance_to_center(views, self.view_spec.n)
        sigreg = epps_pulley(views @ directions).mean()
        loss = (1 - self.lambd) * invariance + self.lambd * sigreg
        return {"loss": loss, "invariance": invariance, "sigreg": sigreg}


def epps_pulley(x: Tensor) -> Tensor:
    """Return the statistic of Epps and Pulley against the standard normal distribution.

    Parameters
    ----------
    x : Tensor of shape (..., n, m)
        n observations of m variables.

    Returns
    -------
    Tensor of shape (..., m)
        Statistic of each variable; small for normally distributed ones.
    """
    t = torch.linspace(0, LARGEST_FREQUENCY, N_FREQUENCIES, dtype=x.dtype, device=x.device)
    normal = torch.exp(-t.square() / 2)
    waves = x[..., None] * t  # (..., n, m, frequencies)
    error = (waves.cos().mean(dim=-3) - normal).square() + waves.sin().mean(dim=-3).square()
    return x.shape[-2] * 2 * torch.trapezoid(error * normal, t)
