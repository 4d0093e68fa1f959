"""Evaluation of embeddings by few labels, nearest neighbors and a linear probe: test accuracy in percent."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from quickstart import DRAWS, digits, embeddings, flat, some_of_each_class, untrained

__all__ = [
    "digits",
    "embeddings",
    "few_labels",
    "flat",
    "neighbors_and_probe",
    "some_of_each_class",
    "untrained",
]


def few_labels(
    train, y_train, test, y_test, rows: np.ndarray | None = None, counts: Sequence[int] = (1, 10)
) -> dict[str, float]:
    """Evaluate logistic regression from some labels per class, mean of ten draws from `rows` or all."""
    rows = np.arange(len(y_train)) if rows is None else rows
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    scores = {}
    for k in counts:
        chosen = [rows[some_of_each_class(y_train[rows], k, draw)] for draw in range(DRAWS)]
        accuracies = [classifier.fit(train[few], y_train[few]).score(test, y_test) for few in chosen]
        scores[f"{k} label{'s' if k > 1 else ''}"] = _percent(np.mean(accuracies))
    return scores


def neighbors_and_probe(bank, y_bank, test, y_test, n_neighbors: int = 20) -> dict[str, float]:
    """Evaluate nearest neighbors by cosine, and logistic regression, with all labels of the bank."""
    knn = KNeighborsClassifier(n_neighbors, metric="cosine").fit(bank, y_bank)
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(bank, y_bank)
    return {"knn": _percent(knn.score(test, y_test)), "linear": _percent(linear.score(test, y_test))}


def _percent(share: float) -> float:
    return round(100 * float(share), 2)
