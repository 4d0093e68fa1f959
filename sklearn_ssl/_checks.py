"""Validation of parameters of the embedder, losses, backbones and optimizers; errors name the parameter."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Literal, overload

import numpy as np

# Largest finite number in float32, the dtype of training.
FLOAT32_MAX = float(np.finfo(np.float32).max)


@overload
def check_number(
    name: str,
    value: Any,
    *,
    whole: Literal[True],
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> int: ...
@overload
def check_number(
    name: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> float: ...
@overload
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
) -> Any: ...
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
    """Validate a number and return it as a plain int or float.

    Parameters
    ----------
    name : str
        Name of the parameter as the user writes it, for example ``"loss__temperature"``.
    value : object
        Given value. True, False, nan, infinity and numbers beyond the range of float32 are rejected.
    whole : bool, default=False
        Whether to accept integers only.
    at_least : float, default=None
        Inclusive lower limit; None: no limit.
    above : float, default=None
        Exclusive lower limit; None: no limit.
    at_most : float, default=None
        Inclusive upper limit; None: no limit.
    below : float, default=None
        Exclusive upper limit; None: no limit.
    instead : tuple, default=()
        Values accepted in place of a number, such as ``("auto",)`` or ``(None,)``; returned unchanged.

    Returns
    -------
    int, float or one of `instead`
        The number; an int if `whole` is True.

    Raises
    ------
    ValueError
        If the value is not a number in the range.

    See Also
    --------
    check_bool : Validate a boolean.
    check_choice : Validate a value of a fixed set.

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
    possible = {
        "of at least": (operator.ge, at_least),
        "above": (operator.gt, above),
        "at most": (operator.le, at_most),
        "below": (operator.lt, below),
    }
    limits = {words: (holds, bound) for words, (holds, bound) in possible.items() if bound is not None}
    number = _as_number(value, whole)
    if number is None or not all(holds(number, bound) for holds, bound in limits.values()):
        kind = "an integer" if whole else "a finite number"
        bounds = " and".join(f" {words} {bound}" for words, (_, bound) in limits.items())
        alternatives = "".join(f", or {choice!r}" for choice in instead)
        raise ValueError(f"{name}={shortened(value)}: give {kind}{bounds}{alternatives}.")
    return number


def check_choice(name: str, value: Any, choices: tuple | list) -> Any:
    """Validate a value of a fixed set of choices and return it.

    Parameters
    ----------
    name : str
        Name of the parameter as the user writes it.
    value : object
        Given value.
    choices : tuple or list
        Accepted values, at least two; a value has to be of the same type as the choice that it equals.

    Returns
    -------
    object
        The value.

    Raises
    ------
    ValueError
        If the value is none of the choices; the message lists them.

    See Also
    --------
    check_bool : Validate a boolean.
    check_number : Validate a number.

    Examples
    --------
    >>> from sklearn_ssl.losses import check_choice
    >>> check_choice("loss__reduction", "mean", ("mean", "sum"))
    'mean'
    """
    if _is_one_of(value, choices):
        return value
    *first, last = map(repr, choices)
    raise ValueError(f"{name}={shortened(value)}: give {', '.join(first)} or {last}.")


def check_bool(name: str, value: Any, *, instead: tuple = ()) -> Any:
    """Validate a boolean and return it as a plain bool.

    Parameters
    ----------
    name : str
        Name of the parameter as the user writes it.
    value : object
        Given value; True or False, of Python or NumPy.
    instead : tuple, default=()
        Values accepted in place of a boolean, such as ``("auto",)``; returned unchanged.

    Returns
    -------
    bool or one of `instead`
        The value.

    Raises
    ------
    ValueError
        If the value is none of these; the message lists them.

    See Also
    --------
    check_choice : Validate a value of a fixed set.
    check_number : Validate a number.

    Examples
    --------
    >>> from sklearn_ssl.losses import check_bool
    >>> check_bool("loss__symmetric", True)
    True
    """
    return bool(value) if isinstance(value, np.bool_) else check_choice(name, value, (True, False, *instead))


def check_params(name: str, value: Any) -> dict[str, Any]:
    """Return given keyword arguments as a dict ({} for None); raise a ValueError for other values."""
    if value is None:
        return {}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return dict(value)
    raise ValueError(
        f"{name}={shortened(value)}: give a dict of names and values, for example {{'name': 0.5}}, or None."
    )


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer, of Python or NumPy; True and False are not.

    Parameters
    ----------
    value : object
        Any value.

    Returns
    -------
    bool
        Whether the value is an integer.

    See Also
    --------
    check_number : Validate a number.
    """
    return isinstance(value, Integral) and not isinstance(value, bool)


def shortened(value: Any) -> str:
    """Return the repr of a value, truncated to 100 characters."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def as_nested(slot: str, params: Mapping[str, Any]) -> str:
    """Format parameters of a component as arguments of the embedder: ``loss__temperature=0.5``."""
    return ", ".join(f"{slot}__{name}={shortened(value)}" for name, value in params.items())


def as_side(size: tuple[int, int]) -> str:
    """Format (height, width) in pixels as a value of `image_size`: of a square, its side."""
    height, width = size
    return str(height) if height == width else f"({height}, {width})"


def _as_number(value: Any, whole: bool) -> int | float | None:
    """Return the value as a plain number, or None if it is not a number or not finite in float32."""
    if not (is_whole(value) or (not whole and isinstance(value, Real) and not isinstance(value, bool))):
        return None
    try:
        # Not `abs(...) > FLOAT32_MAX`: nan fails every comparison.
        return None if not abs(float(value)) <= FLOAT32_MAX else int(value) if whole else float(value)
    except OverflowError:  # an int of more than 308 digits
        return None


def _is_one_of(value: Any, choices: tuple | list) -> bool:
    # Compare types first: == with an array returns an array, and True equals 1.
    return any(isinstance(value, type(choice)) and value == choice for choice in choices)
