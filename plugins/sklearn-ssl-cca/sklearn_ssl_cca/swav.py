"""SwAV: predict the group of another view."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_ssl import Batch, Spec, SSLLoss, ViewSpec
from sklearn_ssl.losses import Queue, check_number, local_crops_that_fit, mlp, queue_size
from sklearn_ssl_cca.sizes import number_of_groups

GLOBAL = 2  # full-size views, whose codes are predicted
FROZEN_AT_MOST = 0.1  # of the training: an epoch can be half of it


class SwAV(SSLLoss):
    r"""Swapped assignments between views: sort the images into groups, and tell the group from another view.

    Prototypes :math:`c_k` are learned points on the sphere. Each full-size view i is assigned to them softly,
    by a code q that fills all prototypes equally over the batch (so that not all images can go to one), and
    every other view of the image, small crops included, has to predict that code:

    .. math::
        \ell = \frac{1}{2 (V - 1)} \sum_{i=1}^{2} \sum_{v \neq i} \Bigl( -\sum_k q_{i,k} \log p_{v,k} \Bigr),
        \qquad p_v = \operatorname{softmax}_k \frac{\hat z_v^\top c_k}{\tau}

        q_i = \text{a few turns of Sinkhorn-Knopp on } \exp(\hat z_i^\top c_k / \epsilon)

    where :math:`\hat z` is the projection divided by its norm, V the number of views, and the loss is the
    mean over the images. Codes are targets: no gradient passes through them.

    Parameters
    ----------
    n_prototypes : int or "auto", default="auto"
        "auto": 300, at most a quarter of the images. The paper has 3000 for the 1000 classes of ImageNet,
        and finds their number of little influence.
    temperature : float, default=0.1
        :math:`\tau`; the paper's.
    epsilon : float, default=0.02
        :math:`\epsilon`. Smaller makes harder codes, from which some hundred steps learn more; the paper has
        0.05, and the authors advise 0.03 where the loss stays at log K.
    sinkhorn_iterations : int, default=3
        Turns of Sinkhorn-Knopp; the paper's.
    freeze_epochs : int, default=1
        Epochs in which the prototypes stay as drawn, until the features mean something, but at most a tenth
        of the training. The paper: one, of 200 and more.
    queue_size : int or "auto", default="auto"
        Earlier projections of each full-size view, which help to fill the prototypes equally where a batch is
        small beside their number. "auto": 3840, the authors' for batches of 256, at most as many as images.
    queue_from : float, default=0.1
        Share of the training after which the queue is used, as early projections soon mean nothing; 1: never.
        The authors' recipe begins at epoch 15 of 200.
    local_crops : int or "auto", default="auto"
        Small crops of each image, beside the two full-size views. "auto": 4, or none where they would have
        less than 16 pixels on the short side or the backbone cannot take them; so images below 32 pixels have
        two full-size views only. The paper: 6, of 96 pixels beside views of 224.
    local_size : float, default=0.5
        Their side, as a share of the full size. 1.0: small parts of the image, enlarged.

    Raises
    ------
    ValueError
        When `build` finds that the images, the batch or the backbone do not allow the number of prototypes,
        the queue or the local crops given.

    Warns
    -----
    UserWarning
        When the local crops that were given have less than 16 pixels on the short side.

    Notes
    -----
    The projections are standardised over the batch (BatchNorm, without weights of its own), which the paper
    does not do: else they share one large direction at first, all codes are near 1/K, and the loss stays at
    log K for a short training. Sinkhorn-Knopp works on logarithms, which is the same and neither overflows
    nor divides by zero, so any :math:`\epsilon` will do.

    Full-size views cover what the augmentation says; the paper's cover 0.14 to 1 of the area
    (``augment__crop=0.14``).

    References
    ----------
    Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS
    2020, arXiv:2006.09882, equations 1 to 6; constants from github.com/facebookresearch/swav.
    """

    family = "cca"

    def __init__(
        self,
        n_prototypes: int | str = "auto",
        temperature: float = 0.1,
        epsilon: float = 0.02,
        sinkhorn_iterations: int = 3,
        freeze_epochs: int = 1,
        queue_size: int | str = "auto",
        queue_from: float = 0.1,
        local_crops: int | str = "auto",
        local_size: float = 0.5,
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
        """An MLP with BatchNorm on its output too; see the notes."""
        return mlp(in_dim, *widths, norm_output=True)

    def build(self, spec: Spec) -> None:
        local = local_crops_that_fit(self.local_crops, self.local_size, spec)
        self.view_spec = ViewSpec(GLOBAL, local=local, local_size=self.local_size)
        k = number_of_groups("n_prototypes", self.n_prototypes, 300, spec.n_samples)
        c = torch.randn(k, spec.dim, generator=spec.generator)
        self.prototypes = nn.Parameter(F.normalize(c, dim=1))
        size = queue_size(self.queue_size, 3840, spec)
        self.queues = nn.ModuleList(Queue(size, spec.dim) for _ in range(GLOBAL))

    def step(self, batch: Batch, student, teacher) -> Tensor:
        frozen = batch.epoch < self.freeze_epochs and batch.progress < FROZEN_AT_MOST
        c = self.prototypes.detach() if frozen else self.prototypes
        z = [F.normalize(view, dim=1) for view in student(batch.views)]  # (n, d) each
        scores = [view @ c.T for view in z]  # (n, K) each
        use_queue = batch.progress >= self.queue_from
        q = []
        for i, queue in enumerate(self.queues):
            q.append(self._codes(scores[i], queue if use_queue else None))
            queue.push(z[i])
        return swapped_prediction(q, [s / self.temperature for s in scores])

    @torch.no_grad()
    def after_step(self, student, teacher) -> None:
        self.prototypes.copy_(F.normalize(self.prototypes, dim=1))

    @torch.no_grad()
    def _codes(self, scores: Tensor, queue: Queue | None) -> Tensor:
        n = len(scores)
        counts = torch.ones(n, dtype=torch.bool, device=scores.device)
        if queue is not None:
            scores = torch.cat([scores, queue.rows @ self.prototypes.T])  # (n + queue, K)
            counts = torch.cat([counts, queue.filled])
        return sinkhorn(scores, counts, self.epsilon, self.sinkhorn_iterations)[:n]


def swapped_prediction(q: list[Tensor], scores: list[Tensor]) -> Tensor:
    """Mean cross entropy of each code with the predictions of all other views."""
    log_p = [s.log_softmax(dim=1) for s in scores]
    terms = [-(q[i] * log_p[v]).sum(dim=1).mean() for i in range(len(q)) for v in range(len(log_p)) if v != i]
    return torch.stack(terms).mean()


def sinkhorn(scores: Tensor, counts: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Codes: each row sums to 1, and the rows that count fill all columns about equally.

    Parameters
    ----------
    scores : Tensor of shape (n, K)
    counts : bool Tensor of shape (n,)
    epsilon : float
    iterations : int

    Returns
    -------
    Tensor of shape (n, K)
    """
    log_q = scores / epsilon
    for _ in range(iterations):
        log_q = log_q - log_q.masked_fill(~counts[:, None], float("-inf")).logsumexp(dim=0)
        log_q = log_q.log_softmax(dim=1)
    return log_q.exp()
