import functools
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn_ssl_cca import DeepCluster
from sklearn_ssl_cca.deepcluster import spherical_kmeans
from skorch.callbacks import Callback

from sklearn_ssl import available_losses
from sklearn_ssl.testing import parametrize_with_loss_checks


@parametrize_with_loss_checks(["deepcluster", functools.partial(DeepCluster, n_clusters=3, n_groupings=1)])
def test_deepcluster_keeps_the_contract(check):
    check()


def test_it_is_found_by_name():
    assert available_losses()["deepcluster"].distribution == "sklearn-ssl-cca"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def doubles(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


# ------------------------------------------------------------------ the loss


def slow_deepcluster(views, centroids, clusters, tau):
    """Compute the cross entropy, one view of one image in one grouping at a time."""
    terms = []
    for z in views:
        for c, y in zip(centroids, clusters, strict=True):
            for row, group in zip(z, y, strict=True):
                p = np.exp(c @ (row / np.linalg.norm(row)) / tau)
                terms.append(-np.log(p[group] / p.sum()))
    return np.mean(terms)


def test_the_loss_is_the_mean_cross_entropy_over_views_and_groupings(built, stepped):
    loss = built(DeepCluster(5, n_groupings=2, temperature=0.3)).double()
    views, index = doubles(2, 7, 8), torch.tensor([3, 60, 8, 0, 21, 22, 5])
    expected = slow_deepcluster(views.numpy(), loss.centroids.numpy(), loss.clusters[:, index].numpy(), 0.3)
    assert float(stepped(loss, *views, index=index)) == pytest.approx(expected, rel=1e-10)


def test_a_value_worked_out_by_hand(built, stepped):
    # Centroids (1, 0) and (0, 1). A view that lies on its own centroid, at temperature 1: -log(e / (e + 1)) =
    # 0.3132617; one that lies on the other: -log(1 / (e + 1)) = 1.3132617. One of each: 0.8132617.
    loss = built(DeepCluster(2, n_groupings=1, temperature=1.0), dim=2)
    loss.centroids = torch.eye(2)[None]
    loss.clusters = torch.zeros(1, 64, dtype=torch.int64)
    z = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
    assert float(stepped(loss, z, z)) == pytest.approx(0.8132617, abs=1e-6)


# ------------------------------------------------------------------ k-means


def slow_kmeans(x, centroids, iterations):
    for _ in range(iterations):
        groups = [[] for _ in centroids]
        for row in x:
            groups[int(np.argmax([c @ row for c in centroids]))].append(row)
        for k, rows in enumerate(groups):
            if rows:
                centroids[k] = np.sum(rows, axis=0) / np.linalg.norm(np.sum(rows, axis=0))
    return centroids, [int(np.argmax([c @ row for c in centroids])) for row in x]


@pytest.mark.parametrize("k", [3, 15])
def test_k_means_is_the_textbooks(k):
    x = F.normalize(doubles(30, 4), dim=1)
    order = torch.randperm(30, generator=generator())
    start = x[torch.cat([order, order])[:k]].numpy().copy()
    centroids, nearest = spherical_kmeans(x, k, 4, generator())
    expected = slow_kmeans(x.numpy(), start, 4)
    np.testing.assert_allclose(centroids.numpy(), expected[0], rtol=1e-10)
    assert nearest.tolist() == expected[1]


def test_an_empty_group_keeps_its_place():
    # Five groups start from three rows, so that two start where others do. Products along the axes are exact,
    # and of two equally near groups the first is taken: the last two stay empty.
    order = torch.randperm(3, generator=generator())
    centroids, nearest = spherical_kmeans(torch.eye(3), 5, 4, generator())
    assert torch.equal(centroids, torch.eye(3)[order[[0, 1, 2, 0, 1]]])
    assert torch.equal(nearest, order.argsort())


def test_k_means_in_blocks_of_rows_is_the_same(monkeypatch):
    x = F.normalize(doubles(30, 4), dim=1)
    centroids, nearest = spherical_kmeans(x, 5, 4, generator())
    monkeypatch.setattr("sklearn_ssl_cca.deepcluster.ROWS", 7)
    in_blocks = spherical_kmeans(x, 5, 4, generator())
    torch.testing.assert_close(in_blocks[0], centroids)
    assert torch.equal(in_blocks[1], nearest)


def test_two_bundles_of_directions_are_two_groups():
    x = F.normalize(torch.tensor([[5.0, 0.1], [5.0, -0.1], [0.1, 5.0], [-0.1, 5.0]]), dim=1)
    centroids, nearest = spherical_kmeans(x, 2, 10, generator(1))
    a, _, b, _ = nearest.tolist()
    assert nearest.tolist() == [a, a, b, b]
    torch.testing.assert_close(centroids[torch.tensor([a, b])], torch.eye(2))


# ------------------------------------------------------------------ bank and groups


def test_the_bank_holds_the_mean_direction_of_each_images_views(built, stepped):
    loss, views, index = built(DeepCluster()).double(), doubles(2, 3, 8), torch.tensor([7, 0, 40])
    stepped(loss, *views, index=index)
    unit = F.normalize(views, dim=2)
    torch.testing.assert_close(loss.bank[index], F.normalize(unit[0] + unit[1], dim=1))
    assert loss.bank.any(dim=1).nonzero().flatten().tolist() == [0, 7, 40]


def test_before_there_is_anything_to_group_images_are_dealt_to_random_clusters_in_equal_numbers(built):
    loss = built(DeepCluster(5, n_groupings=2), n_samples=64)
    dealt = loss.clusters.clone()
    loss.on_epoch_start(0, generator())
    assert torch.equal(loss.clusters, dealt)
    for grouping in dealt:
        assert sorted(grouping.bincount().tolist()) == [12, 13, 13, 13, 13]  # 64 = 5 * 13 - 1
    assert not torch.equal(dealt[0], dealt[1])


@pytest.mark.parametrize(("passes", "epochs"), [("none", []), ("first", [0]), ("all", [0, 1])])
def test_images_are_looked_at_again_before_the_epochs_asked_for(built, passes, epochs):
    loss = built(DeepCluster(5, passes=passes), n_samples=64)
    looked = []
    for epoch in (0, 1):
        z = torch.randn(64, 8, generator=generator(epoch))
        loss.before_epoch(epoch, lambda z=z, epoch=epoch: looked.append(epoch) or z)
        if epoch in epochs:
            torch.testing.assert_close(loss.bank, F.normalize(z, dim=1))
    assert looked == epochs


def test_each_epoch_starts_from_a_new_grouping_of_what_was_seen(built, stepped):
    loss = built(DeepCluster(3, n_groupings=2)).double()
    index = torch.arange(0, 64, 2)
    stepped(loss, *doubles(2, 32, 8), index=index)
    loss.on_epoch_start(1, generator())
    same = generator()
    for centroids, clusters in zip(loss.centroids, loss.clusters, strict=True):
        expected = spherical_kmeans(loss.bank[index], 3, 10, same)
        assert torch.equal(centroids, expected[0])
        assert torch.equal(clusters[index], expected[1])
    assert (loss.clusters[:, 1::2] == -1).all()  # not seen yet
    assert not torch.equal(loss.clusters[0], loss.clusters[1])


class Keep(Callback):
    def on_train_begin(self, net, **kwargs):
        self.loss = net.criterion_


def test_a_fit_fills_the_bank_and_groups_it(embedder, many_images):
    keep = Keep()
    embedder("deepcluster", max_epochs=2, callbacks=[keep], loss__n_clusters=4).fit(many_images)
    torch.testing.assert_close(keep.loss.bank.norm(dim=1), torch.ones(40))
    dealt = np.arange(40) % 4
    assert any(not np.array_equal(np.sort(grouping), np.sort(dealt)) for grouping in keep.loss.clusters)


def test_the_default_number_of_clusters_shrinks_with_few_images(built):
    assert [built(DeepCluster(), n_samples=n).centroids.shape[1] for n in (4, 64, 100_000)] == [2, 16, 300]


@pytest.mark.parametrize("given", [65, 1, "many"])
def test_a_number_of_clusters_that_the_images_cannot_fill_is_refused(built, given):
    with pytest.raises(ValueError) as caught:
        built(DeepCluster(given), n_samples=64)
    assert str(caught.value) == (
        f"loss__n_clusters={given!r}: 64 images can be sorted into 2 to 64 groups. Give a number in between, "
        "or 'auto'."
    )


# ------------------------------------------------------------------ through the embedder


def test_it_trains_and_embeds(embedder, many_images):
    estimator = embedder("deepcluster", max_epochs=8, lr=0.02).fit(many_images)
    losses = [row["train_loss"] for row in estimator.history_]
    assert estimator.transform(many_images).shape == (40, 8)
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]


