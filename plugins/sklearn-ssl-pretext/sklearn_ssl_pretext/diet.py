"""DIET: classification of each image's own number."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from sklearn_ssl.losses import Batch, Spec, SSLLoss, Student, Teacher, ViewSpec, check_number
from sklearn_ssl_pretext.answers import graded


class DIET(SSLLoss):
    r"""Datum index as target (DIET) [1]_.

    Each training image is a class of its own, and a linear layer on the features recognizes the image from an
    augmented view. There are no pairs of views, no projector and no teacher, and the batch size matters
    little:

    .. math::
        \ell = -\frac1n \sum_i \Bigl[ (1 - s) \log p(k_i \mid x_i) + \frac{s}{N} \sum_k \log p(k \mid x_i)
        \Bigr],
        \qquad p(\cdot \mid x) = \operatorname{softmax}(W h(x))

    where :math:`k_i` is the row number of image i among the N training images, h are the features and s is
    the label smoothing.

    Parameters
    ----------
    label_smoothing : float, default=0.8
        Label smoothing s. The default is the paper's; without smoothing, training takes longer.

    Attributes
    ----------
    head : nn.Linear
        Classifier W of the images, of N x feature_dim weights.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range.

    Notes
    -----
    Meant for hundreds to some ten thousand images, and for many passes over them: an image has to come back
    often enough to be recognized. The classifier grows with the number of images. Images that are not trained
    on have no number, so they have no validation loss.

    References
    ----------
    .. [1] Ibrahim et al., "Occam's Razor for Self Supervised Learning: What is Sufficient to Learn Good
       Representations?", 2024, arXiv:2406.10743 (first as Balestriero, "Unsupervised Learning on a DIET:
       Datum IndEx as Target Free of Self-Supervision, Reconstruction, Projector Head", arXiv:2302.10260).
    """

    family = "pretext"
    mean_over_images = True
    validates = False
    view_spec = ViewSpec(1)
    defaults: ClassVar[dict] = {"projector": ()}

    def __init__(self, label_smoothing: float = 0.8):
        super().__init__()
        self.label_smoothing = check_number("loss__label_smoothing", label_smoothing, at_least=0, below=1)

    def build(self, spec: Spec) -> None:
        self.head = nn.Linear(spec.feature_dim, spec.n_samples, bias=False)

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        logits = self.head(student.features(batch.views[0]))
        return graded(logits, batch.index, self.label_smoothing)
