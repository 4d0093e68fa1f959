"""VICRegL: VICReg of views, and of positions that match by their features or their place."""

import functools
import math

import numpy as np
import pytest
import torch
from sklearn_ssl_cca import VICRegL
from sklearn_ssl_cca.vicregl import centers_in_image, matched_positions
from torch import nn

from sklearn_ssl import SSLImageEmbedder, available_losses
from sklearn_ssl.losses import VICReg
from sklearn_ssl.testing import parametrize_with_loss_checks

RNG = np.random.default_rng(0)
POSITIONS = torch.from_numpy(RNG.normal(size=(2, 5, 6, 3)))  # of two views; images, positions, dim
PLACES = torch.from_numpy(RNG.uniform(-1, 1, size=(2, 5, 6, 2)))


@parametrize_with_loss_checks(["vicregl", functools.partial(VICRegL, alpha=0.0, matches=1.0)])
def test_vicregl_keeps_the_contract(check):
    check()


def test_it_is_found_by_name():
    assert available_losses()["vicregl"].distribution == "sklearn-ssl-cca"


# ------------------------------------------------------------------ matches


def slow_matches(a, b, k):
    """Match the positions of one image: pairs (position, nearest of the other view), in order."""
    nearest = [min((math.dist(x, y), j) for j, y in enumerate(b)) for x in a]
    kept = sorted(range(len(a)), key=lambda i: nearest[i][0])[:k]
    return [(i, nearest[i][1]) for i in sorted(kept)]


@pytest.mark.parametrize("k", [1, 3, 6])
def test_matches_are_the_nearest_pairs_in_order(k):
    mine, matched = matched_positions(torch.cdist(*POSITIONS), k)
    for image in range(5):
        expected = slow_matches(POSITIONS[0, image].tolist(), POSITIONS[1, image].tolist(), k)
        assert list(zip(mine[image].tolist(), matched[image].tolist(), strict=True)) == expected


def test_centers_of_a_map_lie_where_the_view_shows_them():
    whole, left_half_mirrored = torch.eye(2, 3), torch.tensor([[-0.5, 0.0, -0.5], [0.0, 1.0, 0.0]])
    points = centers_in_image(torch.stack([whole, left_half_mirrored]), (1, 2))
    assert points.tolist() == [[[-0.5, 0.0], [0.5, 0.0]], [[-0.25, 0.0], [-0.75, 0.0]]]
    rows = centers_in_image(whole[None], (2, 3))[0]
    assert rows[:, 1].tolist() == [-0.5] * 3 + [0.5] * 3
    assert rows[:3, 0].tolist() == pytest.approx([-2 / 3, 0, 2 / 3], abs=1e-6)


# ------------------------------------------------------------------ the loss of positions


def slow_vicreg(x, y):
    """Compute the authors' loss of one match: (n, d) each; variance and covariance are means of both."""
    d = x.shape[1]
    std = [np.maximum(0, 1 - np.sqrt(a.var(axis=0, ddof=1) + 1e-4)).mean() for a in (x, y)]
    cov = [np.cov(a.T) ** 2 for a in (x, y)]
    cov = [(c.sum() - np.trace(c)) / d for c in cov]
    return 25 * ((x - y) ** 2).mean() + 25 * np.mean(std) + np.mean(cov)


def slow_loss_of_parts(p, places, k):
    total = 0.0
    for where in (p, places):
        for i, j in ((0, 1), (1, 0)):
            pairs = [slow_matches(a.tolist(), b.tolist(), k) for a, b in zip(where[i], where[j], strict=True)]
            values = []
            for s in range(k):
                x = np.stack([p[i][image][pair[s][0]] for image, pair in enumerate(pairs)])
                y = np.stack([p[j][image][pair[s][1]] for image, pair in enumerate(pairs)])
                values.append(slow_vicreg(x, y))
            total += np.mean(values) / 2
    return total


@pytest.mark.parametrize(("matches", "k"), [(0.4, 2), (1.0, 6), (0.01, 1)])
def test_the_loss_of_parts_is_the_papers_formula(matches, k):
    value = VICRegL(matches=matches).loss_of_parts(POSITIONS, PLACES)
    assert float(value) == pytest.approx(slow_loss_of_parts(POSITIONS.numpy(), PLACES.numpy(), k), rel=1e-9)


def test_the_value_is_that_of_another_library():
    # lightly's, with one match of each image, by `python benchmarks/loss_references.py`. It orders several
    # matches by their distance, which the authors' code does not.
    value = VICRegL(matches=0.01).loss_of_parts(POSITIONS, PLACES)
    assert float(value) == pytest.approx(41.805538275, abs=1e-8)


def test_by_hand():
    # Two images of two positions. In the first view the features are 0 and 10 (image 0), 2 and 12 (image 1),
    # in the second 1 and 20, 3 and 20. The nearest pairs are 0 and 1, 2 and 3: the squared difference is 1,
    # all variances are 2, so that nothing else is left; one dimension has no covariance. By place, the second
    # positions match: 10 and 20, 12 and 20 differ by 100 and 64, mean 82; the second view has no variance.
    p = torch.tensor([[[[0.0], [10.0]], [[2.0], [12.0]]], [[[1.0], [20.0]], [[3.0], [20.0]]]]).double()
    places = torch.tensor([[[-1.0, 0.0], [0.5, 0.0]], [[-0.2, 0.0], [0.6, 0.0]]]).double()
    places = places[:, None].expand(2, 2, 2, 2)
    by_features, by_place = 25 * 1, 25 * 82 + 25 * (1 - math.sqrt(1e-4)) / 2
    value = VICRegL(matches=0.5).loss_of_parts(p, places)
    assert float(value) == pytest.approx(by_features + by_place)


# ------------------------------------------------------------------ through the embedder


def images(n=24):
    return RNG.integers(0, 256, size=(n, 32, 32), dtype=np.uint8)


def test_whole_views_cost_what_vicreg_says():
    settings = {
        **{"backbone": "resnet10", "backbone_params": {"width": 8}, "projector": (16, 8)},
        **{"max_epochs": 1, "batch_size": 24, "precision": "float32", "random_state": 0},
    }
    X = images()
    [row] = SSLImageEmbedder("vicregl", loss__alpha=1.0, **settings).fit(X).history_
    [plain] = SSLImageEmbedder("vicreg", loss__cov_coeff=0.5, **settings).fit(X).history_
    assert row["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-4)
    assert row["train_loss"] == row["whole"]


def test_a_backbone_without_maps_is_refused_before_training():
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 8))
    with pytest.raises((ValueError, TypeError), match="maps"):
        SSLImageEmbedder("vicregl", backbone=backbone, max_epochs=1).fit(images())


@pytest.mark.parametrize("params", [{"alpha": 1.5}, {"matches": 0}, {"sim_coeff": -1}, {"cov_coeff": -1}])
def test_hyperparameters_out_of_their_range_are_named(params):
    with pytest.raises(ValueError, match=f"loss__{next(iter(params))}"):
        VICRegL(**params)


def test_the_criterion_is_that_of_vicreg_with_half_the_covariance():
    loss = VICRegL(sim_coeff=2, std_coeff=3, cov_coeff=4).criterion
    assert isinstance(loss, VICReg)
    assert (loss.sim_coeff, loss.std_coeff, loss.cov_coeff) == (2, 3, 2)
