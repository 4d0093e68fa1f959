"""Scores of a network on images: the metrics by name, and the embeddings that each of them takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from sklearn_ssl import metrics
from sklearn_ssl._checks import check_number
from sklearn_ssl._hardware.ambient import own_settings
from sklearn_ssl._images.pixel_scale import PixelScale, Standardize
from sklearn_ssl._images.resize import resize_and_center
from sklearn_ssl._images.sources import ArraySource, Source
from sklearn_ssl._labels import Labeled, as_column, group_numbers
from sklearn_ssl._networks.inference import InferenceNetwork
from sklearn_ssl._training.labels import check_is_target
from sklearn_ssl._transform import embed
from sklearn_ssl._views.augmentation import make_augment
from sklearn_ssl._views.random_views import RandomViews
from sklearn_ssl.augment import Augment
from sklearn_ssl.losses._base import ViewSpec

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
    n_views: int = 1  # embeddings of each image


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
    "own_view_retrieval": _Score("pair", metrics.own_view_retrieval, n_views=2),
    "neg_alignment": _Score("pair", metrics.alignment, _minus, n_views=2),
    "lidar": _Score("views", metrics.lidar, n_images=500, n_views=8),
    "rotation_probe_accuracy": _Score("turns", metrics.rotation_probe_accuracy, n_images=250, n_views=4),
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


@dataclass(frozen=True)
class ImagesToScore:
    """Images, and the network and augmentation with which they are embedded.

    Parameters
    ----------
    network : InferenceNetwork
        Maps images to embeddings.
    source : Source
        Images.
    image_size : tuple of two ints
        (height, width) of the views, in pixels.
    pixels : PixelScale
        Scale of the pixel values.
    augment : Augment, callable or None
        Augmentation of the training; None if it is not known.
    index : Tensor of shape (n,), optional
        Positions of the images to embed; None: all.
    """

    network: InferenceNetwork
    source: Source
    image_size: tuple[int, int]
    pixels: PixelScale
    augment: Augment | Callable | None
    index: Tensor | None = None

    @property
    def _parts(self) -> tuple[Tensor, ...]:
        index = torch.arange(len(self.source)) if self.index is None else self.index
        return index.split(IMAGES_AT_A_TIME)

    def embedded(self) -> np.ndarray:
        """Return their embeddings (n, d)."""
        return self._embed(self.source, self.index)

    @own_settings()
    def views(self, n_views: int, augment: Any, seed: int) -> np.ndarray:
        """Return embeddings (n, n_views, d) of random views; augment=None is that of the training."""
        made = self.augment if augment is None else make_augment(augment, {})
        if made is None:
            raise ValueError(
                "The augmentation of this embedder is not in the file that it was loaded from: give one for "
                "the views, such as get_scorer(name, augment='photo')."
            )
        draw = RandomViews.of(made, self.image_size, self.pixels)
        to_pixels = Standardize(self.pixels)
        parts = []
        for number, part in enumerate(self._parts):
            unit = self.pixels.to_unit(self.source.batch(part))
            views = torch.stack(draw(unit, ViewSpec(n=n_views), seed + number), dim=1)  # (n, q, C, H, W)
            in_pixels = views.flatten(0, 1) * to_pixels.std + to_pixels.mean
            parts.append(self._embed(ArraySource(in_pixels)).reshape(len(part), n_views, -1))
        return np.concatenate(parts)

    def turned(self) -> np.ndarray:
        """Return embeddings (4, n, d) of the central squares, turned by 0, 90, 180 and 270 degrees."""
        side = min(self.image_size)
        images = [
            resize_and_center(self.source.batch(part).to(torch.float32), (side, side)) for part in self._parts
        ]
        whole = torch.cat(images)
        return np.stack([self._embed(ArraySource(whole.rot90(k, (2, 3)))) for k in range(4)])

    def _embed(self, source: Source, index: Tensor | None = None) -> np.ndarray:
        return torch.cat(list(embed(self.network, source, self.image_size, index=index))).numpy()


@dataclass(frozen=True)
class Scoring:
    """Score by name, with the images that it is taken of and the parameters of its metric.

    Parameters
    ----------
    name : str
        Name of the score.
    n_images : int
        Maximum number of images to score.
    random_state : int
        Seed of the images and views.
    augment : str, Augment, callable or None
        Augmentation of the views; None: that of the training.
    params : dict
        Parameters of the metric.
    """

    name: str
    n_images: int
    random_state: int
    augment: Any
    params: dict[str, Any]

    @classmethod
    def of(
        cls, name: str, n_images: int | None = None, random_state: int = 0, augment: Any = None, **params: Any
    ) -> Self:
        """Make a score, with defaults.

        Raises
        ------
        ValueError
            If there is no such score or parameter.
        """
        if name not in SCORES:
            raise ValueError(f"There is no scorer {name!r}. Available: {', '.join(available_scorers())}.")
        score = SCORES[name]
        signature = inspect.signature(score.metric)
        known = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
        if "groups" in params:
            raise ValueError(
                f"groups belong to the images to score, so give them with these, as y: "
                f"get_scorer({name!r})(estimator, X, y, groups=groups). In searches, scikit-learn's metadata "
                f"routing does so: sklearn.set_config(enable_metadata_routing=True), then "
                f"search.fit(X, y, groups=groups)."
            )
        known = [name for name in known if name != "groups"]
        unknown = sorted(set(params) - set(known))
        if unknown:
            raise ValueError(
                f"The scorer {name!r} has no parameter {unknown[0]!r}. Available: "
                f"{', '.join(known) or 'none'}."
            )
        if n_images is not None:
            check_number("n_images", n_images, whole=True, at_least=2)
        return cls(name, n_images or score.n_images, random_state, augment, params)

    @property
    def needs_labels(self) -> bool:
        """Whether the score is one of embeddings and labels."""
        return SCORES[self.name].of == "labels"

    @property
    def n_views(self) -> int:
        """Number of embeddings that the score takes of each image."""
        return SCORES[self.name].n_views

    def evaluate(self, images: ImagesToScore, y: Any = None, groups: Any = None) -> float:
        """Return the score of some of the images; more is better.

        Parameters
        ----------
        images : ImagesToScore
            Images, and the network to score.
        y : array-like of shape (n_images,), default=None
            Labels; scores with labels use the images that have one.
        groups : array-like of shape (n_images,), default=None
            Groups of images, for scores with labels.

        Raises
        ------
        ValueError
            If labels are missing, or there are too few images or labels.
        """
        n = len(images.source)
        labels = self._labels(y, n) if self.needs_labels else None
        drawn = self._drawn(n, labels)
        given = self._given(images, drawn, labels)
        if images.source.bad:  # which was found by reading them: they would count as black images
            drawn = np.setdiff1d(drawn, list(images.source.bad))
            given = self._given(images, drawn, labels)
        params = self.params
        if self.needs_labels and groups is not None:
            params = {**params, "groups": group_numbers(groups, n)[drawn]}
        score = SCORES[self.name]
        return score.better(score.metric(*given, **params))

    def _given(
        self, images: ImagesToScore, drawn: np.ndarray, labels: np.ndarray | None
    ) -> tuple[np.ndarray, ...]:
        """Return the arrays that the metric takes."""
        images, score = replace(images, index=torch.from_numpy(drawn)), SCORES[self.name]
        match score.of:
            case "embeddings":
                return (images.embedded(),)
            case "turns":
                return (images.turned(),)
            case "labels":
                assert labels is not None
                return images.embedded(), labels[drawn]
        views = images.views(score.n_views, self.augment, self.random_state)
        return (views,) if score.of == "views" else (views[:, 0], views[:, 1])

    def _labels(self, y: Any, n: int) -> np.ndarray:
        if y is None:
            raise ValueError(
                f"The scorer {self.name!r} needs labels: give y, with -1 for unlabeled images, or take a "
                f"scorer without labels, such as get_scorer('rankme')."
            )
        check_is_target(y, n)
        return as_column(y, "y")

    def _drawn(self, n: int, labels: np.ndarray | None) -> np.ndarray:
        """Return the positions of the images to score, sorted: labeled ones, if labels are needed."""
        usable = np.arange(n) if labels is None else Labeled.of(labels).index
        if len(usable) <= self.n_images:
            return usable
        return np.sort(np.random.RandomState(self.random_state).permutation(usable)[: self.n_images])
