"""SwAV: prediction of the cluster assignment of another view."""

from __future__ import annotations

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
    check_number,
    mean_over_targets,
    mlp,
    multi_crop,
    queue_size,
)
from sklearn_ssl_cca.sizes import number_of_groups

# Maximum fraction of the training with frozen prototypes: a single epoch may be half of a short training.
MAX_FROZEN_FRACTION = 0.1


class SwAV(SSLLoss):
    r"""Swapping assignments between multiple views (SwAV) [1]_.

    Each full-size view i is softly assigned to prototypes :math:`c_k`, learned unit vectors, by a code q.
    Codes are balanced over the batch, so that all prototypes are used equally and the assignments cannot
    collapse to one. Every other view of the image, local crops included, has to predict that code:

    .. math::
        \ell = \frac{1}{2 (V - 1)} \sum_{i=1}^{2} \sum_{v \neq i} \Bigl( -\sum_k q_{i,k} \log p_{v,k} \Bigr),
        \qquad p_v = \operatorname{softmax}_k \frac{\hat z_v^\top c_k}{\tau}

        q_i = \text{a few iterations of Sinkhorn-Knopp on } \exp(\hat z_i^\top c_k / \epsilon)

    where :math:`\hat z` is the projection scaled to unit length, V the number of views, and the loss is the
    mean over the images. The gradient does not flow through the codes (stop-gradient).

    Parameters
    ----------
    n_prototypes : int or "auto", default="auto"
        Number of prototypes. "auto": 300, at most a quarter of the number of images. The paper uses 3000 for
        the 1000 classes of ImageNet, and finds that their number has little influence.
    temperature : float, default=0.1
        Temperature :math:`\tau` of the predictions. The default is the paper's.
    epsilon : float, default=0.05
        Regularization :math:`\epsilon` of Sinkhorn-Knopp. Smaller values give harder codes. The default is
        the paper's; the authors advise 0.03 if the loss stays at log K.
    sinkhorn_iterations : int, default=3
        Number of iterations of Sinkhorn-Knopp. The default is the paper's.
    freeze_epochs : int, default=1
        Number of epochs in which the prototypes are frozen, until the features are meaningful; at most a
        tenth of the training. The paper: one epoch, of 200 and more.
    queue_size : int or "auto", default="auto"
        Number of earlier projections stored for each full-size view, which help to balance the codes if the
        batch is small compared with the number of prototypes. "auto": 3840, the authors' value for batches of
        256, at most the number of images.
    queue_from : float, default=0.1
        Fraction of the training after which the queue is used, since early projections are soon outdated;
        1: never. The authors' recipe begins at epoch 15 of 200.
    local_crops : int or "auto", default="auto"
        Number of local crops of each image, in addition to the two full-size views. "auto": 4, or 0 if they
        would have less than 24 pixels on the short side or the backbone rejects them; images below 48 pixels
        thus have two full-size views only. The paper: 6, of 96 pixels, with views of 224.
    local_size : float or tuple of floats, default=0.5
        Side of a local crop, as a fraction of the full size. 1.0: small parts of the image, enlarged. A tuple
        gives the sides of several crops in turn.

    Attributes
    ----------
    prototypes : nn.Parameter of shape (n_prototypes, dim)
        Unit-length prototypes.
    queues : nn.ModuleList of Queue
        Queue of each full-size view.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range; in `build`, if the images, the batch or the backbone do not
        allow the given number of prototypes, the queue or the local crops.

    Warns
    -----
    UserWarning
        In `build`, if the given local crops have less than 16 pixels on the short side.

    Notes
    -----
    The projections are standardized over the batch (BatchNorm without an affine transformation), unlike the
    paper's. Otherwise they share one dominant direction early in training, all codes are near 1/K, and the
    loss stays at log K for a short training. Sinkhorn-Knopp works on logarithms, which is equivalent and
    neither overflows nor divides by zero, so that any :math:`\epsilon` is possible.

    The area of full-size views is that of the augmentation; the paper's views cover a fraction of 0.14 to 1
    (``augment__crop=0.14``).

    References
    ----------
    .. [1] Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
       NeurIPS 2020, arXiv:2006.09882, equations 1 to 6; constants from github.com/facebookresearch/swav.
    """

    family = "cca"

    def __init__(
        self,
        n_prototypes: int | str = "auto",
        temperature: float = 0.1,
        epsilon: float = 0.05,
        sinkhorn_iterations: int = 3,
        freeze_epochs: int = 1,
        queue_size: int | str = "auto",
        queue_from: float = 0.1,
        local_crops: int | str = "auto",
        local_size: float | tuple[float, ...] = 0.5,
    ):
        super().__init__()
        self.n_prototypes = n_prototypes
        self.temperature = check_number("loss__temperature", temperature, above=0)
        self.epsilon = check_number("loss__epsilon", epsilon, above=0)
        self.sinkhorn_iterations = check_number(
            "loss__sinkhorn_iterations", sinkhorn_iterations, whole=True, at_least=1
        )
        self.freeze_epochs = check_number("loss__freeze_epochs", freeze_epochs, whole=True, at_least=0)
        self.queue_size = queue_size
        self.queue_from = check_number("loss__queue_from", queue_from, at_least=0, at_most=1)
        self.local_crops = local_crops
        self.local_size = local_size

    def make_projector(self, in_dim: int, widths: tuple[int, ...]) -> nn.Module:
        """Build an MLP whose output is standardized over the batch, too; see the Notes."""
        return mlp(in_dim, *widths, norm_output=True)

    def build(self, spec: Spec) -> None:
        self.view_spec = multi_crop(self.local_crops, self.local_size, spec)
        k = number_of_groups("n_prototypes", self.n_prototypes, 300, spec.n_samples)
        c = torch.randn(k, spec.dim, generator=spec.generator)
        self.prototypes = nn.Parameter(F.normalize(c, dim=1))
        size = queue_size(self.queue_size, 3840, spec)
        self.queues = nn.ModuleList(Queue(size, spec.dim) for _ in range(self.view_spec.n))

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        frozen = batch.epoch < self.freeze_epochs and batch.progress < MAX_FROZEN_FRACTION
        c = self.prototypes.detach() if frozen else self.prototypes
        z = [F.normalize(view, dim=1) for view in student(batch.views)]  # (n, d) each
        scores = [view @ c.T for view in z]  # (n, K) each
        use_queue = batch.progress >= self.queue_from
        q = []
        for i, queue in enumerate(self.queues):
            q.append(self._codes(scores[i], queue if use_queue else None))
            queue.push(z[i])  # after the codes: the current batch must not count twice
        return swapped_prediction(q, [s / self.temperature for s in scores])

    @torch.no_grad()
    def after_step(self, student: Student, teacher: Teacher | None) -> None:
        self.prototypes.copy_(F.normalize(self.prototypes, dim=1))

    @torch.no_grad()
    def _codes(self, scores: Tensor, queue: Queue | None) -> Tensor:
        """Return the codes of a view, (n, K), balanced over the batch and, if given, its queue."""
        n = len(scores)
        counts = torch.ones(n, dtype=torch.bool, device=scores.device)
        if queue is not None:
            scores = torch.cat([scores, queue.rows @ self.prototypes.T])  # (n + queue, K)
            counts = torch.cat([counts, queue.filled])
        return sinkhorn(scores, counts, self.epsilon, self.sinkhorn_iterations)[:n]


def swapped_prediction(q: list[Tensor], scores: list[Tensor]) -> Tensor:
    """Return the mean cross-entropy between each code and the predictions of all other views."""
    log_p = [s.log_softmax(dim=1) for s in scores]
    return mean_over_targets(lambda code, other: -(code * other).sum(dim=1).mean(), q, log_p)


def sinkhorn(scores: Tensor, counts: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Compute balanced codes by the Sinkhorn-Knopp algorithm, on logarithms.

    Parameters
    ----------
    scores : Tensor of shape (n, K)
        Similarities of the projections with the prototypes.
    counts : Tensor of shape (n,), bool
        Rows over which the prototypes are balanced; False for the empty rows of a queue.
    epsilon : float
        Regularization: smaller values give harder codes.
    iterations : int
        Number of iterations.

    Returns
    -------
    Tensor of shape (n, K)
        Codes. Each row sums to 1; over the rows that count, all columns have about the same sum.
    """
    log_q = scores / epsilon
    for _ in range(iterations):
        log_q = log_q - log_q.masked_fill(~counts[:, None], float("-inf")).logsumexp(dim=0)
        log_q = log_q.log_softmax(dim=1)
    return log_q.exp()
