"""The estimator: scikit-learn's protocol, repeatability, time, callbacks and interruptions."""

import pickle
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from skorch.callbacks import Callback, EarlyStopping
from torchvision.transforms import v2

from sklearn_ssl import SSLImageEmbedder, param_grid


class Interrupt(Callback):
    """Callback that presses Ctrl-C after some batches."""

    def __init__(self, after):
        self.after = after

    def on_batch_end(self, net, **kwargs):
        if net.steps_done == self.after:
            signal.raise_signal(signal.SIGINT)


class Raise(Callback):
    """Callback that raises an error after some batches."""

    def __init__(self, after):
        self.after = after

    def on_batch_end(self, net, **kwargs):
        if net.steps_done == self.after:
            raise OSError("the disk is full")


class Note(Callback):
    """Callback that writes a line for each fit, in any process."""

    def __init__(self, path):
        self.path = path

    def on_train_begin(self, net, **kwargs):
        with Path(self.path).open("a") as file:
            file.write("a fit\n")


class Watch(Callback):
    """Callback that records its calls."""

    def __init__(self):
        self.told = []

    def on_train_begin(self, net, **kwargs):
        self.told.append("train begins")

    def on_epoch_begin(self, net, **kwargs):
        self.told.append("epoch begins")

    def on_batch_end(self, net, batch, training, **kwargs):
        images, _, _ = batch
        self.told.append(f"{len(images)} images")

    def on_epoch_end(self, net, **kwargs):
        self.told.append(f"epoch ends, loss {'train_loss' in net.history[-1]}")

    def on_train_end(self, net, **kwargs):
        self.told.append("train ends")


@pytest.fixture
def pipe(embedder):
    return Pipeline([("ssl", embedder()), ("clf", LogisticRegression(max_iter=1000))])


def same(a, b):
    return np.array_equal(a, b)


def copy_of_weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


# ------------------------------------------------------------------ scikit-learn's protocol


def test_the_constructor_stores_what_it_is_given_and_looks_at_nothing():
    given = {name: object() for name in SSLImageEmbedder().get_params(deep=False)}
    estimator = SSLImageEmbedder(**given)
    assert all(getattr(estimator, name) is value for name, value in given.items())
    assert vars(estimator) == given


def test_a_clone_has_the_same_parameters_and_nothing_learned(embedder, images):
    params = {"temperature": 0.1}
    fitted = embedder(loss_params=params, augment__crop=0.5).fit(images)
    twin = clone(fitted)
    assert twin.get_params() == fitted.get_params()
    assert fitted.loss_params is params
    assert not any(name.endswith("_") for name in vars(twin))


def test_the_repr_is_the_call_that_makes_it():
    estimator = SSLImageEmbedder("vicreg", loss__std_coeff=10, image_shape=(8, -1), max_time=60)
    again = eval(repr(estimator), {"SSLImageEmbedder": SSLImageEmbedder})
    assert again.get_params() == estimator.get_params()


def test_fit_returns_the_estimator_and_fit_transform_is_both(embedder, images):
    estimator = embedder()
    assert estimator.fit(images) is estimator
    assert same(embedder().fit_transform(images), estimator.transform(images))


def test_embeddings_are_float32_and_have_names(embedder, images):
    fitted = embedder(backbone__width=5).fit(images)
    embeddings = fitted.transform(images)
    assert (embeddings.dtype, embeddings.shape) == (np.float32, (12, 5))
    assert list(fitted.get_feature_names_out()) == [f"sslimageembedder{i}" for i in range(5)]


def test_set_output_gives_a_data_frame(embedder, images):
    fitted = embedder().fit(images)
    expected = fitted.transform(images)
    frame = fitted.set_output(transform="pandas").transform(images)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == list(fitted.get_feature_names_out())
    assert same(frame.to_numpy(), expected)


