"""NT-Xent with any weights of the positives, for losses that use labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def weighted_ntxent(z: Sequence[Tensor], weights: Tensor, temperature: float) -> Tensor:
    """Compute the mean cross-entropy between the weights of an image's positives and the softmax of cosines.

    Parameters
    ----------
    z : sequence of Tensor of shape (n, dim)
        Projections, one tensor for each view.
    weights : Tensor of shape (n, n)
        Weights with which images are positives of each other, 1 on the diagonal; those of each view are
        normalized over all other views.
    temperature : float
        Temperature of the softmax.

    Returns
    -------
    Tensor of shape ()
        The loss.

    Raises
    ------
    ValueError
        If there are fewer than two views.
    """
    if len(z) < 2:
        raise ValueError(f"an image without a label needs at least two views, got {len(z)}.")
    weights = weights.to(z[0].dtype).repeat(len(z), len(z)).fill_diagonal_(0)  # (vn, vn), v views
    unit = F.normalize(torch.cat(list(z)), dim=1)
    s = unit @ unit.T / temperature
    mean_of_positives = (s * weights).sum(dim=1) / weights.sum(dim=1)
    itself = torch.eye(len(s), dtype=torch.bool, device=s.device)
    return (s.masked_fill(itself, float("-inf")).logsumexp(dim=1) - mean_of_positives).mean()
