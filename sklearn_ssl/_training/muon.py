"""Muon: momentum with orthogonalized updates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sklearn_ssl._checks import check_number, shortened
from sklearn_ssl._hardware.devices import is_fast_in_bf16

# Coefficients a, b and c of Muon's Newton-Schulz iteration.
QUINTIC = (3.4445, -4.7750, 2.0315)
# Root mean square of a step at rate 1: about that of AdamW.
ROOT_MEAN_SQUARE = 0.2


class Muon(Optimizer):
    r"""Momentum orthogonalized by Newton-Schulz for matrices and kernels, AdamW for everything else.

    The momentum of a layer's weights, as a matrix M of at most as many rows as columns, is replaced by the
    nearest matrix whose rows are orthonormal, or about that,

    .. math::
        M \leftarrow \mu M + (1 - \mu) g, \qquad
        w \leftarrow (1 - \gamma \beta) w - 0.2 \gamma \sqrt{m}\, O(M)

    with gradient g, momentum :math:`\mu`, rate :math:`\gamma`, weight decay :math:`\beta` and m columns. The
    factor gives the step the size of AdamW's. O takes :math:`X = M / \|M\|_F` through

    .. math::
        X \leftarrow a X + b (X X^\top) X + c (X X^\top)^2 X

    some times, which brings its singular values near 1: directions in which the gradient is small are
    learned as fast as those in which it is large.

    Parameters
    ----------
    params : iterable
    lr : float
        :math:`\gamma`.
    momentum : float, default=0.95
        :math:`\mu`.
    rows : int, default=128
        Matrices of more rows are cut into parts of at most as many, and each part is orthogonalized alone:
        the time that it takes grows with the rows, not with their square.
    iterations : int, default=3
        Number of Newton-Schulz iterations. The author's 5 are needed for matrices with thousands of rows.
    betas : tuple of two floats, default=(0.9, 0.999)
    eps : float, default=1e-8
        Decay rates and denominator offset of AdamW.
    weight_decay : float, default=0.0
        :math:`\beta`, usually given by parameter group.

    Raises
    ------
    ValueError
        A setting is out of its range.

    Notes
    -----
    A kernel (n, channels, height, width) is a matrix of n rows. Vectors, and tensors of three axes such as
    positions and class tokens, are left to AdamW. Products are in bf16 where the device is fast in it.

    References
    ----------
    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
    kellerjordan.github.io/posts/muon; the size of steps from Liu et al., "Muon is Scalable for LLM
    Training", arXiv:2502.16982, section 2.2; parts of matrices from Khaled et al., "MuonBP: Faster Muon via
    Block-Periodic Orthogonalization", arXiv:2510.16981, here without whole matrices in between.
    """

    def __init__(
        self,
        params,
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
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
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
        torch._foreach_lerp_(momentum, [p.grad for p in weights], 1 - group["momentum"])
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        directions = orthogonalized([as_matrix(m) for m in momentum], group["rows"], group["iterations"])
        for p, direction in zip(weights, directions, strict=True):
            size = ROOT_MEAN_SQUARE * math.sqrt(max(direction.shape))
            p.add_(as_weights(direction, p), alpha=-group["lr"] * size)

    def _step_others(self, weights: list[Tensor], group: dict) -> None:
        for p in weights:
            if "step" not in self.state[p]:
                self.state[p].update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
            self.state[p]["step"] += 1
        mean, square, steps = ([self.state[p][name] for p in weights] for name in ("mean", "square", "step"))
        gradients = [p.grad for p in weights]
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


def checked_betas(betas: Any) -> tuple[float, float]:
    """AdamW's two rates of decay, each of at least 0 and below 1."""
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ValueError(f"optimizer__betas={shortened(betas)}: give two numbers, for example (0.9, 0.999).")
    beta1, beta2 = (
        check_number(f"optimizer__betas[{i}]", beta, at_least=0, below=1) for i, beta in enumerate(betas)
    )
    return beta1, beta2


def as_matrix(weights: Tensor) -> Tensor:
    """A matrix, or a kernel (n, channels, height, width) as one (n, height * width * channels)."""
    return (weights.permute(0, 2, 3, 1) if weights.ndim == 4 else weights).flatten(1)


def as_weights(matrix: Tensor, like: Tensor) -> Tensor:
    """Back from `as_matrix`."""
    if like.ndim == 2:
        return matrix
    n, channels, height, width = like.shape
    return matrix.view(n, height, width, channels).permute(0, 3, 1, 2)


def orthogonalized(matrices: list[Tensor], rows: int, iterations: int) -> list[Tensor]:
    """Of each matrix one whose singular values are near 1, in parts of at most this many rows.

    Where a matrix has more rows than columns, it is its columns that count as rows.
    """
    wide = [m if m.shape[0] <= m.shape[1] else m.T for m in matrices]
    cut = [m.tensor_split(math.ceil(m.shape[0] / rows)) for m in wide]
    made = iter(_in_batches([part for parts in cut for part in parts], iterations))
    whole = [torch.cat([next(made) for _ in parts]) for parts in cut]
    return [w if m.shape[0] <= m.shape[1] else w.T for w, m in zip(whole, matrices, strict=True)]


def _in_batches(matrices: list[Tensor], iterations: int) -> list[Tensor]:
    """`newton_schulz` of each, those of one shape at a time: many small products are slow."""
    places: dict[torch.Size, list[int]] = {}
    for place, matrix in enumerate(matrices):
        places.setdefault(matrix.shape, []).append(place)
    made = {}
    for shape, alike in places.items():
        batch = matrices[0].new_empty(len(alike), *shape, dtype=_dtype_of_products(matrices[0]))
        torch._foreach_copy_(list(batch), [matrices[place] for place in alike])
        made.update(zip(alike, newton_schulz(batch, iterations), strict=True))
    return [made[place] for place in range(len(matrices))]


def newton_schulz(batch: Tensor, iterations: int) -> Tensor:
    """Matrices (k, n, m) to others of the same singular vectors, whose values are near 1; zero stays zero."""
    a, b, c = QUINTIC
    at_least_float32 = torch.promote_types(batch.dtype, torch.float32)
    norm = torch.linalg.vector_norm(batch, dim=(1, 2), keepdim=True, dtype=at_least_float32)
    batch = batch / norm.clamp(min=1e-30).to(batch.dtype)
    for _ in range(iterations):
        squared = batch @ batch.mT
        polynomial = torch.baddbmm(squared, squared, squared, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        batch = polynomial @ batch
    return batch


def _dtype_of_products(matrix: Tensor) -> torch.dtype:
    fast = matrix.dtype == torch.float32 and is_fast_in_bf16(matrix.device)
    return torch.bfloat16 if fast else matrix.dtype
