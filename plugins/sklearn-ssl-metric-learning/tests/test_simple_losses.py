"""Losses of one batch, compared with slow loops, hand-worked numbers and other libraries."""

import functools
import math
import pickle

import numpy as np
import pytest
import torch
from sklearn_ssl_metric_learning.dclw import DCLW
from sklearn_ssl_metric_learning.infonce import InfoNCE
from sklearn_ssl_metric_learning.margin import Margin
from sklearn_ssl_metric_learning.supcon import SupCon
from sklearn_ssl_metric_learning.triplet import Triplet
from sklearn_ssl_metric_learning.yaware import YAware
from torch import nn

from sklearn_ssl import SSLImageEmbedder, available_losses
from sklearn_ssl.losses import DCL, NTXent
from sklearn_ssl.testing import parametrize_with_loss_checks

NAMES = ["infonce", "margin", "triplet", "supcon", "dclw", "yaware"]
SIZES = [(2, 3), (3, 1), (5, 4), (12, 7)]  # (n, d)
LOSSES = [*NAMES, functools.partial(Triplet, negatives="hardest")]
STOPPED = {"check_gradient_is_right_in_float64": "the weights of the positives pass no gradient"}


@parametrize_with_loss_checks(LOSSES, expected_failed_checks=lambda name: STOPPED if name == "dclw" else {})
def test_the_loss_keeps_the_contract(check):
    check()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_found_by_name(name):
    info = available_losses(details=True)[name]
    assert (info.distribution, info.error) == ("sklearn-ssl-metric-learning", None)
    assert info.family == "contrastive"


def projections(n, d, views=2):
    return torch.from_numpy(np.random.default_rng(n).normal(size=(views, n, d)))


# ------------------------------------------------------------------ the papers, one number after the other


