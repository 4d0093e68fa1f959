"""Predictor heads."""

from __future__ import annotations

from torch import nn

from sklearn_ssl.losses import mlp


def make_predictor(dim: int, given: int | None, default: int) -> nn.Module:
    """Build a predictor, an MLP with one hidden layer.

    Parameters
    ----------
    dim : int
        Width of the projections, the input and the output.
    given : int or None
        Width of the hidden layer; None for `default`.
    default : int
        Default width of the hidden layer.

    Returns
    -------
    nn.Module
        Module that maps projections (n, dim) to predictions (n, dim).
    """
    return mlp(dim, default if given is None else given, dim)
