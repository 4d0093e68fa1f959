"""Parts of methods that compare the distribution of projections with a Gaussian, along random directions."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl.losses import Batch, Spec, SSLLoss, Student, Teacher, check_number, multi_crop

# Maximum number of directions: more take memory for no gain.
MAX_DIRECTIONS = 2**16


class SlicedLoss(SSLLoss):
    """Loss of the projections along random directions, which are drawn again in each step.

    A subclass implements ``forward(*z, directions)``; its docstring describes the hyperparameters.
    """

    def __init__(
        self,
        lambd: float,
        n_directions: int,
        n_views: int,
        local_crops: int | str,
        local_size: float | tuple[float, ...],
    ):
        super().__init__()
        self.lambd = check_number("loss__lambd", lambd, at_least=0, at_most=1)
        self.n_directions = check_number(
            "loss__n_directions", n_directions, whole=True, at_least=1, at_most=MAX_DIRECTIONS
        )
        self.n_views = check_number("loss__n_views", n_views, whole=True, at_least=2, at_most=100)
        self.local_crops = local_crops
        self.local_size = local_size

    def build(self, spec: Spec) -> None:
        self.view_spec = replace(multi_crop(self.local_crops, self.local_size, spec), n=self.n_views)

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        z = student(batch.views)
        return self(*z, directions=draw_directions(self.n_directions, z[0], batch.generator))


def draw_directions(n: int, z: Tensor, generator: torch.Generator) -> Tensor:
    """Return n random directions of unit length for projections z, in columns, (dim, n)."""
    normal = torch.randn(z.shape[1], n, generator=generator, device=generator.device)
    return F.normalize(normal, dim=0).to(z)


def distance_to_center(views: Tensor, n_full: int) -> Tensor:
    """Return the mean squared difference between projections, (views, n, dim), and their image's center.

    The center is the mean over the first `n_full` views.
    """
    return (views - views[:n_full].mean(dim=0)).square().mean()
