"""Held-back images: their loss and scores, epoch by epoch, and `score`."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback

from sklearn_ssl import (
    SSLImageEmbedder,
    SSLLoss,
    TrainingCurveDisplay,
    available_losses,
    get_loss,
    get_scorer,
    metrics,
)
from sklearn_ssl._evaluation import epochs_between, hold_back
from sklearn_ssl._images.sources import ArraySource
from sklearn_ssl._scores import Scoring


class Mean(SSLLoss):
    """The mean of all projections; keeps a count of its calls in a buffer."""

    def build(self, spec):
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, *z):
        self.calls += 1
        return torch.stack(z).mean()


class Seen(SSLLoss):
    """A loss that keeps the positions of the images of each batch."""

    batches: list = []  # noqa: RUF012  # of the class: the instance is copied

    def step(self, batch, student, teacher):
        Seen.batches.append(batch.index.tolist())
        return torch.stack(student(batch.views)).square().mean()


@pytest.fixture
def y(many_images):
    return (many_images.mean((1, 2, 3)) > np.median(many_images.mean((1, 2, 3)))).astype(int)


def test_a_share_of_the_images_is_not_trained_on(embedder, many_images, y):
    Seen.batches.clear()
    fitted = embedder(Seen, validation_fraction=0.25, max_epochs=4, eval_metrics=())
    fitted.fit(many_images)
    in_training = sorted({row for batch in Seen.batches if len(batch) == 8 for row in batch})
    assert max(in_training) <= 29  # positions among the 30 that are left
    assert fitted.history_[-1].keys() >= {"train_loss", "valid_loss"}


def test_held_back_images_have_no_influence_on_the_weights(embedder, many_images):
    train, held = hold_back(ArraySource(torch.from_numpy(many_images).movedim(3, 1)), 40, 0.25)
    assert not set(train.rows.tolist()) & set(held.rows.tolist())
    assert sorted([*train.rows.tolist(), *held.rows.tolist()]) == list(range(40))
    split = embedder(max_epochs=3, validation_fraction=0.25).fit(many_images)
    alone = embedder(max_epochs=3).fit(many_images[train.rows.numpy()])
    beside = embedder(max_epochs=3).fit(many_images[train.rows.numpy()], eval_set=many_images[:9])
    for other in (alone, beside):
        np.testing.assert_array_equal(split.transform(many_images), other.transform(many_images))


def test_scores_are_those_of_the_fitted_network(embedder, many_images, y):
    scores = ["knn_accuracy", get_scorer("rankme", n_images=7), "own_view_retrieval", "neg_uniformity"]
    fitted = embedder(max_epochs=2, eval_metrics=scores).fit(many_images[:20], eval_set=(many_images, y))
    row = fitted.history_[-1]
    assert row["knn_accuracy"] == metrics.knn_accuracy(fitted.transform(many_images), y)
    assert row["rankme"] == pytest.approx(get_scorer("rankme", n_images=7)(fitted, many_images))
    assert row["own_view_retrieval"] == get_scorer("own_view_retrieval")(fitted, many_images)
    assert row["neg_uniformity"] == pytest.approx(get_scorer("neg_uniformity")(fitted, many_images))
    named = embedder(eval_metrics={"rank": get_scorer("rankme")}).fit(many_images, eval_set=many_images)
    assert "rank" in named.history_[-1]


def test_labels_decide_what_is_scored(embedder, many_images, y):
    fitted = embedder(validation_fraction=0.25)
    assert clone(fitted).fit(many_images).eval_metrics_ == ["rankme"]
    assert embedder().fit(many_images).eval_metrics_ == []
    assert "rankme" in clone(fitted).fit(many_images).history_[-1]
    assert "knn_accuracy" in clone(fitted).fit(many_images, y).history_[-1]
    assert "rankme" in clone(fitted).fit(many_images, np.full(40, -1)).history_[-1]
    assert "rankme" in clone(fitted).fit(many_images, np.linspace(0, 1, 40)).history_[-1]


def test_the_loss_of_held_back_images_is_that_of_the_network_in_eval_mode(embedder, many_images):
    params = {"augment": "none", "eval_metrics": (), "warm_start": True, "precision": "float32"}
    fitted = embedder(Mean, max_epochs=2, **params).fit(many_images, eval_set=many_images[:4])
    with torch.no_grad():
        h = fitted.encoder_(torch.from_numpy(many_images[:4]).movedim(3, 1))
        net, _, _ = fitted._open(many_images)[0].make_net()
        z = net.module_.projector.eval()(h)
    assert fitted.history_[-1]["valid_loss"] == pytest.approx(z.mean().item(), abs=1e-5)
    # Five steps in each of two epochs: evaluations leave no trace in the loss.
    assert fitted._training_state["loss"]["calls"] == 10


@pytest.mark.parametrize("name", [*available_losses()])
def test_every_method_has_a_loss_of_held_back_images(name, draw_images, small_resnet):
    images, y = draw_images(24, (16, 16, 3)), np.arange(24) % 3
    wanted = getattr(get_loss(name), "defaults", {}).get("backbone")
    backbone = (
        {"backbone__width": 16, "backbone__depth": 3} if wanted == "vit" else {"backbone": small_resnet}
    )
    params = {"max_epochs": 2, "batch_size": 8, "random_state": 0, "warm_start": True, **backbone}
    with_, without = (SSLImageEmbedder(name, **params) for _ in range(2))
    with_.set_params(eval_metrics=()).fit(images, y, eval_set=(images[:5], y[:5]))
    without.fit(images, y)
    assert np.isfinite(with_.history_[-1].get("valid_loss", 0))
    assert ("valid_loss" in with_.history_[-1]) == getattr(get_loss(name), "validates", True)
    for part in ("student", "teacher", "loss", "optimizer"):
        one, other = (fitted._training_state[part] for fitted in (with_, without))
        if part == "optimizer":  # whose groups have names, too
            one, other = one["state"], other["state"]
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_unreadable_images_may_be_held_back(embedder, draw_images, save_images):
    paths = save_images(draw_images(20, (16, 16, 3)))
    held = hold_back(ArraySource(torch.zeros(20, 3, 4, 4)), 20, 0.5)[1].rows.tolist()
    broken = [held[0], next(i for i in range(20) if i not in held)]
    for i in broken:
        paths[i].write_bytes(b"no image")
    params = {"validation_fraction": 0.5, "reader__on_error": "skip", "image_size": 8, "max_epochs": 2}
    with pytest.warns(UserWarning, match="2 of 20 images were left out"):
        fitted = embedder(**params).fit(paths)
    assert sorted(fitted.skipped_) == sorted(broken)
    assert np.isfinite(fitted.history_[-1]["valid_loss"])
    assert np.isfinite(fitted.history_[-1]["rankme"])


def test_evaluations_take_a_share_of_the_time():
    rank = Scoring.of("rankme")
    # 200 + 100 * 2 + 100 passes, of 2 % of the 6,000 of an epoch.
    assert epochs_between([rank], n_evaluated=100, n_images=1000, n_views=2) == 5
    assert epochs_between([rank], n_evaluated=100, n_images=100_000, n_views=2) == 1
    assert epochs_between([], n_evaluated=10_000, n_images=1000, n_views=2) == 10  # 500 at most


def test_epochs_without_an_evaluation_repeat_the_last_one(embedder, many_images, monkeypatch):
    evaluated = []
    whole = Scoring.evaluate
    monkeypatch.setattr(Scoring, "evaluate", lambda *args: evaluated.append(1) or whole(*args))
    fitted = embedder(max_epochs=8, eval_metrics="rankme").fit(many_images, eval_set=many_images)
    ranks = [row["rankme"] for row in fitted.history_]
    assert len(evaluated) == 2  # the first and the last epoch
    assert len(set(ranks[:-1])) == 1
    assert ranks[-1] != ranks[0]
    evaluated.clear()
    often = embedder(max_epochs=8, eval_metrics="rankme", eval_every=3).fit(many_images, eval_set=many_images)
    assert len(evaluated) == 4  # epochs 1, 4, 7 and 8
    assert often.eval_every_ == 3
    curve = TrainingCurveDisplay.from_estimator(often)
    assert curve.lines_["rankme"].get_xdata().tolist() == [1, 4, 7, 8]
    assert curve.lines_["train_loss"].get_xdata().tolist() == list(range(1, 9))
    with pytest.raises(ValueError, match="eval_every=0"):
        embedder(eval_every=0).fit(many_images)


class FailsAfter3Epochs(Callback):
    def on_epoch_end(self, net, **kwargs):
        if net.epoch == 3:
            raise RuntimeError("a failure")


def test_a_resumed_fit_has_the_history_of_an_undisturbed_one(embedder, many_images, y, tmp_path):
    def fit(**more):
        params = {"max_epochs": 6, "validation_fraction": 0.25, "eval_every": 2, **more}
        return embedder(**params).fit(many_images, y)

    with pytest.raises(RuntimeError, match="a failure"):
        fit(callbacks=[FailsAfter3Epochs()], checkpoint=tmp_path)
    with pytest.warns(UserWarning, match="resumes from"):
        resumed = fit(checkpoint=tmp_path)
    names = ("train_loss", "valid_loss", "knn_accuracy")
    assert [of(row, names) for row in resumed.history_] == [of(row, names) for row in fit().history_]


def of(row, names):
    return [row[name] for name in names]


@pytest.mark.parametrize(
    ("params", "fit", "message"),
    [
        ({"eval_metrics": "rankme"}, {}, "needs images that are not trained on"),
        ({"validation_fraction": 0.01}, {}, "holds 0 back"),
        ({"validation_fraction": 1.5}, {}, "validation_fraction=1.5"),
        ({"validation_fraction": 0.99}, {}, "leaves, at least 2"),
        ({"validation_fraction": 0.5}, {"eval_set": 12}, "give one of them"),
        ({"eval_metrics": ["knn_accuracy"]}, {"eval_set": 12}, "needs labels"),
        ({"eval_metrics": "nonsense"}, {"eval_set": 12}, "no scorer 'nonsense'"),
        ({"eval_metrics": [3]}, {"eval_set": 12}, "eval_metrics has 3"),
        ({"eval_metrics": {"lr": "rankme"}}, {"eval_set": 12}, "'lr' is taken"),
    ],
)
def test_wrong_evaluations_are_told(embedder, images, params, fit, message):
    given = {"eval_set": images[: fit["eval_set"]]} if fit else {}
    with pytest.raises(ValueError, match=message):
        embedder(**params).fit(images, **given)


def test_an_eval_set_of_another_kind_is_told(embedder, images, draw_images):
    with pytest.raises(ValueError, match=r"eval_set: These images have the shape \(9, 9, 3\)"):
        embedder().fit(images, eval_set=draw_images(4, (9, 9, 3)))
    with pytest.raises(ValueError, match="eval_set: There are 12 images in X and 3 labels"):
        embedder().fit(images, eval_set=(images, [0, 1, 2]))


def test_score_is_by_labels_if_they_are_given(embedder, many_images, y):
    fitted = embedder().fit(many_images)
    few = np.where(np.arange(40) < 20, y, -1)
    assert fitted.score(many_images, few) == get_scorer("knn_accuracy")(fitted, many_images, few)
    assert fitted.score(many_images) == get_scorer("rankme")(fitted, many_images)
    # Not by another measure, which would be averaged with those of other folds.
    for none in (np.full(40, -1), np.where(np.arange(40) < 3, 0, -1)):
        with pytest.raises(ValueError, match="LabeledKFold"):
            fitted.score(many_images, none)
    with pytest.raises(ValueError, match="labels in y"):
        fitted.score(many_images, y[:3])


def test_a_search_without_scoring_takes_score(embedder, many_images, y):
    grid = {"loss__temperature": [0.1, 1.0]}
    search = GridSearchCV(embedder(), grid, cv=2, error_score="raise").fit(many_images)
    ranks = GridSearchCV(embedder(), grid, cv=2, scoring=get_scorer("rankme")).fit(many_images)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], ranks.cv_results_["mean_test_score"])
    by_labels = GridSearchCV(embedder(), grid, cv=2, error_score="raise").fit(many_images, y)
    assert by_labels.best_score_ > 0.4