def similarity(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (a.norm() * b.norm())


def distance(a, b):
    return (a / a.norm() - b / b.norm()).square().sum().sqrt()


def slow_infonce(z1, z2, temperature):
    """Compute equation 4 of arXiv:1807.03748, with the exponential of a scaled cosine as f."""
    total = 0.0
    for i, z in enumerate(z1):
        f = [(similarity(z, other) / temperature).exp() for other in z2]
        total += -(f[i] / sum(f)).log()
    return total / len(z1)


def slow_margin(z1, z2, m):
    """Compute equation 4 of Hadsell et al. (2006) without squares; mean over pairs within the margin."""
    z, n = [*z1, *z2], len(z1)
    positive, negative = [distance(a, b) for a, b in zip(z1, z2, strict=True)], []
    for i in range(2 * n):
        for k in range(2 * n):
            if i % n != k % n and distance(z[i], z[k]) < m:
                negative.append(m - distance(z[i], z[k]))
    return sum(positive) / n + sum(negative) / max(1, len(negative))


def slow_triplet(z1, z2, m, negatives):
    """Compute equation 2 of arXiv:1503.03832: the mean over violating triplets, or with the nearest n."""
    z, n = [*z1, *z2], len(z1)
    costs = []
    for a in range(2 * n):
        p = (a + n) % (2 * n)
        apart = sorted(distance(z[a], z[k]) ** 2 for k in range(2 * n) if k % n != a % n)
        of_anchor = [max(0.0, float(distance(z[a], z[p]) ** 2 - d + m)) for d in apart]
        costs += of_anchor[:1] if negatives == "hardest" else [cost for cost in of_anchor if cost > 0]
    return sum(costs) / max(1, len(costs))


def slow_supcon(views, y, temperature):
    """Compute equation 2 of arXiv:2004.11362; an unlabeled image has only its own other views."""
    n = len(y)
    z = [row for view in views for row in view]
    total = 0.0
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        positive = [k for k in others if k % n == i % n or y[k % n] == y[i % n] >= 0]
        below = sum((similarity(z[i], z[k]) / temperature).exp() for k in others)
        logs = [((similarity(z[i], z[p]) / temperature).exp() / below).log() for p in positive]
        total += -sum(logs) / len(positive)
    return total / len(z)


def slow_dclw(z1, z2, temperature, sigma):
    """Compute equation 6 of arXiv:2110.06848 with negative von Mises-Fisher weights."""
    z, n = [*z1, *z2], len(z1)
    mean = sum((similarity(z1[i], z2[i]) / sigma).exp() for i in range(n)) / n
    total = 0.0
    for i in range(2 * n):
        s = similarity(z[i], z[(i + n) % (2 * n)])
        w = 2 - (s / sigma).exp() / mean
        negatives = sum((similarity(z[i], z[k]) / temperature).exp() for k in range(2 * n) if k % n != i % n)
        total += -w * s / temperature + negatives.log()
    return total / (2 * n)


@pytest.mark.parametrize(("n", "d"), SIZES)
@pytest.mark.parametrize(
    ("loss", "slow", "settings"),
    [
        (InfoNCE, slow_infonce, (0.07,)),
        (InfoNCE, slow_infonce, (1.0,)),
        (Margin, slow_margin, (0.5,)),
        (Margin, slow_margin, (1.4,)),
        (Triplet, slow_triplet, (0.2, "violating")),
        (Triplet, slow_triplet, (1.0, "violating")),
        (Triplet, slow_triplet, (0.2, "hardest")),
        (DCLW, slow_dclw, (0.1, 0.5)),
        (DCLW, slow_dclw, (1.0, 0.2)),
    ],
)
def test_the_loss_is_the_papers_sum(loss, slow, settings, n, d):
    z1, z2 = projections(n, d)
    assert float(loss(*settings)(z1, z2)) == pytest.approx(float(slow(z1, z2, *settings)), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("y", [[0, 1, 0, 2, 1, 0], [0, -1, 0, -1, 1, -1], [-1] * 6, [3] * 6])
@pytest.mark.parametrize("views", [2, 3])
def test_supcon_is_the_papers_sum_for_any_labels_and_number_of_views(y, views):
    z = projections(6, 4, views)
    expected = float(slow_supcon(z, y, 0.2))
    assert float(SupCon(0.2)(*z, y=torch.tensor(y))) == pytest.approx(expected, rel=1e-10)


# ------------------------------------------------------------------ by hand

# Two images with orthogonal unit projections, the same in both views.
ORTHOGONAL = torch.eye(2, dtype=torch.float64)
# The views of the first image are at right angles, those of the second alike; the second lies at a distance
# of 2 from the first image's first view and of sqrt(2) from its second one.
FIRST = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
SECOND = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)


def test_infonce_of_two_orthogonal_images_by_hand():
    # Each image's row of s / tau is (2, 0): -log(e^2 / (e^2 + 1)) = log(1 + e^-2).
    assert float(InfoNCE(0.5)(ORTHOGONAL, ORTHOGONAL)) == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-12)


def test_infonce_asks_in_one_direction():
    # Both first views are e1, the second ones e1 and e2. From the first to the second ones, at tau = 1, both
    # rows of s are (1, 0): the mean of log(e + 1) - 1 and log(e + 1). The other way the rows are (1, 1) and
    # (0, 0): log(2).
    same = ORTHOGONAL[[0, 0]]
    assert float(InfoNCE(1.0)(same, ORTHOGONAL)) == pytest.approx(math.log(math.e + 1) - 0.5, rel=1e-12)
    assert float(InfoNCE(1.0)(ORTHOGONAL, same)) == pytest.approx(math.log(2), rel=1e-12)


@pytest.mark.parametrize(("margin", "missing"), [(1.0, 0.0), (1.5, 1.5 - math.sqrt(2)), (3.0, 2 - 0.5**0.5)])
def test_margin_by_hand(margin, missing):
    # Positives: sqrt(2) and 0. Negatives: 2 and sqrt(2), each as often. None is nearer than 1; those of
    # sqrt(2) are nearer than 1.5; at 3 the mean is that of 1 and 3 - sqrt(2).
    expected = math.sqrt(2) / 2 + missing
    assert float(Margin(margin)(FIRST, SECOND)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("negatives", "expected"), [("violating", 5 / 3), ("hardest", 1.5)])
