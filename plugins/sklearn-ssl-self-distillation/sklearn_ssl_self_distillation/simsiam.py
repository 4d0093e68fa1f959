"""SimSiam: prediction of another view's projection, with a stop-gradient instead of a teacher."""

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
    check_choice,
    check_number,
    mean_over_targets,
    mlp,
    multi_crop,
)
from sklearn_ssl_self_distillation.heads import make_predictor


def three_times_the_features(feature_dim: int) -> tuple[int, ...]:
    """Return the widths of the projector's layers, as in the paper (2048, 2048, 2048 for 2048 features)."""
    return feature_dim, feature_dim, feature_dim


class SimSiam(SSLLoss):
    r"""Simple Siamese representation learning (SimSiam) [1]_.

    From one view, the projection of the other is predicted, with a stop-gradient on the target; without it,
    all projections would become equal (collapse). There are no negatives, no teacher and no queue:

    .. math::
        \ell = -\tfrac12 \cos(p_1, \operatorname{sg} z_2) - \tfrac12 \cos(p_2, \operatorname{sg} z_1)

    averaged over the images, where :math:`p_v = h(z_v)` is the output of the predictor h for the projection
    of view v, and sg is the stop-gradient. The loss is between -1 and 1.

    Parameters
    ----------
    predictor_dim : int, default=None
        Width of the predictor's hidden layer, a bottleneck. None: a quarter of the width of the projections
        (the paper: 512 for 2048).
    predictor_schedule : {"cosine", "constant"}, default="cosine"
        Learning rate of the predictor: that of the other layers, or the peak rate all the time, as the
        authors'.
    local_crops : int or "auto", default=0
        Number of local crops of each image, in addition to the two full-size views (multi-crop, as in SwAV
        [2]_), from which the projections of both full-size views are predicted. "auto": 4, or 0 if they would
        have less than 24 pixels on the short side or the backbone rejects them. Four crops at half the side
        take about the time of one full-size view.
    local_size : float or tuple of floats, default=0.5
        Side of a local crop, as a fraction of the full size. 1.0: small parts of the image, enlarged. A tuple
        gives the sides of several crops in turn.

    Attributes
    ----------
    predictor : nn.Module
        Predictor.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range; in `build`, if the backbone rejects the given local crops.

    Notes
    -----
    The authors keep the predictor's learning rate constant, so that the predictor adapts to the projections
    while the learning rate of the other layers decays: `predictor_schedule="constant"`. In trainings of some
    hundred steps it decays with the others, by default.

    References
    ----------
    .. [1] Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021, arXiv:2011.10566,
       equations 3 and 4.
    .. [2] Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
       NeurIPS 2020, arXiv:2006.09882, section 3.2.
    """

    family = "self-distillation"
    defaults: ClassVar[dict] = {"projector": three_times_the_features}

    def __init__(
        self,
        predictor_dim: int | None = None,
        predictor_schedule: str = "cosine",
        local_crops: int | str = 0,
        local_size: float | tuple[float, ...] = 0.5,
    ):
        super().__init__()
        check_choice("loss__predictor_schedule", predictor_schedule, ("cosine", "constant"))
        self.rates = {"predictor": constant} if predictor_schedule == "constant" else {}
        self.local_crops = local_crops
        self.local_size = local_size
        self.predictor_dim = check_number(
            "loss__predictor_dim", predictor_dim, whole=True, at_least=1, instead=(None,)
        )

    def make_projector(self, in_dim: int, widths: tuple[int, ...]) -> nn.Module:
        """Build an MLP whose output is standardized over the batch, too, as in the paper."""
        return mlp(in_dim, *widths, norm_output=True)

    def build(self, spec: Spec) -> None:
        self.view_spec = multi_crop(self.local_crops, self.local_size, spec)
        self.predictor = make_predictor(spec.dim, self.predictor_dim, default=max(1, spec.dim // 4))

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        z = student(batch.views)
        predictions = [self.predictor(view) for view in z]
        targets = [view.detach() for view in z[: self.view_spec.n]]
        return -mean_over_targets(similarity, targets, predictions)


def constant(progress: float) -> float:
    """Return the peak rate, as a fraction of itself."""
    return 1.0


def similarity(z: Tensor, p: Tensor) -> Tensor:
    """Return the mean cosine similarity between corresponding rows."""
    return F.cosine_similarity(p, z).mean()
