"""MoCo v2: momentum contrast."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl.losses import Batch, Queue, Spec, SSLLoss, Student, Teacher, check_number, queue_size
from sklearn_ssl_metric_learning.momentum import checked_momentum


class MoCo(SSLLoss):
    r"""Momentum contrast, version 2 (MoCo v2) [1]_ [2]_.

    A query, the student's projection of one view, has to identify the key of the image's other view among all
    keys of a queue. The queue stores keys of many batches, so that there are more negatives than images in a
    batch. Keys are computed by the momentum encoder (teacher), which changes slowly, so that old and new keys
    are comparable:

    .. math::
        \ell = -\log \frac{\exp(q^\top k_+ / \tau)}{\sum_{k \in Q} \exp(q^\top k / \tau)}

    where q is the student's projection of view 1, :math:`k_+` the teacher's of view 2, both scaled to unit
    length, and Q the queue, including :math:`k_+`. The loss is the mean over the images.

    Parameters
    ----------
    temperature : float, default=0.2
        Temperature :math:`\tau`. The default is that of version 2. Lower values weight the hardest negatives
        more.
    momentum : float or callable, default=0.9
        Momentum of the teacher, or a picklable function that returns it at a progress in [0, 1]. 0.9 averages
        over about the last ten steps, 0.999 over the last thousand, which is more than a training on small
        data has. Published values: 0.999 (ImageNet), 0.99 (the authors' CIFAR-10 demo).
    queue_size : int or "auto", default="auto"
        Number of rows of Q, at least the batch size. "auto": half the number of images, at most 4096, the
        value of the CIFAR-10 demo; the paper uses 65,536 for ImageNet.

    Attributes
    ----------
    queue : Queue
        Queue of keys.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range; in `build`, if `queue_size` does not suit the batch size.

    Notes
    -----
    *Order.* The keys of a batch are appended to the queue before its loss is computed, not after it as in the
    paper. Therefore the keys of the other images of the batch are among the negatives, as in version 3, and
    the first step has negatives. In the paper's order, only :math:`k_+` shares the BatchNorm statistics of
    the query's batch, by which it can be identified without regard to the image; the paper prevents this by
    shuffling the images between GPUs, which takes several.

    *Size.* An earlier key of the same image is a false negative. With K rows for n images, it is in the queue
    with a probability of about (K/n)²/2, since each epoch has a different order: 1/8 for half as many rows as
    images, 1/2 for as many.

    *Projector.* The projector has BatchNorm, as for the other methods; the paper's has none.

    References
    ----------
    .. [1] He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020,
       arXiv:1911.05722, equation 1.
    .. [2] Chen et al., "Improved Baselines with Momentum Contrastive Learning", 2020, arXiv:2003.04297;
       constants from github.com/facebookresearch/moco.
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

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        [q], [k] = student(batch.views[:1]), teacher(batch.views[1:])
        q, k = F.normalize(q, dim=1), F.normalize(k, dim=1)
        self.queue.push(k)
        size = len(self.queue.rows)
        logits = q @ self.queue.rows.T / self.temperature  # (n, queue_size)
        positive = torch.arange(size - len(q), size, device=q.device)  # the newest rows are last
        return F.cross_entropy(logits.masked_fill(~self.queue.filled, float("-inf")), positive)
