"""NNCLR: the positive is a neighbour, not another view."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl import Batch, Spec, SSLLoss
from sklearn_ssl.losses import Queue, check_number, mlp, queue_size


class NNCLR(SSLLoss):
    r"""Nearest-neighbour contrastive learning: another image that looks alike stands in for the first view.

    Views of one image differ by what the augmentation does. Its nearest neighbour among the images
    seen lately differs in pose, stroke or light, and is mostly of the same kind: to be close to it, a
    projection must say what the kind is. From view 1 to view 2:

    .. math::
        \ell_i = -\log \frac{\exp(\mathrm{NN}(z_i, Q)^\top p'_i / \tau)}
        {\sum_k \exp(\mathrm{NN}(z_i, Q)^\top p'_k / \tau)},
        \qquad \mathrm{NN}(z, Q) = \arg\min_{u \in Q} \|z - u\|

    where all vectors have length 1, z_i is the projection of view 1, p'_i the predictor's output for view
    2, Q the queue of earlier projections of view 1, and k goes over the batch. The loss is the mean over
    the images, and over the two directions.

    Parameters
    ----------
    temperature : float, default=0.2
        :math:`\tau`. Lower values look at the hardest negatives only, which in small data are often of
        the same kind as the image. 0.2 is solo-learn's for CIFAR-10; on ImageNet the paper uses 0.1.
    queue_size : int or "auto", default="auto"
        Rows of Q; at least a batch. "auto": half as many as there are images, at most 4096, so that the
        neighbour is seldom the image itself an epoch ago. The paper uses 98,304 of 1.28 million.

    Notes
    -----
    The neighbour passes no gradient. In the first step, when Q is empty, the projection itself takes its
    place. The predictor's hidden layer is twice as wide as the features, as the paper's is (4096 for 2048);
    the projector is the usual one of two layers, where the paper has three.

    References
    ----------
    Dwibedi et al., "With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual
    Representations", ICCV 2021, arXiv:2104.14548, section 3 and the pseudo-code.
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

    def step(self, batch: Batch, student, teacher) -> Tensor:
        z1, z2 = (F.normalize(z, dim=1) for z in student(batch.views))
        p1, p2 = (F.normalize(self.predictor(z), dim=1) for z in (z1, z2))
        loss = (self._pick(self._nearest(z1), p2) + self._pick(self._nearest(z2), p1)) / 2
        self.queue.push(z1)
        return loss

    @torch.no_grad()
    def _nearest(self, z: Tensor) -> Tensor:
        """Of each row, the most similar one in the queue."""
        filled = self.queue.filled
        similarity = (z @ self.queue.rows.T).masked_fill(~filled, float("-inf"))  # (n, queue_size)
        return torch.where(filled.any(), self.queue.rows[similarity.argmax(dim=1)], z)

    def _pick(self, neighbour: Tensor, p: Tensor) -> Tensor:
        """Cross entropy of finding the image's own prediction among those of the batch."""
        logits = neighbour @ p.T / self.temperature  # (n, n)
        return F.cross_entropy(logits, torch.arange(len(p), device=p.device))
