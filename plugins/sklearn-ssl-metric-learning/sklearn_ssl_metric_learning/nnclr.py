"""NNCLR: contrastive learning with nearest neighbors as positives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl.losses import Batch, Queue, Spec, SSLLoss, Student, Teacher, check_number, mlp, queue_size


class NNCLR(SSLLoss):
    r"""Nearest-neighbor contrastive learning of visual representations (NNCLR) [1]_.

    The first view is replaced by its nearest neighbor among recent images. Views of one image differ only by
    the augmentation, whereas a nearest neighbor differs in pose, shape or illumination and is mostly of the
    same class, so that the projections have to represent the class. From view 1 to view 2:

    .. math::
        \ell_i = -\log \frac{\exp(\mathrm{NN}(z_i, Q)^\top p'_i / \tau)}
        {\sum_k \exp(\mathrm{NN}(z_i, Q)^\top p'_k / \tau)},
        \qquad \mathrm{NN}(z, Q) = \arg\min_{u \in Q} \|z - u\|

    where all vectors are scaled to unit length, z_i is the projection of view 1, p'_i the predictor's output
    for view 2, Q the queue of earlier projections of view 1, and k runs over the batch. The loss is the mean
    over the images and over the two directions.

    Parameters
    ----------
    temperature : float, default=0.2
        Temperature :math:`\tau`. Lower values weight the hardest negatives more, which on small data sets are
        often of the same class as the image. solo-learn uses 0.2 for CIFAR-10; the paper uses 0.1 for
        ImageNet.
    queue_size : int or "auto", default="auto"
        Number of rows of Q, at least the batch size. "auto": half the number of images, at most 4096, so that
        the neighbor is rarely the same image in the previous epoch. The paper uses 98,304 for 1.28 million
        images.

    Attributes
    ----------
    queue : Queue
        Queue of projections of view 1.
    predictor : nn.Module
        Predictor.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range; in `build`, if `queue_size` does not suit the batch size.

    Notes
    -----
    The gradient does not flow through the neighbor (stop-gradient). In the first step, when Q is empty, the
    projection itself replaces it. The predictor's hidden layer is twice as wide as the features, as the
    paper's (4096 for 2048); the projector has the usual two layers, the paper's has three.

    References
    ----------
    .. [1] Dwibedi et al., "With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of
       Visual Representations", ICCV 2021, arXiv:2104.14548, section 3 and the pseudo-code.
    """

    family = "contrastive"

    def __init__(self, temperature: float = 0.2, queue_size: int | str = "auto"):
        super().__init__()
        self.temperature = check_number("loss__temperature", temperature, above=0)
        self.queue_size = queue_size

    def build(self, spec: Spec) -> None:
        size = queue_size(self.queue_size, min(4096, spec.n_samples // 2), spec)
        self.queue = Queue(size, spec.dim)
        self.predictor = mlp(spec.dim, 2 * spec.feature_dim, spec.dim)

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        z1, z2 = (F.normalize(z, dim=1) for z in student(batch.views))
        p1, p2 = (F.normalize(self.predictor(z), dim=1) for z in (z1, z2))
        loss = (self._pick(self._nearest(z1), p2) + self._pick(self._nearest(z2), p1)) / 2
        self.queue.push(z1)  # after the search: a projection must not be its own neighbor
        return loss

    @torch.no_grad()
    def _nearest(self, z: Tensor) -> Tensor:
        """Return the most similar row of the queue for each row of z; z itself if the queue is empty."""
        filled = self.queue.filled
        similarity = (z @ self.queue.rows.T).masked_fill(~filled, float("-inf"))  # (n, queue_size)
        return torch.where(filled.any(), self.queue.rows[similarity.argmax(dim=1)], z)

    def _pick(self, neighbor: Tensor, p: Tensor) -> Tensor:
        """Return the cross-entropy of identifying the image's own prediction among those of the batch."""
        logits = neighbor @ p.T / self.temperature  # (n, n)
        return F.cross_entropy(logits, torch.arange(len(p), device=p.device))
