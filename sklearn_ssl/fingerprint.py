"""Whether two fits are the same one: a number for parameters and images, the same in every process."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def fingerprint(*values: Any) -> str:
    """Hexadecimal digits that differ where the values do.

    Parameters
    ----------
    *values : anything
        Numbers, strings, arrays, tensors, modules (class, structure and weights), classes and functions (name
        and code), containers of these, and objects by their class and attributes.

    Returns
    -------
    str
        32 digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(values):
        digest.update(part if isinstance(part, memoryview) else f"{len(part)}:{part}".encode())
    return digest.hexdigest()


def _parts(value: Any) -> Iterable[str | memoryview]:
    """What tells a value from others, in pieces."""
    # A dict is one by what it holds: state dicts become plain ones in a file.
    yield "dict" if isinstance(value, Mapping) else type(value).__qualname__
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous()
        yield f"{value.dtype} {tuple(value.shape)}"
        yield memoryview(value.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{value.dtype} {value.shape}"
        yield memoryview(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    elif isinstance(value, nn.Module):
        yield repr(value)
        yield from _parts(dict(value.state_dict()))
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            yield from _parts((key, value[key]))
    elif isinstance(value, list | tuple | np.ndarray):
        yield str(len(value))
        for item in value:
            yield from _parts(item)
    elif isinstance(value, set | frozenset):
        yield from sorted(map(fingerprint, value))
    elif isinstance(value, FunctionType):
        yield f"{value.__module__}.{value.__qualname__}"
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        yield from _parts((value.__code__, value.__defaults__, value.__kwdefaults__, cells))
    elif isinstance(value, CodeType):
        yield from _parts((value.co_code, value.co_names, value.co_consts))
    elif isinstance(value, type | BuiltinFunctionType):
        yield f"{value.__module__}.{value.__qualname__}"
    elif isinstance(value, functools.partial):
        yield from _parts((value.func, value.args, value.keywords))
    elif isinstance(value, np.random.RandomState):
        yield from _parts(value.get_state())
    elif isinstance(value, os.PathLike):
        yield os.fspath(value)
    elif hasattr(value, "__dict__"):
        yield from _parts(vars(value))
    else:  # numbers, strings, None, torch.device, torch.dtype, ...
        yield repr(value)
