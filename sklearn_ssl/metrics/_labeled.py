"""Metrics of embeddings with labels."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.random import RandomState
from sklearn.metrics import accuracy_score, label_ranking_average_precision_score, make_scorer, recall_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, check_cv, cross_val_score
from sklearn.preprocessing import normalize
from sklearn.utils import check_random_state

from sklearn_ssl._labels import Labeled
from sklearn_ssl.metrics._arrays import (
    OWN_GROUP,
    labeled_rows,
    linear_probe,
    nearest_others,
    similarity_to_others,
)


@dataclass(frozen=True)
class Interval:
    """Mean of several draws, and the interval that holds 95 % of them.

    Attributes
    ----------
    mean : float
        Mean.
    low, high : float
        2.5th and 97.5th percentile of the draws.
    """

    mean: float
    low: float
    high: float

    def __float__(self) -> float:
        return self.mean


class TooFewLabels(ValueError):
    """There are not enough labels for the number to draw."""


def knn_accuracy(
    embeddings: Any, y: Any, *, groups: Any = None, n_neighbors: int = 10, balanced: bool = True
) -> float:
    """Return the accuracy of the vote of each image's nearest neighbors among the others.

    Parameters
    ----------
    embeddings : array-like of shape (n, d)
        Embeddings.
    y : array-like of shape (n,)
        Labels; rows with the label -1, NaN or None are left out. Images whose class has no other image (of
        another group) vote, but are not asked.
    groups : array-like of shape (n,), default=None
        Groups of images that resemble each other, such as patients, plates or videos: only images of other
        groups are neighbors. None: all other images are.
    n_neighbors : int, default=10
        Number of neighbors, by cosine similarity. Of classes with equally many votes, the first in sorted
        order wins.
    balanced : bool, default=True
        Whether all classes count the same, rare ones too: votes are divided by the size of the class among
        the images, and the accuracies of the classes are averaged, so that chance is 1 / number of classes.
        With classes of equal size that is the accuracy. False: the share of images that the majority of
        their neighbors is right about, which is 0.97 without any information if 97 % are of one class.

    Returns
    -------
    float
        Accuracy, from 0 to 1.

    References
    ----------
    Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", arXiv:1805.01978,
    section 3.4, with equal weights.
    """
    Z, labeled = labeled_rows(embeddings, y, groups)
    if labeled.n_comparable < 2:
        where = "image" if groups is None else "group"
        raise ValueError(
            f"Of {len(labeled.classes)} classes, fewer than two have labels in more than one {where}: there "
            f"is nothing to compare. Label more images, or use a metric without labels, such as rankme."
        )
    y, queries = labeled.y, labeled.queries
    sizes = np.bincount(y) if balanced else np.ones(len(labeled.classes))
    right = []
    for some, near in nearest_others(normalize(Z), labeled.groups, queries, n_neighbors):
        votes = np.zeros((len(some), len(sizes)), int)
        query, place = np.nonzero(near >= 0)
        np.add.at(votes, (query, y[near[query, place]]), 1)
        right.append((votes / sizes).argmax(axis=1) == y[some])
    return _mean(np.concatenate(right), y[queries], balanced)


def linear_probe_accuracy(
    embeddings: Any,
    y: Any,
    *,
    groups: Any = None,
    cv: Any = 5,
    C: float = 1.0,
    balanced: bool = True,
    scoring: Any = None,
) -> float:
    """Return the cross-validated accuracy of logistic regression on standardized embeddings.

    Parameters
    ----------
    embeddings : array-like of shape (n, d)
        Embeddings.
    y : array-like of shape (n,)
        Labels; rows with the label -1, NaN or None are left out.
    groups : array-like of shape (n,), default=None
        Groups of images that resemble each other, such as patients, plates or videos: all images of a group
        are in the same fold.
    cv : int or cross-validation splitter, default=5
        Splitter; an int is the number of stratified folds.
    C : float, default=1.0
        Inverse strength of the regularization.
    balanced : bool, default=True
        Whether all classes count the same, rare ones too, in the training and in the accuracy, so that
        chance is 1 / number of classes. With classes of equal size that is the accuracy.
    scoring : str or callable, default=None
        Another score than the accuracy: a name or scorer of scikit-learn, such as "roc_auc" or "f1", whose
        positive class is the last one in sorted order.

    Returns
    -------
    float
        Mean over the folds; an accuracy is from 0 to 1.
    """
    Z, labeled = labeled_rows(embeddings, y, groups)
    folds = _folds(labeled, cv, by_group=groups is not None)
    if scoring is None:
        scoring = make_scorer(_macro_recall if balanced else accuracy_score)
    return float(cross_val_score(linear_probe(C, balanced), Z, labeled.y, cv=folds, scoring=scoring).mean())


def few_label_accuracy(
    embeddings: Any,
    y: Any,
    *,
    groups: Any = None,
    n_labels: int = 5,
    n_draws: int = 10,
    balanced: bool = True,
    random_state: Any = 0,
) -> Interval:
    """Return the accuracy that logistic regression has from a few labels per class, on the other images.

    Parameters
    ----------
    embeddings : array-like of shape (n, d)
        Embeddings.
    y : array-like of shape (n,)
        Labels; rows with the label -1, NaN or None are left out.
    groups : array-like of shape (n,), default=None
        Groups of images that resemble each other, such as patients, plates or videos: the labels of a draw
        are those of one half of the groups, and it is tested on the other half.
    n_labels : int, default=5
        Number of labels per class.
    n_draws : int, default=10
        Number of times that the labels are drawn.
    balanced : bool, default=True
        Whether the accuracy is the mean of those of the classes, so that rare ones count the same, and
        chance is 1 / number of classes.
    random_state : int, RandomState instance or None, default=0
        Source of the draws. An int gives the same labels in every call, so that embeddings can be compared.

    Returns
    -------
    Interval
        Mean accuracy over the draws, and the interval that holds 95 % of them.
    """
    Z, labeled = labeled_rows(embeddings, y, groups)
    y = labeled.y
    accuracy = _macro_recall if balanced else accuracy_score
    rng = check_random_state(random_state)
    accuracies = []
    for _ in range(n_draws):
        few, others = _draw(labeled, n_labels, rng, by_group=groups is not None)
        predicted = linear_probe().fit(Z[few], y[few]).predict(Z[others])
        accuracies.append(accuracy(y[others], predicted))
    low, high = np.percentile(accuracies, [2.5, 97.5])
    return Interval(float(np.mean(accuracies)), float(low), float(high))


def recall_at_k(embeddings: Any, y: Any, *, groups: Any = None, k: int = 1, balanced: bool = True) -> float:
    """Return the share of images that have one of their own class among their k nearest neighbors.

    Parameters
    ----------
    embeddings : array-like of shape (n, d)
        Embeddings, compared by cosine similarity.
    y : array-like of shape (n,)
        Labels; rows with the label -1, NaN or None are left out. Images whose class has no other image (of
        another group) are not used as queries.
    groups : array-like of shape (n,), default=None
        Groups of images that resemble each other, such as patients, plates or videos: only images of other
        groups are neighbors. None: all other images are.
    k : int, default=1
        Number of neighbors.
    balanced : bool, default=True
        Whether the share is the mean of those of the classes, so that rare ones count the same.

    Returns
    -------
    float
        Share of the queries, from 0 to 1. Balanced and with k=1, chance is 1 / number of classes.

    References
    ----------
    Jégou et al., "Product Quantization for Nearest Neighbor Search", IEEE TPAMI 33 (2011), section V-B.
    """
    Z, y, groups, queries = _to_retrieve(embeddings, y, groups)
    found = [
        ((y[near] == y[some, None]) & (near >= 0)).any(axis=1)
        for some, near in nearest_others(Z, groups, queries, k)
    ]
    return _mean(np.concatenate(found), y[queries], balanced)


def mean_average_precision(embeddings: Any, y: Any, *, groups: Any = None, balanced: bool = True) -> float:
    """Return the mean average precision of retrieval: all other images, the most similar first.

    Parameters
    ----------
    embeddings : array-like of shape (n, d)
        Embeddings, compared by cosine similarity.
    y : array-like of shape (n,)
        Labels; rows with the label -1, NaN or None are left out. Images whose class has no other image (of
        another group) are not used as queries.
    groups : array-like of shape (n,), default=None
        Groups of images that resemble each other, such as patients, plates or videos: only images of other
        groups are retrieved. None: all other images are.
    balanced : bool, default=True
        Whether the mean over the queries is one of the means of the classes, so that rare ones count the
        same.

    Returns
    -------
    float
        Mean over the queries of the mean, over the images of the query's class, of the share of that class
        down to their rank; from 0 to 1. Balanced, chance is about 1 / number of classes.

    References
    ----------
    Manning, Raghavan, Schütze, "Introduction to Information Retrieval" (2008), equation 8.8.
    """
    Z, y, groups, queries = _to_retrieve(embeddings, y, groups)
    weight = np.zeros(len(y))
    weight[queries] = _weights(y[queries], balanced)
    total = 0.0
    for some, similarity in similarity_to_others(Z, groups, queries):
        relevant = (y[some, None] == y) & (similarity > OWN_GROUP)
        mean = label_ranking_average_precision_score(relevant, similarity, sample_weight=weight[some])
        total += weight[some].sum() * mean
    return float(total / weight.sum())


def _to_retrieve(embeddings: Any, y: Any, groups: Any) -> tuple[np.ndarray, ...]:
    """Return normalized embeddings, numbers of classes and of groups, and the positions of the queries."""
    Z, labeled = labeled_rows(embeddings, y, groups)
    if labeled.n_comparable == 0:
        where = "image" if groups is None else "group"
        raise ValueError(f"Each class has a single {where}: there is nothing to retrieve.")
    return normalize(Z), labeled.y, labeled.groups, labeled.queries


def _weights(y: np.ndarray, balanced: bool) -> np.ndarray:
    """Return weights (n,) of images by which a mean over them is one over classes, or over images."""
    return 1 / np.bincount(y)[y] if balanced else np.ones(len(y))


def _mean(values: np.ndarray, y: np.ndarray, balanced: bool) -> float:
    return float(np.average(values, weights=_weights(y, balanced)))


def _macro_recall(y: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean over the classes in y of the share that is right."""
    return float(recall_score(y, predicted, labels=np.unique(y), average="macro"))