def test_it_trains_on_after_a_pickle_as_if_nothing_had_been(embedder, many_images):
    whole = (
        embedder("deepcluster", warm_start=True, max_epochs=2)
        .fit(many_images)
        .set_params(max_epochs=4)
        .fit(many_images)
    )
    half = pickle.loads(pickle.dumps(embedder("deepcluster", warm_start=True, max_epochs=2).fit(many_images)))
    half.set_params(max_epochs=4).fit(many_images)
    np.testing.assert_array_equal(half.transform(many_images), whole.transform(many_images))


def test_training_on_with_other_images_groups_them_anew(embedder, many_images):
    keep = Keep()
    estimator = embedder("deepcluster", warm_start=True, max_epochs=2).fit(many_images[:24])
    estimator.set_params(max_epochs=4, callbacks=[keep]).fit(many_images)
    assert keep.loss.bank.shape == (40, 8)
    torch.testing.assert_close(keep.loss.bank.norm(dim=1), torch.ones(40))


def test_images_without_a_cluster_are_left_out_of_the_loss(built, stepped):
    loss = built(DeepCluster(5, n_groupings=2)).double()
    views = doubles(2, 4, 8)
    known = stepped(loss, *views[:, [0, 2]], index=torch.tensor([3, 8]))
    loss.clusters[:, [60, 0]] = -1
    assert float(stepped(loss, *views, index=torch.tensor([3, 60, 8, 0]))) == pytest.approx(
        float(known), rel=1e-12
    )
    loss.clusters.fill_(-1)
    assert float(stepped(loss, *views, index=torch.tensor([3, 60, 8, 0]))) == 0.0
