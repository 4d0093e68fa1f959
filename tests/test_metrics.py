"""Metrics of embeddings, against plain loops from their papers and numbers worked out by hand."""

import math
from fractions import Fraction

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sklearn_ssl import metrics
from sklearn_ssl.metrics import _arrays, _labeled, _unlabeled

DIGITS, LABELS = load_digits(return_X_y=True)
DIGITS, LABELS = DIGITS[:300], LABELS[:300]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def Z(rng):
    return rng.normal(size=(30, 5))


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def others_by_similarity(Z, i):
    return sorted((j for j in range(len(Z)) if j != i), key=lambda j: -cosine(Z[i], Z[j]))


# ---------------------------------------------------------------------------- with labels


def directions(*degrees):
    return np.array([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in degrees])


FAN = directions(0, 10, 20, 90, 100)


def test_knn_accuracy_by_hand():
    # The nearest of 0, 10, 20, 90, 100 degrees: 10; 0 or 20, both 10 degrees away, of one class; 10; 100; 90.
    assert metrics.knn_accuracy(FAN, [0, 0, 0, 1, 1], n_neighbors=1) == 1.0
    # The nearest of 30 degrees is 17, of the other class; that of 90 is 30, and those of 0, 9, 17 are right.
    fan = directions(0, 9, 17, 30, 90)
    assert metrics.knn_accuracy(fan, [0, 0, 0, 1, 1], n_neighbors=1) == pytest.approx((3 / 3 + 1 / 2) / 2)
    assert metrics.knn_accuracy(fan, [0, 0, 0, 1, 1], n_neighbors=1, balanced=False) == pytest.approx(4 / 5)
    # Among the three others of each there are two of the other class.
    assert metrics.knn_accuracy(FAN[:4], [0, 1, 0, 1], n_neighbors=3) == 0.0


def test_knn_accuracy_is_that_of_a_loop(Z, rng, monkeypatch):
    monkeypatch.setattr(_arrays, "QUERIES_AT_A_TIME", 7)
    y = rng.choice(3, len(Z), p=[0.6, 0.2, 0.2])
    sizes = np.bincount(y)
    right, right_of_majority = np.zeros(3), 0
    for i in range(len(Z)):
        near = y[others_by_similarity(Z, i)[:4]]
        counts = [int((near == c).sum()) for c in range(3)]
        shares = [Fraction(counts[c], int(sizes[c])) for c in range(3)]
        right[y[i]] += shares.index(max(shares)) == y[i]
        right_of_majority += counts.index(max(counts)) == y[i]
    assert metrics.knn_accuracy(Z, y, n_neighbors=4) == pytest.approx((right / sizes).mean())
    plain = metrics.knn_accuracy(Z, y, n_neighbors=4, balanced=False)
    assert plain == pytest.approx(right_of_majority / len(Z))


def test_retrieval_by_hand():
    # At 0, 10 and 90 degrees, of the classes 0, 1 and 0: the second is alone in its class, and no query.
    assert metrics.recall_at_k(FAN[[0, 1, 3]], [0, 1, 0]) == 0.0
    assert metrics.recall_at_k(FAN[[0, 1, 3]], [0, 1, 0], k=2) == 1.0
    # Query 0: ranks of its class (1 image): 2 -> 1/2; query 90 degrees: 10, then 0 -> 1/2.
    assert metrics.mean_average_precision(FAN[[0, 1, 3]], [0, 1, 0]) == pytest.approx(0.5)


