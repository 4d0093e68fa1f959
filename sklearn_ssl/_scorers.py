"""Scorers of embedders for searches and cross-validation, with and without labels."""

from __future__ import annotations

from typing import Any

from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline

from sklearn_ssl._embedder import SSLImageEmbedder
from sklearn_ssl._scores import Scoring, available_scorers

__all__ = ["EmbeddingScorer", "available_scorers", "embedder_of", "get_scorer"]


class EmbeddingScorer(Scoring):
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
        return self.evaluate(embedder_of(estimator)._to_score(X), y)


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
