"""Evaluation of embeddings by few labels, nearest neighbors and a linear probe: test accuracy in percent."""

from __future__ import annotations

import sys
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


def few_labels(train, y_train, test, y_test, rows: np.ndarray | None = None) -> dict[str, float]:
    """Evaluate logistic regression from 1 and 10 labels per class, mean of ten draws from `rows` or all."""
    rows = np.arange(len(y_train)) if rows is None else rows
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    scores = {}
    for k, name in ((1, "1 label"), (10, "10 labels")):
        chosen = [rows[some_of_each_class(y_train[rows], k, draw)] for draw in range(DRAWS)]
        accuracies = [classifier.fit(train[few], y_train[few]).score(test, y_test) for few in chosen]
        scores[name] = _percent(np.mean(accuracies))
    return scores


def neighbors_and_probe(bank, y_bank, test, y_test) -> dict[str, float]:
    """Evaluate 20 nearest neighbors by cosine, and logistic regression, with all labels of the bank."""
    knn = KNeighborsClassifier(20, metric="cosine").fit(bank, y_bank)
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(bank, y_bank)
    return {"knn": _percent(knn.score(test, y_test)), "linear": _percent(linear.score(test, y_test))}


def _percent(share: float) -> float:
    return round(100 * float(share), 2)