def test_retrieval_is_that_of_a_loop(Z, rng, monkeypatch):
    monkeypatch.setattr(_arrays, "QUERIES_AT_A_TIME", 7)
    y = rng.integers(0, 4, len(Z))
    recalls, precisions = [], []
    for i in range(len(Z)):
        hits = [y[j] == y[i] for j in others_by_similarity(Z, i)]
        recalls.append(any(hits[:3]))
        precisions.append(np.mean([sum(hits[: k + 1]) / (k + 1) for k in range(len(hits)) if hits[k]]))
    assert metrics.recall_at_k(Z, y, k=3, balanced=False) == pytest.approx(np.mean(recalls))
    assert metrics.mean_average_precision(Z, y, balanced=False) == pytest.approx(np.mean(precisions))
    classes = [np.flatnonzero(y == c) for c in range(4)]
    by_class = np.mean([np.mean(np.array(recalls)[rows]) for rows in classes])
    assert metrics.recall_at_k(Z, y, k=3) == pytest.approx(by_class)
    by_class = np.mean([np.mean(np.array(precisions)[rows]) for rows in classes])
    assert metrics.mean_average_precision(Z, y) == pytest.approx(by_class)


def test_probes_rank_pixels_above_noise(rng):
    noise = rng.normal(size=DIGITS.shape)
    assert metrics.linear_probe_accuracy(DIGITS, LABELS) > 0.9
    assert metrics.linear_probe_accuracy(noise, LABELS) < 0.2
    few = metrics.few_label_accuracy(DIGITS, LABELS, n_labels=3)
    assert few.low <= few.mean <= few.high
    assert 0.6 < float(few) < 0.95
    assert metrics.few_label_accuracy(noise, LABELS).mean < 0.2
    assert metrics.few_label_accuracy(DIGITS, LABELS, n_labels=10).mean > few.mean


def test_few_labels_are_drawn_by_class_and_tested_on_the_others(monkeypatch):
    seen = []

    class Probe:
        def fit(self, Z, y):
            self.given = {row.tobytes() for row in Z}
            seen.append(np.unique(y, return_counts=True)[1].tolist())
            return self

        def predict(self, Z):
            assert not self.given & {row.tobytes() for row in Z}
            assert len(self.given) + len(Z) == len(DIGITS)
            return np.full(len(Z), len(seen) - 1)  # one class after another

    monkeypatch.setattr(_labeled, "linear_probe", Probe)
    result = metrics.few_label_accuracy(DIGITS, LABELS, n_labels=2)
    assert seen == [[2] * 10] * 10
    assert (result.mean, result.low, result.high) == pytest.approx((0.1, 0.1, 0.1))
    seen.clear()
    plain = metrics.few_label_accuracy(DIGITS, LABELS, n_labels=2, balanced=False)
    shares = (np.bincount(LABELS) - 2) / (300 - 20)
    assert plain.mean == pytest.approx(0.1)
    assert (plain.low, plain.high) == pytest.approx(tuple(np.percentile(shares, [2.5, 97.5])))


@pytest.mark.parametrize(
    "metric", [metrics.knn_accuracy, metrics.linear_probe_accuracy, metrics.mean_average_precision]
)
def test_unlabeled_rows_are_left_out(metric):
    y = np.where(np.arange(300) % 3 == 0, -1, LABELS)
    assert metric(DIGITS, y) == pytest.approx(metric(DIGITS[y != -1], y[y != -1]))


def test_labels_may_be_names():
    names = np.array(["zero", "one"])[(LABELS > 0).astype(int)]
    assert metrics.knn_accuracy(DIGITS, names) == metrics.knn_accuracy(DIGITS, LABELS > 0)


# ---------------------------------------------------------------------------- without labels


def test_rankme_by_hand():
    assert metrics.rankme(np.eye(4)) == pytest.approx(4, rel=1e-5)
    # Singular values 3 and 1: p = 3/4 and 1/4.
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert metrics.rankme(np.diag([3.0, 1.0])) == pytest.approx(expected, rel=1e-5)


def references():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(2000, 512))
    live = np.zeros((2000, 512))
    live[:, :10] = normal[:, :10]
    return {"normal": normal, "plus 1": normal + 1, "10 live": live, "collapse": 1 + 1e-6 * normal}


