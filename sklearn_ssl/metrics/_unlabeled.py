"""Metrics of embeddings without labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize
from sklearn.utils import check_random_state, gen_batches

from sklearn_ssl.metrics._arrays import QUERIES_AT_A_TIME, checked, linear_probe


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
    s = np.linalg.svd(checked(embeddings), compute_uv=False)
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
    Z = checked(views, "(n, q, d)")
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
    Z = checked(embeddings)
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
    Z = normalize(checked(embeddings))
    n = len(Z)
    batches = gen_batches(n, QUERIES_AT_A_TIME)
    total = sum(np.exp(4 * (Z[batch] @ Z.T) - 4).sum() for batch in batches)  # distance^2 = 2 - 2 cosine
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
    Z = checked(embeddings)
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
    for batch in gen_batches(len(one), QUERIES_AT_A_TIME):
        similarity = one[batch] @ two.T
        own = (one[batch] * two[batch]).sum(axis=1, keepdims=True)
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
    Z = checked(rotated, "(4, n, d)")
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
        probe = linear_probe().fit(train.reshape(-1, Z.shape[2]), turns[0])
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
    Z = checked(embeddings)
    spread = Z.std(axis=0)
    if spread.max() <= np.finfo(np.float32).eps * max(np.abs(Z).max(), np.finfo(float).tiny):
        return 1.0
    return float((spread < tolerance * spread.max()).mean())


def _pair(first: Any, second: Any) -> tuple[np.ndarray, np.ndarray]:
    one, two = (normalize(checked(each)) for each in (first, second))
    if one.shape != two.shape:
        raise ValueError(f"The two views have different shapes, {one.shape} and {two.shape}.")
    return one, two


def _perplexity(values: np.ndarray, eps: float) -> float:
    """Return exp of the entropy of values, as shares of their sum."""
    p = values / values.sum() + eps
    return float(np.exp(-(p * np.log(p)).sum()))
