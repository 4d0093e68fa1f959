"""scikit-learn's callbacks, alone, in pipelines and in searches."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import sklearn_ssl
from sklearn_ssl import get_scorer

callback = pytest.importorskip("sklearn.callback", reason="scikit-learn before 1.9 has no callbacks")


class Records:
    """Callback that records the names of the tasks, and stops after a number of epochs."""

    max_propagation_depth = None  # into pipelines and searches

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.events = []
        self.rows = []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        if context.estimator_name == "SSLImageEmbedder":
            self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
        if context.estimator_name != "SSLImageEmbedder":
            return False
        self.events.append(f"end {context.task_name}")
        if context.task_name == "epoch":
            self.rows.append(fitted_estimator.transform(X))
        return len(self.rows) == self.stop_after


def fit_of(n_epochs):
    return ["begin fit", *["begin epoch", "end epoch"] * n_epochs, "end fit"]


def test_a_fit_is_a_task_and_each_epoch_a_subtask(embedder, images):
    records = Records()
    fitted = embedder(max_epochs=3).set_callbacks(records).fit(images)
    assert records.events == ["setup", *fit_of(3), "teardown"]
    # The estimator of each epoch is one that was fitted so far: the last is the fitted one.
    np.testing.assert_array_equal(records.rows[-1], fitted.transform(images))
    assert not np.array_equal(records.rows[0], records.rows[1])


def test_callbacks_do_not_change_the_fit(embedder, images):
    fitted = embedder(max_epochs=3).set_callbacks(Records()).fit(images)
    np.testing.assert_array_equal(
        fitted.transform(images), embedder(max_epochs=3).fit(images).transform(images)
    )


def test_a_callback_ends_the_training(embedder, images):
    records = Records(stop_after=2)
    fitted = embedder(max_epochs=50).set_callbacks(records).fit(images)
    assert fitted.n_iter_ == 2
    assert records.events == ["setup", *fit_of(2), "teardown"]


def test_callbacks_are_torn_down_after_an_error(embedder, images):
    class Broken(Records):
        def on_fit_task_begin(self, estimator, context):
            if context.task_name == "epoch":
                raise ValueError("on purpose")

    records = Broken()
    with pytest.raises(ValueError, match="on purpose"):
        embedder().set_callbacks(records).fit(images)
    assert records.events == ["setup", "teardown"]


def test_callbacks_reach_embedders_in_pipelines_and_searches(embedder, images, labels):
    records = Records()
    pipe = make_pipeline(embedder(max_epochs=2), LogisticRegression()).set_callbacks(records)
    pipe.fit(images, labels)
    assert records.events == ["setup", *fit_of(2), "teardown"]

    searched = Records()
    search = GridSearchCV(
        embedder(max_epochs=1), {"loss": ["ntxent", "vicreg"]}, cv=2, scoring=get_scorer("rankme")
    )
    search.set_callbacks(searched).fit(images)
    assert searched.events.count("begin epoch") == 2 * 2 + 1  # candidates x folds, and the last fit


def test_scores_of_each_epoch(embedder, images, labels):
    scoring = {"knn": get_scorer("knn_accuracy"), "own view": get_scorer("own_view_retrieval")}
    monitor = callback.ScoringMonitor(scoring=scoring)
    fitted = embedder(max_epochs=3).set_callbacks(monitor).fit(images, labels)
    epochs = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(epochs) == 3
    for name, scorer in scoring.items():
        assert epochs[-1][name] == scorer(fitted, images, labels)
    # Also without labels, and with further images.
    monitor = callback.ScoringMonitor(scoring={"rank": get_scorer("rankme")})
    fitted = embedder(max_epochs=2).set_callbacks(monitor).fit(images, X_unlabeled=images)
    ranks = [row["rank"] for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(ranks) == 2
    assert ranks[-1] == get_scorer("rankme")(fitted, images)


def test_a_progress_bar(embedder, images, capsys):
    pytest.importorskip("rich")
    embedder(max_epochs=2).set_callbacks(callback.ProgressBar()).fit(images)
    assert "SSLImageEmbedder" in capsys.readouterr().out


def test_callbacks_stay_with_clones_and_pickles_but_not_with_saved_models(embedder, images, tmp_path):
    fitted = embedder().set_callbacks(Records()).fit(images)
    assert len(clone(fitted)._skl_callbacks) == 1
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(images), fitted.transform(images))
    fitted.save(tmp_path / "model.safetensors")
    loaded = sklearn_ssl.load(tmp_path / "model.safetensors", backbone=fitted.backbone)
    assert not hasattr(loaded, "_skl_callbacks")
