"""Validation of a teacher's momentum: a number, or a schedule."""

from __future__ import annotations

from collections.abc import Callable

from sklearn_ssl.losses import check_number


def checked_momentum(momentum: float | Callable[[float], float]) -> float | Callable[[float], float]:
    """Return the momentum if it is valid.

    Parameters
    ----------
    momentum : float or callable
        Number from 0 to 1, or a function that returns one at progress 0.

    Returns
    -------
    float or callable
        `momentum`.

    Raises
    ------
    ValueError
        If `momentum` is neither.
    """
    if not callable(momentum):
        return check_number("loss__momentum", momentum, at_least=0, at_most=1)
    try:
        at_the_start = momentum(0.0)
    except Exception as error:  # a user's function may raise any exception
        raise ValueError(f"loss__momentum={momentum} failed as a function of progress: {error}") from error
    check_number("loss__momentum(0.0)", at_the_start, at_least=0, at_most=1)
    return momentum
