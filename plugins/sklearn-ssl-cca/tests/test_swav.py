import functools
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn_ssl_cca import SwAV
from sklearn_ssl_cca.swav import sinkhorn, swapped_prediction
from skorch.callbacks import Callback

from sklearn_ssl import SSLImageEmbedder, available_losses
from sklearn_ssl.testing import parametrize_with_loss_checks


def stop_gradient(loss):
    return {"check_gradient_is_right_in_float64": "codes are targets: their gradient is stopped"}


multi_crop = functools.partial(SwAV, local_crops=2, local_size=1.0, queue_from=0.0, freeze_epochs=0)


@parametrize_with_loss_checks(["swav", multi_crop], expected_failed_checks=stop_gradient)
def test_swav_keeps_the_contract(check):
    check()


def test_it_is_found_by_name():
    assert available_losses()["swav"].distribution == "sklearn-ssl-cca"


# ------------------------------------------------------------------ the loss


def slow_codes(scores, epsilon, iterations):
    """Sinkhorn-Knopp: scale Q until rows sum to 1/K and columns to 1/B, for K prototypes and B samples."""
    Q = np.exp(scores / epsilon).T
    K, B = Q.shape
    Q /= Q.sum()
    for _ in range(iterations):
        for k in range(K):
            Q[k] *= (1 / K) / Q[k].sum()
        for b in range(B):
            Q[:, b] *= (1 / B) / Q[:, b].sum()
    return (Q * B).T


def slow_swav(views, prototypes, tau, epsilon, iterations, queues=((), ())):
    """Compute the cross entropy of the codes of both full-size views and predictions from the others."""
    unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in views]
    terms = []
    for i in range(2):
        together = np.concatenate([unit[i], *queues[i]])
        codes = slow_codes(together @ prototypes.T, epsilon, iterations)
        for v in range(len(unit)):
            if v == i:
                continue
            for z, q in zip(unit[v], codes, strict=False):
                p = np.exp(prototypes @ z / tau)
                terms.append(-(q * np.log(p / p.sum())).sum())
    return np.mean(terms)


