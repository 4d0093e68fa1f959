"""Metrics of embeddings, with and without labels.

Functions of arrays: they know nothing of images or estimators. Higher is better, except for `alignment`,
`uniformity`, `alpha_req` and `collapsed_dimensions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.utils import check_array, check_consistent_length, check_random_state
from sklearn.utils.multiclass import type_of_target

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

# Label of an image without label, as in sklearn.semi_supervised.
UNLABELED = -1
# Number of queries whose similarities to all images are in memory at a time.
QUERIES_AT_A_TIME = 1024
# Maximum number of iterations of logistic regression.
MAX_ITER = 1000


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


# ---------------------------------------------------------------------------- with labels


def knn_accuracy(embeddings: Any, y: Any, *, n_neighbors: int = 10) -> float:
    """Return the accuracy of the majority vote of each image's nearest neighbors among the others.

    Parameters
    ----------
    embeddings : array-like of shape (n, d)
        Embeddings.
    y : array-like of shape (n,)
        Labels; rows with the label -1 are left out.
    n_neighbors : int, default=10
        Number of neighbors, by cosine similarity. Of classes with equally many votes, that of the nearer
        neighbor wins.

    Returns
    -------
    float
        Accuracy, from 0 to 1.

    References
    ----------
    Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", arXiv:1805.01978,
    section 3.4, with equal weights.
    """
    Z, y = _labeled(embeddings, y)
    n_neighbors = min(n_neighbors, len(Z) - 1)
    neighbors = NearestNeighbors(n_neighbors=n_neighbors).fit(normalize(Z)).kneighbors(return_distance=False)
    classes, codes = np.unique(y, return_inverse=True)
    votes = np.zeros((len(Z), len(classes)))
    # Nearer neighbors count for a little more, which decides between classes with equally many votes only.
    weights = 1 + 1e-3 * (1 - np.arange(n_neighbors) / n_neighbors) / n_neighbors
    for rank, weight in enumerate(weights):
        votes[np.arange(len(Z)), codes[neighbors[:, rank]]] += weight
    return float((votes.argmax(axis=1) == codes).mean())


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
    Z, y = _labeled(embeddings, y)
    if isinstance(cv, int):
        smallest = np.unique(y, return_counts=True)[1].min()
        if smallest < cv:
            raise ValueError(
                f"The smallest class has {smallest} labels, fewer than cv={cv} folds: give a smaller cv, or "
                f"use few_label_accuracy."
            )
        cv = StratifiedKFold(cv, shuffle=True, random_state=0)
    return float(cross_val_score(_probe(C), Z, y, cv=cv).mean())


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
    Z, y = _labeled(embeddings, y)
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
        accuracies.append(_probe().fit(Z[few], y[few]).score(Z[others], y[others]))
    low, high = np.percentile(accuracies, [2.5, 97.5])
    return Interval(float(np.mean(accuracies)), float(low), float(high))


def recall_at_k(embeddings: Any, y: Any, *, k: int = 1) -> float:
    """Return the share of images that have one of their own class among their k nearest neighbors.

    Parameters
    ----------
    embeddings : array-like of shape (n, d)
        Embeddings, compared by cosine similarity.
    y : array-like of shape (n,)
        Labels; rows with the label -1 are left out. Images that are alone in their class are no queries.
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
    found = [hits[:, :k].any(axis=1) for hits in _hits(embeddings, y)]
    return float(np.concatenate(found).mean())


def mean_average_precision(embeddings: Any, y: Any) -> float:
    """Return the mean average precision of retrieval: all other images, the most similar first.

    Parameters
    ----------
    embeddings : array-like of shape (n, d)
        Embeddings, compared by cosine similarity.
    y : array-like of shape (n,)
        Labels; rows with the label -1 are left out. Images that are alone in their class are no queries.

    Returns
    -------
    float
        Mean over the queries of the mean, over the images of the query's class, of the share of that class
        down to their rank; from 0 to 1.

    References
    ----------
    Manning, Raghavan, Schütze, "Introduction to Information Retrieval" (2008), equation 8.8.
    """
    averages = []
    for hits in _hits(embeddings, y):
        precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
        averages.append((precision * hits).sum(axis=1) / hits.sum(axis=1))
    return float(np.concatenate(averages).mean())


