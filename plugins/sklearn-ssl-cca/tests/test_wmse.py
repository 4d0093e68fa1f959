import functools
import math

import numpy as np
import pytest
import torch
from sklearn_ssl_cca import WMSE
from sklearn_ssl_cca.wmse import whiten
from torch import nn

from sklearn_ssl import Spec, available_losses
from sklearn_ssl.testing import parametrize_with_loss_checks


@parametrize_with_loss_checks(["wmse", functools.partial(WMSE, n_views=4, w_iter=2)])
def test_wmse_keeps_the_contract(check):
    check()


def test_it_is_found_by_name():
    assert available_losses()["wmse"].distribution == "sklearn-ssl-cca"


def slow_wmse(views):
    """Compute the equations of the paper, one pair of views and one image at a time."""
    whitened = []
    for z in views:
        sigma = np.cov(z, rowvar=False)
        W = np.linalg.inv(np.linalg.cholesky(sigma))
        whitened.append([W @ (row - z.mean(axis=0)) for row in z])
    distances = []
    for i in range(len(views)):
        for j in range(i):
            for a, b in zip(whitened[i], whitened[j], strict=True):
                distances.append(((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2).sum())
    return np.mean(distances)


@pytest.mark.parametrize("n_views", [2, 4])
def test_the_loss_is_the_papers_sum_over_all_pairs_of_views(n_views):
    views = np.random.default_rng(0).normal(size=(n_views, 11, 5))
    loss = WMSE(w_eps=0.0)(*map(torch.from_numpy, views))
    assert float(loss) == pytest.approx(slow_wmse(views), rel=1e-8)


def test_local_crops_are_compared_with_full_size_views_only():
    a, b, c, d = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 11, 5)))
    loss = WMSE(local_crops=2)
    loss.build(Spec(8, 5, 64, 11, 1, (32, 32), nn.Conv2d(1, 8, 3), torch.Generator()))
    pairs = [WMSE()(*pair) for pair in ((a, b), (a, c), (a, d), (b, c), (b, d))]
    assert float(loss(a, b, c, d)) == pytest.approx(float(sum(pairs)) / 5, rel=1e-12)


# The corners of a square: covariance 4/3 times the identity, so whitening multiplies them by sqrt(3)/2.
CORNERS = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        # (x, y) -> (x, x + y): a lower triangular change, which L L^T = sigma takes up entirely.
        ([[1.0, 0.0], [1.0, 1.0]], 0.0),
        # (x, y) -> (-y, x): a quarter turn. The covariance is the same, so both views are only multiplied by
        # sqrt(3)/2, each pair stands at right angles, and 2 - 2 cos = 2.
        ([[0.0, -1.0], [1.0, 0.0]], 2.0),
        # (x, y) -> (-x, -y): opposite directions, 2 - 2 * (-1) = 4.
        ([[-1.0, 0.0], [0.0, -1.0]], 4.0),
    ],
)
def test_values_worked_out_by_hand(matrix, expected):
    other = CORNERS @ torch.tensor(matrix, dtype=torch.float64).T
    assert float(WMSE(w_eps=0.0)(CORNERS, other)) == pytest.approx(expected, abs=1e-8)


def test_it_agrees_with_lightly(projections):
    # lightly 1.6.0: WMSELoss(embedding_dim=6, w_size=12)(torch.cat(projections)); the batch is one sub-batch.
    assert float(WMSE(w_eps=0.0)(*projections)) == pytest.approx(0.8527846583, rel=1e-8)


def covariance(z):
    return torch.cov(z.T)


def test_whitened_rows_have_mean_zero_and_the_identity_as_covariance(projections):
    z = whiten(projections[0], eps=0.0)
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(6).double(), rtol=0, atol=1e-8)
    torch.testing.assert_close(covariance(z), torch.eye(6).double(), rtol=0, atol=1e-8)


