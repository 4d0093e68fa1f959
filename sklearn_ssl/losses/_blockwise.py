"""Reductions of the pairwise similarity matrix in blocks of rows, which never hold the whole matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Number of entries of a block: 8 MB in float32, so that up to 1,448 projections need a single block. Much
# smaller blocks are dominated by the overhead of calls and threads, much larger ones exceed the caches.
BLOCK_ENTRIES = 2**21


def mean_logsumexp(z: Tensor, temperature: float, left_out: tuple[int, ...]) -> Tensor:
    r"""Return the mean over all rows i of :math:`\log \sum_k \exp(z_i^\top z_k / \tau)`.

    Value and gradient are those of the full (n, n) matrix, up to rounding; the memory is that of a few
    copies of z and one block of `BLOCK_ENTRIES` numbers. It can be differentiated once, not twice.

    Parameters
    ----------
    z : Tensor of shape (n, d)
        Normalized projections.
    temperature : float
        :math:`\tau`.
    left_out : tuple of int
        Offsets of the indices k that the sum excludes: i + offset, for each offset. (0,) excludes i itself.

    Returns
    -------
    Tensor of shape ()
        Differentiable mean.
    """
    return _MeanLogSumExp.apply(z, temperature, left_out)


class _MeanLogSumExp(torch.autograd.Function):
    """Blockwise mean of row-wise logsumexp, whose gradient is computed together with its value.

    The gradient is accumulated in `forward`, while each block is in memory: `backward` would have to compute
    every block a second time.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, temperature: float, left_out: tuple[int, ...]) -> Tensor:
        n = len(z)
        rows = max(1, BLOCK_ENTRIES // n)
        block = z.new_empty(min(rows, n), n)
        total = z.new_zeros(())
        gradient = torch.zeros_like(z) if ctx.needs_input_grad[0] else None
        for start in range(0, n, rows):
            z_i = z[start : start + rows]  # (rows, d)
            s = torch.mm(z_i / temperature, z.T, out=block[: len(z_i)])  # (rows, n)
            for offset in left_out:
                s.diagonal(start + offset).fill_(float("-inf"))
            total += _softmax_(s).sum()
            if gradient is not None:
                gradient[start : start + rows].addmm_(s, z)  # as anchors
                gradient.addmm_(s.T, z_i)  # as candidates of these anchors: every z_k
        if gradient is not None:
            ctx.save_for_backward(gradient.div_(n * temperature))
        return total / n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_of_mean: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient_of_mean * gradient, None, None


def _softmax_(s: Tensor) -> Tensor:
    """Replace each row by its softmax, in place, and return the logsumexp of the rows, (rows, 1)."""
    # Subtracting the maximum of a row, which cancels, prevents an overflow of exp.
    largest = s.amax(dim=1, keepdim=True)
    sums = s.sub_(largest).exp_().sum(dim=1, keepdim=True)
    s.div_(sums)
    return largest + sums.log()