@pytest.mark.parametrize(
    ("name", "expected"), [("normal", 494.6), ("plus 1", 449.9), ("10 live", 10.0), ("collapse", 1.0)]
)
def test_rankme_has_the_reference_values(name, expected):
    assert metrics.rankme(references()[name]) == pytest.approx(expected, abs=0.5)


def test_rankme_of_zeros_is_one():
    assert metrics.rankme(np.zeros((5, 3))) == 1.0


def test_lidar_is_that_of_a_loop(rng):
    views = rng.normal(size=(20, 3, 4)) + 3 * rng.normal(size=(20, 1, 4))
    n, q, d = views.shape
    means = [sum(image) / q for image in views]
    mean = sum(means) / n
    S_w, S_b = 1e-4 * np.eye(d), np.zeros((d, d))
    for image, center in zip(views, means, strict=True):
        for view in image:
            S_w += np.outer(view - center, view - center) / (n * (q - 1))
        S_b += np.outer(center - mean, center - mean) / (n - 1)
    ratios = np.linalg.eigvals(np.linalg.solve(S_w, S_b)).real  # those of S_w^-1/2 S_b S_w^-1/2
    p = ratios / ratios.sum() + 1e-8
    assert metrics.lidar(views) == pytest.approx(math.exp(-(p * np.log(p)).sum()))


@pytest.mark.parametrize(("n", "q", "expected"), [(100, 2, 28), (100, 10, 45), (1000, 10, 62)])
def test_lidar_of_noise_has_the_reference_values(rng, n, q, expected):
    assert metrics.lidar(rng.normal(size=(n, q, 64))) == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_alpha_req_finds_the_exponent(rng, exponent):
    normal = rng.normal(size=(400, 120))
    directions, _ = np.linalg.qr(normal - normal.mean(axis=0))  # centered and orthogonal
    eigenvalues = np.arange(1.0, 121) ** -exponent
    assert metrics.alpha_req(directions * np.sqrt(eigenvalues)) == pytest.approx(exponent, rel=1e-6)


def test_alpha_req_of_fewer_dimensions_is_infinite(rng):
    Z = np.zeros((50, 40))
    Z[:, :15] = rng.normal(size=(50, 15))
    assert metrics.alpha_req(Z) == math.inf


def test_alignment_and_uniformity_by_hand():
    right, up, left = [1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]
    assert metrics.alignment([right, right], [up, left]) == pytest.approx((2 + 4) / 2)
    # Squared distances of the three pairs: 2, 4 and 2.
    expected = math.log((2 * math.exp(-4) + math.exp(-8)) / 3)
    assert metrics.uniformity([right, up, left]) == pytest.approx(expected)
    assert metrics.uniformity([right, right]) == pytest.approx(0)


def test_own_view_retrieval_is_that_of_a_loop(Z, rng, monkeypatch):
    monkeypatch.setattr(_unlabeled, "QUERIES_AT_A_TIME", 7)
    other = Z + rng.normal(size=Z.shape)
    right = sum(max(range(30), key=lambda j: cosine(Z[i], other[j])) == i for i in range(30))
    assert 0 < right < 30
    assert metrics.own_view_retrieval(Z, other) == pytest.approx(right / 30)
    assert metrics.own_view_retrieval(Z, 5 * Z) == 1.0
    assert metrics.own_view_retrieval(np.ones((8, 3)), np.ones((8, 3))) == pytest.approx(1 / 8)


def test_cluster_learnability(rng):
    centers = 20 * rng.normal(size=(10, 6))
    clustered = (centers[:, None] + rng.normal(size=(10, 20, 6))).reshape(-1, 6)
    assert metrics.cluster_learnability(clustered, n_clusters=10) > 0.95
    assert metrics.cluster_learnability(rng.normal(size=(200, 64)), n_clusters=10) < 0.6


