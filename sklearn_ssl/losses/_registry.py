"""Registry of losses: entry points of the group `sklearn_ssl.losses`, and names of `register_loss`."""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import metadata, resources
from typing import Any

from torch import nn

from sklearn_ssl._params import did_you_mean, tunable_params
from sklearn_ssl.losses._loss_info import LossInfo, LossTable

# Group of the entry points by which a distribution declares its losses.
ENTRY_POINT_GROUP = "sklearn_ssl.losses"
# Canonical name of the distribution whose losses keep their names, whatever else is installed.
OWN_DISTRIBUTION = "sklearn-ssl"
# Losses named by `register_loss`, in this process only.
_registered: dict[str, Any] = {}


def available_losses(*, details: bool = False) -> LossTable:
    """List the losses that are installed or registered.

    Parameters
    ----------
    details : bool, default=False
        Whether to import each loss, for its family, summary and parameters, or the error that it raises. By
        default nothing is imported: names, distributions and targets are read from the packages' metadata.

    Returns
    -------
    read-only mapping of str to LossInfo
        Available losses, sorted by name; notebooks show them as a table. A name shared by several
        distributions appears once for each, as "distribution:name"; the name of a built-in loss always
        denotes the built-in.

    See Also
    --------
    get_loss : Return the loss of a name.
    register_loss : Give a loss a name.

    Examples
    --------
    >>> from sklearn_ssl import available_losses
    >>> available_losses()["vicreg"].target
    'sklearn_ssl.losses:VICReg'
    """
    infos = [replace(info, name=_shortest_name(info)) for info in _installed()]
    infos += [LossInfo(name, "", "", _target(loss)) for name, loss in _registered.items()]
    if details:
        infos = [_with_details(info) for info in infos]
    return LossTable(sorted(infos, key=lambda info: info.name))


def get_loss(name: str) -> type[nn.Module] | Callable:
    """Return the loss of a name.

    Parameters
    ----------
    name : str
        Name such as "ntxent", or "distribution:ntxent" if several distributions share it.

    Returns
    -------
    type or callable
        A subclass of `SSLLoss` or `nn.Module`, or a function of the projections.

    Raises
    ------
    ValueError
        If no loss has the name, or several losses have it.
    ImportError
        If the loss cannot be imported, or is not a loss.

    See Also
    --------
    available_losses : List the available losses.
    register_loss : Give a loss a name.

    Examples
    --------
    >>> from sklearn_ssl import get_loss
    >>> get_loss("ntxent")
    <class 'sklearn_ssl.losses._ntxent.NTXent'>
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
    """Register a loss under a name in this process; also a decorator, ``@register_loss("mine")``.

    A name can be registered again, as by a notebook cell that is run twice: the last registration counts.
    Worker processes (`n_jobs`) do not see it: there, pass the class itself, ``loss=MyLoss``.

    Parameters
    ----------
    name : str
        Value for the parameter `loss` that denotes the loss.
    loss : type or callable, default=None
        A subclass of `SSLLoss` or `nn.Module`, or a function of the projections. None returns a decorator.

    Returns
    -------
    type or callable
        The loss itself; the decorator if `loss` is None.

    Raises
    ------
    ValueError
        If a loss of an installed distribution, this one included, has the name.
    TypeError
        If `loss` is not a loss.

    See Also
    --------
    available_losses : List the available losses.
    get_loss : Return the loss of a name.
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
    # A scan takes 9-30 ms, so its result is cached. The folders' modification times are part of the key, so
    # that a `pip install` during a running session is noticed.
    return _scan(tuple((folder, _changed_at(folder)) for folder in sys.path))


@functools.lru_cache(maxsize=1)
def _scan(folders: tuple[tuple[str, int], ...]) -> tuple[LossInfo, ...]:
    # entry_points() counts a distribution once that is on the path twice (an editable install).
    entries = metadata.entry_points(group=ENTRY_POINT_GROUP)
    found = [(entry, _about(entry)) for entry in entries]
    # The remains of an interrupted or manually removed installation may have no name: pip ignores them too.
    return tuple(
        LossInfo(entry.name, about["Name"], about["Version"], entry.value)
        for entry, about in found
        if about and "Name" in about and "Version" in about
    )


