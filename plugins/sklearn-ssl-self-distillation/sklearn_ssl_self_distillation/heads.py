"""Projectors and predictors."""

from __future__ import annotations

from torch import nn

from sklearn_ssl.losses import mlp


def standardised_mlp(*widths: int) -> nn.Module:
    """An MLP whose output, too, goes through a BatchNorm, without weights of its own.

    In the first steps all projections point the same way, and there is nothing to predict but that:
    centred over the batch they differ from the start.
    """
    return nn.Sequential(mlp(*widths), nn.BatchNorm1d(widths[-1], affine=False))


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
