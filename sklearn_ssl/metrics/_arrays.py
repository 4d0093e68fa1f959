"""Checks of the arrays that metrics take, and the classifier that several of them train."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.multiclass import type_of_target

# Label of an image without label, as in sklearn.semi_supervised.
UNLABELED = -1
# Maximum number of iterations of logistic regression.
MAX_ITER = 1000
# Number of queries whose similarities to all images are in memory at a time.
QUERIES_AT_A_TIME = 1024


def checked(embeddings: Any, axes: str = "(n, d)") -> np.ndarray:
    """Return embeddings as float64; raise ValueError if they are not finite, or of fewer than two images."""
    array = check_array(embeddings, dtype=np.float64, allow_nd=True, ensure_2d=False, ensure_min_samples=0)
    names = axes.strip("()").split(", ")
    if array.ndim != len(names) or array.shape[names.index("n")] < 2:
        raise ValueError(
            f"The embeddings have the shape {array.shape}: give an array {axes}, with n at least 2 images."
        )
    return array


def is_labeled(y: np.ndarray) -> np.ndarray:
    """Return which labels are given: numbers other than -1, and anything else.

    Raises
    ------
    ValueError
        If `y` holds no class labels, or fewer than two classes.
    """
    if not type_of_target(y).startswith(("binary", "multiclass")):
        raise ValueError(f"y is of the type {type_of_target(y)!r}: give one class label per image.")
    labeled = y != UNLABELED if y.dtype.kind in "iuf" else np.ones(len(y), dtype=bool)
    n_classes = len(np.unique(y[labeled]))
    if n_classes < 2:
        raise ValueError(
            f"{labeled.sum()} of {len(y)} images are labeled, with {n_classes} classes: give labels of at "
            f"least two classes (in folds of few labels, by LabeledKFold), or use a metric without labels, "
            f"such as rankme."
        )
    return labeled


def labeled_rows(embeddings: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows with a label, and the labels."""
    Z, y = checked(embeddings), np.asarray(y)
    check_consistent_length(Z, y)
    labeled = is_labeled(y)
    return Z[labeled], y[labeled]


def linear_probe(C: float = 1.0) -> Any:
    """Return logistic regression on standardized embeddings."""
    # Newton's method takes a third of the time of the default solver on correlated features.
    return make_pipeline(StandardScaler(), LogisticRegression(C=C, solver="newton-cg", max_iter=MAX_ITER))