def test_a_pipeline_learns_from_images_and_labels(pipe, images, labels):
    assert pipe.fit(images, labels).predict(images).shape == (12,)
    assert list(pipe[:-1].get_feature_names_out()) == [f"sslimageembedder{i}" for i in range(8)]


def test_a_pipeline_takes_unlabeled_images(pipe, embedder, images, labels, draw_images):
    more = draw_images(30, seed=1)
    pipe.fit(images, labels, ssl__X_unlabeled=more)
    expected = embedder().fit(images, X_unlabeled=more).transform(images)
    assert same(pipe.named_steps["ssl"].transform(images), expected)


def test_a_grid_search_takes_unlabeled_images_whole_in_each_fold(pipe, embedder, images, labels, draw_images):
    more = draw_images(30, seed=1)
    search = GridSearchCV(pipe, {"clf__C": [0.1, 1]}, cv=2, error_score="raise")
    search.fit(images, labels, ssl__X_unlabeled=more)
    expected = embedder().fit(images, X_unlabeled=more).transform(images)
    assert same(search.best_estimator_.named_steps["ssl"].transform(images), expected)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_lists_of_paths_go_through_a_grid_search(pipe, images, labels, save_images):
    search = GridSearchCV(pipe, {"clf__C": [0.1, 1]}, cv=2, error_score="raise")
    assert search.fit(save_images(images), labels).predict(save_images(images)).shape == (12,)


def test_a_frozen_embedder_is_not_fitted_again(embedder, images, labels, draw_images):
    fitted = embedder().fit(draw_images(30, seed=1))
    expected, before = fitted.transform(images), copy_of_weights(fitted.encoder_)
    pipe = Pipeline([("ssl", FrozenEstimator(fitted)), ("clf", LogisticRegression(max_iter=1000))])
    pipe.fit(images, labels)
    assert same(pipe[:-1].transform(images), expected)
    search = GridSearchCV(pipe, {"clf__C": [0.1, 1]}, cv=2, error_score="raise").fit(images, labels)
    assert same(search.best_estimator_[:-1].transform(images), expected)
    assert all(torch.equal(before[name], tensor) for name, tensor in fitted.encoder_.state_dict().items())


def test_a_grid_search_over_losses_gives_each_its_own_parameters(pipe, images, labels):
    grid = param_grid(
        pipe,
        {
            "ssl__loss": ["ntxent", "dcl", "vicreg"],
            "ssl__loss__temperature": [0.1, 0.5],
            "ssl__loss__std_coeff": [10.0, 25.0, 50.0],
        },
    )
    search = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(images, labels)
    tried = [(p["ssl__loss"], p.get("ssl__loss__temperature")) for p in search.cv_results_["params"]]
    assert sorted(tried, key=str) == sorted(
        [("ntxent", 0.1), ("ntxent", 0.5), ("dcl", 0.1), ("dcl", 0.5), *[("vicreg", None)] * 3], key=str
    )


def test_a_pipeline_with_memory_fits_the_embedder_once_for_all_classifiers(
    embedder, images, labels, tmp_path
):
    notes = tmp_path / "notes"
    pipe = Pipeline(
        [("ssl", embedder(callbacks=[Note(str(notes))])), ("clf", LogisticRegression(max_iter=1000))],
        memory=str(tmp_path / "cache"),
    )
    search = GridSearchCV(pipe, {"clf__C": [0.01, 0.1, 1, 10]}, cv=2, refit=False, error_score="raise")
    search.fit(images, labels)
    assert len(notes.read_text().splitlines()) == 2  # one for each fold, not for each of eight fits


