"""Sums over the matrix of all similarities, in blocks of its rows: the whole is never in memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Of a block: 8 MB in float32, so that up to 1,448 projections make a single one. Much smaller blocks spend
# their time on calls and threads, much larger ones leave the caches.
ENTRIES = 2**21


def mean_logsumexp(z: Tensor, temperature: float, left_out: tuple[int, ...]) -> Tensor:
    r"""Mean over all rows i of :math:`\log \sum_k \exp(z_i^\top z_k / \tau)`.

    Value and gradient are those of the full (n, n) matrix, up to rounding; the memory is that of a few
    copies of z and one block of `ENTRIES` numbers. It can be differentiated once, not twice.

    Parameters
    ----------
    z : Tensor of shape (n, d)
    temperature : float
        :math:`\tau`.
    left_out : tuple of int
        Which k are not in the sum: i + offset, for each offset given. (0,) leaves out i itself.

    Returns
    -------
    Tensor of shape ()
    """
    return _MeanLogSumExp.apply(z, temperature, left_out)


class _MeanLogSumExp(torch.autograd.Function):
    """The gradient is collected on the way: in `backward` each block would have to be made a second time."""

    @staticmethod
    def forward(ctx, z, temperature, left_out):
        n = len(z)
        rows = max(1, ENTRIES // n)
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
                gradient[start : start + rows].addmm_(s, z)  # z_i asks
                gradient.addmm_(s.T, z_i)  # and every z_k is among the answers
        if gradient is not None:
            ctx.save_for_backward(gradient.div_(n * temperature))
        return total / n

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient_of_mean):
        (gradient,) = ctx.saved_tensors
        return gradient_of_mean * gradient, None, None


def _softmax_(s: Tensor) -> Tensor:
    """Turn each row into its softmax, in place; returns the rows' logsumexp, (rows, 1)."""
    largest = s.amax(dim=1, keepdim=True)
    sums = s.sub_(largest).exp_().sum(dim=1, keepdim=True)
    s.div_(sums)
    return largest + sums.log()
