"""data2vec: prediction of a momentum teacher's tokens of masked patches."""

from __future__ import annotations

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
    ViewSpec,
    backbone_with_tokens,
    check_number,
)
from sklearn_ssl_masked.patches import blockwise_mask, number_hidden


@dataclass(frozen=True)
class LinearToOne:
    """Momentum of a teacher that rises linearly from an initial value to 1."""

    start: float

    def __call__(self, progress: float) -> float:
        return self.start + (1 - self.start) * progress


class Data2Vec(SSLLoss):
    r"""data2vec, for images [1]_.

    The teacher, an exponential moving average of the student, sees the whole image. Its outputs for a patch,
    averaged over its last K layers, are the target; they depend on the whole image, unlike pixels or visual
    words. The student sees the image with blocks of patches masked, and predicts the targets of the masked
    patches by a linear layer:

    .. math::
        \ell = \frac{1}{|M|} \sum_{i \in M} \frac1d \sum_j L_\beta(q(s_i) - y_i)_j,
        \qquad y_i = \frac1K \sum_{k} \operatorname{norm}(t_i^{(k)})

    where M is the set of masked patches of the batch, :math:`s_i` the student's token of patch i, q the
    linear layer, :math:`t^{(k)}` the teacher's output of layer k, norm standardizes the d values of a token,
    and :math:`L_\beta(x)` is :math:`x^2 / 2 \beta` for :math:`|x| \le \beta`, else :math:`|x| - \beta / 2`.

    Parameters
    ----------
    mask_ratio : float, default=0.6
        Masking ratio: fraction of the patches that is masked, in blocks. The default is the paper's.
    n_layers : int, default=3
        Number of layers K whose outputs are averaged, at most all. The default is half of the default
        backbone's; the paper averages the last 6 of 12.
    beta : float, default=2.0
        Distance :math:`\beta` from which the loss is linear. The default is the paper's.
    momentum : float, default=0.99
        Initial momentum of the teacher, which rises linearly to 1. The paper: 0.9998, for many more steps.

    Attributes
    ----------
    token : nn.Parameter of shape (feature_dim,)
        Mask token.
    predictor : nn.Linear
        Layer q.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range; in `build`, if the backbone is not a vision transformer, has
        fewer layers than `n_layers`, or the image is a single patch.

    References
    ----------
    .. [1] Baevski et al., "data2vec: A General Framework for Self-supervised Learning in Speech, Vision and
       Language", ICML 2022, arXiv:2202.03555, section 3.
    """

    family = "masked"
    mean_over_images = True
    view_spec = ViewSpec(1, recipes=("weak",))
    defaults: ClassVar[dict] = {"backbone": "vit", "projector": (), "batch_size": 64}

    def __init__(self, mask_ratio: float = 0.6, n_layers: int = 3, beta: float = 2.0, momentum: float = 0.99):
        super().__init__()
        self.mask_ratio = check_number("loss__mask_ratio", mask_ratio, above=0, below=1)
        self.n_layers = check_number("loss__n_layers", n_layers, whole=True, at_least=1)
        self.beta = check_number("loss__beta", beta, above=0)
        self.teacher_momentum = LinearToOne(check_number("loss__momentum", momentum, at_least=0, at_most=1))

    def build(self, spec: Spec) -> None:
        vit = backbone_with_tokens(spec)
        self.grid = vit.grid
        number_hidden(self.grid[0] * self.grid[1], self.mask_ratio)  # raises for a single patch
        depth = len(vit.encoder.layers)
        if self.n_layers > depth:
            raise ValueError(
                f"loss__n_layers={self.n_layers}: the backbone has {depth} layers. Give at most {depth}."
            )
        self.token = nn.Parameter(0.02 * torch.randn(spec.feature_dim, generator=spec.generator))
        self.predictor = nn.Linear(spec.feature_dim, spec.feature_dim)

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        x = batch.views[0]
        hidden = batch.draw(lambda n: blockwise_mask(n, self.grid, self.mask_ratio, batch.generator))
        hidden = hidden.to(x.device)
        tokens = self.predictor(student.tokens(x, hidden, self.token))
        layers = teacher.tokens(x, n_layers=self.n_layers)  # (n, K, patches, d)
        target = F.layer_norm(layers, layers.shape[-1:]).mean(dim=1)
        loss = F.smooth_l1_loss(tokens, target, beta=self.beta, reduction="none").mean(dim=2)
        # The mean over each image's masked patches, so that an image does not depend on others.
        return ((loss * hidden).sum(dim=1) / hidden.sum(dim=1)).mean()
