"""Scorers of embedders, alone, in pipelines and in searches."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from sklearn_ssl import LabeledKFold, available_scorers, get_scorer, load, metrics, sample_views

IMAGES = (load_digits().images[:60] * 15).astype(np.uint8)
LABELS = load_digits().target[:60] % 3
WITH_LABELS = {
    "few_label_accuracy",
    "knn_accuracy",
    "linear_probe_accuracy",
    "mean_average_precision",
    "recall_at_k",
}


@pytest.fixture
def fitted(embedder):
    return embedder().fit(IMAGES)


def params_for_a_tiny_network(name):
    return {"first": 2, "last": 6} if name == "neg_distance_of_alpha_req" else {}


@pytest.mark.parametrize("name", available_scorers())
def test_every_scorer_scores_embedders_pipelines_and_folds(name, embedder, fitted):
    scorer = get_scorer(name, **params_for_a_tiny_network(name))
    y = LABELS if name in WITH_LABELS else None
    score = scorer(fitted, IMAGES, y)
    assert isinstance(score, float)
    assert scorer(fitted, IMAGES, y) == score
    assert pickle.loads(pickle.dumps(scorer))(fitted, IMAGES, y) == score
    pipe = make_pipeline(fitted, LogisticRegression())
    assert scorer(pipe, IMAGES, y) == score
    scores = cross_val_score(embedder(), IMAGES, y, cv=2, scoring=scorer, error_score="raise")
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("resource", ["max_epochs", "max_time"])
def test_halving_searches_spend_more_on_better_candidates(embedder, resource):
    grid = {"loss__temperature": [0.05, 0.1, 0.5, 1.0]}
    search = HalvingGridSearchCV(
        embedder(max_epochs="auto"),
        grid,
        resource=resource,
        min_resources=1,
        max_resources=2,
        factor=2,
        cv=2,
        scoring=get_scorer("own_view_retrieval"),
        error_score="raise",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "max_time=.* ended the fit after")
        search.fit(IMAGES, np.zeros(len(IMAGES)))
    assert search.n_candidates_ == [4, 2]
    assert search.best_estimator_.get_params()[resource] == 2


def test_optuna_takes_scorers(embedder):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    scorer = get_scorer("rankme")

    def objective(trial):
        temperature = trial.suggest_float("temperature", 0.05, 1.0, log=True)
        return cross_val_score(embedder(loss__temperature=temperature), IMAGES, cv=2, scoring=scorer).mean()

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=2)
    assert study.best_value > 1


def test_scorers_are_the_metrics(fitted):
    Z = fitted.transform(IMAGES)
    assert get_scorer("rankme")(fitted, IMAGES) == pytest.approx(metrics.rankme(Z))
    assert get_scorer("neg_uniformity")(fitted, IMAGES) == pytest.approx(-metrics.uniformity(Z))
    knn = get_scorer("knn_accuracy", n_neighbors=3)(fitted, IMAGES, LABELS)
    assert knn == metrics.knn_accuracy(Z, LABELS, n_neighbors=3)
    few = get_scorer("few_label_accuracy", n_labels=2)(fitted, IMAGES, LABELS)
    assert few == metrics.few_label_accuracy(Z, LABELS, n_labels=2).mean
    distance = get_scorer("neg_distance_of_alpha_req", first=2, last=6)(fitted, IMAGES)
    assert distance == pytest.approx(-abs(metrics.alpha_req(Z, first=2, last=6) - 1))


def test_views_are_embedded_as_images_are(embedder):
    fitted = embedder(augment="none").fit(IMAGES)
    Z = fitted.transform(IMAGES)
    assert get_scorer("own_view_retrieval")(fitted, IMAGES) == metrics.own_view_retrieval(Z, Z)
    assert get_scorer("neg_alignment")(fitted, IMAGES) == pytest.approx(0, abs=1e-6)
    drawn = get_scorer("neg_alignment", augment="photo")(fitted, IMAGES)
    assert drawn < -1e-3
    views = sample_views(
        fitted.set_params(augment="photo"), IMAGES, n_views=2
    )  # unit values of the same images
    one, two = (fitted.transform(255 * views[:, k]) for k in range(2))
    assert drawn == pytest.approx(-metrics.alignment(one, two), rel=0.3)  # other draws


def test_turned_images_are_embedded(fitted):
    turned = [fitted.transform(np.rot90(IMAGES, k, (1, 2))) for k in range(4)]
    expected = metrics.rotation_probe_accuracy(np.stack(turned))
    assert get_scorer("rotation_probe_accuracy")(fitted, IMAGES) == pytest.approx(expected, abs=0.02)


def test_views_of_a_loaded_embedder_need_an_augmentation_that_is_known(embedder, tmp_path):
    embedder(augment=lambda images, generator: images.flip(3)).fit(IMAGES).save(tmp_path / "model")
    with pytest.warns(UserWarning, match="augment"):
        loaded = load(tmp_path / "model", backbone=embedder().backbone)
    assert loaded.score(IMAGES) > 1
    with pytest.raises(ValueError, match="give one for the views"):
        get_scorer("own_view_retrieval")(loaded, IMAGES)
    assert get_scorer("own_view_retrieval", augment="none")(loaded, IMAGES) > 0


def test_only_labeled_rows_are_scored(fitted):
    y = np.where(np.arange(60) < 40, LABELS, -1)
    expected = metrics.knn_accuracy(fitted.transform(IMAGES[:40]), LABELS[:40])
    assert get_scorer("knn_accuracy")(fitted, IMAGES, y) == pytest.approx(expected)


def test_as_many_images_as_asked_for_are_scored(fitted):
    scores = {get_scorer("rankme", n_images=20, random_state=seed)(fitted, IMAGES) for seed in range(3)}
    assert len(scores) == 3
    assert get_scorer("rankme", n_images=60)(fitted, IMAGES) == get_scorer("rankme")(fitted, IMAGES)


def test_a_search_without_labels(embedder):
    search = GridSearchCV(
        embedder(), {"loss": ["ntxent", "vicreg"]}, cv=2, scoring=get_scorer("own_view_retrieval")
    ).fit(IMAGES)
    scores = search.cv_results_["mean_test_score"]
    assert (scores > 1 / 30).all()  # by chance, 1 of the 30 images of a fold
    assert search.best_score_ == scores.max()


def test_a_search_with_few_labels(embedder):
    y = np.where(np.arange(60) % 2 == 0, LABELS, -1)
    search = GridSearchCV(
        embedder(),
        {"max_epochs": [1, 2]},
        cv=LabeledKFold(3),
        scoring=get_scorer("knn_accuracy"),
        error_score="raise",
    ).fit(IMAGES, y)
    assert 0 <= search.best_score_ <= 1


def test_labeled_folds():
    y = np.where(np.arange(60) < 30, LABELS, -1)  # plain folds would have none in the second half
    tested = []
    for train, test in LabeledKFold(3).split(None, y):
        assert set(train) | set(test) == set(range(60))
        assert not set(train) & set(test)
        assert set(range(30, 60)) <= set(train)
        assert set(y[test]) == {0, 1, 2}
        tested += test.tolist()
    assert sorted(tested) == list(range(30))
    assert LabeledKFold(3).get_n_splits() == 3
    assert repr(LabeledKFold(3)) == "LabeledKFold(n_splits=3, random_state=0)"
    for given, words in (
        (None, "needs labels"),
        (np.full(9, -1), "0 of 9"),
        ([0, 0, 0, 1, 1], "Class 1 has 2"),
    ):
        with pytest.raises(ValueError, match=words):
            list(LabeledKFold(3).split(None, given))


def test_unreadable_images_are_left_out(embedder, save_images):
    paths = save_images(IMAGES)
    fitted = embedder(reader__on_error="skip").fit(paths)
    paths[7].write_text("no image")
    others = [i for i in range(60) if i != 7]
    for name in ("knn_accuracy", "rankme"):
        scorer = get_scorer(name)
        expected = scorer(fitted, IMAGES[others], LABELS[others])
        assert scorer(fitted, paths, LABELS) == pytest.approx(expected)


def test_an_embedder_in_a_nested_pipeline(fitted):
    nested = make_pipeline(make_pipeline(fitted), LogisticRegression())
    assert get_scorer("rankme")(nested, IMAGES) == get_scorer("rankme")(fitted, IMAGES)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: get_scorer("rank"), "There is no scorer 'rank'. Available: cluster_learnability, "),
        (lambda: get_scorer("rankme", n_labels=3), "'rankme' has no parameter 'n_labels'. Available: eps"),
        (lambda: get_scorer("rankme", n_images=1), "n_images"),
    ],
)
def test_wrong_arguments_are_told(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_wrong_use_is_told(embedder, fitted):
    with pytest.raises(ValueError, match=r"needs labels: give y, with -1.*rankme"):
        get_scorer("knn_accuracy")(fitted, IMAGES)
    with pytest.raises(ValueError, match="0 of 60 images are labeled"):
        get_scorer("knn_accuracy")(fitted, IMAGES, np.full(60, -1))
    with pytest.raises(ValueError, match="neither an SSLImageEmbedder nor a pipeline"):
        get_scorer("rankme")(make_pipeline(LogisticRegression()), IMAGES)
    with pytest.raises(ValueError, match="not fitted"):
        get_scorer("rankme")(embedder(), IMAGES)
