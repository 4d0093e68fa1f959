"""Optimizers by name, their default settings, and parameter groups for weight decay."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from sklearn_ssl._checks import as_nested, check_bool, check_number
from sklearn_ssl._params import did_you_mean
from sklearn_ssl._training.muon import Muon, checked_betas

Groups = Iterable[dict[str, Any]]  # parameter groups, as those of `decay_groups`


def sgd(
    params: Groups,
    lr: float,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    clip_norm: float | None = None,
) -> Optimizer:
    """Create stochastic gradient descent with momentum."""
    momentum = check_number("optimizer__momentum", momentum, at_least=0, below=1)
    nesterov = check_bool("optimizer__nesterov", nesterov)
    return clipped(torch.optim.SGD(params, lr, momentum=momentum, nesterov=nesterov), clip_norm)


def adamw(
    params: Groups,
    lr: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    clip_norm: float | None = None,
) -> Optimizer:
    """Create Adam with decoupled weight decay (arXiv:1711.05101)."""
    params = list(params)
    betas = checked_betas(betas)
    eps = check_number("optimizer__eps", eps, at_least=0)
    # The fused kernel replaces about a dozen passes over all weights; only CPU and CUDA have it.
    fused = all(p.device.type in ("cpu", "cuda") for group in params for p in group["params"])
    return clipped(torch.optim.AdamW(params, lr, betas=betas, eps=eps, fused=fused), clip_norm)


def muon(
    params: Groups,
    lr: float,
    *,
    momentum: float = 0.95,
    rows: int = 128,
    iterations: int = 3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    clip_norm: float | None = None,
) -> Optimizer:
    """Create Muon: orthogonalized momentum for matrices and kernels, AdamW for all other weights."""
    made = Muon(params, lr, momentum=momentum, rows=rows, iterations=iterations, betas=betas, eps=eps)
    return clipped(made, clip_norm)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": sgd, "adamw": adamw, "muon": muon}
AUTO_OPTIMIZER = "muon"
# Default learning rate (for 256 images in a step) and weight decay; measured with benchmarks/defaults.py.
DEFAULT_SETTINGS = {
    "muon": {"lr": 8e-3, "weight_decay": 1e-2},
    "sgd": {"lr": 0.06, "weight_decay": 5e-4},
    "adamw": {"lr": 2e-3, "weight_decay": 1e-2},
}


def resolve_optimizer(optimizer: Any) -> Callable[..., Optimizer]:
    """Return the function or class whose keyword arguments are the parameters `optimizer__<name>`.

    Raises
    ------
    ValueError
        If `optimizer` is neither a known name nor a subclass of `torch.optim.Optimizer`.
    """
    if inspect.isclass(optimizer) and issubclass(optimizer, Optimizer):
        return optimizer
    if isinstance(optimizer, str) and optimizer == "auto":
        return OPTIMIZERS[AUTO_OPTIMIZER]
    if isinstance(optimizer, str) and optimizer in OPTIMIZERS:
        return OPTIMIZERS[optimizer]
    raise ValueError(
        f"Unknown optimizer {optimizer!r}.{did_you_mean(str(optimizer), OPTIMIZERS)} Give 'auto', one of "
        f"{', '.join(OPTIMIZERS)}, or a class from torch.optim."
    )


def optimizer_maker(optimizer: Any, params: dict[str, Any], device: torch.device) -> Callable[..., Optimizer]:
    """Return the function that creates the optimizer from parameter groups and `lr`.

    A class given by the user is first tested with one step on two small weights.

    Raises
    ------
    ValueError
        If the class rejects the keyword arguments, or its `step` needs more than gradients.
    """
    make = functools.partial(resolve_optimizer(optimizer), **params)
    if isinstance(optimizer, str):
        return make
    weights = [nn.Parameter(torch.ones(shape, device=device)) for shape in ((2, 2), (2,))]
    for p in weights:
        p.grad = torch.ones_like(p)
    try:
        make(decay_groups(weights, 0.0), lr=1e-3).step()
    except Exception as error:  # an optimizer may raise anything
        given = f" with {as_nested('optimizer', params)}" if params else ""
        raise ValueError(
            f"optimizer={optimizer.__name__}{given} cannot take a step: {error}. It must accept parameter "
            f"groups and lr, and step() without a closure."
        ) from error
    return make


def base_settings(optimizer: Any, *, lr_is_given: bool = False) -> dict[str, float]:
    """Return the default learning rate (for 256 images in a step) and weight decay of an optimizer.

    A class has no default learning rate, and a default weight decay of 0.

    Raises
    ------
    ValueError
        If the optimizer is unknown, or it is a class and no learning rate is given.
    """
    resolve_optimizer(optimizer)
    if isinstance(optimizer, str):
        return DEFAULT_SETTINGS[optimizer]
    if not lr_is_given:
        raise ValueError(f"{optimizer.__name__} has no default learning rate: set lr=... as well.")
    return {"weight_decay": 0.0}


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict]:
    """Return two parameter groups: weights with decay, and biases and norms (at most one axis) without."""
    parameters = [p for p in parameters if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def parameter_groups(
    parameters: Iterable[nn.Parameter], weight_decay: float, own: Mapping[str, Iterable[nn.Parameter]]
) -> list[dict]:
    """Return the groups of `decay_groups`, and further ones for parameters with learning rates of their own.

    Parameters
    ----------
    parameters : iterable of nn.Parameter
        All parameters.
    weight_decay : float
        Weight decay, except of biases and norms.
    own : mapping of str to iterable of nn.Parameter
        Parameters with a rate of their own, by the name of the rate, which is "rate_of" of their groups.

    Returns
    -------
    list of dict
        Groups; empty ones are left out, except of the first two.
    """
    apart = {id(parameter) for group in own.values() for parameter in group}
    groups = decay_groups([p for p in parameters if id(p) not in apart], weight_decay)
    for name, group in own.items():
        groups += [{**part, "rate_of": name} for part in decay_groups(group, weight_decay) if part["params"]]
    return groups


def clipped(optimizer: Optimizer, clip_norm: float | None) -> Optimizer:
    """Let an optimizer clip the norm of the whole gradient to `clip_norm` before each step; return it."""
    clip_norm = check_number("optimizer__clip_norm", clip_norm, above=0, instead=(None,))
    if clip_norm is None:
        return optimizer

    def clip(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, clip_norm)

    optimizer.register_step_pre_hook(clip)
    return optimizer
