"""Predictors."""

from __future__ import annotations

from torch import nn

from sklearn_ssl.losses import mlp


def make_predictor(dim: int, given: int | None, default: int) -> nn.Module:
    """From projections to predictions of projections, both `dim` wide, over one hidden layer."""
    return mlp(dim, default if given is None else given, dim)
