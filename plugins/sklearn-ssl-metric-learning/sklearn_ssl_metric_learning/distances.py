"""Euclidean distances between the projections of two views."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pair_distances(z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the distances between unit-length projections, from 0 to 2.

    Parameters
    ----------
    z1, z2 : Tensor of shape (n, d)
        Projections of two views; they are scaled to unit length.

    Returns
    -------
    positive : Tensor of shape (n,)
        Distance between the two views of each image.
    negative : Tensor of shape (2n, 2n)
        Distances between all 2n projections, infinite for projections of the same image.
    """
    z1, z2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
    positive = torch.linalg.vector_norm(z1 - z2, dim=1)
    z = torch.cat([z1, z2])  # (2n, d)
    # The derivative of the square root is infinite at 0, and rounding errors make the argument negative for
    # equal rows.
    negative = (2 - 2 * z @ z.T).clamp(min=1e-12).sqrt()
    image = torch.arange(len(z1), device=z.device).repeat(2)
    return positive, negative.masked_fill(image[:, None] == image, float("inf"))
