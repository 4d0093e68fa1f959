"""Whatever `loss=` may be -> an SSLLoss of its own for one fit."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from sklearn_ssl.losses.base import SSLLoss, mean_over_pairs
from sklearn_ssl.registry import get_loss


class PairLoss(SSLLoss):
    """A function f(z1, z2), or a module with such a forward, as a loss: the mean over all pairs of views.

    Parameters
    ----------
    pair : callable
        A module becomes part of this loss: its parameters are trained, its buffers kept.
    """

    def __init__(self, pair: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.pair = pair

    def forward(self, *z: Tensor) -> Tensor:
        return mean_over_pairs(self.pair, z)


def resolve_loss(loss: Any) -> Any:
    """The class, function or instance behind `loss=`; a name is looked up in the registry."""
    return get_loss(loss) if isinstance(loss, str) else loss


def make_loss(loss: Any, params: dict) -> SSLLoss:
    """A loss to be trained.

    Parameters
    ----------
    loss : str, class, instance or function
        A name; a subclass of `SSLLoss` or of `nn.Module`; an instance of either (copied, so that the
        user's own is never trained); or a function ``f(z1, z2, *, temperature=...)``.
    params : dict
        Hyperparameters; not for instances.
    """
    target = resolve_loss(loss)
    if isinstance(target, nn.Module):
        if params:
            raise ValueError(
                f"loss is an instance of {type(target).__name__}, so loss_params={params} have no effect: "
                f"pass the class instead, loss={type(target).__name__}."
            )
        made = copy.deepcopy(target)
    elif inspect.isclass(_without_partial(target)):
        made = target(**params)
    elif callable(target):
        made = functools.partial(target, **params)
    else:
        raise TypeError(
            f"loss={loss!r} is no loss. Give a name (see sklearn_ssl.available_losses()), an SSLLoss class "
            f"or instance, a module with forward(z1, z2), or a function f(z1, z2)."
        )
    return made if isinstance(made, SSLLoss) else PairLoss(made)


def defaults_of(loss: Any) -> dict[str, Any]:
    """What `loss=` wants where the user left "auto", before it is made; nothing where it cannot be found."""
    try:
        target = _without_partial(resolve_loss(loss))
    except Exception:  # an unknown name or a broken plugin is told when the loss is used
        return {}
    is_ours = isinstance(target, SSLLoss) or (inspect.isclass(target) and issubclass(target, SSLLoss))
    return target.defaults if is_ours else {}


def loss_name(loss: Any) -> str:
    """What to call it in messages and in the progress bar."""
    if isinstance(loss, str):
        return loss
    loss = _without_partial(loss)
    return getattr(loss, "__name__", type(loss).__name__)


def _without_partial(target: Any) -> Any:
    while isinstance(target, functools.partial):
        target = target.func
    return target
