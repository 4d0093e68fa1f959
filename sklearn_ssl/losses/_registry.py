"""Names of losses: entry points in the group `sklearn_ssl.losses`, and what `register_loss` adds."""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from types import MappingProxyType
from typing import Any

from torch import nn

from sklearn_ssl._params import did_you_mean

GROUP = "sklearn_ssl.losses"


OURS = "sklearn-ssl"


# Methods of this project that are packages of their own, in its folder `plugins`.
MASKED = ("beit", "inpainting", "mae", "simmim")


METRIC_LEARNING = ("dclw", "infonce", "margin", "meanshift", "moco", "nnclr", "supcon", "triplet")


PRETEXT = ("colorization", "cpc", "jigsaw", "relative_location", "rotation")


KNOWN_PLUGINS = {
    "barlow_twins": "sklearn-ssl-barlow-twins",
    **dict.fromkeys(("deepcluster", "swav", "wmse"), "sklearn-ssl-cca"),
    **dict.fromkeys(MASKED, "sklearn-ssl-masked"),
    **dict.fromkeys(METRIC_LEARNING, "sklearn-ssl-metric-learning"),
    **dict.fromkeys(PRETEXT, "sklearn-ssl-pretext"),
    **dict.fromkeys(("byol", "dino", "simsiam"), "sklearn-ssl-self-distillation"),
}


# Names in papers and libraries, in the spelling of `_plain`, where they are others than the loss's own.
OTHER_NAMES = {
    "barlow": "barlow_twins",
    "contextencoder": "inpainting",
    "contextprediction": "relative_location",
    "decoupledcontrastive": "dcl",
    "decoupledcontrastivelearning": "dcl",
    "maskedautoencoder": "mae",
    "mocov2": "moco",
    "momentumcontrast": "moco",
    "msf": "meanshift",
    "normalizedtemperaturescaledcrossentropy": "ntxent",
    "rotnet": "rotation",
    "simclr": "ntxent",
    "supcontrast": "supcon",
    "supervisedcontrastive": "supcon",
    "whitening": "wmse",
}


_registered: dict[str, Any] = {}


@dataclass(frozen=True)
class LossInfo:
    """What is known of a loss.

    Attributes
    ----------
    name : str
        What `loss=` takes: the entry point's name, or "distribution:name" where several have it.
    distribution, version : str
        The installed package that brings it; both empty for a name given by `register_loss`.
    target : str
        Where it is, as "module:attribute".
    family : str or None
        With ``details=True``: the loss's attribute `family`, or else its distribution.
    summary : str or None
        With ``details=True``: the first line of the loss's docstring.
    error : str or None
        With ``details=True``: why it cannot be used.
    """

    name: str
    distribution: str
    version: str
    target: str
    family: str | None = None
    summary: str | None = None
    error: str | None = None


def available_losses(*, details: bool = False) -> Mapping[str, LossInfo]:
    """Every loss that is installed or registered.

    Parameters
    ----------
    details : bool, default=False
        Import each loss, for its family and summary, or the error that it raises. By default
        nothing is imported: names, distributions and targets are in the packages' metadata.

    Returns
    -------
    read-only mapping of str to LossInfo
        Sorted by name. A name that several distributions have appears as "distribution:name" of
        each; one of a built-in loss stays the built-in's.
    """
    infos = [replace(info, name=_shortest_name(info)) for info in _installed()]
    infos += [LossInfo(name, "", "", _target(loss)) for name, loss in _registered.items()]
    if details:
        infos = [_with_details(info) for info in infos]
    return MappingProxyType({info.name: info for info in sorted(infos, key=lambda info: info.name)})


def get_loss(name: str) -> type[nn.Module] | Callable:
    """The loss of a name.

    Parameters
    ----------
    name : str
        "ntxent", or "distribution:ntxent" where several distributions have it.

    Returns
    -------
    type or callable
        A subclass of `SSLLoss` or `nn.Module`, or a function of the projections.

    Raises
    ------
    ValueError
        If no loss has the name, or several have it.
    ImportError
        If it cannot be imported, or is no loss.
    """
    if name in _registered:
        return _registered[name]
    found = _installed_as(name)
    if not found:
        raise ValueError(_unknown_message(name))
    if len(found) > 1:
        raise ValueError(_ambiguous_message(name, found))
    return _load(found[0])


def register_loss(name: str, loss: Any = None) -> Any:
    """Give a loss a name, in this process only; also a decorator, ``@register_loss("mine")``.

    The name can be given again (a notebook's cell that is run twice): the last one counts. Worker
    processes (`n_jobs`) do not know it: there, pass the class itself, ``loss=MyLoss``.

    Parameters
    ----------
    name : str
        What `loss=` takes from now on.
    loss : type or callable, optional
        A subclass of `SSLLoss` or `nn.Module`, or a function of the projections.

    Returns
    -------
    type or callable
        The loss itself; without a loss, the decorator.

    Raises
    ------
    ValueError
        If an installed package, such as this one, has the name.
    TypeError
        If it is no loss.
    """
    if loss is None:
        return functools.partial(register_loss, name)
    taken = _installed_as(name)
    if taken:
        raise ValueError(
            f"{name!r} is a loss of {taken[0].distribution} {taken[0].version} and cannot be taken over:"
            " choose another name, or pass the class itself, loss=MyLoss."
        )
    _registered[name] = _checked(loss)
    return loss


