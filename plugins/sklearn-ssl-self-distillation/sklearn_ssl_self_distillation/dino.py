"""DINO: self-distillation of a momentum teacher's soft cluster assignments."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_ssl.losses import (
    Batch,
    Spec,
    SSLLoss,
    Student,
    Teacher,
    check_bool,
    check_choice,
    check_number,
    mean_over_targets,
    mlp,
    multi_crop,
)
from sklearn_ssl_self_distillation.schedules import CosineToOne, LinearWarmup
from sklearn_ssl_self_distillation.views import asymmetric

# Maximum fraction of the training with a frozen last layer: a single epoch may be half of a short training.
MAX_FROZEN_FRACTION = 0.1


class DINO(SSLLoss):
    r"""Self-distillation with no labels (DINO) [1]_.

    Student and teacher (the exponential moving average of the student) each map a projection to probabilities
    of K outputs, by the cosine similarity with K learned prototypes. The student receives all views, local
    crops included, and has to predict the teacher's probabilities for another, full-size view: it learns to
    infer the whole from a part. Two operations on the teacher's logits balance each other and prevent
    collapse: sharpening (a low temperature) against uniform outputs, and centring against one dominant
    output:

    .. math::
        \ell = \frac{1}{|T|} \sum_{(t, s) \in T}
        -\operatorname{softmax}\Bigl(\frac{W_t \bar z'_t - c}{\tau_t}\Bigr)^{\!\top}
        \log \operatorname{softmax}\Bigl(\frac{W \bar z_s}{\tau_s}\Bigr),
        \qquad c \leftarrow m c + (1 - m) \, \overline{W_t \bar z'}

    averaged over the images, where T is the set of all pairs of a full-size view t and another view s, z are
    the student's projections and z' the teacher's, the bar denotes scaling to unit length, and the K rows of
    W have unit length, too (a weight-normalized last layer). :math:`W_t` is the teacher's W, and the center c
    is a moving average of the teacher's logits, averaged over the batch.

    Parameters
    ----------
    out_dim : int, default=1024
        Number of outputs K. The paper uses 65,536 for ImageNet, solo-learn 4,096 for CIFAR-10.
    student_temp : float, default=0.1
        Temperature :math:`\tau_s` of the student. The default is the paper's.
    teacher_temp : float, default=0.04
        Temperature :math:`\tau_t` of the teacher, below the student's. The paper uses 0.04 for up to 100
        epochs, and 0.07 for more.
    warmup_teacher_temp : float, default=0.04
        Initial value of :math:`\tau_t`, for a linear warm-up to `teacher_temp`. Decrease it if the loss does
        not fall.
    teacher_temp_warmup : float, default=0.3
        Duration of the linear warm-up, as a fraction of the training. The authors use 30 of 100 epochs.
    center_momentum : float, default=0.9
        Momentum m of the center. The default is the paper's.
    momentum : float, default=0.99
        Initial momentum of the teacher, which rises to 1 on a cosine schedule. The paper uses 0.996, for some
        hundred times as many steps.
    freeze_last_layer : int, default=1
        Number of epochs in which W is frozen, at most a tenth of the training. The default is the paper's, of
        100 epochs and more.
    initial_weight_decay : float, default=1.0
        Weight decay at the start, as a fraction of that at the end, to which it rises on a cosine schedule.
        The default is constant weight decay; the paper's is 0.1, with a weight decay of 0.4.
    encoder : {"student", "teacher"}, default="student"
        Network whose backbone becomes the encoder. The authors publish the teacher.
    asymmetric_views : bool, default=False
        Whether the first full-size view is always blurred, and the second rarely, but solarized with a
        probability of 0.2, as in the paper. False: the user's augmentation for both.
    local_crops : int or "auto", default="auto"
        Number of local crops of each image, in addition to the two full-size views. "auto": 4, or 0 if they
        would have less than 24 pixels on the short side or the backbone rejects them; images below 48 pixels
        thus have two full-size views only, as solo-learn and lightly use for CIFAR-10. The paper: 8.
    local_size : float or tuple of floats, default=0.5
        Side of a local crop, as a fraction of the full size. 1.0: small parts of the image, enlarged. A tuple
        gives the sides of several crops in turn.

    Attributes
    ----------
    last_layer : nn.Linear
        The student's W, before normalization, as `last_layer.weight` of shape (out_dim, dim).
    center : Tensor of shape (out_dim,)
        Center c of the teacher's logits.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range; in `build`, if the backbone rejects the given local crops.

    Warns
    -----
    UserWarning
        In `build`, if the given local crops have less than 16 pixels on the short side.

    Notes
    -----
    These details differ from the paper and the authors' code, for trainings of some hundred steps on small
    images:

    - The projections are standardized over the batch (BatchNorm without an affine transformation). Otherwise
      they share one dominant direction early in training, and after centring the teacher's outputs are
      uniform for all images.
    - The projector is that of the other methods: two layers with BatchNorm and ReLU, to 128 dimensions. The
      authors' has three layers of 2048 with GELU and no BatchNorm, to 256.
    - Weight decay is constant by default (theirs rises from 0.04 to 0.4), gradients are not clipped (theirs
      at a norm of 3: ``optimizer__clip_norm=3.0``), and both full-size views have the same augmentation by
      default.
    - The embeddings are the student's, unless `encoder` is "teacher"; the authors publish the teacher, which
      is better after long trainings and worse after short ones.

    The area of full-size views is that of the augmentation; the paper's views, along with local crops of a
    fraction of 0.05 to 0.4 of the area, cover 0.4 to 1 (``augment__crop=0.4``).

    References
    ----------
    .. [1] Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021,
       arXiv:2104.14294, equations 1 to 4; constants from github.com/facebookresearch/dino.
    """

    family = "self-distillation"
    teacher_heads = ("last_layer",)

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
        initial_weight_decay: float = 1.0,
        encoder: str = "student",
        asymmetric_views: bool = False,
        local_crops: int | str = "auto",
        local_size: float | tuple[float, ...] = 0.5,
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
        start = check_number("loss__initial_weight_decay", initial_weight_decay, at_least=0, at_most=1)
        self.weight_decay_at = CosineToOne(start) if start < 1 else None
        self.encoder = check_choice("loss__encoder", encoder, ("student", "teacher"))
        self.asymmetric_views = check_bool("loss__asymmetric_views", asymmetric_views)
        self.local_crops = local_crops
        self.local_size = local_size

    def make_projector(self, in_dim: int, widths: tuple[int, ...]) -> nn.Module:
        """Build an MLP whose output is standardized over the batch, too; see the Notes."""
        return mlp(in_dim, *widths, norm_output=True)

    def build(self, spec: Spec) -> None:
        views = multi_crop(self.local_crops, self.local_size, spec)
        self.view_spec = asymmetric(views) if self.asymmetric_views else views
        w = F.normalize(torch.randn(self.out_dim, spec.dim, generator=spec.generator), dim=1)
        self.last_layer = nn.Linear(spec.dim, self.out_dim, bias=False)
        self.last_layer.weight.data.copy_(w)
        self.register_buffer("center", torch.zeros(self.out_dim))

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        frozen = batch.epoch < self.freeze_last_layer and batch.progress < MAX_FROZEN_FRACTION
        w, w_t = self.last_layer.weight, teacher.heads["last_layer"].weight
        s = [outputs(z, w.detach() if frozen else w) for z in student(batch.views)]  # (n, K) each
        t = [outputs(z, w_t) for z in teacher(batch.views[: self.view_spec.n])]
        loss = cross_entropy(self._sharpened(t, batch.progress), [each / self.student_temp for each in s])
        self.center.lerp_(torch.cat(t).mean(dim=0), 1 - self.center_momentum)
        return loss

    def _sharpened(self, t: Sequence[Tensor], progress: float) -> list[Tensor]:
        """Return the teacher's probabilities, centered and sharpened."""
        return [((each - self.center) / self.teacher_temp(progress)).softmax(dim=1) for each in t]


def outputs(z: Tensor, w: Tensor) -> Tensor:
    """Return the cosine similarities, (n, K), of projections z (n, d) with the rows of w (K, d)."""
    return F.normalize(z, dim=1) @ F.normalize(w, dim=1).T


def cross_entropy(t: Sequence[Tensor], s: Sequence[Tensor]) -> Tensor:
    """Return the mean cross-entropy over all pairs of different views.

    Parameters
    ----------
    t : sequence of Tensor of shape (n, K)
        Probabilities of the teacher, one tensor for each full-size view.
    s : sequence of Tensor of shape (n, K)
        Logits of the student, one tensor for each view; full-size views come first.

    Returns
    -------
    Tensor of shape ()
        The mean.
    """
    log_s = [each.log_softmax(dim=1) for each in s]
    return mean_over_targets(lambda target, other: -(target * other).sum(dim=1).mean(), t, log_s)