def doubles(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("local_crops", [0, 3])
def test_the_loss_is_the_papers_sum(built, stepped, local_crops):
    loss = SwAV(5, temperature=0.2, epsilon=0.1, sinkhorn_iterations=4, local_crops=local_crops)
    loss = built(loss, image_size=(32, 32)).double()
    views = doubles(2 + local_crops, 7, 8)
    expected = slow_swav(views.numpy(), loss.prototypes.detach().numpy(), 0.2, 0.1, 4)
    assert stepped(loss, *views).item() == pytest.approx(expected, rel=1e-10)


def test_a_value_worked_out_by_hand(built, stepped):
    # Two samples, each on its own prototype: scores (1, 0) and (0, 1). With tau = epsilon = 1 / ln 3, exp of
    # the scores is (3, 1) and (1, 3). Rows and columns have equal sums already, so the code is (3/4, 1/4),
    # the prediction as well, and the loss -(3/4 ln 3/4 + 1/4 ln 1/4) = 0.5623351446.
    loss = built(SwAV(2, temperature=1 / math.log(3), epsilon=1 / math.log(3)), dim=2).double()
    loss.prototypes.data = torch.eye(2).double()
    z = 5 * torch.eye(2).double()  # the length of a projection does not matter
    assert stepped(loss, z, z).item() == pytest.approx(0.5623351446, abs=1e-10)


def test_it_agrees_with_lightly(projections):
    # lightly 1.6.0: SwaVLoss()(s, []) and SwaVLoss()(s, [(s[0] + s[1]) / 2]). (Its exp(s / epsilon) overflows
    # in float32 where epsilon is 0.01 and a sample lies on a prototype, and the loss is nan.)
    z1, z2 = (F.normalize(z, dim=1) for z in projections)
    c = F.normalize(z1[:4] + z2[1:5], dim=1)
    s = [z1 @ c.T, z2 @ c.T]
    q = [sinkhorn(each, torch.ones(12, dtype=torch.bool), 0.05, 3) for each in s]
    for third, expected in [([], 0.8056906679), ([(s[0] + s[1]) / 2], 0.6400148529)]:
        loss = swapped_prediction(q, [each / 0.1 for each in [*s, *third]])
        assert float(loss) == pytest.approx(expected, abs=1e-10)


# ------------------------------------------------------------------ codes


def test_codes_sum_to_one_and_fill_all_prototypes_equally():
    q = sinkhorn(doubles(12, 4), torch.ones(12, dtype=torch.bool), epsilon=0.5, iterations=100)
    torch.testing.assert_close(q.sum(dim=1), torch.ones(12).double())
    torch.testing.assert_close(q.sum(dim=0), torch.full((4,), 3.0).double(), rtol=1e-6, atol=0)


def test_images_that_all_look_alike_are_not_given_to_one_prototype():
    scores = torch.tensor([[0.9, 0.1, -0.5]]).expand(6, 3)
    q = sinkhorn(scores, torch.ones(6, dtype=torch.bool), epsilon=0.05, iterations=3)
    torch.testing.assert_close(q, torch.full((6, 3), 1 / 3))


def test_hard_codes_neither_overflow_nor_vanish_in_float32():
    # exp(1 / 0.001) is infinite in any floating-point format.
    q = sinkhorn(torch.eye(3), torch.ones(3, dtype=torch.bool), epsilon=0.001, iterations=3)
    torch.testing.assert_close(q, torch.eye(3))


def test_rows_that_do_not_count_change_nothing():
    scores, counts = doubles(7, 4), torch.tensor([True] * 5 + [False] * 2)
    q = sinkhorn(scores, counts, epsilon=0.5, iterations=3)
    torch.testing.assert_close(q[:5], sinkhorn(scores[:5], counts[:5], epsilon=0.5, iterations=3))


# ------------------------------------------------------------------ the queue


def test_the_queue_helps_to_make_the_codes_from_the_given_share_of_the_training_on(built, stepped):
    loss = built(SwAV(5, queue_size=10, queue_from=0.25)).double()
    first, second = doubles(2, 8, 8, seed=1), doubles(2, 8, 8, seed=2)
    c = loss.prototypes.detach().numpy()
    stepped(loss, *first)
    without, before = slow_swav(second.numpy(), c, 0.1, 0.05, 3), pickle.loads(pickle.dumps(loss))
    queues = [[F.normalize(view, dim=1).numpy()] for view in first]
    with_queue = slow_swav(second.numpy(), c, 0.1, 0.05, 3, queues)
    assert stepped(loss, *second, progress=0.24).item() == pytest.approx(without, rel=1e-6)
    assert stepped(before, *second, progress=0.25).item() == pytest.approx(with_queue, rel=1e-6)
    assert abs(without - with_queue) > 1e-3


def test_each_full_size_view_has_a_queue_of_its_latest_directions(built, stepped):
    loss = built(SwAV(5, queue_size=12)).double()
    first, second = doubles(2, 8, 8, seed=1), doubles(2, 8, 8, seed=2)
    for views in (first, second):
        stepped(loss, *views)
    for i, queue in enumerate(loss.queues):
        expected = F.normalize(torch.cat([first[i], second[i]])[-12:], dim=1)
        torch.testing.assert_close(queue.rows, expected)


def test_a_queue_smaller_than_the_batch_is_refused(built):
    with pytest.raises(ValueError, match=r"loss__queue_size=7: .* Give at least 8, or 'auto'"):
        built(SwAV(queue_size=7), batch_size=8)


def test_the_default_queue_is_no_longer_than_there_are_images(built):
    sizes = [len(built(SwAV(), n_samples=n).queues[0].rows) for n in (64, 1000, 10_000)]
    assert sizes == [64, 1000, 3840]


# ------------------------------------------------------------------ prototypes


class Prototypes(Callback):
    """Callback that records the prototypes before the training and after each epoch."""

    def on_train_begin(self, net, **kwargs):
        self.net = net
        self.seen = [net.criterion_.prototypes.detach().clone()]

    def on_epoch_end(self, net, **kwargs):
        self.seen.append(net.criterion_.prototypes.detach().clone())


def test_prototypes_are_frozen_at_first_then_learn_and_keep_their_length(embedder, many_images):
    notes = Prototypes()
    embedder("swav", max_epochs=20, callbacks=[notes], loss__freeze_epochs=2, lr=0.01).fit(many_images)
    start, first, second, third, *_ = notes.seen
    # Not bit for bit: dividing a unit vector by its length rounds.
    torch.testing.assert_close(first, start, rtol=0, atol=1e-6)
    torch.testing.assert_close(second, start, rtol=0, atol=1e-6)
    assert (third - start).abs().max() > 1e-3
    for prototypes in notes.seen:
        torch.testing.assert_close(prototypes.norm(dim=1), torch.ones(len(start)))


def test_prototypes_are_frozen_for_a_tenth_of_the_training_at_most(embedder, many_images):
    notes = Prototypes()
    embedder("swav", max_epochs=2, callbacks=[notes], loss__freeze_epochs=2, lr=0.01).fit(many_images)
    assert (notes.seen[1] - notes.seen[0]).abs().max() > 1e-3


def test_the_default_number_of_prototypes_shrinks_with_few_images(built):
    assert [len(built(SwAV(), n_samples=n).prototypes) for n in (4, 64, 100_000)] == [2, 16, 300]


@pytest.mark.parametrize("given", [65, 1, "many"])
def test_a_number_of_prototypes_that_the_images_cannot_fill_is_refused(built, given):
    with pytest.raises(ValueError) as caught:
        built(SwAV(given), n_samples=64)
    assert str(caught.value) == (
        f"loss__n_prototypes={given!r}: 64 images can be sorted into 2 to 64 groups. Give a number in "
        "between, or 'auto'."
    )


# ------------------------------------------------------------------ local crops


@pytest.mark.parametrize(("side", "local"), [(8, 0), (32, 0), (46, 0), (48, 4), (224, 4)])
def test_there_are_local_crops_by_default_where_they_have_24_pixels(built, side, local):
    assert built(SwAV(), image_size=(side, 2 * side)).view_spec.local == local


def test_crops_that_cannot_be_made_are_refused(built):
    with pytest.raises(ValueError, match=r"loss__local_crops=-1: give an integer of at least 0"):
        built(SwAV(local_crops=-1))


def test_small_crops_of_larger_images_are_trained_on(embedder):
    X = np.random.default_rng(0).integers(0, 256, size=(16, 32, 32), dtype=np.uint8)
    estimator = embedder("swav", max_epochs=1).fit(X)
    assert np.isfinite(estimator.transform(X)).all()


class Sizes(Callback):
    """Callback that records the sides of the images that the backbone sees."""

    def on_train_begin(self, net, **kwargs):
        self.seen = set()
        backbone = net.module_.backbone
        self.hook = backbone.register_forward_pre_hook(lambda module, args: self.seen.add(args[0].shape[-1]))

    def on_train_end(self, net, **kwargs):
        self.hook.remove()


def test_crops_of_two_sizes_are_trained_on(embedder):
    X, sizes = np.random.default_rng(0).integers(0, 256, size=(16, 32, 32), dtype=np.uint8), Sizes()
    model = embedder("swav", callbacks=[sizes], loss__local_crops=3, loss__local_size=(1.0, 0.75))
    model.fit(X)
    assert sizes.seen == {32, 24}
    assert math.isfinite(model.history_[-1]["train_loss"])


# ------------------------------------------------------------------ through the embedder


def test_it_trains_and_embeds(embedder, many_images):
    estimator = embedder("swav", max_epochs=8, lr=0.02).fit(many_images)
    losses = [row["train_loss"] for row in estimator.history_]
    assert estimator.transform(many_images).shape == (40, 8)
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]


def test_the_defaults_work_for_digits_of_eight_pixels():
    X = np.random.default_rng(0).integers(0, 17, size=(64, 8, 8)).astype(np.float64)
    estimator = SSLImageEmbedder("swav", batch_size=64, max_epochs=1, random_state=0).fit(X)
    assert np.isfinite(estimator.transform(X)).all()


def test_it_trains_on_after_a_pickle_as_if_nothing_had_been(embedder, many_images):
    whole = (
        embedder("swav", warm_start=True, max_epochs=2)
        .fit(many_images)
        .set_params(max_epochs=4)
        .fit(many_images)
    )
    half = pickle.loads(pickle.dumps(embedder("swav", warm_start=True, max_epochs=2).fit(many_images)))
    half.set_params(max_epochs=4).fit(many_images)
    np.testing.assert_array_equal(half.transform(many_images), whole.transform(many_images))