def test_triplet_by_hand(negatives, expected):
    # Squared: the first image's views have 2 to each other; the one has 4 to both views of the second image,
    # the other 2. With m = 3 that costs 1, 1 and 3, 3. The second's have 0 to each other, and 4 and 2 to the
    # first's: each costs nothing and 1. The mean of 1, 1, 3, 3, 1, 1 is 5/3; that of the four anchors'
    # largest, 1, 3, 1, 1, is 3/2.
    assert float(Triplet(3.0, negatives)(FIRST, SECOND)) == pytest.approx(expected, rel=1e-12)


def test_what_is_far_enough_apart_is_left_alone():
    z1, z2 = ORTHOGONAL.clone().requires_grad_(), ORTHOGONAL
    for loss in (Margin(1.0), Triplet(0.2), Triplet(0.2, "hardest")):
        value = loss(z1, z2)
        assert value.item() == 0
        assert not torch.autograd.grad(value, z1)[0].any()


@pytest.mark.parametrize(
    ("y", "share"), [([0, 0], 1 / 3), ([0, 1], 1.0), ([-1, -1], 1.0), ([0, -1], 1.0), ([-1, 0], 1.0)]
)
def test_supcon_by_hand(y, share):
    # The other view of the same image has s = 1, the two views of the other image s = 0; at tau = 1 the
    # denominator is e + 2. The mean of s over the positives is 1, or 1/3 where all are of one class.
    expected = math.log(math.e + 2) - share
    assert float(SupCon(1.0)(ORTHOGONAL, ORTHOGONAL, y=torch.tensor(y))) == pytest.approx(expected, rel=1e-12)


def test_dclw_by_hand():
    # The pairs have s = 1 and s = 0. With sigma = 1 / log 3, exp(s / sigma) is 3 and 1, its mean 2, the
    # weights 2 - 3/2 and 2 - 1/2. At tau = 1 the positive term is -(1/2 * 1 + 3/2 * 0) / 2 = -1/4 (DCL's is
    # -1/2), and both negatives of each anchor have s = 0: log 2.
    e1, e2, e3 = torch.eye(3, dtype=torch.float64)
    z1, z2 = torch.stack([e1, e2]), torch.stack([e1, e3])
    assert float(DCLW(1.0, 1 / math.log(3))(z1, z2)) == pytest.approx(math.log(2) - 0.25, rel=1e-12)
    assert float(DCL(1.0)(z1, z2)) == pytest.approx(math.log(2) - 0.5, rel=1e-12)


# ------------------------------------------------------------------ beside other losses


def reference_projections():
    """Return two views of 12 samples in 6 dimensions, made of sines instead of random numbers."""
    i, j = torch.arange(12, dtype=torch.float64)[:, None], torch.arange(6, dtype=torch.float64)
    common = torch.sin(1 + i * 1.7 + j * 2.3 + i * j)
    return common + 0.3 * torch.cos(i + 3 * j), common + 0.3 * torch.cos(2 * i + j)


REFERENCE_LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 2, -1, -1, -1, 0, 1])


# Values of pytorch-metric-learning 2.9.0 and lightly 1.6.0, in float64:
#     z1, z2 = reference_projections()
#     z, own = torch.cat([z1, z2]), torch.arange(12)
#     alone = torch.where(REFERENCE_LABELS < 0, 10 + own, REFERENCE_LABELS)
#     l2 = distances.LpDistance()
#     # A copy: of labels that are the same object, the diagonal is left out.
#     NTXentLoss(0.1)(z1, own, ref_emb=z2, ref_labels=own.clone())
#     ContrastiveLoss(neg_margin=1, distance=l2)(z, own.repeat(2))
#     squared = distances.LpDistance(power=2)
#     TripletMarginLoss(1, distance=squared)(z, own.repeat(2))
#     hardest = miners.BatchHardMiner(distance=squared)(z, own.repeat(2))
#     TripletMarginLoss(0.2, distance=squared, reducer=reducers.MeanReducer())(z, own.repeat(2), hardest)
#     SupConLoss(0.1)(z, alone.repeat(2))
#     lightly.loss.DCLWLoss(0.1)(z1, z2)
@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (InfoNCE(0.1), 0.507085320312),
        (Margin(1.0), 0.875286394199),
        (Triplet(1.0), 0.740464707472),
        (Triplet(0.2, "hardest"), 0.293788363392),
        (SupCon(0.1), 7.290797804579),
        (DCLW(0.1), 0.275997931685),
    ],
)
def test_the_value_is_that_of_another_library(loss, expected):
    labels = {"y": REFERENCE_LABELS} if loss.uses_labels else {}
    assert float(loss(*reference_projections(), **labels)) == pytest.approx(expected, abs=1e-10)


