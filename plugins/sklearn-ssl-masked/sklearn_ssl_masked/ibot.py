"""iBOT and DINOv2: self-distillation of whole images and of masked patches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_ssl.losses import (
    Batch,
    Spec,
    SSLLoss,
    Student,
    Teacher,
    backbone_with_tokens,
    check_bool,
    check_choice,
    check_number,
    mean_over_targets,
    multi_crop,
)
from sklearn_ssl_masked.patches import blockwise_mask, number_hidden

# Number of iterations of Sinkhorn's algorithm; that of the authors of DINOv2.
SINKHORN_ITERATIONS = 3


@dataclass(frozen=True)
class CosineToOne:
    """Momentum of a teacher that rises from an initial value to 1 on a cosine schedule."""

    start: float

    def __call__(self, progress: float) -> float:
        return 1 - (1 - self.start) * (math.cos(math.pi * progress) + 1) / 2


class Head(nn.Module):
    """Three-layer perceptron, standardized over the tokens, and prototypes of unit length: K logits."""

    def __init__(self, feature_dim: int, hidden: int, bottleneck: int, out_dim: int):
        super().__init__()
        layers = [nn.Linear(feature_dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()]
        layers += [nn.Linear(hidden, bottleneck), nn.BatchNorm1d(bottleneck, affine=False)]
        self.mlp = nn.Sequential(*layers)
        self.prototypes = nn.Linear(bottleneck, out_dim, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        z = F.normalize(self.mlp(h), dim=1)
        return F.linear(z, F.normalize(self.prototypes.weight, dim=1))


class IBOT(SSLLoss):
    r"""Image BERT pre-training with online tokenizer (iBOT) [1]_.

    Student and teacher, its exponential moving average, map tokens to probabilities of K outputs. Two losses
    of one form are added: from the class token of one view, the student predicts the teacher's probabilities
    of the class token of another view, as in DINO; and from the other patches, it predicts the teacher's
    probabilities of masked patches, which the teacher sees:

    .. math::
        \ell = \frac{1}{|T|} \sum_{(t, s) \in T} H\bigl(P'(t), P(s)\bigr)
        + \frac1V \sum_v \frac{1}{|M_v|} \sum_{i \in M_v} H\bigl(P'(v_i), P(\hat v_i)\bigr)

    averaged over the images, where H is the cross-entropy, P and :math:`P'` are the probabilities of student
    and teacher, T is the set of all pairs of a full-size view t and another view s, represented by their
    class tokens, and :math:`M_v` are the masked patches of the full-size view v, whose tokens are
    :math:`v_i` for the teacher and :math:`\hat v_i` for the student. The teacher's logits are centered by a
    moving average or by Sinkhorn's algorithm, which prevents collapse.

    Parameters
    ----------
    out_dim : int, default=1024
        Number of outputs K. The paper uses 8,192.
    hidden : int, default=512
        Width of the head's hidden layers. The paper: 2,048.
    bottleneck : int, default=128
        Width of the head's output before the prototypes. The paper: 256.
    shared_head : bool, default=True
        Whether class tokens and patches share a head. The default is the paper's.
    mask_ratio : float, default=0.3
        Masking ratio of the patches of a full-size view, in blocks. The paper draws it from 0.1 to 0.5, for
        half of the images.
    student_temp : float, default=0.1
        Temperature of the student. The default is the paper's.
    teacher_temp : float, default=0.04
        Temperature of the teacher, below the student's. The paper: 0.04, rising to 0.07.
    centering : {"mean", "sinkhorn"}, default="mean"
        Centering of the teacher's logits: by their moving average, as in the paper, or by three iterations of
        Sinkhorn's algorithm on the batch, as in DINOv2.
    center_momentum : float, default=0.9
        Momentum of the moving average. The default is the paper's.
    koleo_weight : float, default=0.0
        Weight of the KoLeo term, :math:`-\frac1n \sum_i \log \min_{j \ne i} \| \bar c_i - \bar c_j \|` of the
        class tokens c of each full-size view, scaled to unit length, which spreads the images evenly.
    momentum : float, default=0.99
        Initial momentum of the teacher, which rises to 1 on a cosine schedule. The paper: 0.996, for many
        more steps.
    local_crops : int or "auto", default="auto"
        Number of local crops of each image, whose class tokens the student matches with the full-size views.
        "auto": 4, or 0 if they would have less than 24 pixels on the short side or the backbone rejects them.
        The paper: 10.
    local_size : float or tuple of floats, default=0.5
        Side of a local crop, as a fraction of the full size. A tuple gives the sides of several crops in
        turn.
    encoder : {"student", "teacher"}, default="student"
        Network whose backbone becomes the encoder. The authors publish the teacher, which is better after
        long trainings.

    Attributes
    ----------
    token : nn.Parameter of shape (feature_dim,)
        Mask token.
    head, patch_head : Head
        Heads of class tokens and of patches; `patch_head` only unless they share one.
    center : Tensor of shape (2, out_dim)
        Centers of the teacher's logits, of class tokens and of patches.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range; in `build`, if the backbone is not a vision transformer, or
        the image is a single patch.

    Notes
    -----
    The embedding is the mean of the patches' tokens unless ``backbone__pooling="class"``, both of which are
    trained.

    Unlike the authors', the head standardizes its output over the tokens (BatchNorm without an affine
    transformation) before the prototypes. Otherwise the tokens share one dominant direction early in
    training, and after centering the teacher's outputs are uniform for all images.

    References
    ----------
    .. [1] Zhou et al., "iBOT: Image BERT Pre-Training with Online Tokenizer", ICLR 2022, arXiv:2111.07832,
       section 3.
    .. [2] Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024,
       arXiv:2304.07193, section 4.
    """

    family = "self-distillation"
    defaults: ClassVar[dict] = {"backbone": "vit", "projector": (), "batch_size": 64}

    def __init__(
        self,
        out_dim: int = 1024,
        hidden: int = 512,
        bottleneck: int = 128,
        shared_head: bool = True,
        mask_ratio: float = 0.3,
        student_temp: float = 0.1,
        teacher_temp: float = 0.04,
        centering: str = "mean",
        center_momentum: float = 0.9,
        koleo_weight: float = 0.0,
        momentum: float = 0.99,
        local_crops: int | str = "auto",
        local_size: float | tuple[float, ...] = 0.5,
        encoder: str = "student",
    ):
        super().__init__()
        self.out_dim = check_number("loss__out_dim", out_dim, whole=True, at_least=2)
        self.hidden = check_number("loss__hidden", hidden, whole=True, at_least=1)
        self.bottleneck = check_number("loss__bottleneck", bottleneck, whole=True, at_least=1)
        shared = check_bool("loss__shared_head", shared_head)
        self.teacher_heads = ("head",) if shared else ("head", "patch_head")
        self.mask_ratio = check_number("loss__mask_ratio", mask_ratio, above=0, below=1)
        self.student_temp = check_number("loss__student_temp", student_temp, above=0)
        self.teacher_temp = check_number("loss__teacher_temp", teacher_temp, above=0)
        self.centering = check_choice("loss__centering", centering, ("mean", "sinkhorn"))
        self.center_momentum = check_number("loss__center_momentum", center_momentum, at_least=0, at_most=1)
        self.koleo_weight = check_number("loss__koleo_weight", koleo_weight, at_least=0)
        self.teacher_momentum = CosineToOne(check_number("loss__momentum", momentum, at_least=0, at_most=1))
        self.local_crops = local_crops
        self.local_size = local_size
        self.encoder = check_choice("loss__encoder", encoder, ("student", "teacher"))

    def build(self, spec: Spec) -> None:
        self.grid = backbone_with_tokens(spec).grid
        number_hidden(self.grid[0] * self.grid[1], self.mask_ratio)  # raises for a single patch
        self.view_spec = multi_crop(self.local_crops, self.local_size, spec)
        self.token = nn.Parameter(0.02 * torch.randn(spec.feature_dim, generator=spec.generator))
        for name in self.teacher_heads:
            setattr(self, name, Head(spec.feature_dim, self.hidden, self.bottleneck, self.out_dim))
        self.register_buffer("center", torch.zeros(2, self.out_dim))

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        full = torch.cat([batch.views[i] for i in range(self.view_spec.n)])
        hidden = blockwise_mask(len(full), self.grid, self.mask_ratio, batch.generator).to(full.device)
        s = student.tokens(full, hidden, self.token, with_class=True)  # (views * n, 1 + patches, d)
        t = teacher.tokens(full, with_class=True)
        classes = [s[:, 0], *self._classes_of_crops(batch, student)]
        terms = {
            "class": self._class_loss(classes, t[:, 0], teacher.heads["head"], len(batch.index)),
            "patch": self._patch_loss(s[:, 1:], t[:, 1:], hidden, teacher.heads[self.teacher_heads[-1]]),
        }
        loss = terms["class"] + terms["patch"]
        if self.koleo_weight:
            terms["koleo"] = torch.stack([koleo(c) for c in s[:, 0].chunk(self.view_spec.n)]).mean()
            loss = loss + self.koleo_weight * terms["koleo"]
        return {"loss": loss, **terms}

    def _classes_of_crops(self, batch: Batch, student: Student) -> list[Tensor]:
        """Return the class tokens of the local crops, in one tensor if there are any."""
        crops = [batch.views[i] for i in range(self.view_spec.n, len(batch.views))]
        return [student.tokens(torch.cat(crops), with_class=True)[:, 0]] if crops else []

    def _class_loss(self, s: list[Tensor], t: Tensor, teachers_head: nn.Module, n: int) -> Tensor:
        """Return the cross-entropy of class tokens, over all pairs of different views."""
        log_p = (self.head(torch.cat(s)) / self.student_temp).log_softmax(dim=1).split(n)
        q = self._probabilities(teachers_head(t), self.center[0]).split(n)
        return mean_over_targets(lambda target, other: -(target * other).sum(dim=1).mean(), q, log_p)

    def _patch_loss(self, s: Tensor, t: Tensor, hidden: Tensor, teachers_head: nn.Module) -> Tensor:
        """Return the cross-entropy of masked patches, the mean of each view's mean."""
        head = getattr(self, self.teacher_heads[-1])
        log_p = (head(s[hidden]) / self.student_temp).log_softmax(dim=1)
        q = self._probabilities(teachers_head(t[hidden]), self.center[1])
        n_hidden = hidden.sum(dim=1, keepdim=True).expand_as(hidden)[hidden]  # of the patch's own view
        return -((q * log_p).sum(dim=1) / n_hidden).sum() / len(hidden)

    def _probabilities(self, logits: Tensor, center: Tensor) -> Tensor:
        """Return the teacher's probabilities, centered and sharpened; move the center."""
        if self.centering == "sinkhorn":
            return sinkhorn(logits / self.teacher_temp)
        q = ((logits - center) / self.teacher_temp).softmax(dim=1)
        center.lerp_(logits.mean(dim=0), 1 - self.center_momentum)
        return q


class DINOv2(IBOT):
    r"""DINOv2 loss: iBOT with Sinkhorn centering, separate heads and the KoLeo term [1]_.

    See `IBOT` for the formula and all parameters; only defaults differ.

    Parameters
    ----------
    shared_head : bool, default=False
        Whether class tokens and patches share a head.
    centering : {"mean", "sinkhorn"}, default="sinkhorn"
        Centering of the teacher's logits.
    koleo_weight : float, default=0.1
        Weight of the KoLeo term.
    out_dim, hidden, bottleneck, mask_ratio, student_temp, teacher_temp : int or float
        As for `IBOT`.
    center_momentum, momentum, local_crops, local_size, encoder : float, int or str
        As for `IBOT`.

    References
    ----------
    .. [1] Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024,
       arXiv:2304.07193, section 4; constants from github.com/facebookresearch/dinov2.
    """

    def __init__(
        self,
        out_dim: int = 1024,
        hidden: int = 512,
        bottleneck: int = 128,
        shared_head: bool = False,
        mask_ratio: float = 0.3,
        student_temp: float = 0.1,
        teacher_temp: float = 0.04,
        centering: str = "sinkhorn",
        center_momentum: float = 0.9,
        koleo_weight: float = 0.1,
        momentum: float = 0.99,
        local_crops: int | str = "auto",
        local_size: float | tuple[float, ...] = 0.5,
        encoder: str = "student",
    ):
        super().__init__(
            out_dim,
            hidden,
            bottleneck,
            shared_head,
            mask_ratio,
            student_temp,
            teacher_temp,
            centering,
            center_momentum,
            koleo_weight,
            momentum,
            local_crops,
            local_size,
            encoder,
        )


def sinkhorn(logits: Tensor) -> Tensor:
    """Return probabilities, (n, K), whose sums over the rows are nearly equal, by Sinkhorn's algorithm."""
    for _ in range(SINKHORN_ITERATIONS):
        logits = logits.log_softmax(dim=0)
        logits = logits.log_softmax(dim=1)
    return logits.exp()


def koleo(x: Tensor) -> Tensor:
    """Return minus the mean logarithm of the distance of each row, of unit length, to the nearest other."""
    x = F.normalize(x, dim=1)
    similarity = (x @ x.T).fill_diagonal_(-2)
    nearest = x[similarity.argmax(dim=1)]
    return -((x - nearest).square().sum(dim=1) + 1e-8).sqrt().log().mean()