def test_fewer_than_two_images_a_dimension_are_whitened_in_groups_of_dimensions():
    # 4 images know a covariance of 2 dimensions: 5 dimensions make groups of 2, 2 and 1.
    z = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    c = covariance(whiten(z, eps=0.0))
    for group in (slice(0, 2), slice(2, 4), slice(4, 5)):
        size = group.stop - group.start
        torch.testing.assert_close(c[group, group], torch.eye(size).double(), rtol=0, atol=1e-8)
    assert (c - torch.eye(5)).abs().max() > 0.1


@pytest.mark.parametrize("n", [2, 3, 8])
def test_images_that_are_all_alike_give_a_finite_loss_and_gradient(n):
    z = torch.ones(n, 6).requires_grad_()
    loss = WMSE()(z, z + 0)
    [gradient] = torch.autograd.grad(loss, z)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_each_sub_batch_is_whitened_by_itself(projections):
    views = [view[:, :2] for view in projections]
    parts = [WMSE(w_size=6, w_eps=0.0)(*(view[half] for view in views)) for half in (slice(6), slice(6, 12))]
    whole = WMSE(w_size=6, w_eps=0.0)(*views)
    assert float(whole) == pytest.approx(float(sum(parts) / 2), rel=1e-8)


@pytest.mark.parametrize(("n", "dim", "w_size"), [(300, 4, 128), (300, 70, 140), (100, 4, 100)])
def test_by_default_a_sub_batch_has_128_images_or_twice_the_dimensions_or_the_batch(n, dim, w_size):
    # 300 images are 2 sub-batches of 150 where one shall have 128 or 140; 100 images are a single one.
    views = torch.randn(2, n, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(WMSE()(*views)) == float(WMSE(w_size=w_size)(*views))
    if n > w_size:
        assert float(WMSE()(*views)) != float(WMSE(w_size=n)(*views))


def test_images_that_do_not_fill_a_sub_batch_make_the_others_larger(projections):
    views = [view[:11, :2] for view in projections]  # 11 images in 2 sub-batches: 6 and 5
    first, second = (WMSE(w_size=6)(*(view[rows] for view in views)) for rows in (slice(6), slice(6, 11)))
    assert float(WMSE(w_size=5)(*views)) == pytest.approx(float(6 * first + 5 * second) / 11, rel=1e-8)


def test_each_step_deals_the_batch_anew_by_the_steps_generator(projections, stepped):
    views = [view[:, :2] for view in projections]  # three sub-batches of 4
    values = [float(stepped(WMSE(w_size=4), *views, seed=seed)) for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_w_iter_is_the_mean_over_as_many_deals(projections, stepped):
    views = [view[:, :2] for view in projections]
    generator = torch.Generator().manual_seed(0)
    deals = [torch.randperm(12, generator=generator) for _ in range(3)]
    expected = np.mean([float(WMSE(w_size=4)(*(view[order] for view in views))) for order in deals])
    assert float(stepped(WMSE(w_size=4, w_iter=3), *views)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("w_size", [1, 9, "large", 4.5])
def test_a_sub_batch_that_the_batch_cannot_make_is_told_what_it_can(built, w_size):
    with pytest.raises(ValueError) as caught:
        built(WMSE(w_size=w_size), batch_size=8)
    assert str(caught.value) == (
        f"loss__w_size={w_size!r}: a sub-batch has 2 to 8 images, as batch_size=8. Give a number in "
        "between, or 'auto', or a larger batch_size."
    )


def test_the_projector_follows_the_width_of_the_features():
    widths = WMSE.defaults["projector"]
    assert widths(512) == (1024, 16)
    assert widths(16) == (32, 2)


def test_it_trains_and_embeds(embedder, many_images):
    estimator = embedder("wmse", projector="auto", max_epochs=8, lr=0.02).fit(many_images)
    losses = [row["train_loss"] for row in estimator.history_]
    assert estimator.transform(many_images).shape == (40, 8)
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