def test_cluster_learnability_is_that_of_a_loop(Z):
    from sklearn.cluster import KMeans
    from sklearn.utils import check_random_state

    state = check_random_state(0)
    clusters = KMeans(5, n_init=1, random_state=state.randint(2**31)).fit_predict(Z)
    order = state.permutation(30)
    right = 0
    for i in order[15:]:
        nearest = min(order[:15], key=lambda j: np.linalg.norm(Z[i] - Z[j]))
        right += clusters[nearest] == clusters[i]
    assert metrics.cluster_learnability(Z, n_clusters=5) == pytest.approx(right / 15)


def test_rotation_probe(rng):
    turned = np.stack(
        [np.rot90(DIGITS.reshape(-1, 8, 8)[:100], k, (1, 2)).reshape(100, 64) for k in range(4)]
    )
    assert metrics.rotation_probe_accuracy(turned) > 0.7
    same = np.repeat(DIGITS[None, :100], 4, axis=0)
    assert metrics.rotation_probe_accuracy(same) == pytest.approx(0.25)


def test_collapsed_dimensions_by_hand(rng):
    Z = rng.normal(size=(100, 4)) * [1, 0.5, 0.001, 0]
    assert metrics.collapsed_dimensions(Z) == 0.5
    assert metrics.collapsed_dimensions(Z, tolerance=0.9) == 0.75
    assert metrics.collapsed_dimensions(np.ones((5, 3))) == 1.0
    assert metrics.collapsed_dimensions(np.float32([[0.1, 1e8]] * 7)) == 1.0


# ---------------------------------------------------------------------------- bad input

OF_EMBEDDINGS = [
    metrics.rankme,
    metrics.alpha_req,
    metrics.uniformity,
    metrics.cluster_learnability,
    metrics.collapsed_dimensions,
]


@pytest.mark.parametrize("metric", OF_EMBEDDINGS)
def test_embeddings_that_are_refused(metric):
    with pytest.raises(ValueError, match=r"shape \(1, 3\).*at least 2 images"):
        metric(np.ones((1, 3)))
    with pytest.raises(ValueError, match="contains NaN"):
        metric(np.full((4, 3), np.nan))
    with pytest.raises(ValueError, match=r"give an array \(n, d\)"):
        metric(np.ones((2, 3, 4)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda Z: metrics.knn_accuracy(Z, [-1] * 30), "0 of 30 images are labeled, with 0 classes"),
        (lambda Z: metrics.recall_at_k(Z, range(30)), "single image"),
        (
            lambda Z: metrics.knn_accuracy(Z, np.linspace(0, 1, 30)),
            "30 different numbers.*one class label",
        ),
        (lambda Z: metrics.knn_accuracy(Z, [0] * 29 + [1]), "fewer than two have labels in more than one im"),
        (lambda Z: metrics.knn_accuracy(Z, [0, 1]), "inconsistent numbers of samples"),
        (lambda Z: metrics.linear_probe_accuracy(Z, [0] * 27 + [1] * 3), "3 labels, fewer than cv=5"),
        (lambda Z: metrics.few_label_accuracy(Z, [0] * 25 + [1] * 5), "5 labels: n_labels=5 leaves none"),
        (lambda Z: metrics.own_view_retrieval(Z, Z[:5]), "different shapes"),
        (lambda Z: metrics.lidar(Z[:, None]), "at least 2 views"),
        (lambda Z: metrics.rotation_probe_accuracy(np.ones((3, 9, 2))), "4 turns"),
        (lambda Z: metrics.rotation_probe_accuracy(np.ones((4, 3, 2))), "fewer than cv=5 folds"),
        (
            lambda Z: metrics.cluster_learnability(np.ones((9, 2))),
            "fewer different embeddings than n_clus",
        ),
        (lambda Z: metrics.alpha_req(Z), "5 eigenvalues: too few"),
    ],
)
def test_bad_input_is_told(Z, call, words):
    with pytest.raises(ValueError, match=words):
        call(Z)