# ---------------------------------------------------------------------------- without labels


def rankme(embeddings: Any, *, eps: float = 1e-7) -> float:
    """Return the effective rank of the embeddings: how many dimensions they use.

    With s the singular values, not centered, and p = s / sum(s) + eps, it is exp(-sum(p log p)). Centering
    would hide embeddings that are all alike.

    Parameters
    ----------
    embeddings : array-like of shape (n, d)
        Embeddings; n should be several times d.
    eps : float, default=1e-7
        Small constant, as in the paper.

    Returns
    -------
    float
        Effective rank, from 1 to min(n, d).

    References
    ----------
    Garrido et al., "RankMe", arXiv:2210.02885, equation 1. Comparable within one method only.
    """
    s = np.linalg.svd(_checked(embeddings), compute_uv=False)
    return _perplexity(s, eps) if s.sum() > 0 else 1.0


def lidar(views: Any, *, delta: float = 1e-4, eps: float = 1e-8) -> float:
    """Return the effective rank of the dimensions in which images differ more than their views do.

    Parameters
    ----------
    views : array-like of shape (n, q, d)
        Embeddings, or projections as in the paper, of q views of each of n images; n should be several
        times d. The paper has n = 1000 and q = 50.
    delta : float, default=1e-4
        Constant added to the diagonal of the covariance within images.
    eps : float, default=1e-8
        Small constant, as in the paper.

    Returns
    -------
    float
        Effective rank, from 1 to min(n - 1, d). Isotropic noise has a high one, too: read it beside
        `own_view_retrieval`.

    References
    ----------
    Thilak et al., "LiDAR", arXiv:2312.04000, equations 1 to 4.
    """
    Z = _checked(views, "(n, q, d)")
    n, q, d = Z.shape
    if q < 2:
        raise ValueError(f"views has the shape {Z.shape}: give at least 2 views of each image.")
    means = Z.mean(axis=1)
    within = (Z - means[:, None]).reshape(n * q, d)
    S_w = within.T @ within / (n * (q - 1)) + delta * np.eye(d)
    between = means - means.mean(axis=0)
    S_b = between.T @ between / (n - 1)
    eigenvalues, vectors = np.linalg.eigh(S_w)
    root = vectors / np.sqrt(eigenvalues) @ vectors.T
    ratios = np.linalg.eigvalsh(root @ S_b @ root).clip(min=0)
    return _perplexity(ratios, eps) if ratios.sum() > 0 else 1.0


def alpha_req(embeddings: Any, *, first: int = 10, last: int = 100) -> float:
    """Return the exponent of the power law by which the eigenvalues of the covariance fall.

    Parameters
    ----------
    embeddings : array-like of shape (n, d)
        Embeddings.
    first, last : int, default=10, 100
        Range of the eigenvalues, counted from 1, to whose logarithms a line is fitted, with weights 1 / i.

    Returns
    -------
    float
        Exponent. The best is near 1: below, noise is kept; above, dimensions are lost.

    References
    ----------
    Agrawal et al., "alpha-ReQ", NeurIPS 2022; weights and range as in Stringer et al., Nature 571 (2019).
    """
    Z = _checked(embeddings)
    s = np.linalg.svd(Z - Z.mean(axis=0), compute_uv=False)
    i = np.arange(first, min(last, len(s)) + 1)
    if len(i) < 2:
        raise ValueError(f"There are {len(s)} eigenvalues: too few for a line from number {first} on.")
    values = s[i - 1] ** 2
    if values.min() <= np.finfo(float).eps * s[0] ** 2:
        return float("inf")  # fewer dimensions than `last`
    slope, _ = np.polyfit(np.log(i), np.log(values), 1, w=np.sqrt(1 / i))
    return float(-slope)