def test_every_auto_is_answered_by_an_attribute(embedder, images):
    fitted = SSLImageEmbedder("vicreg", max_epochs=1, random_state=0, backbone=embedder().backbone).fit(
        images
    )
    resolved = {
        "augment_": "photo",
        "batch_size_": 12,  # of the 256 that are the default, as many as there are images
        "image_shape_": (8, 8, 3),
        "image_size_": (8, 8),
        "max_epochs_": 1,
        "n_features_in_": 192,
        "n_iter_": 1,
    }
    assert {name: getattr(fitted, name) for name in resolved} == resolved
    params = SSLImageEmbedder().get_params(deep=False)
    autos = {name for name, value in params.items() if isinstance(value, str) and value == "auto"}
    assert {"backbone", "projector", "optimizer", "lr", "weight_decay", "warmup", "device"} < autos
    for name in autos:
        answer = getattr(fitted, f"{name}_")
        assert not (isinstance(answer, str) and answer == "auto"), name
    assert fitted.device_ == torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert fitted.precision_ in ("bf16", "float32")


def test_what_the_user_says_is_kept(embedder, images):
    said = {
        "lr": 0.01,
        "weight_decay": 0.5,
        "warmup": 0.25,
        "optimizer": "sgd",
        "augment": "none",
        "precision": "float32",
        "projector": (4, 4),
        "max_epochs": 2,
        "batch_size": 6,
    }
    fitted = embedder(**said).fit(images)
    assert {name: getattr(fitted, f"{name}_") for name in said} == said


def test_the_automatic_rate_is_in_proportion_to_the_batch(embedder, images):
    half, whole = (embedder(batch_size=size).fit(images).lr_ for size in (6, 12))
    assert whole == pytest.approx(2 * half)


def test_the_default_backbone_is_a_resnet10_on_a_cpu(images):
    fitted = SSLImageEmbedder(max_epochs=1, device="cpu", random_state=0).fit(images)
    assert fitted.backbone_ == "resnet10"
    assert fitted.transform(images).shape == (12, 512)


