"""Losses on two views, for any number of views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TypeVar

import torch
from torch import Tensor

Target = TypeVar("Target")
Prediction = TypeVar("Prediction")


def mean_over_pairs(
    loss_of_pair: Callable[[Tensor, Tensor], Tensor], z: Sequence[Tensor], n_local: int = 0
) -> Tensor:
    """Average a loss that is defined on two views over all pairs of views.

    Parameters
    ----------
    loss_of_pair : callable
        Function of the projections of two views, each of shape (n, dim), that returns a scalar tensor.
    z : sequence of Tensor of shape (n, dim)
        Projections, one tensor for each view.
    n_local : int, default=0
        Number of local crops, which are the last views. Pairs of two of them are left out: two small parts of
        an image may have nothing in common.

    Returns
    -------
    Tensor of shape ()
        Mean over the unordered pairs of views.

    Raises
    ------
    ValueError
        If there are fewer than two views.
    """
    if len(z) < 2:
        raise ValueError(f"a loss on pairs needs at least two views, got {len(z)}.")
    pairs = [(i, j) for i, j in combinations(range(len(z)), 2) if i < len(z) - n_local]
    return torch.stack([loss_of_pair(z[i], z[j]) for i, j in pairs]).mean()


def mean_over_targets(
    loss_of_pair: Callable[[Target, Prediction], Tensor],
    targets: Sequence[Target],
    predictions: Sequence[Prediction],
) -> Tensor:
    """Average a loss over all pairs of a target and the prediction from another view.

    Parameters
    ----------
    loss_of_pair : callable
        Function of the target of one view and the prediction from another, that returns a scalar tensor.
    targets : sequence
        Targets, one for each of the first views.
    predictions : sequence
        Predictions, one for each view; local crops come last, and have no targets.

    Returns
    -------
    Tensor of shape ()
        Mean over the pairs of different views.
    """
    pairs = [(i, j) for i in range(len(targets)) for j in range(len(predictions)) if i != j]
    return torch.stack([loss_of_pair(targets[i], predictions[j]) for i, j in pairs]).mean()
