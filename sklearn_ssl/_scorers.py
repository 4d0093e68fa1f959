"""Scorers of embedders for searches and cross-validation, with and without labels."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import sklearn
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import MetadataRequest

from sklearn_ssl._embedder import SSLImageEmbedder
from sklearn_ssl._labels import UNLABELED
from sklearn_ssl._scores import Scoring, available_scorers
from sklearn_ssl._warnings import warn

__all__ = ["EmbeddingScorer", "available_scorers", "embedder_of", "get_scorer"]


class EmbeddingScorer(Scoring):
    """Scorer that `get_scorer` makes: a function of an estimator, images and labels.

    With scikit-learn's metadata routing, searches and cross-validation pass groups on to it.

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

    _groups_request: bool | str | None = True

    def __call__(self, estimator: BaseEstimator, X: Any, y: Any = None, *, groups: Any = None) -> float:
        """Score a fitted embedder on images.

        Parameters
        ----------
        estimator : SSLImageEmbedder or Pipeline
            Fitted embedder, or pipeline that begins with one.
        X : images
            Images, in any form that `SSLImageEmbedder.transform` accepts.
        y : array-like of shape (n_images,), default=None
            Labels, -1 for unlabeled images; only scorers with labels need them.
        groups : array-like of shape (n_images,), default=None
            Groups of images that resemble each other, such as patients, plates or videos, for scorers with
            labels: see their metrics.

        Returns
        -------
        float
            Score; more is better.

        Raises
        ------
        ValueError
            If labels are missing, or there are too few images or labels.
        """
        _warn_if_unlabeled_is_a_class(estimator)
        return self.evaluate(embedder_of(estimator)._to_score(X), y, groups)

    def set_score_request(self, *, groups: bool | str | None) -> Self:
        """Set whether scikit-learn's metadata routing passes groups on to the scorer.

        Parameters
        ----------
        groups : bool, str or None
            True, the initial value: they are passed on if they are given. False: they are not. None: an
            error if they are given. A str: the name under which they are given.

        Returns
        -------
        EmbeddingScorer
            The scorer itself.

        Raises
        ------
        RuntimeError
            If metadata routing is not enabled.
        """
        if not sklearn.get_config()["enable_metadata_routing"]:
            raise RuntimeError(
                "Groups are passed on to scorers with metadata routing only: "
                "sklearn.set_config(enable_metadata_routing=True)."
            )
        self._groups_request = groups
        return self

    def get_metadata_routing(self) -> MetadataRequest:
        """Return what scikit-learn's metadata routing passes on to the scorer.

        Returns
        -------
        MetadataRequest
            Request of groups.
        """
        request = MetadataRequest(owner=self)
        request.score.add_request(param="groups", alias=self._groups_request)
        return request


def get_scorer(
    name: str, *, n_images: int | None = None, random_state: int = 0, augment: Any = None, **params: Any
) -> EmbeddingScorer:
    """Make a scorer of embedders, for ``scoring=`` in scikit-learn.

    Parameters
    ----------
    name : str
        Name of a metric (see `available_scorers`); those that begin with ``neg_`` are negated, so that more
        is always better. "neg_distance_of_alpha_req" is minus the distance of `alpha_req` from 1.
    n_images : int, default=None
        Maximum number of images to score, drawn at random. None: 2000; 500 for "lidar", which embeds 8 views
        of each image, and 250 for "rotation_probe_accuracy", which embeds 4 rotations of each.
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
        Callable ``scorer(estimator, X, y=None, groups=None)``, where `estimator` is an `SSLImageEmbedder` or
        a pipeline whose first step is one, and X are images. Scorers with labels use the images that have
        one, and compare images of different groups only. Searches pass groups on with scikit-learn's
        metadata routing only (``sklearn.set_config(enable_metadata_routing=True)``).

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
    return EmbeddingScorer.of(name, n_images, random_state, augment, **params)


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


def _warn_if_unlabeled_is_a_class(estimator: BaseEstimator) -> None:
    """Warn of a classifier that was fitted on unlabeled images as a class; -1 and 1 may be two classes."""
    classes = getattr(estimator, "classes_", ())
    if isinstance(classes, np.ndarray) and UNLABELED in classes.tolist() and set(classes.tolist()) != {-1, 1}:
        warn(
            f"The classifier in this pipeline has learned -1, the label of unlabeled images, as a class "
            f"beside {[c for c in classes.tolist() if c != UNLABELED]}. Let it learn from labeled images "
            f"only: SelfTrainingClassifier(classifier, max_iter=0), of sklearn.semi_supervised."
        )
