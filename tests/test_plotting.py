"""Plots of views, before and after a fit."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from sklearn_ssl import plot_reconstructions, plot_views, sample_views


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


def test_a_figure_has_a_row_for_each_image(embedder, images):
    figure = plot_views(embedder(), images[:3], n_views=5)
    assert len(figure.axes) == 15


def test_gray_images_are_drawn_in_gray(embedder, draw_images):
    figure = plot_views(embedder(), draw_images(2, (8, 8, 1)), n_views=2)
    assert figure.axes[0].images[0].get_array().shape == (8, 8)


def test_what_a_loss_fills_in_needs_a_loss_that_fills_in(embedder, images):
    with pytest.raises(ValueError, match=r"The loss NTXent does not reconstruct images.*'mae'"):
        plot_reconstructions(embedder().fit(images), images)
