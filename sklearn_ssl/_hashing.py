"""Whether two fits are the same one: a number for parameters and images, the same in every process."""

from __future__ import annotations

import contextlib
import enum
import functools
import hashlib
import logging
import os
import random
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

# Code of these packages is told apart by names and versions alone.
LIBRARIES = {"numpy", "sklearn", "skorch", "torch", "torchvision", *sys.stdlib_module_names}


INSTALLED = ("site-packages", "dist-packages")


# Members of a class that say nothing about what it does, or that Python computes from the others.
OF_NO_EFFECT = {
    "__abstractmethods__",
    "__annotate_func__",
    "__annotations__",
    "__annotations_cache__",
    "__dict__",
    "__doc__",
    "__firstlineno__",
    "__module__",
    "__orig_bases__",
    "__parameters__",
    "__static_attributes__",
    "__weakref__",
    "_abc_impl",
}


# Torch's own attributes of a module: weights are told by their values, and hooks count on from fit to fit.
OF_MODULES = {name for name in vars(nn.Module()) if name.startswith("_")} | {"_compiled_call_impl"}


# Objects without content, all of which are alike.
ALIKE = (object, type(threading.Lock()), type(threading.RLock()))


# Their `repr` says all.
SCALARS = (str, bytes, bool, int, float, complex, type(None))


# What is looked at where code refers to it by a global name; of other libraries' objects, the class alone.
REFERRED = (
    *SCALARS,
    FunctionType,
    Mapping,
    MethodType,
    Tensor,
    enum.Enum,
    frozenset,
    functools.partial,
    list,
    nn.Module,
    np.generic,
    np.ndarray,
    os.PathLike,
    set,
    tuple,
    type,
)


ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def fingerprint(*values: Any) -> str:
    """Hexadecimal digits that differ where the values do.

    Unlike those of `joblib.hash`, which pickles, they know the code of functions and classes, and of torch's
    tensors and modules they are the same in every process.

    Parameters
    ----------
    *values : anything
        Numbers, strings, arrays, tensors, containers of these; functions (name, code, and the values that it
        refers to) and classes (name, members); modules (class, attributes, weights) and other objects (class,
        attributes). Libraries (see `LIBRARIES`) are told by names and versions.

    Returns
    -------
    str
        32 digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in _Parts().of(values):
        digest.update(part if isinstance(part, memoryview) else f"{len(part)}:{part}".encode())
    return digest.hexdigest()


def told_by_address(value: Any) -> list[str]:
    """Places in it of objects that only their addresses tell from others, so that no other process can.

    Parameters
    ----------
    value : anything
        As for `fingerprint`, which differs in each process if there are any.

    Returns
    -------
    list of str
        Such as "loss_params.schedule"; without repetition.
    """
    parts = _Parts()
    for _ in parts.of(value):
        pass
    return list(dict.fromkeys(parts.by_address))


class _Inner(NamedTuple):
    """A value inside of another, whose pieces come next."""

    value: Any
    name: str = ""


class _Parts:
    """What tells a value from others, in pieces; what it meets twice, it tells once."""

    def __init__(self) -> None:
        # By id, the number under which it was met, and itself: so that no other comes to have its id.
        self.met: dict[int, tuple[int, Any]] = {}
        self.packages: set[str] = set()
        self.by_address: list[str] = []

    def of(self, value: Any) -> Iterator[str | memoryview]:
        """The pieces, then the versions of the packages that were met."""
        # Not by recursion: code can refer to code more deeply than Python calls functions.
        names, open_ = [""], [iter([_Inner(value)])]
        while open_:
            for piece in open_[-1]:
                if isinstance(piece, _Inner):
                    names.append(piece.name)
                    open_.append(iter(self._pieces(piece.value, names)))
                    break
                yield piece
            else:
                names.pop()
                open_.pop()
        yield from (f"{package} {_version(package)}" for package in sorted(self.packages))

    def _pieces(self, value: Any, names: list[str]) -> Iterable[str | memoryview | _Inner]:
        # A dict is one by what it holds: state dicts become plain ones in a file.
        yield "dict" if isinstance(value, Mapping) else type(value).__qualname__
        if isinstance(value, SCALARS) and not isinstance(value, enum.Enum):
            yield repr(value)
        elif isinstance(value, Tensor):
            yield from _tensor(value.detach())
        elif isinstance(value, np.ndarray) and value.dtype != object:
            yield from _array(value)
        elif isinstance(value, Mapping):
            yield str(len(value))
            for key in sorted(value, key=_order):
                yield _Inner(key)
                yield _Inner(value[key], str(key))
        elif isinstance(value, list | tuple | np.ndarray):
            yield str(len(value))
            yield from map(_Inner, value)
        elif isinstance(value, set | frozenset):
            yield str(len(value))
            yield from map(_Inner, sorted(value, key=_order))
        elif isinstance(value, ModuleType | BuiltinFunctionType):
            yield self._named(getattr(value, "__module__", None) or value.__name__, value.__name__)
        elif type(value) not in ALIKE:
            yield from self._object(value, names)

    def _object(self, value: Any, names: list[str]) -> Iterable[str | _Inner]:
        """Of what may hold itself."""
        if id(value) in self.met:
            yield f"as number {self.met[id(value)][0]}"
            return
        self.met[id(value)] = len(self.met), value
        if isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, FunctionType):
            yield from self._function(value)
        elif (content := _content(value)) is not None:
            yield _Inner(type(value))
            yield _Inner(content)
        else:  # torch.device, torch.dtype, ...
            shown = repr(value)
            if ADDRESS.search(shown):
                self.by_address.append(".".join(filter(None, names)))
            yield shown

    def _class(self, value: type) -> Iterable[str | _Inner]:
        for base in value.__mro__:
            yield self._named(base.__module__, base.__qualname__)
            if base.__module__.partition(".")[0] not in LIBRARIES:
                members = vars(base).items()
                yield _Inner({name: member for name, member in members if name not in OF_NO_EFFECT})

    def _function(self, value: FunctionType) -> Iterable[str | _Inner]:
        yield self._named(value.__module__ or "", value.__qualname__)
        yield _Inner(value.__code__)
        for name in ("__defaults__", "__kwdefaults__", "__closure__", "__dict__"):
            yield _Inner(getattr(value, name), name)
        if not _is_library(value.__module__ or ""):
            yield _Inner(_referred(value))

    def _named(self, module: str, name: str) -> str:
        self.packages.add(module.partition(".")[0])
        return f"{module}.{name}"


def _order(value: Any) -> str:
    """Where a key is among others; the same in every process."""
    return repr(value) if isinstance(value, SCALARS) else fingerprint(value)


# ---------------------------------------------------------------------------- objects


def _content(value: Any) -> Any:
    """The values that an object is made of; None where its `repr` is all that there is."""
    for kind, content in CONTENT.items():
        if isinstance(value, kind):
            return content(value)
    slots = [
        name
        for base in type(value).__mro__
        if "__slots__" in vars(base)
        for name, member in vars(base).items()
        if isinstance(member, MemberDescriptorType) and hasattr(value, name)
    ]
    if not slots and not hasattr(value, "__dict__"):
        return None
    return {name: getattr(value, name) for name in slots} | dict(getattr(value, "__dict__", {}))


def _cell(cell: CellType) -> list:
    try:
        return [cell.cell_contents]
    except ValueError:  # nothing was assigned yet
        return []


def _module(value: nn.Module) -> tuple:
    own = [
        (name, type(part), {key: item for key, item in vars(part).items() if key not in OF_MODULES})
        for name, part in value.named_modules()
    ]
    state = dict(value.state_dict())
    return own, state, {name: buffer for name, buffer in value.named_buffers() if name not in state}


CONTENT: dict[type, Callable[[Any], Any]] = {
    CellType: _cell,
    CodeType: lambda code: (code.co_code, code.co_names, code.co_consts),
    MethodType: lambda method: (method.__func__, method.__self__),
    classmethod: lambda method: method.__func__,
    enum.Enum: lambda member: (member.name, member.value),
    functools.partial: lambda made: (made.func, made.args, made.keywords),
    logging.Logger: lambda logger: logger.name,
    nn.Module: _module,
    np.random.BitGenerator: lambda generator: generator.state,
    np.random.Generator: lambda generator: generator.bit_generator.state,
    np.random.RandomState: lambda generator: generator.get_state(),
    os.PathLike: os.fspath,
    property: lambda made: (made.fget, made.fset, made.fdel),
    random.Random: lambda generator: generator.getstate(),
    staticmethod: lambda method: method.__func__,
    torch.Generator: lambda generator: (generator.device, generator.get_state()),
}


# ---------------------------------------------------------------------------- code


def _referred(function: FunctionType) -> dict[str, Any]:
    """By name, the global values that a function's code refers to, and of modules those that it names."""
    names = _names(function.__code__)
    found = {name: function.__globals__[name] for name in names & function.__globals__.keys()}
    return {name: _as_referred(value, names) for name, value in found.items()}


