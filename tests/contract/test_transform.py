"""Embeddings in batches, into arrays on disk, and from several threads."""

import threading

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset


@pytest.fixture
def many(embedder, images, draw_images):
    """Return a fitted estimator, more images than a chunk holds, and their embeddings."""
    fitted, X = embedder().fit(images), draw_images(600)
    return fitted, X, fitted.transform(X)


def test_batches_are_the_rows_of_transform(many):
    fitted, X, expected = many
    batches = list(fitted.transform_batches(X))
    assert len(batches) > 1
    np.testing.assert_array_equal(np.concatenate(batches), expected)


def test_batches_are_made_one_by_one(many):
    fitted, X, expected = many
    rows = fitted.transform_batches(TensorDataset(torch.from_numpy(X).movedim(-1, 1)))
    first = next(rows)
    np.testing.assert_array_equal(first, expected[: len(first)])
    rows.close()
    assert not torch.is_inference_mode_enabled()


def test_embeddings_may_go_to_an_array_on_disk(many, tmp_path):
    fitted, X, expected = many
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, expected.shape)
    assert fitted.transform(X, out=out) is out
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


@pytest.mark.parametrize(("shape", "dtype"), [((600, 7), np.float32), ((600, 8), np.float64)])
def test_an_array_that_does_not_fit_is_refused(many, shape, dtype):
    fitted, X, _ = many
    with pytest.raises(ValueError, match=r"give float32 of shape \(600, 8\)"):
        fitted.transform(X, out=np.empty(shape, dtype))


@pytest.mark.parametrize("form", ["arrays", "paths"])
def test_eight_threads_embed_as_one(form, many, save_images, tmp_path):
    fitted, X, expected = many
    if form == "paths":
        X = save_images(X)
        fitted.set_params(reader__cache=tmp_path / "cache", reader__workers=3)
    results = [None] * 8

    def embed(i):
        results[i] = fitted.transform(X)

    threads = [threading.Thread(target=embed, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        np.testing.assert_array_equal(result, expected)
