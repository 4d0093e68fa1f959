"""Mean shift (MSF): move towards the mean of the neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_ssl import Batch, Spec, SSLLoss, ViewSpec
from sklearn_ssl.losses import Queue, is_whole, mlp, queue_size
from sklearn_ssl_metric_learning.momentum import checked_momentum


def twice_then_a_quarter(feature_dim: int) -> tuple[int, ...]:
    """Widths of the projector: the authors', but at least 128 at its end."""
    return 2 * feature_dim, max(128, feature_dim // 4)


class MeanShift(SSLLoss):
    r"""Mean shift: move an image towards the mean of its nearest neighbours, as the clustering method does.

    BYOL, whose query is drawn not only to the teacher's projection of the image's other view, but to the k
    projections of lately seen images that are nearest to it. So groups of images contract, and no negatives
    are needed:

    .. math::
        \ell = \frac1k \sum_{u \in S} \|p - u\|^2 = \frac1k \sum_{u \in S} (2 - 2 \, p^\top u),
        \qquad S = \mathrm{kNN}(t, Q)

    where p is the predictor's output for the student's projection of a strongly augmented view, t the
    teacher's projection of a weakly augmented one, Q the queue of the teacher's latest projections,
    t included, all scaled to length 1. The loss is the mean over the images. As t is its own first neighbour,
    k = 1 is BYOL (in one direction).

    Parameters
    ----------
    k : int, default=5
        Neighbours; the paper's. More are bolder: only as good as the neighbours are.
    momentum : float or callable, default=0.99
        Share of itself that the teacher keeps in each step, or a picklable function that makes it from the
        progress of the training in [0, 1]; the paper's. It carries over to short trainings: with a faster
        teacher the neighbours contract before they are good.
    queue_size : int or "auto", default="auto"
        Rows of Q; at least a batch, and at least k. "auto": as many as there are images, at most
        the paper's 128,000.

    Notes
    -----
    The hidden layers of projector and predictor are twice as wide as the features, their outputs a quarter
    as wide, as the authors', but at least 128. Unlike theirs, the projections are standardised over the batch
    (BatchNorm without weights of its own, as in SimSiam): else they share one large direction at first, and
    all images are each other's neighbours.

    References
    ----------
    Koohpayegani, Tejankar and Pirsiavash, "Mean Shift for Self-Supervised Learning", ICCV 2021,
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
        """An MLP with BatchNorm on its output too; see the notes."""
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

    def step(self, batch: Batch, student, teacher) -> Tensor:
        [z], [t] = student(batch.views[:1]), teacher(batch.views[1:])
        p, t = F.normalize(self.predictor(z), dim=1), F.normalize(t, dim=1)
        self.queue.push(t)
        nearest, there = self._nearest(t)
        distance = 2 - 2 * torch.einsum("nd,nkd->nk", p, self.queue.rows[nearest])
        return ((distance * there).sum(dim=1) / there.sum(dim=1)).mean()

    def _nearest(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the queue, (n, k), and which of them are there: the first batch may be smaller than k."""
        similarity = (t @ self.queue.rows.T).masked_fill(~self.queue.filled, float("-inf"))
        values, rows = similarity.topk(self.k, dim=1)
        return rows, values.isfinite()