def test_supcon_without_a_label_in_the_batch_is_ntxent():
    z = projections(7, 5)
    unlabeled = torch.full((7,), -1)
    assert float(SupCon(0.3)(*z, y=unlabeled)) == pytest.approx(float(NTXent(0.3)(*z)), rel=1e-12)


def test_dclw_with_a_wide_sigma_is_dcl():
    z = projections(7, 5)
    assert float(DCLW(0.3, 1e9)(*z)) == pytest.approx(float(DCL(0.3)(*z)), rel=1e-8)


def test_dclws_weights_pass_no_gradient():
    # The gradient of a pair's term -w s / tau by s is -w / tau, as if w were a constant.
    z1, z2 = (z.requires_grad_() for z in projections(5, 3))
    w = 2 - 5 * (torch.cosine_similarity(z1, z2) / 0.5).softmax(dim=0).detach()
    by_hand = DCL(0.3)(z1, z2) + ((1 - w) * torch.cosine_similarity(z1, z2)).mean() / 0.3
    torch.testing.assert_close(
        torch.autograd.grad(DCLW(0.3)(z1, z2), z1), torch.autograd.grad(by_hand, z1), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("loss", [InfoNCE(), Margin(), Triplet(), Triplet(negatives="hardest"), DCLW()])
def test_three_views_cost_the_mean_of_their_three_pairs(loss):
    a, b, c = projections(6, 4, views=3)
    pairs = [float(loss(*pair)) for pair in ((a, b), (a, c), (b, c))]
    assert float(loss(a, b, c)) == pytest.approx(sum(pairs) / 3, rel=1e-12)


@pytest.mark.parametrize(
    "loss", [InfoNCE(), Margin(), Triplet(), Triplet(negatives="hardest"), DCLW(), SupCon(), YAware()]
)
def test_a_single_view_is_refused_in_words(loss):
    y = torch.zeros(4, 1) if loss.uses_labels == "values" else torch.zeros(4)
    labels = {"y": y} if loss.uses_labels else {}
    with pytest.raises(ValueError, match="needs at least two views, got 1"):
        loss(projections(4, 3)[0], **labels)


def slow_yaware(z1, z2, y, temperature, sigma):
    """Compute equation 3 of arXiv:2106.08808, one pair at a time; None for an unlabeled image."""
    z, n = [*z1, *z2], len(z1)
    total = 0.0
    for i in range(2 * n):
        others = [k for k in range(2 * n) if k != i]
        weights = []
        for k in others:
            if i % n == k % n:
                weights.append(1.0)
            elif y[i % n] is None or y[k % n] is None:
                weights.append(0.0)
            else:
                weights.append(math.exp(-(math.dist(y[i % n], y[k % n]) ** 2) / (2 * sigma**2)))
        f = [(similarity(z[i], z[k]) / temperature).exp() for k in others]
        terms = [w * (each / sum(f)).log() for w, each in zip(weights, f, strict=True)]
        total += -sum(terms) / sum(weights)
    return total / (2 * n)


@pytest.mark.parametrize("n_values", [1, 2])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 50.0])
def test_yaware_is_the_papers_formula(n_values, sigma):
    y = np.random.default_rng(1).normal(size=(7, n_values))
    y[[2, 5]] = np.nan
    slow = [None if np.isnan(row).any() else row for row in y]
    value = YAware(0.2, sigma)(*projections(7, 5), y=torch.from_numpy(y).float())
    expected = slow_yaware(*projections(7, 5), slow, 0.2, sigma)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)


