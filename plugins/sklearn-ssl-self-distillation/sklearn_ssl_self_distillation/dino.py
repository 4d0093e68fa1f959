"""DINO: agree with a slower self on soft clusters that nobody named."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_ssl import Batch, Spec, SSLLoss, ViewSpec
from sklearn_ssl.losses import check_number, local_crops_that_fit, mlp
from sklearn_ssl_self_distillation.schedules import CosineToOne, LinearWarmup

# Of the training: an epoch can be half of it.
FROZEN_AT_MOST = 0.1


class DINO(SSLLoss):
    r"""Self-distillation with no labels: sort a view into soft clusters as the teacher sorts another.

    Student and teacher (its moving average) each turn a projection into probabilities of K outputs, by
    cosine similarity to K learned directions. The student sees all views, small local crops included, and
    shall say what the teacher says of another, full-size view: of a part it learns to tell the whole. Two
    forces on the teacher keep each other in balance: sharpening (a low temperature) makes it decide,
    centring keeps it from deciding the same for all images:

    .. math::
        \ell = \frac{1}{|T|} \sum_{(t, s) \in T}
        -\operatorname{softmax}\Bigl(\frac{W_t \bar z'_t - c}{\tau_t}\Bigr)^{\!\top}
        \log \operatorname{softmax}\Bigl(\frac{W \bar z_s}{\tau_s}\Bigr),
        \qquad c \leftarrow m c + (1 - m) \, \overline{W_t \bar z'}

    averaged over the images, where T are all pairs of a full-size view t and another view s, z the
    student's projections and z' the teacher's, the bar scales them to length 1, the K rows of W have length
    1 too (a weight-normed last layer), :math:`W_t` is the teacher's W, and the centre c follows the
    teacher's outputs, averaged over the batch.

    Parameters
    ----------
    out_dim : int, default=1024
        K. The paper uses 65,536 on ImageNet, solo-learn 4,096 on CIFAR-10.
    student_temp : float, default=0.1
        :math:`\tau_s`; the paper's.
    teacher_temp : float, default=0.04
        :math:`\tau_t`, below the student's. The paper's for up to 100 epochs, then 0.07.
    warmup_teacher_temp : float, default=0.04
        :math:`\tau_t` in the first step: it goes to `teacher_temp` in a straight line. Lower it if the loss
        does not fall.
    teacher_temp_warmup : float, default=0.3
        How long that takes, as a share of the training; the authors' 30 of 100 epochs.
    center_momentum : float, default=0.9
        m; the paper's.
    momentum : float, default=0.99
        The share of itself that the teacher keeps in the first step; it rises to 1 as a cosine. The paper's
        is 0.996, for some hundred times as many steps.
    freeze_last_layer : int, default=1
        Epochs in which W stays as it was drawn, but at most a tenth of the training; the paper's, of 100 and
        more.
    local_crops : int or "auto", default="auto"
        Small crops of each image, beside the two full-size views. "auto": 4, or none where they would have
        less than 16 pixels on a side or the backbone cannot take them; so images below 32 pixels have two
        full-size views only, as solo-learn and lightly have on CIFAR-10. The paper: 8.
    local_size : float, default=0.5
        Their side, as a share of the full size. 1.0: small parts of the image, enlarged.

    Raises
    ------
    ValueError
        When `build` finds that the backbone cannot take the local crops that the user asked for.

    Warns
    -----
    UserWarning
        When those crops have less than 16 pixels on a side.

    Notes
    -----
    For some hundred steps on small images, one thing differs from the paper. The projections are
    standardised over the batch (BatchNorm, without weights of its own): else they share one large
    direction at first, and after centring the teacher is undecided about all images.

    Full-size views cover what the augmentation says; the paper's, beside local crops of 0.05 to 0.4 of the
    area, cover 0.4 to 1 (``augment__crop=0.4``).

    References
    ----------
    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021,
    arXiv:2104.14294, equations 1 to 4; constants from github.com/facebookresearch/dino.
    """

    family = "self-distillation"

    def __init__(
        self,
        out_dim: int = 1024,
        student_temp: float = 0.1,
        teacher_temp: float = 0.04,
        warmup_teacher_temp: float = 0.04,
        teacher_temp_warmup: float = 0.3,
        center_momentum: float = 0.9,
        momentum: float = 0.99,
        freeze_last_layer: int = 1,
        local_crops: int | str = "auto",
        local_size: float = 0.5,
    ):
        super().__init__()
        self.out_dim = check_number("loss__out_dim", out_dim, whole=True, at_least=2)
        self.student_temp = check_number("loss__student_temp", student_temp, above=0)
        self.teacher_temp = LinearWarmup(
            start=check_number("loss__warmup_teacher_temp", warmup_teacher_temp, above=0),
            end=check_number("loss__teacher_temp", teacher_temp, above=0),
            share=check_number("loss__teacher_temp_warmup", teacher_temp_warmup, at_least=0, at_most=1),
        )
        self.center_momentum = check_number("loss__center_momentum", center_momentum, at_least=0, at_most=1)
        self.teacher_momentum = CosineToOne(check_number("loss__momentum", momentum, at_least=0, at_most=1))
        self.freeze_last_layer = check_number(
            "loss__freeze_last_layer", freeze_last_layer, whole=True, at_least=0
        )
        self.local_crops = local_crops
        self.local_size = local_size

    def make_projector(self, in_dim: int, widths: tuple[int, ...]) -> nn.Module:
        """An MLP with BatchNorm on its output too; see the notes."""
        return mlp(in_dim, *widths, norm_output=True)

    def build(self, spec: Spec) -> None:
        local = local_crops_that_fit(self.local_crops, self.local_size, spec)
        self.view_spec = ViewSpec(2, local=local, local_size=self.local_size)
        w = F.normalize(torch.randn(self.out_dim, spec.dim, generator=spec.generator), dim=1)
        self.last_layer = nn.Parameter(w)
        self.register_buffer("teacher_last_layer", w.clone())
        self.register_buffer("center", torch.zeros(self.out_dim))

    def step(self, batch: Batch, student, teacher) -> Tensor:
        frozen = batch.epoch < self.freeze_last_layer and batch.progress < FROZEN_AT_MOST
        w = self.last_layer.detach() if frozen else self.last_layer
        s = [outputs(z, w) for z in student(batch.views)]  # (n, K) each
        t = [outputs(z, self.teacher_last_layer) for z in teacher(batch.views[: self.views.n])]
        self.momentum = self.teacher_momentum(batch.progress)
        loss = cross_entropy(self._sharpened(t, batch.progress), [each / self.student_temp for each in s])
        self.center.lerp_(torch.cat(t).mean(dim=0), 1 - self.center_momentum)
        return loss

    @torch.no_grad()
    def after_step(self, student, teacher) -> None:
        self.teacher_last_layer.lerp_(self.last_layer, 1 - self.momentum)

    def _sharpened(self, t: Sequence[Tensor], progress: float) -> list[Tensor]:
        """The teacher's probabilities."""
        return [((each - self.center) / self.teacher_temp(progress)).softmax(dim=1) for each in t]


def outputs(z: Tensor, w: Tensor) -> Tensor:
    """Cosine similarities of projections (n, d) and the rows of w (K, d): (n, K)."""
    return F.normalize(z, dim=1) @ F.normalize(w, dim=1).T


def cross_entropy(t: Sequence[Tensor], s: Sequence[Tensor]) -> Tensor:
    """Mean over all pairs of different views; t are probabilities, s logits, (n, K) each."""
    log_s = [each.log_softmax(dim=1) for each in s]
    pairs = [(i, j) for i in range(len(t)) for j in range(len(s)) if i != j]
    return torch.stack([-(t[i] * log_s[j]).sum(dim=1).mean() for i, j in pairs]).mean()
