"""MoCo v2: momentum contrast."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl import Batch, Spec, SSLLoss
from sklearn_ssl.losses import Queue, check_number, queue_size
from sklearn_ssl_metric_learning.momentum import checked_momentum


class MoCo(SSLLoss):
    r"""Momentum contrast, version 2: find your other view among the keys of many batches.

    A query, made of one view, shall be more similar to the key of the image's other view than to any
    other key in a queue that goes back many batches: so there are more negatives than a batch has
    images. Keys are made by a teacher, which follows the student slowly, so that old and new ones compare:

    .. math::
        \ell = -\log \frac{\exp(q^\top k_+ / \tau)}{\sum_{k \in Q} \exp(q^\top k / \tau)}

    where q is the student's projection of view 1, :math:`k_+` the teacher's of view 2, both scaled to length
    1, and Q the queue, :math:`k_+` included; the mean over the images.

    Parameters
    ----------
    temperature : float, default=0.2
        :math:`\tau`, version 2's. Lower values look at the hardest negatives only.
    momentum : float or callable, default=0.9
        Share of itself that the teacher keeps in each step, or a picklable function that makes it from the
        progress of the training in [0, 1]. 0.9 averages about the last ten steps, 0.999 the last thousand: on
        small data that is more than a training has. Published: 0.999 (ImageNet), 0.99 (the authors'
        CIFAR-10 demo).
    queue_size : int or "auto", default="auto"
        Rows of Q; at least a batch. "auto": half as many as there are images, at most 4096, the
        CIFAR-10 demo's; for ImageNet the paper uses 65,536.

    Notes
    -----
    *Order.* A batch's keys go into the queue before its loss is taken, not after it as in the paper. So
    the other images' keys of the same batch are among the negatives, as in version 3, and the first step has
    some. In the paper's order only :math:`k_+` has seen the BatchNorm statistics of the query's
    batch, by which it can be told from the rest without looking at the image; the paper prevents that by
    shuffling images between GPUs, which takes several.

    *Size.* An image's own earlier key is a negative that should be none. With K rows for n images it is in
    the queue with a probability of about (K/n)²/2, as each epoch has another order: 1/8 for half as many
    rows as images, 1/2 for as many.

    *Projector.* The usual one, with BatchNorm; the paper's has none.

    References
    ----------
    He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020,
    arXiv:1911.05722, equation 1; Chen et al., "Improved Baselines with Momentum Contrastive Learning", 2020,
    arXiv:2003.04297; constants from github.com/facebookresearch/moco.
    """

    family = "contrastive"

    def __init__(
        self,
        temperature: float = 0.2,
        momentum: float | Callable[[float], float] = 0.9,
        queue_size: int | str = "auto",
    ):
        super().__init__()
        self.temperature = check_number("loss__temperature", temperature, above=0)
        self.teacher_momentum = checked_momentum(momentum)
        self.queue_size = queue_size

    def build(self, spec: Spec) -> None:
        size = queue_size(self.queue_size, min(4096, spec.n_samples // 2), spec)
        self.queue = Queue(size, spec.dim)

    def step(self, batch: Batch, student, teacher) -> Tensor:
        [q], [k] = student(batch.views[:1]), teacher(batch.views[1:])
        q, k = F.normalize(q, dim=1), F.normalize(k, dim=1)
        self.queue.push(k)
        size = len(self.queue.rows)
        logits = q @ self.queue.rows.T / self.temperature  # (n, queue_size)
        positive = torch.arange(size - len(q), size, device=q.device)  # the newest rows are the last
        return F.cross_entropy(logits.masked_fill(~self.queue.filled, float("-inf")), positive)
