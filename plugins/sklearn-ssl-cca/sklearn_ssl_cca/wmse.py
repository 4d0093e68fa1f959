"""W-MSE: agree after whitening."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl import Batch, Spec, SSLLoss, ViewSpec
from sklearn_ssl.losses import check_number, is_whole, mean_over_pairs

SUB_BATCH = 128  # images; the authors' for CIFAR-10


def narrow(feature_dim: int) -> tuple[int, ...]:
    """Widths of the projector."""
    return 2 * feature_dim, max(2, feature_dim // 32)


class WMSE(SSLLoss):
    r"""Whitening MSE: pull the views of an image together where all images are spread out evenly.

    Each view's projections are first made to have mean zero and the identity as covariance over the
    batch. That alone keeps the images apart, for what is spread in all directions cannot collapse, so
    all that is left to ask for is that the views agree:

    .. math::
        \ell = \frac{2}{V (V - 1)} \sum_{i < j} \bigl( 2 - 2 \cos(v_i, v_j) \bigr),
        \qquad v = W (z - \mu), \quad W = L^{-1}, \quad L L^\top = \Sigma

    for V views, with mean :math:`\mu`, covariance :math:`\Sigma` (divided by n - 1) and its Cholesky
    factor L, of each view and sub-batch by itself; the gradient passes through all of them, and no side is
    detached.

    Parameters
    ----------
    w_size : int or "auto", default="auto"
        Images in a sub-batch. "auto": 128, the authors' for CIFAR-10, or twice the width of the projections
        where that is more, and at most the batch. Each step deals the batch into sub-batches at random.
        Larger ones are steadier.
    w_iter : int, default=1
        How often a step deals the batch. More is steadier, 4 in the authors' recipes for images of 64 px and
        more; of use where a batch has several sub-batches.
    w_eps : float, default=1e-4
        Added to the diagonal of :math:`\Sigma`, as a share of its mean, so that images that are all alike
        have a finite loss. The authors have 0.
    n_views : int, default=2
        V. 4 learns more from a step, which takes twice the time (the paper's W-MSE 4).

    Raises
    ------
    ValueError
        When `build` finds that the batch is smaller than the `w_size` given.

    Notes
    -----
    Whitening magnifies chance: with n images, W is only known well where n is much larger than the width d
    of the projections. Here d is a 32nd of the features' width, 16 for a ResNet-18, which learned more in
    some hundred steps with batches of 128 than the authors' 64 (for 1000 epochs with batches of 512). Where a
    sub-batch has fewer than 2d images, which the paper excludes, the dimensions are whitened in groups of at
    most half as many as it has images (group whitening, Huang et al., arXiv:1804.08450).

    References
    ----------
    Ermolov et al., "Whitening for Self-Supervised Representation Learning", ICML 2021,
    arXiv:2007.06346; constants from github.com/htdt/self-supervised, with a hidden layer of the projector
    that is twice as wide as the features, as there.
    """

    family = "cca"
    defaults: ClassVar[dict] = {"projector": narrow}

    def __init__(self, w_size: int | str = "auto", w_iter: int = 1, w_eps: float = 1e-4, n_views: int = 2):
        super().__init__()
        self.w_size = w_size
        self.w_iter = check_number("loss__w_iter", w_iter, whole=True, at_least=1)
        self.w_eps = check_number("loss__w_eps", w_eps, at_least=0)
        self.view_spec = ViewSpec(check_number("loss__n_views", n_views, whole=True, at_least=2, at_most=100))

    def build(self, spec: Spec) -> None:
        if isinstance(self.w_size, str) and self.w_size == "auto":
            return
        if not is_whole(self.w_size) or not 2 <= self.w_size <= spec.batch_size:
            raise ValueError(
                f"loss__w_size={self.w_size!r}: a sub-batch has 2 to {spec.batch_size} images, as "
                f"batch_size={spec.batch_size}. Give a number in between, or 'auto', or a larger batch_size."
            )

    def step(self, batch: Batch, student, teacher) -> Tensor:
        z = student(batch.views)
        deals = [deal(len(z[0]), batch.generator).to(z[0].device) for _ in range(self.w_iter)]
        return torch.stack([self(*(view[order] for view in z)) for order in deals]).mean()

    def forward(self, *z: Tensor) -> Tensor:
        """Loss of the projections, (n, d) each; sub-batches are rows that follow one another."""
        return mean_over_pairs(mse_of_unit_vectors, [self._whitened(view) for view in z])

    def _whitened(self, z: Tensor) -> Tensor:
        w_size = max(SUB_BATCH, 2 * z.shape[1]) if self.w_size == "auto" else self.w_size
        parts = z.tensor_split(max(1, len(z) // w_size))
        return torch.cat([whiten(part, self.w_eps) for part in parts])


def deal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(n, generator=generator, device=generator.device)


def mse_of_unit_vectors(z1: Tensor, z2: Tensor) -> Tensor:
    return 2 - 2 * F.cosine_similarity(z1, z2).mean()


def whiten(z: Tensor, eps: float) -> Tensor:
    """Rows with mean 0 and covariance 1, (n, d); in groups of dimensions if n < 2d."""
    n, d = z.shape
    groups = z.tensor_split(math.ceil(d / max(1, n // 2)), dim=1)
    return torch.cat([whiten_group(group, eps) for group in groups], dim=1)


def whiten_group(z: Tensor, eps: float) -> Tensor:
    z = z - z.mean(dim=0)
    sigma = z.T @ z / (len(z) - 1)  # (d, d)
    # The second term is for rows that are all equal.
    ridge = eps * sigma.diagonal().mean() + 1e-12
    sigma = sigma + ridge * torch.eye(len(sigma), dtype=z.dtype, device=z.device)
    # Unlike `cholesky`, it does not wait for the device to see whether there is a factor.
    L = torch.linalg.cholesky_ex(sigma).L
    return torch.linalg.solve_triangular(L, z.T, upper=False).T
