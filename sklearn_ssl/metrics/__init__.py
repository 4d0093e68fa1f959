"""Metrics of embeddings, with and without labels.

Functions of arrays: they know nothing of images or estimators. Higher is better, except for `alignment`,
`uniformity`, `alpha_req` and `collapsed_dimensions`.
"""

from sklearn_ssl.metrics._labeled import (
    Interval,
    few_label_accuracy,
    knn_accuracy,
    linear_probe_accuracy,
    mean_average_precision,
    recall_at_k,
)
from sklearn_ssl.metrics._unlabeled import (
    alignment,
    alpha_req,
    cluster_learnability,
    collapsed_dimensions,
    lidar,
    own_view_retrieval,
    rankme,
    rotation_probe_accuracy,
    uniformity,
)

__all__ = [
    "Interval",
    "alignment",
    "alpha_req",
    "cluster_learnability",
    "collapsed_dimensions",
    "few_label_accuracy",
    "knn_accuracy",
    "lidar",
    "linear_probe_accuracy",
    "mean_average_precision",
    "own_view_retrieval",
    "rankme",
    "recall_at_k",
    "rotation_probe_accuracy",
    "uniformity",
]