def _as_referred(value: Any, names: set[str]) -> Any:
    if isinstance(value, ModuleType) and not _is_library(value.__name__):
        return {name: _as_referred(vars(value)[name], set()) for name in names & vars(value).keys()}
    if isinstance(value, REFERRED) or not _is_library(type(value).__module__):
        return value
    return type(value)


def _names(code: CodeType) -> set[str]:
    """The names in code, and in that of the functions inside of it."""
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _is_library(module: str) -> bool:
    """Whether a module's code changes with the version of its package alone."""
    package = module.partition(".")[0]
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    return package in LIBRARIES or package == "sklearn_ssl" or not {*Path(file).parts}.isdisjoint(INSTALLED)


@functools.cache
def _version(package: str) -> str:
    """Of the distribution that a package belongs to; nothing if there is none."""
    if package in sys.stdlib_module_names or not _is_library(package):
        return ""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    with contextlib.suppress(Exception):  # another distribution may be broken
        return ", ".join(map(metadata.version, metadata.packages_distributions()[package]))
    return ""


# ---------------------------------------------------------------------------- tensors


def _tensor(value: Tensor) -> Iterable[str | memoryview]:
    """Some rows after the other: all at once could be a second copy of the training images."""
    yield f"{value.dtype} {tuple(value.shape)}"
    for part in value.reshape(1).split(1) if value.ndim == 0 else value.split(256):
        yield memoryview(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _array(value: np.ndarray) -> Iterable[str | memoryview]:
    yield f"{value.dtype.str} {value.shape}"
    rows = value.reshape(1) if value.ndim == 0 else value
    for begin in range(0, len(rows), 256):
        yield memoryview(np.ascontiguousarray(rows[begin : begin + 256]).reshape(-1).view(np.uint8))
