"""BatchNorm with the statistics of all processes, for modules of any kind and on any device."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from sklearn_ssl._distributed.team import Team


class SharedBatchNorm(TorchFunctionMode):
    """Mode in which BatchNorm in training mode takes its statistics over the rows of all processes.

    `nn.SyncBatchNorm` accepts no tensors on the CPU, and would replace modules of the user's network. A mode
    replaces the operation only, and only where it is active.
    """

    def __init__(self, team: Team):
        super().__init__()
        self.team = team

    def __torch_function__(
        self, function: Callable, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.batch_norm and self.team.size > 1:
            given = _signature().bind(*args, **kwargs)
            given.apply_defaults()
            if given.arguments.pop("training"):
                return shared_batch_norm(self.team, **given.arguments)
        return function(*args, **kwargs)


@functools.cache
def _signature() -> inspect.Signature:
    return inspect.signature(F.batch_norm)


def shared_batch_norm(
    team: Team,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """Compute `F.batch_norm` in training mode over the rows of all processes."""
    out, mean, var, count = _BatchNorm.apply(input, weight, bias, eps, team)
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
    return out


class _BatchNorm(torch.autograd.Function):
    """BatchNorm by torch's own kernels, given the statistics; messages of 2 C + 1 and 2 C numbers.

    `backward` follows Ioffe and Szegedy, arXiv:1502.03167, section 3: with x^ = (x - mean) / sqrt(var + eps),

        dx = weight / sqrt(var + eps) * (dy - mean(dy) - x^ * mean(dy * x^)),

    where the means are over the rows of all processes. Torch's kernel for fixed statistics returns the first
    term, and the sums of dy and of dy * x^ over this process's rows: the gradients of bias and weight.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, team: Team
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        channels, count = x.shape[1], x.numel() // x.shape[1]
        mean, var = moments(x, eps)
        own = torch.cat([mean, var, mean.new_tensor([count])])
        means, variances, counts = team.gather_equal(own).split([channels, channels, 1], dim=1)
        total = counts.sum()
        fractions = counts / total
        mean = (fractions * means).sum(dim=0)
        # Total variance: the mean of the variances, and the variance of the means.
        var = (fractions * (variances + (means - mean).square())).sum(dim=0)
        ctx.save_for_backward(x, weight, mean, var, total)
        ctx.eps, ctx.team, ctx.has_bias = eps, team, bias is not None
        ctx.mark_non_differentiable(mean, var, total)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), mean, var, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, total = ctx.saved_tensors
        inverse_std = (var + ctx.eps).rsqrt()
        dx, dw, db = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, mean, var, mean, inverse_std, False, ctx.eps, [True, True, True]
        )
        sums = torch.cat([dw, db])
        ctx.team.add_up(sums)
        mean_of_dy_x, mean_of_dy = (sums / total).chunk(2)
        factor = inverse_std if weight is None else inverse_std * weight
        # The two other terms as one linear function of x, as x^ is one.
        slope = -factor * mean_of_dy_x * inverse_std
        offset = -factor * mean_of_dy - slope * mean
        shape = (1, -1, *[1] * (x.ndim - 2))
        # In float32 for bfloat16: the two terms nearly cancel where the mean is large.
        dx = dx.to(slope.dtype).add_(offset.view(shape)).addcmul_(x.to(slope.dtype), slope.view(shape))
        return dx.to(x.dtype), None if weight is None else dw, db if ctx.has_bias else None, None, None


def moments(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel of x, (n, channels, ...), in float32 at least."""
    if x.numel() == 0:  # a share without rows
        zero = x.new_zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
        return zero, zero
    if x.device.type == "cpu":
        # torch's BatchNorm finds them several times as fast as `var_mean`, even with its output thrown away.
        # A weight in float32 makes it return them in float32 for bfloat16, too.
        weight = x.new_ones(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
        _, mean, inverse_std = torch.native_batch_norm(x, weight, weight, None, None, True, 0.0, eps)
        return mean, (inverse_std**-2 - eps).clamp_(min=0)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    var, mean = torch.var_mean(wide, [0, *range(2, x.ndim)], correction=0)
    return mean, var