def alignment(first: Any, second: Any) -> float:
    """Return the mean squared distance of two views of the same images, on the unit sphere; 0 is best.

    Parameters
    ----------
    first, second : array-like of shape (n, d)
        Embeddings of two views of the same images.

    Returns
    -------
    float
        Mean squared distance, from 0 to 4.

    References
    ----------
    Wang and Isola, arXiv:2005.10242, equation 7 with alpha = 2. Collapsed embeddings are aligned best: read
    it beside `uniformity`.
    """
    one, two = _pair(first, second)
    return float(np.square(one - two).sum(axis=1).mean())


def uniformity(embeddings: Any) -> float:
    """Return how evenly embeddings cover the unit sphere: log of the mean of exp(-2 distance^2) of all pairs.

    Parameters
    ----------
    embeddings : array-like of shape (n, d)
        Embeddings.

    Returns
    -------
    float
        From about -4 (even) to 0 (all alike): low is good.

    References
    ----------
    Wang and Isola, arXiv:2005.10242, equation 8 with t = 2.
    """
    Z = normalize(_checked(embeddings))
    n = len(Z)
    total = sum(np.exp(4 * (part @ Z.T) - 4).sum() for part in _parts(Z))  # distance^2 = 2 - 2 cosine
    return float(np.log((total - n) / (n * (n - 1))))


def cluster_learnability(embeddings: Any, *, n_clusters: int | None = None, random_state: Any = 0) -> float:
    """Return how well nearest neighbors learn the clusters of the embeddings.

    K-means finds clusters; then one half of the images is given the cluster of its nearest neighbor in the
    other half, and the share that is right is returned.

    Parameters
    ----------
    embeddings : array-like of shape (n, d)
        Embeddings.
    n_clusters : int, default=None
        Number of clusters; None: the square root of n, rounded.
    random_state : int, RandomState instance or None, default=0
        Source of the initial clusters and of the halves.

    Returns
    -------
    float
        Share, from 0 to 1.

    References
    ----------
    Lu et al., "Expressiveness and Learnability", arXiv:2206.01251, section 3.2.
    """
    Z = _checked(embeddings)
    if n_clusters is None:
        n_clusters = max(2, round(len(Z) ** 0.5))
    rng = check_random_state(random_state)
    if len(np.unique(Z, axis=0)) < n_clusters:
        raise ValueError(f"There are fewer different embeddings than n_clusters={n_clusters}.")
    clusters = KMeans(n_clusters, n_init=1, random_state=rng.randint(2**31)).fit_predict(Z)
    shuffled = rng.permutation(len(Z))
    one, other = shuffled[: len(Z) // 2], shuffled[len(Z) // 2 :]
    nearest = NearestNeighbors(n_neighbors=1).fit(Z[one]).kneighbors(Z[other], return_distance=False)
    return float((clusters[one][nearest[:, 0]] == clusters[other]).mean())


def own_view_retrieval(first: Any, second: Any) -> float:
    """Return the share of images whose second view is the nearest to the first, among those of all images.

    Parameters
    ----------
    first, second : array-like of shape (n, d)
        Embeddings of two views of the same images, compared by cosine similarity. Ties count as wrong in
        proportion: embeddings that are all alike give 1 / n.

    Returns
    -------
    float
        Share, from 0 to 1. It falls with n.

    References
    ----------
    The accuracy of the contrastive task in Chen et al., arXiv:2002.05709.
    """
    one, two = _pair(first, second)
    right = 0.0
    for start, part in zip(range(0, len(one), QUERIES_AT_A_TIME), _parts(one), strict=True):
        similarity = part @ two.T
        own = similarity[np.arange(len(part)), start + np.arange(len(part))][:, None]
        tied = np.isclose(similarity, own, rtol=0, atol=1e-12)
        is_best = ~((similarity > own) & ~tied).any(axis=1)
        right += (is_best / tied.sum(axis=1)).sum()
    return float(right / len(one))


def rotation_probe_accuracy(rotated: Any, *, cv: int = 5) -> float:
    """Return how well a linear probe tells quarter turns of the images by their embeddings.

    It means nothing where the images have no up, such as cells or satellite tiles, and where the embedder was
    trained on views that were turned.

    Parameters
    ----------
    rotated : array-like of shape (4, n, d)
        Embeddings of n images, turned by 0, 90, 180 and 270 degrees.
    cv : int, default=5
        Number of folds. All turns of an image are in the same fold.

    Returns
    -------
    float
        Mean accuracy over the folds, from 0 to 1; 0.25 by chance.

    References
    ----------
    Reed et al., "SelfAugment", arXiv:2009.07724.
    """
    Z = _checked(rotated, "(4, n, d)")
    if len(Z) != 4:
        raise ValueError(f"rotated has the shape {Z.shape}: give embeddings of 4 turns, (4, n, d).")
    n = Z.shape[1]
    if n < cv:
        raise ValueError(f"There are {n} images, fewer than cv={cv} folds: give more images or a smaller cv.")
    fold = np.arange(n) % cv
    accuracies = []
    for k in range(cv):
        train, test = Z[:, fold != k], Z[:, fold == k]
        turns = [np.repeat(np.arange(4), part.shape[1]) for part in (train, test)]
        probe = _probe().fit(train.reshape(-1, Z.shape[2]), turns[0])
        accuracies.append(probe.score(test.reshape(-1, Z.shape[2]), turns[1]))
    return float(np.mean(accuracies))


def collapsed_dimensions(embeddings: Any, *, tolerance: float = 0.01) -> float:
    """Return the share of dimensions whose standard deviation is a small fraction of the largest.

    Parameters
    ----------
    embeddings : array-like of shape (n, d)
        Embeddings.
    tolerance : float, default=0.01
        The fraction.

    Returns
    -------
    float
        Share, from 0 to 1; 1 if all embeddings are equal.
    """
    Z = _checked(embeddings)
    spread = Z.std(axis=0)
    if spread.max() <= np.finfo(np.float32).eps * max(np.abs(Z).max(), np.finfo(float).tiny):
        return 1.0
    return float((spread < tolerance * spread.max()).mean())


# ---------------------------------------------------------------------------- shared parts


def _checked(embeddings: Any, axes: str = "(n, d)") -> np.ndarray:
    """Return embeddings as float64; raise ValueError if they are not finite, or of fewer than two images."""
    array = check_array(embeddings, dtype=np.float64, allow_nd=True, ensure_2d=False, ensure_min_samples=0)
    names = axes.strip("()").split(", ")
    if array.ndim != len(names) or array.shape[names.index("n")] < 2:
        raise ValueError(
            f"The embeddings have the shape {array.shape}: give an array {axes}, with n at least 2 images."
        )
    return array


def _pair(first: Any, second: Any) -> tuple[np.ndarray, np.ndarray]:
    one, two = (normalize(_checked(each)) for each in (first, second))
    if one.shape != two.shape:
        raise ValueError(f"The two views have different shapes, {one.shape} and {two.shape}.")
    return one, two


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
            f"least two classes, or use a metric without labels, such as own_view_retrieval."
        )
    return labeled


