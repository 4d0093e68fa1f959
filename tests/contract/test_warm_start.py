"""A warm start goes on from what there is, or says why not: it never begins from nothing in silence."""

from __future__ import annotations

import pickle
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sklearn_ssl import SSLImageEmbedder, load

# Changes nothing that can be seen: what is trained with it shows where the training began.
STILL = {"lr": 1e-20, "weight_decay": 0.0}
FIRST = "backbone.conv_proj.weight"
BEGINS = "this fit begins a new training of the encoder as it is, with a new projector and optimizer"


def small(**params):
    tiny = {"backbone": "vit", "backbone_params": {"width": 8, "depth": 1}, "projector": (8, 8)}
    return SSLImageEmbedder(**{**tiny, "batch_size": 8, "max_epochs": 2, "warm_start": True, **params})


def through_a_file(fitted, tmp_path):
    fitted.save(tmp_path / "model.safetensors")
    return load(tmp_path / "model.safetensors")


def through_a_pickle(fitted, tmp_path):
    return pickle.loads(pickle.dumps(fitted))


def as_it_is(fitted, tmp_path):
    return fitted


def weights(fitted):
    return {name: value.clone() for name, value in fitted.encoder_.named_parameters()}


def assert_equal(one, other):
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-12)  # biases begin at 0


