"""Content hash of parameters and images, equal in every process, to recognize two fits as the same."""

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

# Packages whose code is identified by names and versions alone, instead of its content.
LIBRARIES = {
    *("albumentations", "kornia", "numpy", "pydantic", "sklearn", "skorch", "torch", "torchvision"),
    *sys.stdlib_module_names,
}
# Folders of installed packages, whose code is identified likewise.
INSTALL_FOLDERS = ("site-packages", "dist-packages")
# Members of a class that do not affect its behavior, or that Python derives from the others.
IGNORED_CLASS_MEMBERS = {
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
# Attributes that torch itself sets on a module: weights are hashed by their values, and the ids of hooks
# differ from fit to fit.
MODULE_INTERNALS = {name for name in vars(nn.Module()) if name.startswith("_")} | {"_compiled_call_impl"}
# Types without state, all instances of which are equivalent.
STATELESS_TYPES = (object, type(threading.Lock()), type(threading.RLock()))
# Types whose `repr` determines the value.
SCALARS = (str, bytes, bool, int, float, complex, type(None))
# Types of global values that are hashed by content if code refers to them by name; of other objects of
# libraries, only the class is hashed.
HASHED_GLOBALS = (
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
# Memory address in the default `repr` of an object.
ADDRESS_IN_REPR = re.compile(r" at 0x[0-9a-fA-F]+")


def fingerprint(*values: Any) -> str:
    """Return a content hash of values.

    Unlike `joblib.hash`, which pickles, it covers the code of functions and classes, and is equal in every
    process for torch's tensors and modules.

    Parameters
    ----------
    *values : object
        Values to hash: numbers, strings, arrays, tensors, and containers of these; functions (name, code, and
        the values that the code refers to) and classes (name, members); modules (class, attributes, weights)
        and other objects (class, attributes). Objects of libraries (see `LIBRARIES`) are identified by names
        and versions.

    Returns
    -------
    str
        Hash of 32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in _Parts().of(values):
        digest.update(part if isinstance(part, memoryview) else f"{len(part)}:{part}".encode())
    return digest.hexdigest()


def told_by_address(value: Any) -> list[str]:
    """Return the locations of objects that can be identified only by their addresses in this process.

    Parameters
    ----------
    value : object
        Value as for `fingerprint`, which differs between processes if there are such objects.

    Returns
    -------
    list of str
        Locations such as "loss_params.schedule", without duplicates.
    """
    parts = _Parts()
    for _ in parts.of(value):
        pass
    return list(dict.fromkeys(parts.by_address))


class _Nested(NamedTuple):
    """Placeholder for a nested value, which is replaced by the value's own parts."""

    value: Any
    name: str = ""


class _Parts:
    """Serialization of a value into parts to hash; an object that occurs twice is serialized once."""

    def __init__(self) -> None:
        # id -> (number in the order of occurrence, object). The reference keeps the object alive: ids of
        # deleted objects are reused.
        self.seen: dict[int, tuple[int, Any]] = {}
        self.packages: set[str] = set()
        self.by_address: list[str] = []

    def of(self, value: Any) -> Iterator[str | memoryview]:
        """Yield the parts of a value, then the versions of the packages that occur in it."""
        # An explicit stack instead of recursion: code can refer to code beyond Python's recursion limit.
        names = [""]
        open_: list[Iterator[str | memoryview | _Nested]] = [iter([_Nested(value)])]
        while open_:
            for piece in open_[-1]:
                if isinstance(piece, _Nested):
                    names.append(piece.name)
                    open_.append(iter(self._pieces(piece.value, names)))
                    break
                yield piece
            else:
                names.pop()
                open_.pop()
        yield from (f"{package} {_version(package)}" for package in sorted(self.packages))

    def _pieces(self, value: Any, names: list[str]) -> Iterable[str | memoryview | _Nested]:
        # All mappings count as dicts: state dicts are OrderedDicts, but plain dicts once read from a file.
        yield "dict" if isinstance(value, Mapping) else type(value).__qualname__
        if isinstance(value, SCALARS) and not isinstance(value, enum.Enum):
            yield repr(value)
        elif isinstance(value, Tensor):
            yield from _tensor(value.detach())
        elif isinstance(value, np.ndarray) and value.dtype != object:
            yield from _array(value)
        elif isinstance(value, Mapping):
            yield str(len(value))
            for key in sorted(value, key=_sort_key):
                yield _Nested(key)
                yield _Nested(value[key], str(key))
        elif isinstance(value, list | tuple | np.ndarray):
            yield str(len(value))
            yield from map(_Nested, value)
        elif isinstance(value, set | frozenset):
            yield str(len(value))
            yield from map(_Nested, sorted(value, key=_sort_key))
        elif isinstance(value, ModuleType | BuiltinFunctionType):
            yield self._named(getattr(value, "__module__", None) or value.__name__, value.__name__)
        elif type(value) not in STATELESS_TYPES:
            yield from self._object(value, names)

    def _object(self, value: Any, names: list[str]) -> Iterable[str | _Nested]:
        """Yield the parts of an object that may contain itself."""
        if id(value) in self.seen:
            yield f"as number {self.seen[id(value)][0]}"
            return
        self.seen[id(value)] = len(self.seen), value
        if isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, FunctionType):
            yield from self._function(value)
        elif (content := _content(value)) is not None:
            yield _Nested(type(value))
            yield _Nested(content)
        else:  # torch.device, torch.dtype, ...
            shown = repr(value)
            if ADDRESS_IN_REPR.search(shown):
                self.by_address.append(".".join(filter(None, names)))
            yield shown

    def _class(self, value: type) -> Iterable[str | _Nested]:
        for base in value.__mro__:
            yield self._named(base.__module__, base.__qualname__)
            if base.__module__.partition(".")[0] not in LIBRARIES:
                members = vars(base).items()
                yield _Nested({name: member for name, member in members if name not in IGNORED_CLASS_MEMBERS})

    def _function(self, value: FunctionType) -> Iterable[str | _Nested]:
        yield self._named(value.__module__ or "", value.__qualname__)
        yield _Nested(value.__code__)
        for name in ("__defaults__", "__kwdefaults__", "__closure__", "__dict__"):
            yield _Nested(getattr(value, name), name)
        if not _is_library(value.__module__ or ""):
            yield _Nested(_global_values(value))

    def _named(self, module: str, name: str) -> str:
        self.packages.add(module.partition(".")[0])
        return f"{module}.{name}"


def _sort_key(value: Any) -> str:
    """Return a sort key for the keys of a mapping or the items of a set, equal in every process."""
    return repr(value) if isinstance(value, SCALARS) else fingerprint(value)


# ---------------------------------------------------------------------------- objects


def _content(value: Any) -> Any:
    """Return the values that define an object, or None if only its `repr` does."""
    for kind, content in CONTENT_OF_TYPE.items():
        if isinstance(value, kind):
            return content(value)
    if any(base.__module__.startswith("albumentations.") for base in type(value).__mro__):
        return value.to_dict()  # without its random generators, which a fit sets
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
    except ValueError:  # the variable is not assigned yet
        return []


def _module(value: nn.Module) -> tuple:
    own = [
        (name, type(part), {key: item for key, item in vars(part).items() if key not in MODULE_INTERNALS})
        for name, part in value.named_modules()
    ]
    # Non-persistent buffers are missing in the state dict, but affect the output, too.
    state = dict(value.state_dict())
    return own, state, {name: buffer for name, buffer in value.named_buffers() if name not in state}


# Type -> function that returns the values that define an instance. The first match counts.
CONTENT_OF_TYPE: dict[type, Callable[[Any], Any]] = {
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


def _global_values(function: FunctionType) -> dict[str, Any]:
    """Return the global values, by name, that code refers to; of modules, the named attributes only."""
    names = _referenced_names(function.__code__)
    found = {name: function.__globals__[name] for name in names & function.__globals__.keys()}
    return {name: _hashed_part(value, names) for name, value in found.items()}


def _hashed_part(value: Any, names: set[str]) -> Any:
    """Return the part of a global value that is hashed; of a module, the attributes of these names."""
    if isinstance(value, ModuleType) and not _is_library(value.__name__):
        return {name: _hashed_part(vars(value)[name], set()) for name in names & vars(value).keys()}
    if isinstance(value, HASHED_GLOBALS) or not _is_library(type(value).__module__):
        return value
    return type(value)


def _referenced_names(code: CodeType) -> set[str]:
    """Return the names that code refers to, including those in the code of nested functions."""
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*map(_referenced_names, inner))


def _is_library(module: str) -> bool:
    """Return whether the code of a module changes only with the version of its package."""
    package = module.partition(".")[0]
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    is_installed = not {*Path(file).parts}.isdisjoint(INSTALL_FOLDERS)
    return package in LIBRARIES or package == "sklearn_ssl" or is_installed


@functools.cache
def _version(package: str) -> str:
    """Return the version of the distribution that provides a package; "" if there is none."""
    if package in sys.stdlib_module_names or not _is_library(package):
        return ""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    with contextlib.suppress(Exception):  # the metadata of an unrelated distribution may be broken
        return ", ".join(map(metadata.version, metadata.packages_distributions()[package]))
    return ""


# ---------------------------------------------------------------------------- tensors


def _tensor(value: Tensor) -> Iterable[str | memoryview]:
    """Yield the parts of a tensor in chunks of rows, which never copy all training images at once."""
    yield f"{value.dtype} {tuple(value.shape)}"
    for part in value.reshape(1).split(1) if value.ndim == 0 else value.split(256):
        yield part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _array(value: np.ndarray) -> Iterable[str | memoryview]:
    yield f"{value.dtype.str} {value.shape}"
    rows = value.reshape(1) if value.ndim == 0 else value
    for begin in range(0, len(rows), 256):
        yield np.ascontiguousarray(rows[begin : begin + 256]).reshape(-1).view(np.uint8).data
