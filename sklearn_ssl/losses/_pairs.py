"""Losses on two views, for any number of views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor


def mean_over_pairs(loss_of_pair: Callable[[Tensor, Tensor], Tensor], z: Sequence[Tensor]) -> Tensor:
    """Average a loss that is defined on two views over all pairs of views.

    Parameters
    ----------
    loss_of_pair : callable
        Function of the projections of two views, each of shape (n, dim), that returns a scalar tensor.
    z : sequence of Tensor of shape (n, dim)
        Projections, one tensor for each view.

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
    return torch.stack([loss_of_pair(a, b) for a, b in combinations(z, 2)]).mean()
