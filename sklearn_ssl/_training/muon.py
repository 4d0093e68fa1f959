"""Muon: momentum with orthogonalized updates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from sklearn_ssl._checks import check_number, shortened
from sklearn_ssl._hardware.devices import is_fast_in_bf16

# Coefficients a, b, c of the quintic Newton-Schulz iteration, from the reference implementation of Muon.
NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# Root mean square of an update at a learning rate of 1; about that of AdamW, so that rates are comparable.
UPDATE_RMS = 0.2


class Muon(Optimizer):
    r"""Momentum orthogonalized by Newton-Schulz for matrices and kernels, AdamW for everything else.

    The momentum of a layer's weights, as a matrix M with no more rows than columns, is replaced by an
    approximation O(M) of the nearest matrix with orthonormal rows,

    .. math::
        M \leftarrow \mu M + (1 - \mu) g, \qquad
        w \leftarrow (1 - \gamma \beta) w - 0.2 \gamma \sqrt{m}\, O(M)

    with gradient g, momentum :math:`\mu`, learning rate :math:`\gamma`, weight decay :math:`\beta` and m
    columns. The factor gives the update the size of AdamW's. O(M) starts from :math:`X = M / \|M\|_F` and
    iterates

    .. math::
        X \leftarrow a X + b (X X^\top) X + c (X X^\top)^2 X

    which moves all singular values toward 1: directions in which the gradient is small are learned as fast
    as those in which it is large.

    Parameters
    ----------
    params : iterable
        Parameters, or parameter groups.
    lr : float
        Learning rate :math:`\gamma`.
    momentum : float, default=0.95
        Momentum :math:`\mu`.
    rows : int, default=128
        Maximum number of rows of a block. Larger matrices are divided into blocks, which are orthogonalized
        separately: the time grows linearly with the number of rows instead of quadratically.
    iterations : int, default=3
        Number of Newton-Schulz iterations. The reference implementation uses 5, which are needed for
        matrices with thousands of rows.
    betas : tuple of two floats, default=(0.9, 0.999)
        Decay rates of AdamW's moment estimates.
    eps : float, default=1e-8
        Term added to AdamW's denominator.
    weight_decay : float, default=0.0
        Weight decay :math:`\beta`, usually set for each parameter group.

    Raises
    ------
    ValueError
        If a setting is out of range.

    Notes
    -----
    A convolution kernel (n, channels, height, width) is treated as a matrix of n rows. Vectors, and tensors
    of three axes such as position embeddings and class tokens, are updated by AdamW. Products are computed in
    bf16 on devices with fast bf16 arithmetic.

    References
    ----------
    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
    kellerjordan.github.io/posts/muon. Size of the updates: Liu et al., "Muon is Scalable for LLM Training",
    arXiv:2502.16982, section 2.2. Blocks: Khaled et al., "MuonBP: Faster Muon via Block-Periodic
    Orthogonalization", arXiv:2510.16981, here without the periodic orthogonalization of whole matrices.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        momentum: float = 0.95,
        rows: int = 128,
        iterations: int = 3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        settings = dict(
            lr=lr,
            momentum=check_number("optimizer__momentum", momentum, at_least=0, below=1),
            rows=check_number("optimizer__rows", rows, whole=True, at_least=1),
            iterations=check_number("optimizer__iterations", iterations, whole=True, at_least=1),
            betas=checked_betas(betas),
            eps=check_number("optimizer__eps", eps, at_least=0),
            weight_decay=weight_decay,
        )
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]  # in place of torch's overloads
        """Take a step in each parameter group; with a closure, evaluate it first and return its value."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._step_group(weights, group)
        return loss

    def _step_group(self, weights: list[Tensor], group: dict) -> None:
        """Update matrices and kernels by Muon, all other weights by AdamW."""
        matrices = [p for p in weights if p.ndim in (2, 4)]
        others = [p for p in weights if p.ndim not in (2, 4)]
        if matrices:
            self._step_matrices(matrices, group)
        if others:
            self._step_others(others, group)

    def _step_matrices(self, weights: list[Tensor], group: dict) -> None:
        for p in weights:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momentum = [self.state[p]["momentum"] for p in weights]
        torch._foreach_lerp_(momentum, _gradients(weights), 1 - group["momentum"])
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        directions = orthogonalized([as_matrix(m) for m in momentum], group["rows"], group["iterations"])
        for p, direction in zip(weights, directions, strict=True):
            # An n x m matrix (n <= m) with orthonormal rows has a root mean square of 1 / sqrt(m).
            size = UPDATE_RMS * math.sqrt(max(direction.shape))
            p.add_(as_weights(direction, p), alpha=-group["lr"] * size)

    def _step_others(self, weights: list[Tensor], group: dict) -> None:
        """Take a step of AdamW, with one call for all weights in each operation."""
        for p in weights:
            if "step" not in self.state[p]:
                self.state[p].update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
            self.state[p]["step"] += 1
        mean, square, steps = ([self.state[p][name] for p in weights] for name in ("mean", "square", "step"))
        gradients = _gradients(weights)
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(mean, gradients, 1 - beta1)
        torch._foreach_mul_(square, beta2)
        torch._foreach_addcmul_(square, gradients, gradients, value=1 - beta2)
        deviation = torch._foreach_div(square, [1 - beta2**step for step in steps])
        torch._foreach_sqrt_(deviation)
        torch._foreach_add_(deviation, group["eps"])
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        rates = [-group["lr"] / (1 - beta1**step) for step in steps]
        torch._foreach_addcdiv_(weights, mean, deviation, rates)


def _gradients(weights: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in weights if p.grad is not None]


def checked_betas(betas: Any) -> tuple[float, float]:
    """Return AdamW's two decay rates if both are in [0, 1)."""
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ValueError(f"optimizer__betas={shortened(betas)}: give two numbers, for example (0.9, 0.999).")
    beta1, beta2 = (
        check_number(f"optimizer__betas[{i}]", beta, at_least=0, below=1) for i, beta in enumerate(betas)
    )
    return beta1, beta2