def test_yaware_by_hand():
    # Two images at right angles, whose labels differ by sigma: weights 1 and exp(-1/2), 0.606531. Of three
    # others with similarities 1, 0 and 0, the softmax is e, 1 and 1 over e + 2. The view of the same image
    # counts 1 / 2.213061, the two of the other 0.606531 / 2.213061 each.
    z = torch.eye(2, dtype=torch.float64)
    w, log_sum = math.exp(-0.5), math.log(math.e + 2)
    by_hand = log_sum - 1 / (1 + 2 * w)
    assert by_hand == pytest.approx(1.099582, abs=1e-6)
    value = YAware(temperature=1.0, sigma=3.0)(z, z, y=torch.tensor([[1.0], [4.0]]))
    assert float(value) == pytest.approx(by_hand, abs=1e-7)


def test_yaware_with_distant_labels_or_none_is_ntxent():
    z = projections(7, 5)
    expected = pytest.approx(float(NTXent(0.3)(*z)), rel=1e-12)
    assert float(YAware(0.3)(*z, y=100 * torch.arange(7.0)[:, None])) == expected
    assert float(YAware(0.3)(*z, y=torch.full((7, 1), math.nan))) == expected


def test_yaware_with_classes_far_apart_is_supcon():
    z, classes = projections(7, 5), torch.tensor([0, 1, 0, 2, 2, 1, 0])
    expected = float(SupCon(0.3)(*z, y=classes))
    one_hot = 100 * torch.nn.functional.one_hot(classes).float()
    assert float(YAware(0.3)(*z, y=one_hot)) == pytest.approx(expected, rel=1e-12)


# ------------------------------------------------------------------ through the embedder


def images(n=64):
    return np.random.default_rng(0).integers(0, 256, size=(n, 16, 16), dtype=np.uint8)


def tiny_backbone(in_channels):
    layers = [nn.Conv2d(in_channels, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def embedder(loss, **params):
    settings = dict(backbone=tiny_backbone, max_epochs=2, batch_size=64, random_state=0)
    return SSLImageEmbedder(loss, **settings | params)


@pytest.mark.parametrize("name", NAMES)
def test_64_images_in_one_batch_are_enough(name):
    y = np.where(np.arange(64) < 8, np.arange(64) % 2, -1)
    fitted = embedder(name).fit(images(), y)
    embedding = fitted.transform(images())
    assert embedding.shape == (64, 8)
    assert embedding.std(axis=0).max() > 0
    assert fitted.projector_ == (8, 128)


def test_supcon_learns_from_the_labels_that_fit_is_given():
    halves, quarters = np.arange(64) % 2, np.arange(64) % 4
    first, other = (embedder("supcon", max_epochs=1).fit(images(), y).history_ for y in (halves, quarters))
    assert first[0]["train_loss"] != other[0]["train_loss"]


def test_negatives_that_do_not_exist_are_refused_in_words():
    with pytest.raises(ValueError, match="loss__negatives='semihard': give 'violating' or 'hardest'"):
        embedder("triplet", loss__negatives="semihard").fit(images())


def test_supcon_without_y_asks_for_it():
    with pytest.raises(ValueError, match=r"'supcon' learns from labels, but y is None: fit\(X, y\)"):
        embedder("supcon").fit(images())


def test_supcon_with_only_minus_one_is_told_so():
    with pytest.warns(UserWarning, match=r"'supcon' learns from labels, but every y is -1"):
        embedder("supcon", max_epochs=1).fit(images(), np.full(64, -1))


def test_batches_without_labels_are_fine():
    y = np.full(64, -1)
    y[:3] = 0  # at most three of the eight batches have a label, and warnings are errors here
    fitted = embedder("supcon", batch_size=8).fit(images(), y)
    assert all(math.isfinite(epoch["train_loss"]) for epoch in fitted.history_)


@pytest.mark.parametrize("name", NAMES)
def test_training_on_after_a_pickle_is_training_on_without_it(name):
    y = np.arange(64) % 3 - 1
    settings = dict(batch_size=16, warmup=0.0, warm_start=True)
    first = embedder(name, max_epochs=1, **settings).fit(images(), y)
    restored = pickle.loads(pickle.dumps(first)).set_params(max_epochs=2).fit(images(), y)
    again = first.set_params(max_epochs=2).fit(images(), y)
    assert [e["train_loss"] for e in restored.history_] == [e["train_loss"] for e in again.history_]
    assert restored.n_iter_ == 2
