"""Checks of the arrays that metrics take, their nearest neighbors, and the classifier that several train."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array, check_consistent_length, gen_batches

from sklearn_ssl._labels import Labeled, as_column

# Maximum number of iterations of logistic regression.
MAX_ITER = 1000
# Number of queries whose similarities to all images are in memory at a time.
QUERIES_AT_A_TIME = 1024
# Similarity of an image to those of its own group, below any cosine.
OWN_GROUP = -2.0


def checked(embeddings: Any, axes: str = "(n, d)") -> np.ndarray:
    """Return embeddings as float64; raise ValueError if they are not finite, or of fewer than two images."""
    array = check_array(embeddings, dtype=np.float64, allow_nd=True, ensure_2d=False, ensure_min_samples=0)
    names = axes.strip("()").split(", ")
    if array.ndim != len(names) or array.shape[names.index("n")] < 2:
        raise ValueError(
            f"The embeddings have the shape {array.shape}: give an array {axes}, with n at least 2 images."
        )
    return array


def labeled_rows(embeddings: Any, y: Any, groups: Any) -> tuple[np.ndarray, Labeled]:
    """Return the embeddings (n, d) of labeled images, and these images."""
    Z, labeled = checked(embeddings), Labeled.of(y, groups)
    check_consistent_length(Z, as_column(y, "y"))
    return Z[labeled.index], labeled


def similarity_to_others(
    Z: np.ndarray, groups: np.ndarray, queries: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield positions of some queries, and their cosines (n_some, n) to all images; own group: `OWN_GROUP`.

    Z holds normalized embeddings (n, d), `groups` the numbers of their groups (n,).
    """
    for batch in gen_batches(len(queries), QUERIES_AT_A_TIME):
        some = queries[batch]
        similarity = Z[some] @ Z.T
        similarity[groups[some, None] == groups] = OWN_GROUP
        yield some, similarity


def nearest_others(
    Z: np.ndarray, groups: np.ndarray, queries: np.ndarray, n_neighbors: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield positions of some queries, and of their nearest images of other groups (n_some, n_neighbors).

    The nearest come first; -1 where other groups have fewer images. Arguments as in `similarity_to_others`.
    """
    k = min(n_neighbors, len(Z) - 1)
    for some, similarity in similarity_to_others(Z, groups, queries):
        near = np.argpartition(similarity, len(Z) - k, axis=1)[:, len(Z) - k :]
        values = np.take_along_axis(similarity, near, axis=1)
        near[values == OWN_GROUP] = -1
        yield some, np.take_along_axis(near, np.argsort(-values, axis=1, kind="stable"), axis=1)


def linear_probe(C: float = 1.0, balanced: bool = True) -> Any:
    """Return logistic regression on standardized embeddings, whose classes weigh the same if `balanced`."""
    # Newton's method takes a third of the time of the default solver on correlated features.
    weights = "balanced" if balanced else None
    classifier = LogisticRegression(C=C, solver="newton-cg", max_iter=MAX_ITER, class_weight=weights)
    return make_pipeline(StandardScaler(), classifier)
