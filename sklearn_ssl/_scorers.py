"""Scorers of embedders for searches and cross-validation, with and without labels."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_ssl import metrics
from sklearn_ssl._checks import check_number
from sklearn_ssl._embedder import SSLImageEmbedder
from sklearn_ssl._hardware.ambient import own_settings
from sklearn_ssl._images.pixel_scale import Standardize
from sklearn_ssl._images.resize import resize_and_center
from sklearn_ssl._images.sources import ArraySource, Source
from sklearn_ssl._training.labels import check_is_target
from sklearn_ssl._transform import embed
from sklearn_ssl._views.augmentation import make_augment
from sklearn_ssl._views.random_views import RandomViews
from sklearn_ssl.losses._base import ViewSpec
from sklearn_ssl.metrics._arrays import is_labeled

# Number of images whose views are drawn and embedded at a time.
IMAGES_AT_A_TIME = 256


def _minus(value: float) -> float:
    return -value


def _minus_distance_to_1(value: float) -> float:
    return -abs(value - 1)


def _mean(interval: metrics.Interval) -> float:
    return interval.mean


@dataclass(frozen=True)
class _Score:
    """Kind of embeddings that a metric takes, and the number of which more is better."""

    of: str  # "labels": embeddings and labels; "embeddings"; "pair" and "views" of each image; "turns"
    metric: Callable[..., Any]
    better: Callable[[Any], float] = float
    n_images: int = 2000
    n_views: int = 2


SCORES = {
    "knn_accuracy": _Score("labels", metrics.knn_accuracy),
    "linear_probe_accuracy": _Score("labels", metrics.linear_probe_accuracy),
    "few_label_accuracy": _Score("labels", metrics.few_label_accuracy, _mean),
    "recall_at_k": _Score("labels", metrics.recall_at_k),
    "mean_average_precision": _Score("labels", metrics.mean_average_precision),
    "rankme": _Score("embeddings", metrics.rankme),
    "neg_distance_of_alpha_req": _Score("embeddings", metrics.alpha_req, _minus_distance_to_1),
    "neg_uniformity": _Score("embeddings", metrics.uniformity, _minus),
    "neg_collapsed_dimensions": _Score("embeddings", metrics.collapsed_dimensions, _minus),
    "cluster_learnability": _Score("embeddings", metrics.cluster_learnability),
    "own_view_retrieval": _Score("pair", metrics.own_view_retrieval),
    "neg_alignment": _Score("pair", metrics.alignment, _minus),
    "lidar": _Score("views", metrics.lidar, n_images=500, n_views=8),
    "rotation_probe_accuracy": _Score("turns", metrics.rotation_probe_accuracy, n_images=500),
}


def available_scorers() -> list[str]:
    """Return the names of all scorers.

    Returns
    -------
    list of str
        Names, sorted.

    See Also
    --------
    get_scorer : Make a scorer.
    """
    return sorted(SCORES)


def get_scorer(
    name: str, *, n_images: int | None = None, random_state: int = 0, augment: Any = None, **params: Any
) -> EmbeddingScorer:
    """Make a scorer of embedders, for ``scoring=`` in scikit-learn.

    Parameters
    ----------
    name : str
        Name of a metric (see `available_scorers`); those that begin with "neg_" are negated, so that more is
        always better. "neg_distance_of_alpha_req" is minus the distance of `alpha_req` from 1.
    n_images : int, default=None
        Maximum number of images to score, drawn at random. None: 2000; 500 for "lidar", of each of which 8
        views are embedded, and for "rotation_probe_accuracy".
    random_state : int, default=0
        Seed of the images and views: the same for all candidates of a search.
    augment : str, Augment or callable, default=None
        Augmentation of the views of "own_view_retrieval", "neg_alignment" and "lidar". None: that of the
        embedder. To compare embedders of different augmentations, give the same to all.
    **params : object
        Parameters of the metric in `sklearn_ssl.metrics`.

    Returns
    -------
    EmbeddingScorer
        Callable ``scorer(estimator, X, y=None)``, where `estimator` is an `SSLImageEmbedder` or a pipeline
        whose first step is one, and X are images. Scorers with labels use the rows whose label is not -1.

    Raises
    ------
    ValueError
        If there is no such scorer or parameter.

    See Also
    --------
    sklearn_ssl.metrics : The metrics, as functions of embeddings.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn_ssl import SSLImageEmbedder, get_scorer
    >>> grid = {"loss": ["ntxent", "vicreg"]}
    >>> search = GridSearchCV(SSLImageEmbedder(), grid, scoring=get_scorer("few_label_accuracy", n_labels=5))
    """
    if name not in SCORES:
        raise ValueError(f"There is no scorer {name!r}. Available: {', '.join(available_scorers())}.")
    score = SCORES[name]
    known = [p.name for p in inspect.signature(score.metric).parameters.values() if p.kind is p.KEYWORD_ONLY]
    unknown = sorted(set(params) - set(known))
    if unknown:
        raise ValueError(
            f"The scorer {name!r} has no parameter {unknown[0]!r}. Available: {', '.join(known) or 'none'}."
        )
    if n_images is not None:
        check_number("n_images", n_images, whole=True, at_least=2)
    return EmbeddingScorer(name, n_images or score.n_images, random_state, augment, params)


@dataclass(frozen=True)
class EmbeddingScorer:
    """Scorer that `get_scorer` makes: a function of an estimator, images and labels.

    Parameters
    ----------
    name : str
        Name of the scorer.
    n_images : int
        Maximum number of images to score.
    random_state : int
        Seed of the images and views.
    augment : str, Augment, callable or None
        Augmentation of the views.
    params : dict
        Parameters of the metric.

    See Also
    --------
    get_scorer : Make a scorer, with checks and defaults.
    """

    name: str
    n_images: int
    random_state: int
    augment: Any
    params: dict[str, Any]

    def __call__(self, estimator: BaseEstimator, X: Any, y: Any = None) -> float:
        """Score a fitted embedder on images.

        Parameters
        ----------
        estimator : SSLImageEmbedder or Pipeline
            Fitted embedder, or pipeline that begins with one.
        X : images
            Images, in any form that `SSLImageEmbedder.transform` accepts.
        y : array-like of shape (n_images,), default=None
            Labels, -1 for unlabeled images; only scorers with labels need them.

        Returns
        -------
        float
            Score; more is better.

        Raises
        ------
        ValueError
            If labels are missing, or there are too few images or labels.
        """
        embedder = embedder_of(estimator)
        check_is_fitted(embedder)
        source = embedder._open_for_inference(X)
        score = SCORES[self.name]
        labels = self._labels(y, len(source)) if score.of == "labels" else None
        images = _Images(embedder, source, self._drawn(len(source), labels))
        given = self._given(images, labels)
        if source.bad:  # which was found by reading them: they would count as black images
            images = replace(images, index=np.setdiff1d(images.index, list(source.bad)))
            given = self._given(images, labels)
        return score.better(score.metric(*given, **self.params))

    def _given(self, images: _Images, labels: np.ndarray | None) -> tuple[np.ndarray, ...]:
        """Return the arrays that the metric takes."""
        score = SCORES[self.name]
        match score.of:
            case "embeddings":
                return (images.embedded(),)
            case "turns":
                return (images.turned(),)
            case "labels":
                assert labels is not None
                return images.embedded(), labels[images.index]
        views = images.views(score.n_views, self.augment, self.random_state)
        return (views,) if score.of == "views" else (views[:, 0], views[:, 1])

    def _labels(self, y: Any, n: int) -> np.ndarray:
        if y is None:
            raise ValueError(
                f"The scorer {self.name!r} needs labels: give y, with -1 for unlabeled images, or take a "
                f"scorer without labels, such as get_scorer('own_view_retrieval')."
            )
        check_is_target(y, n)
        return np.asarray(y)

    def _drawn(self, n: int, labels: np.ndarray | None) -> np.ndarray:
        """Return the positions of the images to score, sorted: labeled ones, if labels are needed."""
        usable = np.arange(n) if labels is None else np.flatnonzero(is_labeled(labels))
        if len(usable) <= self.n_images:
            return usable
        return np.sort(np.random.RandomState(self.random_state).permutation(usable)[: self.n_images])


def embedder_of(estimator: BaseEstimator) -> SSLImageEmbedder:
    """Return the embedder that an estimator is, or the first step of a pipeline.

    Raises
    ------
    ValueError
        If there is none.
    """
    first = estimator
    while isinstance(first, Pipeline):
        first = first[0]
    if not isinstance(first, SSLImageEmbedder):
        raise ValueError(
            f"{estimator!r} is neither an SSLImageEmbedder nor a pipeline whose first step is one: the "
            f"scorer finds no embedder to score."
        )
    return first


@dataclass(frozen=True)
class _Images:
    """Some images of a source, and their embeddings."""

    embedder: SSLImageEmbedder
    source: Source
    index: np.ndarray

    def embedded(self) -> np.ndarray:
        """Return their embeddings (n, d)."""
        return self._embed(self.source, torch.from_numpy(self.index))

    @own_settings()
    def views(self, n_views: int, augment: Any, seed: int) -> np.ndarray:
        """Return embeddings (n, n_views, d) of random views."""
        pixels, size = self.embedder._pixels, self.embedder.image_size_
        params = (self.embedder.augment_params or {}) if augment is None else {}
        augment = make_augment(self.embedder.augment_ if augment is None else augment, params)
        draw = RandomViews.of(augment, size, pixels)
        to_pixels = Standardize(pixels)
        parts = []
        for number, part in enumerate(torch.from_numpy(self.index).split(IMAGES_AT_A_TIME)):
            unit = pixels.to_unit(self.source.batch(part))
            views = torch.stack(draw(unit, ViewSpec(n=n_views), seed + number), dim=1)  # (n, q, C, H, W)
            in_pixels = views.flatten(0, 1) * to_pixels.std + to_pixels.mean
            parts.append(self._embed(ArraySource(in_pixels)).reshape(len(part), n_views, -1))
        return np.concatenate(parts)

    def turned(self) -> np.ndarray:
        """Return embeddings (4, n, d) of the central squares, turned by 0, 90, 180 and 270 degrees."""
        side = min(self.embedder.image_size_)
        images = [
            resize_and_center(self.source.batch(part).to(torch.float32), (side, side))
            for part in torch.from_numpy(self.index).split(IMAGES_AT_A_TIME)
        ]
        whole = torch.cat(images)
        return np.stack([self._embed(ArraySource(whole.rot90(k, (2, 3)))) for k in range(4)])

    def _embed(self, source: Source, index: Tensor | None = None) -> np.ndarray:
        embedder = self.embedder
        network = embedder._network(embedder._inference_device())
        return torch.cat(list(embed(network, source, embedder.image_size_, index=index))).numpy()
