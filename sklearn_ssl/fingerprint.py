"""Whether two fits are the same one: a number for parameters and images, the same in every process."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Classes of these packages are told apart by their names alone.
LIBRARIES = ("builtins", "numpy", "sklearn", "skorch", "torch", "torchvision")


def fingerprint(*values: Any) -> str:
    """Hexadecimal digits that differ where the values do.

    Unlike those of `joblib.hash`, which pickles, they know the code of functions and classes, and of torch's
    tensors and modules they are the same in every process.

    Parameters
    ----------
    *values : anything
        Numbers, strings, arrays, tensors, containers of these; functions and classes (name, code, attributes;
        not what they call); modules (class, attributes, weights) and other objects (class, attributes).

    Returns
    -------
    str
        32 digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in _Parts().of(values):
        digest.update(part if isinstance(part, memoryview) else f"{len(part)}:{part}".encode())
    return digest.hexdigest()


class _Parts:
    """What tells a value from others, in pieces; what it meets twice, it tells once."""

    def __init__(self) -> None:
        # By id, the number under which it was met, and itself: so that no other comes to have its id.
        self.met: dict[int, tuple[int, Any]] = {}

    def of(self, value: Any) -> Iterable[str | memoryview]:
        # A dict is one by what it holds: state dicts become plain ones in a file.
        yield "dict" if isinstance(value, Mapping) else type(value).__qualname__
        if isinstance(value, Tensor):
            yield from _tensor(value.detach())
        elif isinstance(value, np.ndarray) and value.dtype != object:
            yield from _array(value)
        elif isinstance(value, Mapping):
            yield str(len(value))
            for key in sorted(value, key=repr):
                yield from self.of(key)
                yield from self.of(value[key])
        elif isinstance(value, list | tuple | np.ndarray):
            yield str(len(value))
            for item in value:
                yield from self.of(item)
        elif isinstance(value, set | frozenset):
            yield from sorted(map(fingerprint, value))
        elif isinstance(value, np.random.RandomState):
            yield from self.of(value.get_state())
        elif isinstance(value, np.random.Generator):
            yield from self.of(value.bit_generator.state)
        elif isinstance(value, os.PathLike):
            yield os.fspath(value)
        elif isinstance(value, CodeType):
            yield from self.of((value.co_code, value.co_names, value.co_consts))
        elif isinstance(value, ModuleType | BuiltinFunctionType):
            yield f"{getattr(value, '__module__', '')}.{value.__name__}"
        elif isinstance(value, type) or hasattr(value, "__dict__"):
            yield from self._once(value)
        else:  # numbers, strings, None, torch.device, torch.dtype, ...
            yield repr(value)

    def _once(self, value: Any) -> Iterable[str | memoryview]:
        """Of what may hold itself."""
        if id(value) in self.met:
            yield f"as number {self.met[id(value)][0]}"
            return
        self.met[id(value)] = len(self.met), value
        if isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            yield f"{value.__module__}.{value.__qualname__}"
            yield from self.of((value.__code__, value.__defaults__, value.__kwdefaults__, cells))
        elif isinstance(value, MethodType):
            yield from self.of((value.__func__, value.__self__))
        elif isinstance(value, functools.partial):
            yield from self.of((value.func, value.args, value.keywords))
        elif isinstance(value, nn.Module):
            for name, part in value.named_modules():
                own = {key: item for key, item in vars(part).items() if not key.startswith("_")}
                yield from self.of((name, type(part), own))
            yield from self.of(dict(value.state_dict()))
        else:
            yield from self.of((type(value), vars(value)))

    def _class(self, value: type) -> Iterable[str | memoryview]:
        yield f"{value.__module__}.{value.__qualname__}"
        for base in value.__mro__:
            if base.__module__.partition(".")[0] in LIBRARIES:
                continue
            members = {name: _plain_member(member) for name, member in vars(base).items()}
            yield from self.of({name: member for name, member in members.items() if member is not None})


def _plain_member(member: Any) -> Any:
    """What of a class's members changes what it does: methods, and attributes that are plain."""
    if isinstance(member, staticmethod | classmethod):
        return member.__func__
    if isinstance(member, property):
        return member.fget
    return (
        member if isinstance(member, FunctionType | bool | int | float | str | tuple | list | dict) else None
    )


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
