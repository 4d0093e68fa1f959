"""Parts of methods that compare the distribution of projections with a Gaussian, along random directions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Maximum number of directions: more take memory for no gain.
MAX_DIRECTIONS = 2**16


def draw_directions(n: int, z: Tensor, generator: torch.Generator) -> Tensor:
    """Return n random directions of unit length for projections z, in columns, (dim, n)."""
    normal = torch.randn(z.shape[1], n, generator=generator, device=generator.device)
    return F.normalize(normal, dim=0).to(z)


def distance_to_center(views: Tensor, n_full: int) -> Tensor:
    """Return the mean squared difference between projections, (views, n, dim), and their image's center.

    The center is the mean over the first `n_full` views.
    """
    return (views - views[:n_full].mean(dim=0)).square().mean()