@pytest.mark.parametrize("seed", [0, None], ids=["same seed", "another seed"])
@pytest.mark.parametrize("way", [through_a_file, through_a_pickle, as_it_is])
@pytest.mark.parametrize("prepared", [True, False])
def test_it_begins_with_the_encoder_that_there_is(way, prepared, seed, images, tmp_path):
    fitted = way(small(warm_start=prepared, random_state=seed).fit(images), tmp_path)
    before, scale = weights(fitted), fitted.encoder_.pixels.mean.clone()
    goes_on = prepared and way is not through_a_file
    with nullcontext() if goes_on else pytest.warns(UserWarning, match=BEGINS):
        fitted.set_params(warm_start=True, max_epochs=4, **STILL).fit(images[::-1] // 2)
    assert_equal(before, weights(fitted))
    assert torch.equal(fitted.encoder_.pixels.mean, scale)
    assert fitted.n_iter_ == len(fitted.history_) == 4


@pytest.mark.parametrize("way", [through_a_file, as_it_is])
def test_it_trains_as_many_epochs_as_it_says(way, images, tmp_path):
    fitted = way(small(warm_start=False, random_state=0).fit(images), tmp_path)
    before = weights(fitted)
    with pytest.warns(UserWarning, match=f"{BEGINS}, and max_epochs and max_time count from here"):
        fitted.set_params(warm_start=True, max_epochs=1).fit(images)
    assert fitted.n_iter_ == len(fitted.history_) == 1
    assert not torch.equal(weights(fitted)[FIRST], before[FIRST])
    fitted.set_params(max_epochs=3).fit(images)  # the state is there from now on
    assert fitted.n_iter_ == len(fitted.history_) == 3


@pytest.mark.parametrize("way", [through_a_file, through_a_pickle, as_it_is])
def test_a_baseline_is_trained_from_its_initial_weights(way, images, tmp_path):
    fitted = way(small(warm_start=False, max_epochs=0).fit(images), tmp_path)
    before = weights(fitted)
    fitted.set_params(warm_start=True, max_epochs=2, **STILL).fit(images)
    assert_equal(before, weights(fitted))
    assert fitted.n_iter_ == 2


def test_no_epoch_keeps_a_loaded_encoder(images, tmp_path):
    fitted = through_a_file(small().fit(images), tmp_path)
    expected = fitted.transform(images)
    fitted.set_params(max_epochs=0).fit(images)
    np.testing.assert_array_equal(fitted.transform(images), expected)


@pytest.mark.parametrize("params", [{}, {"batch_size": 4}, {"batch_size": 16}])
@pytest.mark.parametrize("n", [4, 8, 24, 60])
def test_epochs_are_those_of_the_images_that_are_given(n, params, draw_images):
    fitted = small(random_state=0).fit(draw_images(24))
    before = weights(fitted)
    fitted.set_params(max_epochs=3, **params).fit(draw_images(n, seed=1))
    assert fitted.n_iter_ == len(fitted.history_) == 3
    assert [row["epoch"] for row in fitted.history_] == [1, 2, 3]
    assert not torch.equal(weights(fitted)[FIRST], before[FIRST])
    with pytest.warns(UserWarning, match="nothing was left to train"):
        fitted.fit(draw_images(24))


def test_time_that_has_passed_is_told(clock, images):
    fitted = small(max_epochs="auto", max_time=0.5).fit(images)
    before = weights(fitted)
    for limit in (0.5, 0.1):
        with pytest.warns(UserWarning, match=rf"nothing was left to train.* max_time={limit} includes"):
            fitted.set_params(max_time=limit).fit(images)
        assert_equal(before, weights(fitted))


def test_an_encoder_that_was_changed_is_gone_on_with(images):
    fitted = pickle.loads(pickle.dumps(small().fit(images)))  # whose encoder shares nothing with the state
    with torch.no_grad():
        fitted.encoder_.backbone.conv_proj.weight.mul_(2)
    before = weights(fitted)
    with pytest.warns(UserWarning, match=f"{BEGINS}.* or encoder_ was changed since"):
        fitted.set_params(max_epochs=3, **STILL).fit(images)
    assert_equal(before, weights(fitted))


WIDER = {"backbone__width": 16}, r"another \(.*conv_proj.weight \(8, 3, 2, 2\) instead of \(16, 3, 2, 2\)"
DEEPER = {"backbone__depth": 2}, r"another \(\d+ missing: .*encoder_layer_1"
CONVOLUTIONAL = {"backbone": "resnet10", "backbone_params": {"width": 1}}, r"another \(.*missing: .*conv1"
OF_THE_STATE = {
    "projector": ({"projector": (8, 9)}, r"network is another \(.*projector"),
    "loss": ({"loss": "vicreg", "projector": "auto"}, r"network is another \(.*projector"),
    "optimizer": ({"optimizer": "sgd"}, "the optimizer has other settings"),
    "frozen layers": ({"frozen_fraction": 0.5}, "the optimizer has .* other weights to train"),
}
WAY_OUT = "start again with warm_start=False.*backbone__weights=embedder.encoder_.backbone.state_dict"


@pytest.mark.parametrize("way", [through_a_file, as_it_is])
@pytest.mark.parametrize(("params", "words"), [WIDER, DEEPER, CONVOLUTIONAL])
def test_another_network_is_named(params, words, way, images, tmp_path):
    fitted = way(small().fit(images), tmp_path)
    expected = fitted.transform(images)
    with pytest.raises(ValueError, match=f"warm_start=True .*{words}.*{WAY_OUT}"):
        fitted.set_params(max_epochs=4, **params).fit(images)
    np.testing.assert_array_equal(fitted.transform(images), expected)


@pytest.mark.parametrize("what", OF_THE_STATE)
def test_what_the_state_does_not_fit_is_named(what, images, tmp_path):
    params, words = OF_THE_STATE[what]
    fitted = small().fit(images)
    with pytest.raises(ValueError, match=f"warm_start=True .*{words}.*{WAY_OUT}"):
        fitted.set_params(max_epochs=4, **params).fit(images)
    loaded = through_a_file(fitted.set_params(**small().get_params()), tmp_path)  # of which nothing is left
    before = weights(loaded)
    with pytest.warns(UserWarning, match=BEGINS):
        loaded.set_params(**params, **STILL).fit(images)
    assert_equal(before, weights(loaded))


@pytest.mark.parametrize("way", [through_a_file, as_it_is])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_channels_are_named(way, channels, images, draw_images, tmp_path):
    fitted = way(small().fit(images), tmp_path)
    with pytest.raises(ValueError, match=f"takes 3 channels, and these images have {channels}.*{WAY_OUT}"):
        fitted.set_params(max_epochs=4).fit(draw_images(12, (8, 8, channels)))


def test_the_position_embeddings_of_another_size_are_named(images, draw_images):
    fitted = small().fit(images)
    with pytest.raises(ValueError, match=r"pos_embedding .* instead of .*Set .* image_size"):
        fitted.set_params(max_epochs=4).fit(draw_images(12, (32, 32, 3)))


def test_a_checkpoint_tells_a_loaded_encoder_from_a_new_one(images, tmp_path):
    fitted = small(checkpoint=tmp_path / "runs", random_state=0).fit(images)
    loaded, again = (through_a_file(fitted, tmp_path).set_params(checkpoint=fitted.checkpoint) for _ in "12")
    with pytest.warns(UserWarning, match=BEGINS):  # and no other warning: not taken from the file of `fitted`
        loaded.fit(images)
    assert not np.array_equal(loaded.transform(images), fitted.transform(images))
    with pytest.warns(UserWarning, match=BEGINS), pytest.warns(UserWarning, match="is taken from"):
        again.fit(images)
    np.testing.assert_array_equal(again.transform(images), loaded.transform(images))


class Fill(Callback):
    """Callback that finds the disk full after three steps."""

    def on_batch_end(self, net, **kwargs):
        if net.steps_done == 3:
            raise OSError("the disk is full")
