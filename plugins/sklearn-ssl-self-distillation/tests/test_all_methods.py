"""Common properties of the methods of this distribution in the embedder."""

import pickle

import numpy as np
import pytest
import torch
from sklearn_ssl_self_distillation import BYOL, DINO, SimSiam
from skorch.callbacks import Callback
from torch import nn

from sklearn_ssl import SSLImageEmbedder, available_losses

METHODS = ("byol", "simsiam", "dino")


def images(side=16):
    return np.random.default_rng(0).integers(0, 256, size=(64, side, side), dtype=np.uint8)


def tiny_backbone(in_channels):
    layers = [nn.Conv2d(in_channels, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def embedder(loss, **params):
    return SSLImageEmbedder(loss, backbone=tiny_backbone, batch_size=64, random_state=0, **params)


@pytest.mark.parametrize("loss", METHODS)
def test_it_is_found_by_name(loss):
    assert available_losses()[loss].distribution == "sklearn-ssl-self-distillation"


@pytest.mark.parametrize("loss", [BYOL, DINO, SimSiam])
def test_projections_are_standardized_over_the_batch(loss):
    # The features may be at any distance from zero.
    features = 5 + torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    z = loss().make_projector(6, (5, 4))(features)
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.var(dim=0, correction=0), torch.ones(4), rtol=0, atol=1e-2)
    assert z.shape == (200, 4)


@pytest.mark.parametrize("loss", ["byol", "dino"])
def test_the_papers_views_differ_in_blur_and_solarization(loss):
    seen = []

    class Look(Callback):
        def on_train_begin(self, net, **kwargs):
            seen.append(net.criterion_.view_spec)

    for given in ({}, {"loss__asymmetric_views": True, "loss__local_crops": 1, "loss__local_size": 1.0}):
        embedder(loss, max_epochs=1, callbacks=[Look()], **given).fit(images())
    assert seen[0].recipes == ("strong",)
    assert seen[1].recipes == ({"blur": 1.0, "solarize": 0.0}, {"blur": 0.1, "solarize": 0.2}, "strong")


@pytest.mark.parametrize("loss", METHODS)
@pytest.mark.parametrize("side", [8, 16, 32])
def test_64_images_of_any_size_are_enough(loss, side):
    embedding = embedder(loss, max_epochs=2).fit_transform(images(side))
    assert embedding.shape == (64, 8)
    assert embedding.std(axis=0).max() > 0


@pytest.mark.parametrize("loss", METHODS)
def test_a_large_batch_may_go_through_the_network_in_parts(loss):
    assert embedder(loss, max_epochs=1, micro_batches=2).fit(images(32)).n_iter_ == 1


@pytest.mark.parametrize("loss", METHODS)
def test_training_goes_on_after_a_pickle_as_if_it_had_not_stopped(loss):
    first = embedder(loss, max_epochs=2, warm_start=True).fit(images())
    again = pickle.loads(pickle.dumps(first))
    for each in (first, again):
        each.set_params(max_epochs=4).fit(images())
    assert again.n_iter_ == 4
    np.testing.assert_array_equal(again.transform(images()), first.transform(images()))


@pytest.mark.parametrize(
    ("loss", "params", "words"),
    [
        ("byol", {"momentum": 1.5}, "loss__momentum=1.5: give a finite number of at least 0 and at most 1"),
        ("dino", {"momentum": -0.1}, "loss__momentum=-0.1: give a finite number of at least 0 and at most 1"),
        ("byol", {"predictor_dim": 0}, "loss__predictor_dim=0: give an integer of at least 1, or None"),
        (
            "simsiam",
            {"predictor_dim": -1},
            "loss__predictor_dim=-1: give an integer of at least 1, or None",
        ),
        ("dino", {"local_crops": -1}, "loss__local_crops=-1: give an integer of at least 0"),
        (
            "dino",
            {"local_crops": "many"},
            "loss__local_crops='many': give an integer of at least 0",
        ),
        ("dino", {"out_dim": 1}, r"loss__out_dim=1: .*at least 2"),
    ],
)
def test_what_cannot_work_is_named(loss, params, words):
    with pytest.raises(ValueError, match=words):
        embedder(loss, loss_params=params).fit(images())
