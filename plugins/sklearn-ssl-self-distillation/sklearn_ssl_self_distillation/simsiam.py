"""SimSiam: BYOL without a teacher."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_ssl import Batch, Spec, SSLLoss
from sklearn_ssl.losses import check_number, mlp
from sklearn_ssl_self_distillation.heads import make_predictor


def three_times_the_features(feature_dim: int) -> tuple[int, ...]:
    """Widths of the projector, as in the paper (2048, 2048, 2048 for 2048 features)."""
    return feature_dim, feature_dim, feature_dim


class SimSiam(SSLLoss):
    r"""Simple Siamese learning: from one view, predict the projection of the other, held still.

    What is predicted is a constant for the gradient; without that, the quickest way to agree would be to
    make all projections equal. There are neither negatives, nor a teacher, nor a queue:

    .. math::
        \ell = -\tfrac12 \cos(p_1, \operatorname{sg} z_2) - \tfrac12 \cos(p_2, \operatorname{sg} z_1)

    averaged over the images, where :math:`p_v = h(z_v)` is the predictor h of the projection of view v,
    and sg stops the gradient. It lies between -1 and 1.

    Parameters
    ----------
    predictor_dim : int, optional
        Width of the predictor's hidden layer, a bottleneck. None: a quarter of the projections' (the
        paper: 512 of 2048).

    Notes
    -----
    The authors keep the predictor's learning rate constant, so that it keeps up with the projections while
    the others' falls; here it falls with them.

    References
    ----------
    Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021, arXiv:2011.10566,
    equations 3 and 4.
    """

    family = "self-distillation"
    defaults: ClassVar[dict] = {"projector": three_times_the_features}

    def __init__(self, predictor_dim: int | None = None):
        super().__init__()
        self.predictor_dim = check_number(
            "loss__predictor_dim", predictor_dim, whole=True, at_least=1, instead=(None,)
        )

    def make_projector(self, in_dim: int, widths: tuple[int, ...]) -> nn.Module:
        """An MLP with BatchNorm on its output too, as in the paper."""
        return mlp(in_dim, *widths, norm_output=True)

    def build(self, spec: Spec) -> None:
        self.predictor = make_predictor(spec.dim, self.predictor_dim, default=max(1, spec.dim // 4))

    def step(self, batch: Batch, student, teacher) -> Tensor:
        z1, z2 = student(batch.views)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        return -(similarity(p1, z2.detach()) + similarity(p2, z1.detach())) / 2


def similarity(p: Tensor, z: Tensor) -> Tensor:
    """Mean cosine of the rows."""
    return F.cosine_similarity(p, z).mean()
