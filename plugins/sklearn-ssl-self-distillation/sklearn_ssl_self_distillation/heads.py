"""Predictors."""

from __future__ import annotations

from torch import nn

from sklearn_ssl.losses import mlp


def make_predictor(dim: int, given: int | None, default: int) -> nn.Module:
    """From projections to predictions of projections, both `dim` wide, over one hidden layer.

    Raises
    ------
    ValueError
        When the hidden layer's width was given, and is none.
    """
    if given is not None and given < 1:
        raise ValueError(
            f"loss__predictor_dim={given}: the predictor's hidden layer has at least 1 unit. Leave it at "
            f"None for {default}, which suits this backbone."
        )
    return mlp(dim, default if given is None else given, dim)
