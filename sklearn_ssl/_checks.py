"""Checks of parameters, for the embedder, losses, backbones and optimizers; errors name the parameter."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

LARGEST = float(np.finfo(np.float32).max)


def check_number(
    name: str,
    value: Any,
    *,
    whole: bool = False,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    instead: tuple = (),
) -> Any:
    """Check a number and return it as a plain int or float.

    Parameters
    ----------
    name : str
        The parameter as the user writes it, for example ``"loss__temperature"``.
    value : object
        The value given. True, False, nan, infinity and what float32 cannot hold are refused.
    whole : bool, default=False
        Accept whole numbers only.
    at_least, above, at_most, below : float, optional
        Limits of the accepted range.
    instead : tuple, default=()
        Values accepted in place of a number, such as ``("auto",)`` or ``(None,)``; returned unchanged.

    Returns
    -------
    int, float or one of `instead`

    Raises
    ------
    ValueError
        The value is no such number.

    Examples
    --------
    >>> from sklearn_ssl.losses import check_number
    >>> check_number("loss__temperature", 0.5, above=0)
    0.5
    >>> check_number("loss__temperature", -1, above=0)
    Traceback (most recent call last):
    ...
    ValueError: loss__temperature=-1: give a finite number above 0.
    """
    if _is_one_of(value, instead):
        return value
    limits = {
        "of at least": (operator.ge, at_least),
        "above": (operator.gt, above),
        "at most": (operator.le, at_most),
        "below": (operator.lt, below),
    }
    limits = {words: (holds, bound) for words, (holds, bound) in limits.items() if bound is not None}
    number = _as_number(value, whole)
    if number is None or not all(holds(number, bound) for holds, bound in limits.values()):
        kind = "a whole number" if whole else "a finite number"
        bounds = " and".join(f" {words} {bound}" for words, (_, bound) in limits.items())
        alternatives = "".join(f", or {choice!r}" for choice in instead)
        raise ValueError(f"{name}={shortened(value)}: give {kind}{bounds}{alternatives}.")
    return number


def check_choice(name: str, value: Any, choices: tuple | list) -> Any:
    """Return the value if it is one of the choices, else raise a ValueError that lists them."""
    if _is_one_of(value, choices):
        return value
    *first, last = map(repr, choices)
    raise ValueError(f"{name}={shortened(value)}: give {', '.join(first)} or {last}.")


def check_bool(name: str, value: Any, *, instead: tuple = ()) -> Any:
    """Return True, False or one of `instead`, else raise a ValueError that lists them."""
    return bool(value) if isinstance(value, np.bool_) else check_choice(name, value, (True, False, *instead))


def check_params(name: str, value: Any) -> dict[str, Any]:
    """Return the keywords given as a dict (None: no keywords), else raise a ValueError."""
    if value is None:
        return {}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return dict(value)
    raise ValueError(
        f"{name}={shortened(value)}: give a dict of names and values, for example {{'name': 0.5}}, or None."
    )


def is_whole(value: Any) -> bool:
    """Return whether the value is a whole number; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def shortened(value: Any) -> str:
    """Return the value's repr, cut to the length of a line."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def as_nested(slot: str, params: Mapping[str, Any]) -> str:
    """Write parameters of a component the way the embedder takes them: ``loss__temperature=0.5``."""
    return ", ".join(f"{slot}__{name}={shortened(value)}" for name, value in params.items())


def _as_number(value: Any, whole: bool) -> int | float | None:
    """The value as a plain number, or None if it is not finite or none."""
    if not (is_whole(value) or (not whole and isinstance(value, Real) and not isinstance(value, bool))):
        return None
    try:
        # nan fails the comparison.
        return None if not abs(float(value)) <= LARGEST else int(value) if whole else float(value)
    except OverflowError:  # an int of more than 308 digits
        return None


def _is_one_of(value: Any, choices: tuple | list) -> bool:
    # The type first: an array answers == with an array, and True equals 1.
    return any(isinstance(value, type(choice)) and value == choice for choice in choices)
