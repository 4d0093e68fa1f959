"""Displays: what is drawn, by artists and data."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sklearn_ssl import (
    EmbeddingMapDisplay,
    LabelEfficiencyDisplay,
    NeighborsDisplay,
    SpectrumDisplay,
    TrainingCurveDisplay,
    metrics,
)

IMAGES = (load_digits().images[:60] * 15).astype(np.uint8)
LABELS = load_digits().target[:60] % 3


@pytest.fixture(autouse=True)
def no_window():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.fixture
def fitted(embedder):
    return embedder("vicreg", max_epochs=3).fit(IMAGES)


DISPLAYS = {
    "curve": lambda e, **params: TrainingCurveDisplay.from_estimator(e, **params),
    "spectrum": lambda e, **params: SpectrumDisplay.from_estimator(e, IMAGES, **params),
    "map": lambda e, **params: EmbeddingMapDisplay.from_estimator(e, IMAGES, LABELS, method="pca", **params),
    "neighbors": lambda e, **params: NeighborsDisplay.from_estimator(e, IMAGES, **params),
    "labels": lambda e, **params: LabelEfficiencyDisplay.from_estimator(e, IMAGES, LABELS, **params),
}


@pytest.mark.parametrize("name", DISPLAYS)
def test_every_display_draws_on_the_given_axis_or_on_one_of_its_own(name, fitted, embedder):
    display = DISPLAYS[name](fitted)
    assert display.ax_.figure is display.figure_
    display.figure_.canvas.draw()
    _, ax = plt.subplots()
    assert DISPLAYS[name](make_pipeline(fitted, LogisticRegression()), ax=ax).ax_ is ax
    before = display.ax_
    assert display.plot() is display
    assert display.ax_ is not before
    with pytest.raises(ValueError, match="not fitted"):
        DISPLAYS[name](embedder())


def test_curves_are_the_history(fitted):
    display = TrainingCurveDisplay.from_estimator(fitted)
    assert list(display.lines_) == ["train_loss", "invariance", "variance", "covariance"]
    for name, line in display.lines_.items():
        assert line.get_xdata().tolist() == [1, 2, 3]
        assert line.get_ydata().tolist() == [row[name] for row in fitted.history_]
    assert list(TrainingCurveDisplay.from_estimator(fitted, names=["lr"]).lines_) == ["lr"]
    with pytest.raises(ValueError, match="names='accuracy'"):
        TrainingCurveDisplay.from_estimator(fitted, names=["accuracy"])


def test_scores_have_an_axis_of_their_own(embedder):
    params = {"max_epochs": 3, "eval_metrics": {"neighbors": "knn_accuracy", "rank": "rankme"}}
    fitted = embedder(validation_fraction=0.5, **params).fit(IMAGES, LABELS)
    display = TrainingCurveDisplay.from_estimator(fitted)
    assert {line.get_label() for line in display.ax_.lines} == {"train_loss", "valid_loss"}
    assert {line.get_label() for line in display.score_ax_.lines} == {"neighbors", "rank"}
    assert len(display.ax_.get_legend().get_texts()) == 4
    assert TrainingCurveDisplay.from_estimator(fitted, names=["rank"]).score_ax_ is None


def test_the_spectrum_is_that_of_the_embeddings(fitted):
    Z = fitted.transform(IMAGES)
    display = SpectrumDisplay.from_estimator(fitted, IMAGES)
    s = np.linalg.svd(Z.astype(float), compute_uv=False)
    np.testing.assert_allclose(display.line_.get_ydata(), s / s[0])
    assert display.rank == pytest.approx(metrics.rankme(Z))
    second = SpectrumDisplay.from_embeddings(np.eye(5), ax=display.ax_, name="even")
    assert second.line_.get_label() == "even: effective rank 5 of 5"
    assert second.line_.get_color() != display.line_.get_color()


def test_a_map_has_the_points_of_each_class(fitted):
    y = np.where(np.arange(60) % 2 == 0, LABELS, -1)
    display = EmbeddingMapDisplay.from_estimator(fitted, IMAGES, y, method="pca", thumbnails=4)
    assert list(display.scatters_) == [-1, 0, 1, 2]
    for c, points in display.scatters_.items():
        np.testing.assert_allclose(points.get_offsets(), display.positions[y == c])
    assert len(display.ax_.artists) == 4
    np.testing.assert_allclose(display.thumbnails[0], IMAGES[0] / 255, atol=1e-6)
    plain = EmbeddingMapDisplay.from_estimator(fitted, IMAGES, method="pca")
    assert len(plain.scatters_[-1].get_offsets()) == 60
    names = EmbeddingMapDisplay.from_estimator(
        fitted, IMAGES, np.array(["a", "b", "c"])[LABELS], method="pca"
    )
    assert list(names.scatters_) == ["a", "b", "c"]


def test_a_map_by_tsne_is_repeatable_and_keeps_neighbors_near(fitted):
    one, two = (EmbeddingMapDisplay.from_estimator(fitted, IMAGES).positions for _ in range(2))
    np.testing.assert_allclose(one, two)
    copies = EmbeddingMapDisplay.from_estimator(fitted, np.concatenate([IMAGES[:30], IMAGES[:30]])).positions
    distance = np.linalg.norm(copies[:30] - copies[30:], axis=1)
    assert np.median(distance) < 0.1 * copies.std()


def test_neighbors_are_the_nearest(fitted):
    display = NeighborsDisplay.from_estimator(fitted, IMAGES, queries=[3, 40], n_neighbors=4)
    Z = fitted.transform(IMAGES).astype(float)
    Z /= np.linalg.norm(Z, axis=1, keepdims=True)
    for row, query in zip(display.index, (3, 40), strict=True):
        assert row[0] == query
        others = [i for i in range(60) if i != query]
        nearest = sorted(others, key=lambda i: -Z[i] @ Z[query])[:4]
        np.testing.assert_allclose(Z[row[1:]] @ Z[query], Z[nearest] @ Z[query], atol=1e-6)
    np.testing.assert_allclose(display.pictures[0, 0], IMAGES[3] / 255, atol=1e-6)
    canvas = display.im_.get_array()
    np.testing.assert_allclose(canvas[:8, :8], IMAGES[3] / 255, atol=1e-6)
    np.testing.assert_allclose(canvas[-8:, -8:], IMAGES[display.index[1, -1]] / 255, atol=1e-6)
    assert len(NeighborsDisplay.from_estimator(fitted, IMAGES, queries=5).index) == 5


def test_neighbors_of_color_images_are_in_color(embedder, images):
    fitted = embedder().fit(images)
    display = NeighborsDisplay.from_estimator(fitted, images, queries=2, n_neighbors=50)
    assert display.pictures.shape == (2, 12, 8, 8, 3)


def test_label_efficiency_is_that_of_the_metric(fitted):
    display = LabelEfficiencyDisplay.from_estimator(
        fitted, IMAGES, LABELS, n_labels=(1, 4, 100), name="vicreg"
    )
    Z = fitted.transform(IMAGES)
    expected = [metrics.few_label_accuracy(Z, LABELS, n_labels=n) for n in (1, 4)]
    assert display.n_labels.tolist() == [1, 4]
    assert display.accuracies == expected
    assert display.line_.get_ydata().tolist() == [each.mean for each in expected]
    assert display.line_.get_label() == "vicreg"
    assert [text.get_text() for text in display.ax_.get_xticklabels()] == ["1", "4"]
    LabelEfficiencyDisplay.from_embeddings(IMAGES.reshape(60, -1), LABELS, n_labels=(1, 4), ax=display.ax_)
    assert len(display.ax_.lines) == 2


def test_bad_input_is_told(fitted, save_images, embedder):
    with pytest.raises(ValueError, match="a map needs at least 3"):
        EmbeddingMapDisplay.from_estimator(fitted, IMAGES[:2])
    with pytest.raises(ValueError, match="method='mds'"):
        EmbeddingMapDisplay.from_estimator(fitted, IMAGES, method="mds")
    with pytest.raises(ValueError, match="leaves none to test on"):
        LabelEfficiencyDisplay.from_estimator(fitted, IMAGES, LABELS, n_labels=[50])
    with pytest.raises(ValueError, match="neither an SSLImageEmbedder nor"):
        TrainingCurveDisplay.from_estimator(LogisticRegression())
    paths = save_images(IMAGES)
    tolerant = embedder(reader__on_error="skip").fit(paths)
    paths[7].write_text("no image")
    with (
        pytest.warns(UserWarning, match="have rows of NaN"),
        pytest.raises(ValueError, match="1 of 60 images cannot be read, such as number 7"),
    ):
        SpectrumDisplay.from_estimator(tolerant, paths)