def _installed() -> tuple[LossInfo, ...]:
    # A scan takes 9-30 ms, so it is kept; the times let a `pip install` in a running session be seen.
    return _scan(tuple((folder, _changed_at(folder)) for folder in sys.path))


@functools.lru_cache(maxsize=1)
def _scan(folders: tuple[tuple[str, int], ...]) -> tuple[LossInfo, ...]:
    # A distribution that is on the path twice (an editable install) counts once: entry_points() sees to it.
    found = [(entry, entry.dist.metadata) for entry in metadata.entry_points(group=GROUP)]
    # The rest of an installation that was broken off or removed by hand may have no name: pip ignores it too.
    return tuple(
        LossInfo(entry.name, about["Name"], about["Version"], entry.value)
        for entry, about in found
        if about and "Name" in about and "Version" in about
    )


def _changed_at(folder: str) -> int:
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


def _installed_as(name: str) -> list[LossInfo]:
    """Those that "name" or "distribution:name" can mean; a built-in keeps its name for itself."""
    distribution, bare = name.split(":", 1) if ":" in name else ("", name)
    found = [info for info in _installed() if info.name == bare]
    if distribution:
        return [info for info in found if _canonical(info.distribution) == _canonical(distribution)]
    return [info for info in found if _canonical(info.distribution) == OURS] or found


def _shortest_name(info: LossInfo) -> str:
    return info.name if _installed_as(info.name) == [info] else _full_name(info)


def _full_name(info: LossInfo) -> str:
    return f"{info.distribution}:{info.name}"


def _canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()  # PEP 503


def _with_details(info: LossInfo) -> LossInfo:
    try:
        loss = get_loss(info.name)
    except ImportError as error:
        return replace(info, error=str(error))
    # Not inspect.getdoc: a loss without a docstring would show SSLLoss's.
    summary = (loss.__doc__ or "").strip().partition("\n")[0]
    family = getattr(loss, "family", None) or info.distribution
    return replace(info, family=family or None, summary=summary or None)


def _load(info: LossInfo) -> Any:
    """Import a loss; whatever goes wrong in a plugin surfaces here, once, with its name."""
    try:
        return _checked(metadata.EntryPoint(info.name, info.target, GROUP).load())
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() at import, too
        raise ImportError(
            f"The loss {info.name!r} of {info.distribution} {info.version} ({info.target}) cannot be used:"
            f" {type(error).__name__}: {error}. Update or uninstall that package; other losses go on working."
        ) from error


def _checked(loss: Any) -> Any:
    is_loss = issubclass(loss, nn.Module) if isinstance(loss, type) else _is_function(loss)
    if not is_loss:
        raise TypeError(f"a loss is a subclass of SSLLoss or nn.Module, or a function, got {loss!r}.")
    return loss


def _is_function(loss: Any) -> bool:
    return inspect.isroutine(loss) or isinstance(loss, functools.partial)


def _target(loss: Any) -> str:
    return f"{getattr(loss, '__module__', '')}:{getattr(loss, '__qualname__', repr(loss))}"


def _unknown_message(name: str) -> str:
    names = list(available_losses())
    return (
        f"Unknown loss {name!r}.{_hint(name, names)}"
        f" Available: {', '.join(names) or f'none, is {OURS} itself installed?'}."
        f" A package adds one by an entry point in the group {GROUP!r}."
        " A name given by register_loss() exists only in the process that registered it:"
        " in worker processes pass the class itself, loss=MyLoss."
    )


def _hint(name: str, names: list[str]) -> str:
    """A sentence, with a space before it, on the loss that an unknown name may mean; or nothing."""
    known = [*names, *KNOWN_PLUGINS]
    meant = _other_spelling(name, known)
    if meant is None:
        return did_you_mean(name, known)
    hint = "" if meant == name else f" Did you mean {meant!r}?"
    if meant in names:
        return hint
    package = KNOWN_PLUGINS[meant]
    return f"{hint} {meant!r} is in the package {package}: pip install ./plugins/{package}."


def _other_spelling(name: str, known: list[str]) -> str | None:
    """The known loss that has this name in other letters or signs, or in a paper; None if there is none."""
    plain = _plain(name)
    by_spelling = {_plain(loss): loss for loss in known}
    return by_spelling.get(_plain(OTHER_NAMES.get(plain, plain)))


def _plain(name: str) -> str:
    """Letters and digits only, in lower case, without "loss": "NT-Xent loss" becomes "ntxent"."""
    return re.sub(r"[^a-z0-9]", "", name.lower()).removesuffix("loss")


def _ambiguous_message(name: str, found: list[LossInfo]) -> str:
    packages = " and ".join(f"{info.distribution} {info.version}" for info in found)
    choices = " or ".join(repr(_full_name(info)) for info in found)
    return f"Several packages have a loss {name!r}: {packages}. Say which: {choices}."