def _about(entry: metadata.EntryPoint) -> Any:
    """Return the metadata of an entry point's distribution, None if there are none."""
    try:
        return entry.dist.metadata if entry.dist else None
    except FileNotFoundError:  # by the package importlib_metadata, which replaces Python's own finder
        return None


def _changed_at(folder: str) -> int:
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


def _installed_as(name: str) -> list[LossInfo]:
    """Return the losses that "name" or "distribution:name" may denote; a built-in's name denotes it alone."""
    distribution, bare = name.split(":", 1) if ":" in name else ("", name)
    found = [info for info in _installed() if info.name == bare]
    if distribution:
        return [info for info in found if _canonical(info.distribution) == _canonical(distribution)]
    return [info for info in found if _canonical(info.distribution) == OWN_DISTRIBUTION] or found


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
    # Not inspect.getdoc: a loss without a docstring would inherit that of SSLLoss.
    first_line = (loss.__doc__ or "").strip().partition("\n")[0]
    summary = re.sub(r" \[\d+\]_", "", first_line)  # without references
    family = getattr(loss, "family", None) or info.distribution
    parameters = tunable_params(loss)[0]
    return replace(info, family=family or None, summary=summary or None, parameters=parameters)


def _load(info: LossInfo) -> Any:
    """Import a loss, and report any failure of its package as an ImportError that names the package."""
    try:
        return _checked(metadata.EntryPoint(info.name, info.target, ENTRY_POINT_GROUP).load())
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit, of a module that calls sys.exit() at import
        raise ImportError(
            f"The loss {info.name!r} of {info.distribution} {info.version} ({info.target}) cannot be used:"
            f" {type(error).__name__}: {error}. Update or uninstall that package;"
            " other losses are not affected."
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
        f" Available: {', '.join(names) or f'none, is {OWN_DISTRIBUTION} itself installed?'}."
        f" A package adds one by an entry point in the group {ENTRY_POINT_GROUP!r}."
        " A name given by register_loss() exists only in the process that registered it:"
        " in worker processes pass the class itself, loss=MyLoss."
    )


def _hint(name: str, names: list[str]) -> str:
    """Return a sentence, preceded by a space, on the loss that an unknown name may denote; or ""."""
    packages, other_names = known_losses()
    known = [*names, *packages]
    meant = _other_spelling(name, known, other_names)
    if meant is None:
        return did_you_mean(name, known)
    hint = "" if meant == name else f" Did you mean {meant!r}?"
    if meant in names:
        return hint
    return f"{hint} {meant!r} is in the package {packages[meant]}: pip install ./plugins/{packages[meant]}."


@functools.lru_cache(maxsize=1)
def known_losses() -> tuple[dict[str, str], dict[str, str]]:
    """Return {loss: package that provides it} and {name elsewhere: name here} of known_losses.toml."""
    file = resources.files("sklearn_ssl.losses").joinpath("known_losses.toml")
    table = tomllib.loads(file.read_text("utf-8"))
    packages = {loss: package for package, losses in table["packages"].items() for loss in losses}
    return packages, table["other_names"]


def _other_spelling(name: str, known: list[str], other_names: Mapping[str, str]) -> str | None:
    """Return the known loss that is spelled differently or has this name in a paper; None if none is."""
    plain = _plain(name)
    by_spelling = {_plain(loss): loss for loss in known}
    return by_spelling.get(_plain(other_names.get(plain, plain)))


def _plain(name: str) -> str:
    """Reduce a name to lower-case letters and digits, without "loss": "NT-Xent loss" becomes "ntxent"."""
    return re.sub(r"[^a-z0-9]", "", name.lower()).removesuffix("loss")


def _ambiguous_message(name: str, found: list[LossInfo]) -> str:
    packages = " and ".join(f"{info.distribution} {info.version}" for info in found)
    choices = " or ".join(repr(_full_name(info)) for info in found)
    return f"Several packages have a loss {name!r}: {packages}. Say which: {choices}."
