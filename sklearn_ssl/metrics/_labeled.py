"""Metrics of embeddings with labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import label_ranking_average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.preprocessing import normalize
from sklearn.utils import check_random_state, gen_batches

from sklearn_ssl.metrics._arrays import QUERIES_AT_A_TIME, labeled_rows, linear_probe


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


def knn_accuracy(embeddings: Any, y: Any, *, n_neighbors: int = 10) -> float:
    """Return the accuracy of the majority vote of each image's nearest neighbors among the others.

    Parameters
    ----------
    embeddings : array-like of shape (n, d)
        Embeddings.
    y : array-like of shape (n,)
        Labels; rows with the label -1 are left out.
    n_neighbors : int, default=10
        Number of neighbors, by cosine similarity. Of classes with equally many votes, the first in sorted
        order wins.

    Returns
    -------
    float
        Accuracy, from 0 to 1.

    References
    ----------
    Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", arXiv:1805.01978,
    section 3.4, with equal weights.
    """
    Z, y = labeled_rows(embeddings, y)
    classifier = KNeighborsClassifier(min(n_neighbors, len(Z) - 1))
    return float(classifier.fit(normalize(Z), y).score(None, y))  # None: each image by the others


def linear_probe_accuracy(embeddings: Any, y: Any, *, cv: Any = 5, C: float = 1.0) -> float:
    """Return the cross-validated accuracy of logistic regression on standardized embeddings.

    Parameters
    ----------
    embeddings : array-like of shape (n, d)
        Embeddings.
    y : array-like of shape (n,)
        Labels; rows with the label -1 are left out.
    cv : int or cross-validation splitter, default=5
        Splitter; an int is the number of stratified folds.
    C : float, default=1.0
        Inverse strength of the regularization.

    Returns
    -------
    float
        Mean accuracy over the folds, from 0 to 1.
    """
    Z, y = labeled_rows(embeddings, y)
    if isinstance(cv, int):
        smallest = np.unique(y, return_counts=True)[1].min()
        if smallest < cv:
            raise ValueError(
                f"The smallest class has {smallest} labels, fewer than cv={cv} folds: give a smaller cv, or "
                f"use few_label_accuracy."
            )
        cv = StratifiedKFold(cv, shuffle=True, random_state=0)
    return float(cross_val_score(linear_probe(C), Z, y, cv=cv).mean())


def few_label_accuracy(
    embeddings: Any, y: Any, *, n_labels: int = 5, n_draws: int = 10, random_state: Any = 0
) -> Interval:
    """Return the accuracy that logistic regression has from a few labels per class, on the other images.

    Parameters
    ----------
    embeddings : array-like of shape (n, d)
        Embeddings.
    y : array-like of shape (n,)
        Labels; rows with the label -1 are left out.
    n_labels : int, default=5
        Number of labels per class.
    n_draws : int, default=10
        Number of times that the labels are drawn.
    random_state : int, RandomState instance or None, default=0
        Source of the draws. An int gives the same labels in every call, so that embeddings can be compared.

    Returns
    -------
    Interval
        Mean accuracy over the draws, and the interval that holds 95 % of them.
    """
    Z, y = labeled_rows(embeddings, y)
    classes, counts = np.unique(y, return_counts=True)
    if counts.min() <= n_labels:
        raise ValueError(
            f"Class {classes[counts.argmin()]!r} has {counts.min()} labels: n_labels={n_labels} leaves none "
            f"to test on. Give a smaller n_labels."
        )
    rng = check_random_state(random_state)
    accuracies = []
    for _ in range(n_draws):
        shuffled = rng.permutation(len(Z))
        few = np.concatenate([shuffled[y[shuffled] == c][:n_labels] for c in classes])
        others = np.setdiff1d(shuffled, few)
        accuracies.append(linear_probe().fit(Z[few], y[few]).score(Z[others], y[others]))
    low, high = np.percentile(accuracies, [2.5, 97.5])
    return Interval(float(np.mean(accuracies)), float(low), float(high))


def recall_at_k(embeddings: Any, y: Any, *, k: int = 1) -> float:
    """Return the share of images that have one of their own class among their k nearest neighbors.

    Parameters
    ----------
    embeddings : array-like of shape (n, d)
        Embeddings, compared by cosine similarity.
    y : array-like of shape (n,)
        Labels; rows with the label -1 are left out. Images that are alone in their class are not
        used as queries.
    k : int, default=1
        Number of neighbors.

    Returns
    -------
    float
        Share of the queries, from 0 to 1.

    References
    ----------
    Jégou et al., "Product Quantization for Nearest Neighbor Search", IEEE TPAMI 33 (2011), section V-B.
    """
    Z, codes, queries = _retrieval(embeddings, y)
    neighbors = NearestNeighbors(n_neighbors=min(k, len(Z) - 1)).fit(Z).kneighbors(return_distance=False)
    return float((codes[neighbors[queries]] == codes[queries, None]).any(axis=1).mean())


def mean_average_precision(embeddings: Any, y: Any) -> float:
    """Return the mean average precision of retrieval: all other images, the most similar first.

    Parameters
    ----------
    embeddings : array-like of shape (n, d)
        Embeddings, compared by cosine similarity.
    y : array-like of shape (n,)
        Labels; rows with the label -1 are left out. Images that are alone in their class are not
        used as queries.

    Returns
    -------
    float
        Mean over the queries of the mean, over the images of the query's class, of the share of that class
        down to their rank; from 0 to 1.

    References
    ----------
    Manning, Raghavan, Schütze, "Introduction to Information Retrieval" (2008), equation 8.8.
    """
    Z, codes, queries = _retrieval(embeddings, y)
    total = 0.0
    for batch in gen_batches(len(queries), QUERIES_AT_A_TIME):
        part = queries[batch]
        similarity = Z[part] @ Z.T
        relevant = codes[part, None] == codes
        rows = np.arange(len(part))
        similarity[rows, part], relevant[rows, part] = -2.0, False  # the query itself: below any cosine
        total += len(part) * label_ranking_average_precision_score(relevant, similarity)
    return float(total / len(queries))


def _retrieval(embeddings: Any, y: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return normalized embeddings, the number of each one's class, and the positions of the queries."""
    Z, y = labeled_rows(embeddings, y)
    _, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
    queries = np.flatnonzero(counts[codes] > 1)
    if len(queries) == 0:
        raise ValueError("Each class has a single image: there is nothing to retrieve.")
    return normalize(Z), codes, queries