def test_the_default_backbone_is_the_one_that_weights_are_usually_of(images):
    state = SSLImageEmbedder(backbone="resnet18", max_epochs=0).fit(images).encoder_.backbone.state_dict()
    fitted = SSLImageEmbedder(backbone__weights=state, max_epochs=0, device="cpu").fit(images)
    assert fitted.backbone_ == "resnet18"
    assert torch.equal(fitted.encoder_.backbone.conv1.weight, state["conv1.weight"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_default_backbone_is_a_resnet18_on_a_gpu(images):
    assert SSLImageEmbedder(max_epochs=1, random_state=0).fit(images).backbone_ == "resnet18"


# ------------------------------------------------------------------ repeatable


@pytest.mark.parametrize("loss", ["ntxent", "dcl", "vicreg"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_same_seed_gives_the_same_embeddings_bit_for_bit(loss, precision, embedder, images):
    first, second = (
        embedder(loss, precision=precision, max_epochs=2).fit_transform(images) for _ in range(2)
    )
    assert same(first, second)


def test_another_seed_gives_other_embeddings(embedder, images):
    assert not same(embedder().fit_transform(images), embedder(random_state=1).fit_transform(images))
    unseeded = embedder(random_state=None)
    assert not same(unseeded.fit_transform(images), unseeded.fit_transform(images))


def test_a_generator_as_random_state_moves_on(embedder, images):
    estimator = embedder(random_state=np.random.RandomState(0))
    assert not same(estimator.fit_transform(images), estimator.fit_transform(images))


def test_two_threads_at_once_give_what_one_gives(embedder, images):
    expected = embedder(max_epochs=3).fit_transform(images)
    results = {}

    def work(i):
        results[i] = embedder(max_epochs=3).fit_transform(images)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same(results[0], expected)
    assert same(results[1], expected)


@pytest.fixture
def one_thread():
    """Compute in one thread, as worker processes do: results are equal bit for bit only then."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_worker_processes_give_the_same_and_search_in_parallel(embedder, convolution, images, labels):
    # Worker processes do not know what the options of this test run say of the processor: hence an explicit
    # precision, and equality up to rounding.
    estimator = embedder(backbone=convolution, precision="float32")
    expected = estimator.fit_transform(images)
    pipe = Pipeline([("ssl", estimator), ("clf", LogisticRegression(max_iter=1000))])
    search = GridSearchCV(pipe, {"ssl__loss": ["ntxent", "vicreg"]}, cv=2, error_score="raise")
    with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=1):
        results = joblib.Parallel()(joblib.delayed(clone(estimator).fit_transform)(images) for _ in range(2))
        together = search.fit(images, labels).cv_results_["mean_test_score"]
    assert same(results[0], results[1])
    np.testing.assert_allclose(results[0], expected, atol=1e-4)
    assert np.isfinite(together).all()


def test_global_generators_are_left_alone(embedder, images):
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    embedder().fit_transform(images)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert same(np.random.get_state()[1], numpy_before)


def test_an_augment_that_draws_from_global_generators_is_repeatable(embedder, images):
    def noisy(images, generator):
        return images + torch.rand(len(images), 1, 1, 1) * np.random.rand() * random.random()

    def embedded():
        return embedder(augment=noisy, max_epochs=3).fit(images).transform(images)

    first = embedded()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert same(embedded(), first)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert same(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]


def test_a_transform_of_torchvision_is_an_augment(embedder, images):
    def embedded(seed):
        augment = v2.RandomResizedCrop(8, scale=(0.2, 1.0))
        return embedder(augment=augment, max_epochs=3, random_state=seed).fit(images).transform(images)

    assert same(embedded(0), embedded(0))
    assert not same(embedded(0), embedded(1))


def test_a_second_fit_starts_from_scratch(embedder, images, draw_images):
    estimator = embedder().fit(draw_images(20, seed=1))
    assert same(estimator.fit(images).transform(images), embedder().fit(images).transform(images))
    assert len(estimator.history_) == estimator.n_iter_ == 1


def test_the_encoder_keeps_no_gradients(embedder, images):
    assert all(parameter.grad is None for parameter in embedder().fit(images).encoder_.parameters())


# ------------------------------------------------------------------ transform


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("backbone", ["tiny", "resnet18"])
def test_a_row_does_not_depend_on_its_neighbors(backbone, precision, embedder, draw_images):
    params = {} if backbone == "tiny" else {"backbone": backbone}
    images = draw_images(300)  # more than a chunk of 256
    fitted = embedder(precision=precision, **params).fit(images[:12])
    together = fitted.transform(images)
    order = np.random.default_rng(0).permutation(300)
    assert same(fitted.transform(images[order]), together[order])
    assert same(fitted.transform(images[250:260]), together[250:260])
    for i in (0, 255, 256, 299):
        assert same(fitted.transform(images[[i]]), together[[i]])


def test_transform_is_a_plain_pytorch_pipeline(embedder, images):
    fitted = embedder(precision="float32").fit(images)
    pixels, backbone = fitted.encoder_
    x = torch.tensor(images).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        by_hand = backbone.eval()((x - pixels.mean) / pixels.std).numpy()
        by_module = fitted.encoder_(x).numpy()
    np.testing.assert_allclose(fitted.transform(images), by_hand, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fitted.transform(images), by_module, rtol=1e-5, atol=1e-5)
    mean = images.reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(pixels.mean.flatten(), mean, rtol=1e-5)


def test_files_are_embedded_chunk_by_chunk_as_arrays_are(embedder, draw_images, save_images):
    large = draw_images(100, (96, 96, 3))  # chunks of 42
    fitted = embedder().fit(large)
    assert same(fitted.transform(save_images(large)), fitted.transform(large))


def test_a_damaged_file_in_a_later_chunk_is_named_and_no_thread_stays(embedder, draw_images, save_images):
    large = draw_images(70, (96, 96, 3))
    paths, fitted = save_images(large), embedder().fit(large)
    paths[50].write_bytes(b"no image")
    before = set(threading.enumerate())
    with pytest.raises(ValueError, match=r"50\.png \(position 50\) cannot be read as an image"):
        fitted.transform(paths)
    assert set(threading.enumerate()) <= before


def test_transform_changes_nothing(embedder, images):
    fitted = embedder().fit(images)
    attributes, weights = dict(vars(fitted)), copy_of_weights(fitted.encoder_)
    fitted.encoder_.train()  # BatchNorm would now adapt to what it sees
    fitted.transform(images)
    assert vars(fitted) == attributes
    assert fitted.encoder_.training
    assert all(torch.equal(weights[name], tensor) for name, tensor in fitted.encoder_.state_dict().items())


def test_training_changes_the_weights_and_the_users_module_stays(images, tiny, embedder):
    mine = tiny(3)
    before = copy_of_weights(mine)
    fitted = embedder(backbone=mine, lr=0.1).fit(images)
    assert all(torch.equal(before[name], tensor) for name, tensor in mine.state_dict().items())
    assert not torch.equal(before["conv.weight"], fitted.encoder_.backbone.conv.weight)


def test_layers_that_the_user_froze_stay(images, tiny, embedder):
    mine = tiny(3)
    mine.conv.requires_grad_(False)
    fitted = embedder(backbone=mine, lr=0.1).fit(images)
    assert torch.equal(mine.conv.weight, fitted.encoder_.backbone.conv.weight)
    assert not torch.equal(mine.norm.weight, fitted.encoder_.backbone.norm.weight)


def test_a_fraction_of_the_layers_stays_and_the_rest_is_trained(images):
    settings = {"backbone": "resnet10", "batch_size": 8, "random_state": 0}
    start = SSLImageEmbedder(max_epochs=0, **settings).fit(images).encoder_.backbone
    trained = SSLImageEmbedder(max_epochs=1, frozen_fraction=0.5, **settings).fit(images).encoder_.backbone
    layers = [name for name, layer in start.named_modules() if list(layer.parameters(recurse=False))]
    stays = [
        all(
            torch.equal(a, b)
            for a, b in zip(*(net.get_submodule(name).parameters() for net in (start, trained)), strict=True)
        )
        for name in layers
    ]
    n_frozen = round(len(layers) / 2)
    assert stays == [True] * n_frozen + [False] * (len(layers) - n_frozen)


# ------------------------------------------------------------------ history and time


def test_the_history_has_a_row_for_each_epoch(embedder, images):
    fitted = embedder("vicreg", max_epochs=3).fit(images)
    assert [row["epoch"] for row in fitted.history_] == [1, 2, 3]
    assert fitted.n_iter_ == 3
    for row in fitted.history_:
        assert set(row) == {
            "epoch", "train_loss", "invariance", "variance", "covariance", "lr", "dur", "images_per_second",
        }  # fmt: skip
        weighted = 25 * row["invariance"] + 25 * row["variance"] + row["covariance"]
        assert row["train_loss"] == pytest.approx(weighted, rel=1e-4)
        assert row["images_per_second"] == pytest.approx(8 / row["dur"])  # 12 images make one batch of 8
    assert {type(value) for row in fitted.history_ for value in row.values()} <= {int, float}


def test_training_learns(embedder, draw_images):
    history = embedder("vicreg", max_epochs=20, batch_size=32, lr=0.1).fit(draw_images(32)).history_
    assert history[-1]["train_loss"] < 0.9 * history[0]["train_loss"]


@pytest.mark.usefixtures("clock")
def test_max_time_ends_the_training(embedder, images):
    fitted = embedder(max_epochs="auto", max_time=1.0).fit(images)
    assert fitted.max_epochs_ is None
    assert fitted.n_iter_ >= 1
    assert len(fitted.history_) == fitted.n_iter_


@pytest.mark.usefixtures("clock")
def test_of_two_limits_the_first_counts(embedder, images):
    assert embedder(max_epochs=2, max_time=1000.0).fit(images).n_iter_ == 2
    assert embedder(max_epochs=10**6, max_time=0.2).fit(images).n_iter_ < 10**6


def test_even_the_shortest_time_trains_a_step_and_is_said_to_be_short(embedder, images):
    words = (
        r"^max_time=1e-06 ended the fit after 0\.5 passes over the images, at [\d,]+ images/s: .* more time"
    )
    with pytest.warns(ConvergenceWarning, match=words) as caught:  # 1 of 2 steps in an epoch
        fitted = embedder(max_epochs="auto", max_time=1e-6, batch_size=6).fit(images)
    assert fitted.n_iter_ == len(fitted.history_) == 1
    assert caught[0].filename == __file__


@pytest.mark.filterwarnings("error:max_time")
def test_few_passes_that_were_asked_for_are_not_said_to_be_few(embedder, images):
    embedder(max_epochs=1, max_time=1000.0).fit(images)


# ------------------------------------------------------------------ callbacks


def test_callbacks_are_told_everything_in_order(embedder, images):
    watch = Watch()
    embedder(batch_size=6, max_epochs=2, callbacks=[watch]).fit(images)
    epoch = ["epoch begins", "6 images", "6 images", "epoch ends, loss True"]
    assert watch.told == ["train begins", *epoch, *epoch, "train ends"]


def test_early_stopping_ends_a_fit_like_any_other(embedder, images):
    patience = EarlyStopping(monitor="train_loss", patience=1, threshold=1e9, sink=lambda _: None)
    fitted = embedder(max_epochs=50, callbacks=[patience]).fit(images)
    assert fitted.n_iter_ < 5  # nothing improves by a factor of a billion
    assert fitted.transform(images).shape == (12, 8)


def test_a_callback_that_raises_keyboard_interrupt_on_one_line_is_not_the_user(embedder, images):
    class Stop(Callback):
        def on_epoch_end(self, net, dataset_train, **kwargs):
            # fmt: off
            if len(net.history) == 2: raise KeyboardInterrupt  # noqa: E701
            # fmt: on

    assert embedder(max_epochs=50, callbacks=[Stop()]).fit(images).n_iter_ == 2


def test_callbacks_are_given_the_images_where_the_time_is_up_too(embedder, images):
    class Count(Callback):
        def on_epoch_end(self, net, dataset_train, dataset_valid, **kwargs):
            self.n_images, self.valid = len(dataset_train), dataset_valid

    count = Count()
    embedder(max_epochs="auto", max_time=1e-6, callbacks=[count]).fit(images)
    assert (count.n_images, count.valid) == (12, None)


def test_an_error_in_a_callback_is_its_own_and_changes_nothing(embedder, images):
    fitted = embedder().fit(images)
    expected, keys = fitted.transform(images), set(vars(fitted))
    with pytest.raises(OSError, match="the disk is full"):
        fitted.set_params(callbacks=[Raise(after=1)], max_epochs=2).fit(images[:, :6])
    assert set(vars(fitted)) == keys
    assert same(fitted.transform(images), expected)


# ------------------------------------------------------------------ going on


def test_ctrl_c_keeps_the_model_so_far_and_is_raised_again(embedder, images):
    estimator = embedder(max_epochs=50, callbacks=[Interrupt(after=3)])
    words = "interrupted in epoch 3, after 3 steps.* is kept .* warm_start=True"
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match=words):
        estimator.fit(images)
    assert estimator.n_iter_ == 3
    assert np.isfinite(estimator.transform(images)).all()
    assert estimator.get_feature_names_out().shape == (8,)


def test_ctrl_c_before_the_first_step_leaves_nothing(embedder, images):
    class AtOnce(Callback):
        def on_train_begin(self, net, **kwargs):
            signal.raise_signal(signal.SIGINT)

    estimator = embedder(callbacks=[AtOnce()])
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(images)
    assert not hasattr(estimator, "encoder_")


@pytest.mark.parametrize("after", [3, 4])  # of 2 steps in an epoch: in the middle, and at an end
def test_an_interrupted_fit_goes_on_as_if_nothing_had_happened(after, embedder, images):
    params = {"batch_size": 6, "max_epochs": 4}
    undisturbed = embedder(**params).fit(images)
    estimator = embedder(**params, callbacks=[Interrupt(after)])
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match=f"after {after} steps"):
        estimator.fit(images)
    estimator.set_params(warm_start=True, callbacks=None).fit(images)
    assert same(estimator.transform(images), undisturbed.transform(images))
    assert estimator.n_iter_ == 4


def test_a_warm_start_trains_the_difference(embedder, images):
    notes = Watch()
    estimator = embedder(warm_start=True, max_epochs=2, callbacks=[notes]).fit(images)
    first = estimator.transform(images)
    history = list(estimator.history_)
    notes.told.clear()
    estimator.set_params(max_epochs=5).fit(images)
    assert notes.told.count("epoch begins") == 3
    assert estimator.n_iter_ == len(estimator.history_) == 5
    assert estimator.history_[:2] == history
    assert [row["epoch"] for row in estimator.history_] == [1, 2, 3, 4, 5]
    assert not same(estimator.transform(images), first)


def test_a_warm_start_goes_on_where_the_longer_schedule_is(embedder, images):
    whole = embedder(max_epochs=5).fit(images)
    in_parts = embedder(warm_start=True, max_epochs=2).fit(images).set_params(max_epochs=5).fit(images)
    rates = [[row["lr"] for row in fitted.history_] for fitted in (whole, in_parts)]
    assert rates[1][2:] == rates[0][2:]
    # The first two epochs were the whole of a shorter schedule, so the results are near, and not the same.
    assert rates[1][:2] != rates[0][:2]
    assert not same(in_parts.transform(images), whole.transform(images))


def test_a_warm_start_with_nothing_left_to_do_changes_nothing_and_says_so(embedder, images):
    estimator = embedder(warm_start=True, max_epochs=2).fit(images)
    expected = estimator.transform(images)
    for max_epochs in (2, 1, 0):
        words = f"nothing was left to train.* for 2 epochs .* max_epochs={max_epochs} includes those: give"
        with pytest.warns(UserWarning, match=words):
            estimator.set_params(max_epochs=max_epochs).fit(images)
        assert same(estimator.transform(images), expected)
        assert estimator.n_iter_ == len(estimator.history_) == 2


def test_a_warm_start_that_fails_can_be_tried_again(embedder, images):
    undisturbed, disturbed = (embedder(warm_start=True, max_epochs=1).fit(images) for _ in range(2))
    with pytest.raises(OSError, match="the disk is full"):
        disturbed.set_params(max_epochs=3, callbacks=[Raise(after=2)]).fit(images)
    disturbed.set_params(callbacks=None).fit(images)
    undisturbed.set_params(max_epochs=3).fit(images)
    assert same(disturbed.transform(images), undisturbed.transform(images))


def test_training_state_is_kept_only_where_training_may_go_on(embedder, images):
    fitted = embedder().fit(images)
    alone = len(pickle.dumps(fitted))
    with pytest.warns(UserWarning, match="begins a new training of the encoder"):
        fitted.set_params(warm_start=True).fit(images)
    assert len(pickle.dumps(fitted)) > 1.5 * alone
    assert len(pickle.dumps(fitted.set_params(warm_start=False).fit(images))) < 1.1 * alone


# ------------------------------------------------------------------ devices, and the rest of the process


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_trains_and_embeds(embedder, images):
    fitted = embedder(device="cuda", max_epochs=2).fit(images)
    assert fitted.device_.type == next(fitted.encoder_.parameters()).device.type == "cuda"
    assert same(fitted.transform(images), fitted.transform(images))
    assert np.isfinite(fitted.transform(images)).all()


def test_the_import_brings_neither_matplotlib_nor_torchvision_nor_a_plugin():
    program = "import sys, sklearn_ssl; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    packages = {module.partition(".")[0] for module in done.stdout.split()}
    assert "sklearn_ssl" in packages
    assert not packages & {"matplotlib", "torchvision"}
    assert not {name for name in packages if name.startswith("sklearn_ssl_")}