def _folds(labeled: Labeled, cv: Any, by_group: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the positions of training and test of each fold."""
    y, groups = labeled.y, labeled.groups if by_group else None
    if isinstance(cv, Integral):
        smallest = labeled.groups_of_classes.min()
        if smallest < cv:
            raise ValueError(
                f"The smallest class has {smallest} {'groups' if by_group else 'labels'}, fewer than cv={cv} "
                f"folds: give a smaller cv, or use few_label_accuracy."
            )
        kind = StratifiedGroupKFold if by_group else StratifiedKFold
        cv = kind(int(cv), shuffle=True, random_state=0)
    return list(check_cv(cv, y, classifier=True).split(y, y, groups))


def _draw(labeled: Labeled, n_labels: int, rng: RandomState, by_group: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of `n_labels` images of each class, and of the images to test on."""
    y, pool, others = labeled.y, np.arange(len(labeled.y)), None
    if by_group:
        pool, others = _halves(labeled, rng.randint(2**31))
    counts = np.bincount(y[pool], minlength=len(labeled.classes))
    if counts.min() < n_labels + (not by_group):
        raise TooFewLabels(
            f"Class {labeled.classes[counts.argmin()]} has {counts.min()} labels"
            f"{' in one half of the groups' if by_group else ''}: n_labels={n_labels} "
            f"{'are more' if by_group else 'leaves none to test on'}. Give a smaller n_labels."
        )
    shuffled = rng.permutation(pool)
    few = np.concatenate([shuffled[y[shuffled] == c][:n_labels] for c in range(len(counts))])
    return few, np.setdiff1d(pool, few) if others is None else others


def _halves(labeled: Labeled, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of two halves without a common group."""
    n_groups = labeled.groups_of_classes
    if n_groups.min() < 2:
        raise TooFewLabels(
            f"Class {labeled.classes[n_groups.argmin()]} has labels in a single group: there is no other "
            f"to test on."
        )
    split = StratifiedGroupKFold(2, shuffle=True, random_state=seed).split(
        labeled.y, labeled.y, labeled.groups
    )
    return next(split)
