"""Conversion of every accepted value of the parameter `loss` to an SSLLoss that one fit owns."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from sklearn_ssl._checks import as_nested
from sklearn_ssl.losses._base import Spec, SSLLoss
from sklearn_ssl.losses._pairs import mean_over_pairs
from sklearn_ssl.losses._registry import get_loss


class PairLoss(SSLLoss):
    """Mean over all pairs of views of a loss that is defined on two views.

    Parameters
    ----------
    pair : callable
        Function f(z1, z2), or a module with such a forward. A module becomes a submodule of this loss: its
        parameters are trained and its buffers saved.
    """

    def __init__(self, pair: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.pair = pair

    def forward(self, *z: Tensor) -> Tensor:
        """Compute the mean of the pair loss over all pairs of views."""
        return mean_over_pairs(self.pair, z)


def resolve_loss(loss: Any) -> Any:
    """Return the class, function or instance that `loss` denotes; names are looked up in the registry."""
    return get_loss(loss) if isinstance(loss, str) else loss


def make_loss(loss: Any, params: dict) -> SSLLoss:
    """Create the loss that a fit trains.

    Parameters
    ----------
    loss : str, class, instance or function
        A name; a subclass of `SSLLoss` or of `nn.Module`; an instance of either (copied, so that the
        user's object is never trained); or a function ``f(z1, z2, *, temperature=...)``.
    params : dict
        Hyperparameters; must be empty for an instance.

    Returns
    -------
    SSLLoss
        A new loss, which shares nothing with the argument.

    Raises
    ------
    ValueError
        If the hyperparameters are rejected, or are given for an instance.
    TypeError
        If `loss` is not a loss, or is one that requires labels.
    """
    target = resolve_loss(loss)
    _check_is_for_pairs(target)
    if isinstance(target, nn.Module):
        if params:
            raise ValueError(
                f"loss is an instance of {type(target).__name__}, so loss_params={params} have no effect: "
                f"pass the class instead, loss={type(target).__name__}."
            )
        made: Callable | None = copy.deepcopy(target)
    elif inspect.isclass(_without_partial(target)):
        made = _instance(target, params)
    else:
        made = functools.partial(target, **params) if callable(target) else None
    if not callable(made):
        raise TypeError(
            f"loss={loss!r} is not a loss. Give a name (see sklearn_ssl.available_losses()), an SSLLoss "
            f"class or instance, a module with forward(z1, z2), or a function f(z1, z2)."
        )
    return made if isinstance(made, SSLLoss) else PairLoss(made)


def _instance(target: Callable, params: dict) -> Any:
    try:
        return target(**params)
    except ValueError:
        raise  # the loss's own message already names the parameter
    except Exception as error:  # third-party constructors may raise any exception
        given = f" with {as_nested('loss', params)}" if params else ""
        raise ValueError(f"loss={loss_name(target)} cannot be made{given}: {error}") from error


def _check_is_for_pairs(target: Any) -> None:
    """Raise a TypeError for a label-based loss of pytorch-metric-learning, and suggest its wrapper."""
    kind = target if inspect.isclass(target) else type(target)
    if kind.__module__.startswith("pytorch_metric_learning.") and kind.__name__ != "SelfSupervisedLoss":
        raise TypeError(
            f"loss={kind.__name__} of pytorch-metric-learning wants labels. For two views of an image, give "
            f"loss=SelfSupervisedLoss({kind.__name__}()), from pytorch_metric_learning.losses."
        )


def build_loss(loss: SSLLoss, spec: Spec, name: str, params: dict) -> None:
    """Call a loss's `build`, and report what it raises as a ValueError that names the loss.

    Raises
    ------
    ValueError
        If the loss cannot be built with these hyperparameters or for this network.
    """
    try:
        loss.build(spec)
    except ValueError:
        raise  # the loss's own message already names the parameter
    except Exception as error:  # plugins may raise any exception
        given = f" with {as_nested('loss', params)}" if params else ""
        raise ValueError(f"The loss {name!r} cannot be built{given}: {error}") from error


def defaults_of(loss: Any) -> dict[str, Any]:
    """Return the defaults that a loss declares, without creating it; {} if it cannot be resolved."""
    try:
        target = _without_partial(resolve_loss(loss))
    except Exception:  # an unknown name or a broken plugin is reported when the loss is used
        return {}
    is_ours = isinstance(target, SSLLoss) or (inspect.isclass(target) and issubclass(target, SSLLoss))
    return target.defaults if is_ours else {}


def loss_name(loss: Any) -> str:
    """Return the name of a loss for messages and the progress bar."""
    if isinstance(loss, str):
        return loss
    loss = _without_partial(loss)
    return getattr(loss, "__name__", type(loss).__name__)


def _without_partial(target: Any) -> Any:
    while isinstance(target, functools.partial):
        target = target.func
    return target