def as_matrix(weights: Tensor) -> Tensor:
    """Return a matrix unchanged, and a kernel (n, channels, height, width) as (n, height * width * channels).

    The channels come last, as in channels_last memory, so that the kernel is not copied.
    """
    return (weights.permute(0, 2, 3, 1) if weights.ndim == 4 else weights).flatten(1)


def as_weights(matrix: Tensor, like: Tensor) -> Tensor:
    """Invert `as_matrix` for weights of the shape of `like`."""
    if like.ndim == 2:
        return matrix
    n, channels, height, width = like.shape
    return matrix.view(n, height, width, channels).permute(0, 3, 1, 2)


def orthogonalized(matrices: list[Tensor], rows: int, iterations: int) -> list[Tensor]:
    """Replace the singular values of each matrix by values near 1, in blocks of at most `rows` rows.

    Matrices with more rows than columns are transposed first.
    """
    wide = [m if m.shape[0] <= m.shape[1] else m.T for m in matrices]
    cut = [m.tensor_split(math.ceil(m.shape[0] / rows)) for m in wide]
    made = iter(_in_batches([part for parts in cut for part in parts], iterations))
    whole = [torch.cat([next(made) for _ in parts]) for parts in cut]
    return [w if m.shape[0] <= m.shape[1] else w.T for w, m in zip(whole, matrices, strict=True)]


def _in_batches(matrices: list[Tensor], iterations: int) -> list[Tensor]:
    """Apply `newton_schulz` to batches of matrices of the same shape; many small products would be slow."""
    indices_by_shape: dict[torch.Size, list[int]] = {}
    for i, matrix in enumerate(matrices):
        indices_by_shape.setdefault(matrix.shape, []).append(i)
    results: dict[int, Tensor] = {}
    for shape, indices in indices_by_shape.items():
        batch = matrices[0].new_empty(len(indices), *shape, dtype=_product_dtype(matrices[0]))
        torch._foreach_copy_(list(batch), [matrices[i] for i in indices])
        results.update(zip(indices, newton_schulz(batch, iterations), strict=True))
    return [results[i] for i in range(len(matrices))]


def newton_schulz(batch: Tensor, iterations: int) -> Tensor:
    """Move the singular values of matrices (k, n, m) near 1, except zeros; keep the singular vectors."""
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    # The iteration converges for singular values of at most 1, which the Frobenius norm bounds. The sum of
    # squares is accumulated in float32 at least: bf16 would round it too coarsely.
    at_least_float32 = torch.promote_types(batch.dtype, torch.float32)
    norm = torch.linalg.vector_norm(batch, dim=(1, 2), keepdim=True, dtype=at_least_float32)
    batch = batch / norm.clamp(min=1e-30).to(batch.dtype)
    for _ in range(iterations):
        # X <- (a I + b A + c A A) X with A = X X^T, which is symmetric and small because n <= m.
        squared = batch @ batch.mT
        polynomial = torch.baddbmm(squared, squared, squared, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        batch = polynomial @ batch
    return batch


def _product_dtype(matrix: Tensor) -> torch.dtype:
    fast = matrix.dtype == torch.float32 and is_fast_in_bf16(matrix.device)
    return torch.bfloat16 if fast else matrix.dtype