def _labeled(embeddings: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows with a label, and the labels."""
    Z, y = _checked(embeddings), np.asarray(y)
    check_consistent_length(Z, y)
    labeled = is_labeled(y)
    return Z[labeled], y[labeled]


def _probe(C: float = 1.0) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=MAX_ITER))


def _perplexity(values: np.ndarray, eps: float) -> float:
    """Return exp of the entropy of values, as shares of their sum."""
    p = values / values.sum() + eps
    return float(np.exp(-(p * np.log(p)).sum()))


def _parts(Z: np.ndarray) -> list[np.ndarray]:
    return [Z[start : start + QUERIES_AT_A_TIME] for start in range(0, len(Z), QUERIES_AT_A_TIME)]


def _hits(embeddings: Any, y: Any) -> Any:
    """Yield, for some queries at a time, which of the others are of their class, the most similar first."""
    Z, y = _labeled(embeddings, y)
    Z = normalize(Z)
    _, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
    queries = np.flatnonzero(counts[codes] > 1)
    if len(queries) == 0:
        raise ValueError("Each class has a single image: there is nothing to retrieve.")
    for start in range(0, len(queries), QUERIES_AT_A_TIME):
        part = queries[start : start + QUERIES_AT_A_TIME]
        similarity = Z[part] @ Z.T
        similarity[np.arange(len(part)), part] = -np.inf
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :-1]
        yield codes[order] == codes[part][:, None]
