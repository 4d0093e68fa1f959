"""Displays of views and of reconstructions, before and after a fit."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from sklearn_ssl import ReconstructionDisplay, ViewsDisplay, sample_views


@pytest.fixture(autouse=True)
def no_window(monkeypatch):
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def test_views_come_in_the_shape_of_pictures(embedder, images):
    views = sample_views(embedder(image_size=10), images[:4], n_views=3)
    assert views.shape == (4, 3, 10, 10, 3)
    assert views.min() >= -1e-6
    assert views.max() <= 1 + 1e-6


def test_without_augmentation_a_view_is_the_image(embedder, images):
    views = sample_views(embedder(augment="none"), images, n_views=1)
    np.testing.assert_allclose(views[:, 0], images / 255, atol=1e-6)


def test_looking_changes_nothing_and_repeats_itself(embedder, images):
    fitted = embedder().fit(images)
    before = fitted.transform(images)
    first, second = sample_views(fitted, images), sample_views(fitted, images)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, sample_views(fitted, images, random_state=1))
    np.testing.assert_array_equal(fitted.transform(images), before)


def test_an_embedder_that_was_only_looked_at_is_not_fitted(embedder, images):
    looked_at = embedder()
    sample_views(looked_at, images)
    assert not [name for name in vars(looked_at) if name.endswith("_")]


def test_each_image_has_a_row_with_its_views(embedder, images):
    display = ViewsDisplay.from_estimator(embedder(), images[:3], n_views=5)
    assert display.pictures.shape == (3, 6, 8, 8, 3)
    np.testing.assert_allclose(display.pictures[:, 0], images[:3] / 255, atol=1e-6)
    views = sample_views(embedder(), images[:3], n_views=5)
    np.testing.assert_allclose(display.pictures[:, 1:], views.clip(0, 1), atol=1e-6)
    drawn = display.im_.get_array()
    assert drawn.shape == (3 * 9 - 1, 6 * 9 + 1, 3)  # gaps of one pixel; the first column stands apart
    np.testing.assert_array_equal(drawn[9:17, 11:19], display.pictures[1, 1])


def test_a_display_takes_an_axis_and_a_pipeline(embedder, images):
    _, axes = plt.subplots(1, 2)
    pipe = make_pipeline(embedder(), PCA(2))
    display = ViewsDisplay.from_estimator(pipe, images[:2], ax=axes[1])
    assert display.ax_ is axes[1]
    assert not axes[0].images


def test_gray_images_are_drawn_in_gray(embedder, draw_images):
    display = ViewsDisplay.from_estimator(embedder(), draw_images(2, (8, 8, 1)), n_views=2)
    assert display.im_.get_array().ndim == 2


def test_reconstructions_need_a_loss_that_reconstructs(embedder, images):
    with pytest.raises(ValueError, match=r"The loss NTXent does not reconstruct images.*'mae'"):
        ReconstructionDisplay.from_estimator(embedder().fit(images), images)
    with pytest.raises(NotFittedError):
        ReconstructionDisplay.from_estimator(embedder(), images)
