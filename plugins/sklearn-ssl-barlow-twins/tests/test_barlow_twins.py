import functools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn_ssl_barlow_twins import BarlowTwins
from torch import nn

from sklearn_ssl import Spec, SSLImageEmbedder, available_losses
from sklearn_ssl.testing import parametrize_with_loss_checks


@parametrize_with_loss_checks(["barlow_twins"])
def test_barlow_twins_keeps_the_contract(check):
    check()


def slow_barlow_twins(z1, z2, lambd):
    """Compute equations 1 and 2 of the paper, one entry of C at a time."""
    n, d = z1.shape
    total = 0.0
    for i in range(d):
        for j in range(d):
            a = (z1[:, i] - z1[:, i].mean()) / np.sqrt(z1[:, i].var() + 1e-5)
            b = (z2[:, j] - z2[:, j].mean()) / np.sqrt(z2[:, j].var() + 1e-5)
            c = (a * b).sum() / n
            total += (1 - c) ** 2 if i == j else lambd * c**2
    return total


def test_the_loss_is_the_papers_sum():
    rng = np.random.default_rng(0)
    z1, z2 = rng.normal(size=(2, 9, 5))
    loss = BarlowTwins(lambd=0.3, scale=1.0)(torch.from_numpy(z1), torch.from_numpy(z2))
    assert float(loss) == pytest.approx(slow_barlow_twins(z1, z2, 0.3), rel=1e-10)


def test_a_value_worked_out_by_hand():
    # z1 = z2 with columns (1, -1, 1, -1) and (1, 1, -1, -1): each has mean 0 and variance 1, and they are
    # uncorrelated, so C is the identity and the loss 0. With the first column turned round in z2,
    # C = diag(-1, 1): the loss is (1 + 1)^2 = 4.
    z1 = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    loss = BarlowTwins(scale=1.0)
    assert float(loss(z1, z1)) == pytest.approx(0.0, abs=1e-9)
    assert float(loss(z1, z1 * torch.tensor([-1.0, 1.0]))) == pytest.approx(4.0, rel=1e-4)


def test_local_crops_are_compared_with_full_size_views_only():
    a, b, c, d = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 9, 5)))
    loss = BarlowTwins(local_crops=2)
    loss.build(Spec(8, 5, 64, 9, 1, (32, 32), nn.Conv2d(1, 8, 3), torch.Generator()))
    pairs = [BarlowTwins()(*pair) for pair in ((a, b), (a, c), (a, d), (b, c), (b, d))]
    assert float(loss(a, b, c, d)) == pytest.approx(float(sum(pairs)) / 5, rel=1e-12)


def test_it_is_found_by_name():
    assert available_losses()["barlow_twins"].distribution == "sklearn-ssl-barlow-twins"


def test_it_is_found_in_the_workers_of_a_grid_search():
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 255, size=(24, 8, 8), dtype=np.uint8), np.arange(24) % 2
    small = {"backbone": functools.partial(nn.Conv2d, out_channels=8, kernel_size=3), "projector": (16, 16)}
    embedder = SSLImageEmbedder(loss="barlow_twins", max_epochs=1, random_state=0, **small)
    pipe = Pipeline([("ssl", embedder), ("clf", LogisticRegression())])
    grid = GridSearchCV(pipe, {"ssl__loss__lambd": [0.005, 0.01]}, cv=2, n_jobs=2, error_score="raise")
    grid.fit(X, y)
    assert set(grid.cv_results_["param_ssl__loss__lambd"]) == {0.005, 0.01}
