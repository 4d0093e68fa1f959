"""W-MSE: agreement of whitened projections."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl.losses import (
    Batch,
    Spec,
    SSLLoss,
    Student,
    Teacher,
    check_number,
    is_whole,
    mean_over_pairs,
    multi_crop,
)

# Number of images in a sub-batch for "auto"; the authors' value for CIFAR-10.
SUB_BATCH = 128


def narrow(feature_dim: int) -> tuple[int, ...]:
    """Return the widths of the projector's layers: a wide hidden layer and a narrow output."""
    return 2 * feature_dim, max(2, feature_dim // 32)


class WMSE(SSLLoss):
    r"""Whitening mean-squared-error (W-MSE) loss [1]_.

    The projections of each view are whitened over the batch: their mean becomes zero and their covariance the
    identity. Whitened projections cannot collapse, so that it suffices to minimize the distance between the
    views of an image:

    .. math::
        \ell = \frac{2}{V (V - 1)} \sum_{i < j} \bigl( 2 - 2 \cos(v_i, v_j) \bigr),
        \qquad v = W (z - \mu), \quad W = L^{-1}, \quad L L^\top = \Sigma

    for V views, where :math:`\mu` is the mean, :math:`\Sigma` the covariance (divided by n - 1) and L its
    Cholesky factor, of each view and sub-batch separately. The gradient flows through all of them; there is
    no stop-gradient.

    Parameters
    ----------
    w_size : int or "auto", default="auto"
        Number of images in a sub-batch. "auto": 128, the authors' value for CIFAR-10, or twice the width of
        the projections if that is more, at most the batch size. Each step splits the batch into random
        sub-batches. Larger values give more stable estimates.
    w_iter : int, default=1
        Number of random splits of the batch in a step. Higher values are more stable, and matter if a batch
        has several sub-batches; the authors' recipes for images of 64 pixels and more use 4.
    w_eps : float, default=1e-4
        Regularization added to the diagonal of :math:`\Sigma`, as a fraction of the diagonal's mean, so that
        identical images have a finite loss. The authors use 0.
    n_views : int, default=2
        Number of views V. 4 views (the paper's W-MSE 4) learn more from a step, which takes twice the time.
    local_crops : int or "auto", default=0
        Number of local crops of each image, in addition to the `n_views` full-size views (multi-crop, as in
        SwAV [2]_); each is compared with the full-size views. "auto": 4, or 0 if they would have less than 24
        pixels on the short side or the backbone rejects them. Four crops at half the side take about the time
        of one full-size view.
    local_size : float or tuple of floats, default=0.5
        Side of a local crop, as a fraction of the full size. 1.0: small parts of the image, enlarged. A tuple
        gives the sides of several crops in turn.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range; in `build`, if `w_size` exceeds the batch size.

    Notes
    -----
    Whitening amplifies sampling noise: W is well estimated only if the number of images n is much larger than
    the width d of the projections. The default d is the width of the features divided by 32, which is 16 for
    a ResNet-18; in some hundred steps with batches of 128 it learned more than the authors' 64 (for 1000
    epochs with batches of 512). If a sub-batch has fewer than 2d images, which the paper excludes, the
    dimensions are whitened in groups of at most half as many dimensions as images (group whitening, Huang et
    al., arXiv:1804.08450).

    References
    ----------
    .. [1] Ermolov et al., "Whitening for Self-Supervised Representation Learning", ICML 2021,
       arXiv:2007.06346; constants, and a hidden layer of the projector twice as wide as the features, from
       github.com/htdt/self-supervised.
    .. [2] Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
       NeurIPS 2020, arXiv:2006.09882, section 3.2.
    """

    family = "cca"
    defaults: ClassVar[dict] = {"projector": narrow}

    def __init__(
        self,
        w_size: int | str = "auto",
        w_iter: int = 1,
        w_eps: float = 1e-4,
        n_views: int = 2,
        local_crops: int | str = 0,
        local_size: float | tuple[float, ...] = 0.5,
    ):
        super().__init__()
        self.w_size = w_size
        self.w_iter = check_number("loss__w_iter", w_iter, whole=True, at_least=1)
        self.w_eps = check_number("loss__w_eps", w_eps, at_least=0)
        self.n_views = check_number("loss__n_views", n_views, whole=True, at_least=2, at_most=100)
        self.local_crops = local_crops
        self.local_size = local_size

    def build(self, spec: Spec) -> None:
        self.view_spec = replace(multi_crop(self.local_crops, self.local_size, spec), n=self.n_views)
        if isinstance(self.w_size, str) and self.w_size == "auto":
            return
        if not is_whole(self.w_size) or not 2 <= self.w_size <= spec.batch_size:
            raise ValueError(
                f"loss__w_size={self.w_size!r}: a sub-batch has 2 to {spec.batch_size} images, as "
                f"batch_size={spec.batch_size}. Give a number in between, or 'auto', or a larger batch_size."
            )

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        z = student(batch.views)
        deals = [deal(len(z[0]), batch.generator).to(z[0].device) for _ in range(self.w_iter)]
        return torch.stack([self(*(view[order] for view in z)) for order in deals]).mean()

    def forward(self, *z: Tensor) -> Tensor:
        """Compute the loss of the projections.

        Parameters
        ----------
        *z : Tensor of shape (n, dim)
            Projections, one tensor for each view. Sub-batches are consecutive rows.

        Returns
        -------
        Tensor of shape ()
            The loss.
        """
        whitened = [self._whitened(view) for view in z]
        return mean_over_pairs(mse_of_unit_vectors, whitened, self.view_spec.local)

    def _whitened(self, z: Tensor) -> Tensor:
        w_size = max(SUB_BATCH, 2 * z.shape[1]) if self.w_size == "auto" else self.w_size
        parts = z.tensor_split(max(1, len(z) // w_size))
        return torch.cat([whiten(part, self.w_eps) for part in parts])


def deal(n: int, generator: torch.Generator) -> Tensor:
    """Return a random permutation of the rows of a batch, which defines its sub-batches."""
    return torch.randperm(n, generator=generator, device=generator.device)


def mse_of_unit_vectors(z1: Tensor, z2: Tensor) -> Tensor:
    """Return the mean squared distance between rows scaled to unit length, 2 - 2 cos."""
    return 2 - 2 * F.cosine_similarity(z1, z2).mean()


def whiten(z: Tensor, eps: float) -> Tensor:
    """Whiten rows, (n, d), to mean 0 and covariance 1; in groups of dimensions if n < 2d."""
    n, d = z.shape
    groups = z.tensor_split(math.ceil(d / max(1, n // 2)), dim=1)
    return torch.cat([whiten_group(group, eps) for group in groups], dim=1)


def whiten_group(z: Tensor, eps: float) -> Tensor:
    """Whiten rows, (n, d), by the inverse Cholesky factor of their covariance."""
    z = z - z.mean(dim=0)
    sigma = z.T @ z / (len(z) - 1)  # (d, d)
    # The constant keeps the matrix positive definite if all rows are equal.
    ridge = eps * sigma.diagonal().mean() + 1e-12
    sigma = sigma + ridge * torch.eye(len(sigma), dtype=z.dtype, device=z.device)
    # Unlike `cholesky`, `cholesky_ex` does not synchronize with the device to check for success.
    L = torch.linalg.cholesky_ex(sigma).L
    return torch.linalg.solve_triangular(L, z.T, upper=False).T
