"""Fitted estimators can be pickled and loaded in another process."""

import io
import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn
from torch.nn.utils import prune


def through_pickle(estimator):
    return pickle.loads(pickle.dumps(estimator))


def through_joblib(estimator):
    file = io.BytesIO()
    joblib.dump(estimator, file)
    file.seek(0)
    return joblib.load(file)


def size(estimator):
    return len(pickle.dumps(estimator))


ROUND_TRIPS = pytest.mark.parametrize("round_trip", [through_pickle, through_joblib])


@ROUND_TRIPS
def test_embeddings_are_the_same_bit_for_bit(round_trip, embedder, images):
    fitted = embedder(loss="vicreg").fit(images)
    again = round_trip(fitted)
    np.testing.assert_array_equal(again.transform(images), fitted.transform(images))
    assert again.history_ == fitted.history_
    assert repr(again) == repr(fitted)


@ROUND_TRIPS
def test_a_pipeline_predicts_the_same(round_trip, embedder, images, labels):
    fitted = make_pipeline(embedder(), LogisticRegression(max_iter=1000)).fit(images, labels)
    again = round_trip(fitted)
    np.testing.assert_array_equal(again.predict_proba(images), fitted.predict_proba(images))


def test_what_was_fitted_on_files_is_opened_without_them(embedder, images, save_images):
    paths = save_images(images)
    fitted = embedder().fit(paths)
    saved, expected = pickle.dumps(fitted), fitted.transform(paths)
    for path in paths:
        path.unlink()
    np.testing.assert_array_equal(pickle.loads(saved).transform(list(images)), expected)


def test_an_estimator_that_is_not_fitted_can_be_saved_too(embedder):
    again = through_pickle(embedder(loss__temperature=0.1))
    assert again.get_params() == embedder(loss__temperature=0.1).get_params()


def test_saving_changes_nothing(embedder, images):
    fitted = embedder(warm_start=True).fit(images)
    before = dict(vars(fitted))
    pickle.dumps(fitted)
    assert vars(fitted) == before


def test_a_pruned_encoder_can_be_saved(embedder, images):
    fitted = embedder().fit(images)
    conv = fitted.encoder_.backbone.conv
    prune.custom_from_mask(conv, "weight", torch.rand_like(conv.weight) > 0.5)  # computed from two tensors
    np.testing.assert_array_equal(through_pickle(fitted).transform(images), fitted.transform(images))


def test_only_the_encoder_is_saved_unless_training_may_go_on(embedder, images):
    # The projector, 8 * 2000 + 2000 * 500 weights of 4 bytes, takes 4 MB; the backbone takes 1 kB.
    fitted = embedder(projector=(2000, 500)).fit(images)
    assert size(fitted) < size(fitted.encoder_) + 10_000 < 30_000
    # Weights, and Muon's momentum of each.
    assert 8e6 < size(embedder(projector=(2000, 500), warm_start=True).fit(images)) < 9e6


def test_a_projector_of_the_users_own_is_saved_as_given(embedder, images):
    projector = nn.Linear(8, 4)
    before = projector.weight.detach().clone()
    fitted = embedder(projector=projector, lr=1.0).fit(images)
    assert fitted.projector_ is projector
    assert torch.equal(projector.weight, before)
    assert torch.equal(through_pickle(fitted).projector_.weight, before)


def test_training_goes_on_after_a_pickle_as_if_there_was_none(embedder, images):
    first = embedder(warm_start=True).fit(images)
    again = through_pickle(first)
    for estimator in (first, again):
        estimator.set_params(max_epochs=3).fit(images)
    assert again.n_iter_ == 3
    np.testing.assert_array_equal(again.transform(images), first.transform(images))


def test_the_encoder_of_a_pickle_is_on_the_cpu(embedder, images):
    encoder = through_pickle(embedder().fit(images)).encoder_
    assert {tensor.device.type for tensor in encoder.state_dict().values()} == {"cpu"}
    assert not encoder.training


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_what_was_trained_on_cuda_embeds_on_a_machine_without(embedder, images):
    fitted = embedder().fit(images)
    expected = fitted.transform(images)
    fitted.device_ = torch.device("cuda")
    np.testing.assert_array_equal(through_pickle(fitted).transform(images), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_and_cpu_agree_to_a_cosine_of_0_999(embedder, images):
    fitted = embedder(device="cuda").fit(images)
    on_cuda, again = fitted.transform(images), through_pickle(fitted)
    assert next(fitted.encoder_.parameters()).device.type == "cuda"
    assert next(again.encoder_.parameters()).device.type == "cpu"
    again.device_ = torch.device("cpu")
    on_cpu = again.transform(images)
    cosine = (on_cuda * on_cpu).sum(1) / np.linalg.norm(on_cuda, axis=1) / np.linalg.norm(on_cpu, axis=1)
    assert cosine.min() > 0.999
