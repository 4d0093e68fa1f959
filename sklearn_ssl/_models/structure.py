"""Comparison of two modules apart from the values of their weights."""

from __future__ import annotations

from types import BuiltinFunctionType, FunctionType, MethodType, NoneType
from typing import Any

import torch
from torch import nn

FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType)
SETTINGS = (NoneType, bool, int, float, str, torch.dtype, type, *FUNCTIONS)


def have_same_structure(a: nn.Module, b: nn.Module) -> bool:
    """Return whether two modules compute the same function once they have the same weights.

    Compares the names, order and classes of all submodules, the names and shapes in the state dicts, and the
    public attributes that configure a module: numbers, strings, types and functions, also in lists and
    tuples. The code of a class, hooks, training mode and private attributes are not compared.
    """
    return (
        _shapes(a) == _shapes(b)
        and [name for name, _ in a.named_modules()] == [name for name, _ in b.named_modules()]
        and all(
            type(x) is type(y) and _settings(x) == _settings(y)
            for x, y in zip(a.modules(), b.modules(), strict=True)
        )
    )


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def _settings(module: nn.Module) -> dict[str, Any]:
    """Return the public attributes that configure a module."""
    return {
        # A method bound to the module itself differs between two modules; its function does not.
        name: getattr(value, "__func__", value)
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training" and _is_setting(value)
    }


def _is_setting(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_setting, value))
    return isinstance(value, SETTINGS)
