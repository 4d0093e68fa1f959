"""BYOL: prediction of a momentum teacher's projection of another view."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_ssl.losses import (
    Batch,
    Spec,
    SSLLoss,
    Student,
    Teacher,
    check_bool,
    check_number,
    mean_over_targets,
    mlp,
    multi_crop,
)
from sklearn_ssl_self_distillation.heads import make_predictor
from sklearn_ssl_self_distillation.schedules import CosineToOne
from sklearn_ssl_self_distillation.views import asymmetric


def twice_then_half_the_features(feature_dim: int) -> tuple[int, ...]:
    """Return the widths of the projector's layers: the paper's 4096 and 256, scaled from 2048 features."""
    return 2 * feature_dim, max(1, feature_dim // 2)


class BYOL(SSLLoss):
    r"""Bootstrap your own latent (BYOL) [1]_.

    From one view, the student predicts the projection that the teacher computes of the other. The teacher is
    an exponential moving average of the student, and its averaged targets are better than the student's own
    outputs. There are no negatives, so small batches work. Collapse is prevented by the predictor, which only
    the student has, and by the stop-gradient on the teacher:

    .. math::
        \ell = \left\| \bar p_1 - \bar t_2 \right\|^2 + \left\| \bar p_2 - \bar t_1 \right\|^2
        = 4 - 2 \, \bar p_1^\top \bar t_2 - 2 \, \bar p_2^\top \bar t_1

    averaged over the images, where :math:`p_v = q(z_v)` is the output of the predictor q for the student's
    projection of view v, :math:`t_v` is the teacher's projection, and the bar denotes scaling to unit length.

    Parameters
    ----------
    momentum : float, default=0.99
        Initial momentum :math:`\tau` of the teacher, which rises to 1 on a cosine schedule. With higher
        values the teacher changes more slowly. solo-learn uses 0.99 for CIFAR-10; the paper uses 0.996 for
        ImageNet.
    predictor_dim : int, default=None
        Width of the predictor's hidden layer. None: twice the width of the features (the paper: 4096 for 2048
        features).
    asymmetric_views : bool, default=False
        Whether the first full-size view is always blurred, and the second rarely, but solarized with a
        probability of 0.2, as in the paper. False: the user's augmentation for both.
    local_crops : int or "auto", default=0
        Number of local crops of each image, in addition to the two full-size views (multi-crop, as in SwAV
        [2]_), from which the student predicts the teacher's projections of both full-size views. "auto": 4,
        or 0 if they would have less than 24 pixels on the short side or the backbone rejects them. Four crops
        at half the side take about the time of one full-size view.
    local_size : float or tuple of floats, default=0.5
        Side of a local crop, as a fraction of the full size. 1.0: small parts of the image, enlarged. A tuple
        gives the sides of several crops in turn.

    Attributes
    ----------
    predictor : nn.Module
        Predictor of the student.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range.

    Notes
    -----
    Unlike the paper's, the projections are standardized over the batch (BatchNorm without an affine
    transformation, as in SimSiam). Otherwise they share one dominant direction early in training, and for
    some hundred steps the student learns little but to predict it.

    References
    ----------
    .. [1] Grill et al., "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning", NeurIPS
       2020, arXiv:2006.07733, equations 2 and 3.
    .. [2] Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
       NeurIPS 2020, arXiv:2006.09882, section 3.2.
    """

    family = "self-distillation"
    defaults: ClassVar[dict] = {"projector": twice_then_half_the_features}

    def __init__(
        self,
        momentum: float = 0.99,
        predictor_dim: int | None = None,
        asymmetric_views: bool = False,
        local_crops: int | str = 0,
        local_size: float | tuple[float, ...] = 0.5,
    ):
        super().__init__()
        self.momentum = check_number("loss__momentum", momentum, at_least=0, at_most=1)
        self.predictor_dim = check_number(
            "loss__predictor_dim", predictor_dim, whole=True, at_least=1, instead=(None,)
        )
        self.teacher_momentum = CosineToOne(self.momentum)
        self.asymmetric_views = check_bool("loss__asymmetric_views", asymmetric_views)
        self.local_crops = local_crops
        self.local_size = local_size

    def make_projector(self, in_dim: int, widths: tuple[int, ...]) -> nn.Module:
        """Build an MLP whose output is standardized over the batch, too; see the Notes."""
        return mlp(in_dim, *widths, norm_output=True)

    def build(self, spec: Spec) -> None:
        views = multi_crop(self.local_crops, self.local_size, spec)
        self.view_spec = asymmetric(views) if self.asymmetric_views else views
        self.predictor = make_predictor(spec.dim, self.predictor_dim, default=2 * spec.feature_dim)

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        predictions = [self.predictor(z) for z in student(batch.views)]
        targets = teacher(batch.views[: self.view_spec.n])
        return 2 * mean_over_targets(distance, targets, predictions)


def distance(t: Tensor, p: Tensor) -> Tensor:
    """Return the mean squared distance between rows scaled to unit length, 2 - 2 cos."""
    return 2 - 2 * F.cosine_similarity(p, t).mean()
