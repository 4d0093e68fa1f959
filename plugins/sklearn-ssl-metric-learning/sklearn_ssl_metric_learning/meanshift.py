"""Mean shift (MSF): attraction to the mean of the nearest neighbors."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_ssl.losses import (
    Batch,
    Queue,
    Spec,
    SSLLoss,
    Student,
    Teacher,
    ViewSpec,
    is_whole,
    mlp,
    queue_size,
)
from sklearn_ssl_metric_learning.momentum import checked_momentum


def twice_then_a_quarter(feature_dim: int) -> tuple[int, ...]:
    """Return the widths of the projector's layers, the authors', but an output of at least 128."""
    return 2 * feature_dim, max(128, feature_dim // 4)


class MeanShift(SSLLoss):
    r"""Mean shift for self-supervised learning (MSF) [1]_.

    As in the mean-shift clustering algorithm, an image moves toward the mean of its nearest neighbors. In
    contrast to BYOL, the prediction is attracted not only to the teacher's projection of the image's other
    view, but to the k projections of recent images that are nearest to it. Groups of images contract, and no
    negatives are needed:

    .. math::
        \ell = \frac1k \sum_{u \in S} \|p - u\|^2 = \frac1k \sum_{u \in S} (2 - 2 \, p^\top u),
        \qquad S = \mathrm{kNN}(t, Q)

    where p is the predictor's output for the student's projection of a strongly augmented view, t the
    teacher's projection of a weakly augmented one, and Q the queue of the teacher's most recent projections,
    including t; all are scaled to unit length. The loss is the mean over the images. Since t is its own
    nearest neighbor, k = 1 is BYOL (in one direction).

    Parameters
    ----------
    k : int, default=5
        Number of neighbors. The default is the paper's. A larger number gives more varied targets, which are
        only as good as the neighbors.
    momentum : float or callable, default=0.99
        Momentum of the teacher, or a picklable function that returns it at a progress in [0, 1]. The default
        is the paper's. It suits short trainings, too: with a faster teacher, the neighbors contract before
        they are meaningful.
    queue_size : int or "auto", default="auto"
        Number of rows of Q, at least the batch size and at least k. "auto": the number of images, at most the
        paper's 128,000.

    Attributes
    ----------
    queue : Queue
        Queue of the teacher's projections.
    predictor : nn.Module
        Predictor of the student.

    Raises
    ------
    ValueError
        If `momentum` is neither a number from 0 to 1 nor a function that returns one; in `build`, if `k` or
        `queue_size` is out of its range.

    Notes
    -----
    The hidden layers of projector and predictor are twice as wide as the features, their outputs a quarter as
    wide, as the authors', but at least 128. Unlike the authors', the projections are standardized over the
    batch (BatchNorm without an affine transformation, as in SimSiam). Otherwise they share one dominant
    direction early in training, and all images are neighbors of each other.

    References
    ----------
    .. [1] Koohpayegani, Tejankar and Pirsiavash, "Mean Shift for Self-Supervised Learning", ICCV 2021,
       arXiv:2105.07269, section 3; constants from github.com/UMBCvision/MSF.
    """

    family = "contrastive"
    defaults: ClassVar[dict] = {"projector": twice_then_a_quarter}
    view_spec = ViewSpec(2, recipes=("strong", "weak"))

    def __init__(
        self,
        k: int = 5,
        momentum: float | Callable[[float], float] = 0.99,
        queue_size: int | str = "auto",
    ):
        super().__init__()
        self.k = k
        self.teacher_momentum = checked_momentum(momentum)
        self.queue_size = queue_size

    def make_projector(self, in_dim: int, widths: tuple[int, ...]) -> nn.Module:
        """Build an MLP whose output is standardized over the batch, too; see the Notes."""
        return mlp(in_dim, *widths, norm_output=True)

    def build(self, spec: Spec) -> None:
        size = queue_size(self.queue_size, 128_000, spec)
        if not is_whole(self.k) or not 1 <= self.k <= size:
            raise ValueError(
                f"loss__k={self.k!r}: of a queue of {size} projections, the nearest can be 1 to {size}. "
                f"The paper takes 5."
            )
        self.queue = Queue(size, spec.dim)
        self.predictor = mlp(spec.dim, 2 * spec.feature_dim, spec.dim)

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        [z], [t] = student(batch.views[:1]), teacher(batch.views[1:])
        p, t = F.normalize(self.predictor(z), dim=1), F.normalize(t, dim=1)
        self.queue.push(t)
        nearest, there = self._nearest(t)
        distance = 2 - 2 * torch.einsum("nd,nkd->nk", p, self.queue.rows[nearest])
        return ((distance * there).sum(dim=1) / there.sum(dim=1)).mean()

    def _nearest(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the indices of the nearest rows of the queue and whether each is filled, (n, k) each."""
        similarity = (t @ self.queue.rows.T).masked_fill(~self.queue.filled, float("-inf"))
        # In the first steps the queue may hold fewer than k rows: the surplus has a similarity of -inf.
        values, rows = similarity.topk(self.k, dim=1)
        return rows, values.isfinite()
