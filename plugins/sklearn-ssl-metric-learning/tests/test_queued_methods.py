"""NNCLR, MoCo and mean shift in the estimator: common properties."""

import pickle

import numpy as np
import pytest
import torch
from sklearn_ssl_metric_learning.meanshift import MeanShift
from sklearn_ssl_metric_learning.moco import MoCo
from skorch.callbacks import Callback
from torch import nn

from sklearn_ssl import SSLImageEmbedder

METHODS = ("nnclr", "moco", "meanshift")
WITH_A_TEACHER = (MoCo, MeanShift)


def tiny_backbone(in_channels):
    layers = [nn.Conv2d(in_channels, 12, 3, stride=2), nn.BatchNorm2d(12), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def images(n):
    return np.random.default_rng(0).integers(0, 256, size=(n, 16, 16, 3), dtype=np.uint8)


def embedder(loss, **params):
    settings = dict(backbone=tiny_backbone, max_epochs=2, batch_size=16, random_state=0)
    return SSLImageEmbedder(loss=loss, **settings | params)


class Keep(Callback):
    """Callback that keeps the loss, and its state at the beginning of the training."""

    def on_train_begin(self, net, **kwargs):
        self.loss, self.teacher = net.criterion_, net.teacher
        self.start = {name: tensor.clone() for name, tensor in net.criterion_.state_dict().items()}


def trained(loss, n=40, **params):
    keep = Keep()
    embedder(loss, callbacks=[keep], **params).fit(images(n))
    return keep


@pytest.mark.parametrize("loss", METHODS)
def test_a_fit_embeds_images(loss):
    fitted = embedder(loss).fit(images(40))
    embeddings = fitted.transform(images(40))
    assert embeddings.shape == (40, 12)
    assert np.isfinite(embeddings).all()
    assert embeddings.std(axis=0).min() > 0


@pytest.mark.parametrize("loss", METHODS)
def test_64_images_in_one_batch_are_enough(loss):
    keep = trained(loss, n=64, batch_size=64)
    assert keep.loss.queue.rows.shape[0] == 64
    assert keep.loss.queue.filled.all()


@pytest.mark.parametrize("loss", METHODS)
def test_a_batch_may_go_through_the_network_in_parts(loss):
    assert np.isfinite(embedder(loss, micro_batches=2).fit(images(40)).transform(images(2))).all()


@pytest.mark.parametrize(("loss", "size"), [("nnclr", 50), ("moco", 50), ("meanshift", 100)])
def test_the_queue_follows_the_number_of_images(loss, size):
    assert len(trained(loss, n=100).loss.queue.rows) == size
    assert len(trained(loss, n=100, loss__queue_size=32).loss.queue.rows) == 32


@pytest.mark.parametrize("loss", METHODS)
def test_a_queue_that_does_not_hold_a_batch_is_refused(loss):
    with pytest.raises(ValueError, match=r"^loss__queue_size=15: each step puts in 16 rows.* at least 16"):
        embedder(loss, loss__queue_size=15).fit(images(40))


@pytest.mark.parametrize("loss", ["nnclr", "meanshift"])
def test_the_predictor_is_twice_as_wide_as_the_features(loss):
    assert trained(loss).loss.predictor[0].out_features == 2 * 12


@pytest.mark.parametrize("loss", METHODS)
def test_training_on_after_a_pickle_begins_with_the_queue_where_it_was(loss):
    first, second = Keep(), Keep()
    fitted = embedder(loss, warm_start=True, callbacks=[first]).fit(images(40))
    later = pickle.loads(pickle.dumps(fitted.set_params(callbacks=None)))
    later.set_params(max_epochs=4, callbacks=[second]).fit(images(40))
    end = first.loss.state_dict()
    assert end["queue.rows"].abs().sum() > 0
    assert end.keys() == second.start.keys()
    assert all(torch.equal(end[name], second.start[name]) for name in end)
    assert not torch.equal(second.start["queue.rows"], second.loss.queue.rows)


@pytest.mark.parametrize("loss", ["moco", "meanshift"])
def test_the_teacher_goes_on_as_well(loss):
    first, second = Keep(), Keep()
    fitted = embedder(loss, warm_start=True, callbacks=[first]).fit(images(40))
    # With a momentum of 1, the teacher does not change in the second training.
    fitted.set_params(max_epochs=4, callbacks=[second], loss__momentum=1.0).fit(images(40))
    for mine, theirs in zip(first.teacher.parameters(), second.teacher.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("loss", WITH_A_TEACHER)
@pytest.mark.parametrize("momentum", [-0.1, 1.5])
def test_a_momentum_that_is_none_is_told_what_is(loss, momentum):
    with pytest.raises(
        ValueError, match=f"loss__momentum={momentum}: give a finite number of at least 0 and at most 1"
    ):
        embedder(loss, loss__momentum=momentum).fit(images(40))


def late(progress):
    return 1 / progress


@pytest.mark.parametrize("loss", WITH_A_TEACHER)
@pytest.mark.parametrize(
    ("momentum", "words"),
    [
        (late, r"loss__momentum=<function late at .*> failed as a function of progress: float division"),
        (lambda progress: 2, r"loss__momentum\(0\.0\)=2: give a finite number of at least 0 and at most 1"),
    ],
)
def test_a_momentum_that_is_no_function_of_progress_is_told(loss, momentum, words):
    with pytest.raises(ValueError, match=words):
        embedder(loss, loss__momentum=momentum).fit(images(40))


def rising(progress):
    return 0.5 + progress / 2


@pytest.mark.parametrize("loss", WITH_A_TEACHER)
def test_the_momentum_may_be_a_function_of_progress(loss):
    assert trained(loss, loss__momentum=rising).loss.teacher_momentum is rising


def test_mean_shift_augments_the_query_strongly_and_the_target_weakly():
    class Sees(MeanShift):
        def step(self, batch, student, teacher):
            self.seen = batch.views
            return super().step(batch, student, teacher)

    # Noise belongs to the whole augmentation only: the target, of the same images, is without.
    query, target = trained(Sees, augment="none", augment__noise=0.5).loss.seen
    plain = trained(Sees, augment="none").loss.seen[1]
    assert torch.equal(target, plain)
    assert (query - plain).abs().mean() > 0.3
