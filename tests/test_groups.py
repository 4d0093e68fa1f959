"""Scores that no group and no frequent class can lift: patients, plates and videos; rare defects."""

import math

import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, GroupShuffleSplit, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize
from sklearn.semi_supervised import SelfTrainingClassifier

from sklearn_ssl import (
    LabeledKFold,
    LabelEfficiencyDisplay,
    NeighborsDisplay,
    SSLImageEmbedder,
    available_scorers,
    get_scorer,
    metrics,
)
from sklearn_ssl._evaluation import hold_back
from sklearn_ssl._images.sources import ArraySource
from sklearn_ssl._scores import SCORES
from sklearn_ssl.metrics import _arrays, _labeled

METRICS = {
    "knn": metrics.knn_accuracy,
    "probe": metrics.linear_probe_accuracy,
    "few labels": lambda *args, **params: metrics.few_label_accuracy(*args, **params).mean,
    "recall": metrics.recall_at_k,
    "mean average precision": metrics.mean_average_precision,
}


@pytest.fixture(params=METRICS)
def metric(request):
    return METRICS[request.param]


# ---------------------------------------------------------------------------- groups

PATIENTS = np.repeat(np.arange(20), 8)  # eight slices of each


def slices_of_patients(seed):
    """Return embeddings that tell patients apart, and a diagnosis by chance."""
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(20, 16))[PATIENTS] + rng.normal(0, 0.1, (160, 16))
    return Z, rng.permutation(np.arange(20) % 2)[PATIENTS]


def test_what_is_known_of_a_patient_is_of_no_use_for_others(metric):
    values = [metric(*slices_of_patients(seed), groups=PATIENTS) for seed in range(8)]
    assert 0.35 < np.mean(values) < 0.62
    leaked = [metric(*slices_of_patients(seed)) for seed in range(8)]
    assert np.mean(leaked) > np.mean(values) + 0.05


def test_what_holds_for_all_patients_counts_with_groups_too(metric):
    Z, y = slices_of_patients(0)
    assert metric(Z + 12 * np.eye(16)[y], y, groups=PATIENTS) > 0.7


def test_images_that_are_their_own_groups_have_the_score_of_images_without_groups():
    rng = np.random.default_rng(0)
    Z, y = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)
    for name in ("knn", "recall", "mean average precision"):
        assert METRICS[name](Z, y, groups=rng.permutation(60)) == METRICS[name](Z, y)


def fan(*degrees):
    return np.array([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in degrees])


def test_grouped_metrics_by_hand():
    # At 0 and 1 degrees group a, class 0; at 10 b, class 1; at 19 c, class 0; at 40 d, class 1.
    Z, y, groups = fan(0, 1, 10, 19, 40), [0, 0, 1, 0, 1], list("aabcd")
    # The nearest of another group: 10, 10, 1 or 19 (9 degrees each, of class 0), 10, 19. No one is right.
    assert metrics.knn_accuracy(Z, y, groups=groups, n_neighbors=1) == 0.0
    assert metrics.recall_at_k(Z, y, groups=groups) == 0.0
    # The two nearest: 10 19, 10 19, 1 19, 10 1, 19 10. Class 0 is found by all three, class 1 by the last.
    assert metrics.recall_at_k(Z, y, groups=groups, k=2) == pytest.approx((3 / 3 + 1 / 2) / 2)
    assert metrics.recall_at_k(Z, y, groups=groups, k=2, balanced=False) == pytest.approx(4 / 5)
    # Ranks of the own class: 0 -> 19 is second; 1 -> 19 second; 10 -> 40 last of four; 19 -> 1, 0 second and
    # third; 40 -> 10 second.
    precisions = [1 / 2, 1 / 2, 1 / 4, (1 / 2 + 2 / 3) / 2, 1 / 2]
    expected = (np.mean([precisions[i] for i in (0, 1, 3)]) + np.mean([precisions[i] for i in (2, 4)])) / 2
    assert metrics.mean_average_precision(Z, y, groups=groups) == pytest.approx(expected)
    plain = metrics.mean_average_precision(Z, y, groups=groups, balanced=False)
    assert plain == pytest.approx(np.mean(precisions))


def test_grouped_metrics_are_those_of_a_loop(monkeypatch):
    monkeypatch.setattr(_arrays, "QUERIES_AT_A_TIME", 7)
    rng = np.random.default_rng(0)
    Z, y, groups = rng.normal(size=(40, 5)), rng.integers(0, 3, 40), rng.integers(0, 6, 40)
    unit = normalize(Z)
    right, found, precisions = [], [], []
    for i in range(40):
        others = sorted(np.flatnonzero(groups != groups[i]), key=lambda j: -unit[i] @ unit[j])
        hits = np.array([y[j] == y[i] for j in others])
        votes = np.bincount(y[others[:5]], minlength=3)
        right.append(votes.argmax() == y[i])
        found.append(hits[:2].any())
        ranks = np.flatnonzero(hits) + 1
        precisions.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    params = {"groups": groups, "balanced": False}
    assert metrics.knn_accuracy(Z, y, n_neighbors=5, **params) == pytest.approx(np.mean(right))
    assert metrics.recall_at_k(Z, y, k=2, **params) == pytest.approx(np.mean(found))
    assert metrics.mean_average_precision(Z, y, **params) == pytest.approx(np.mean(precisions))


def test_a_class_of_one_group_is_not_asked_for():
    # Class 2 is that of patient c alone, whose images cannot be found among those of others.
    Z, y, groups = fan(0, 5, 50, 55, 90, 95), [0, 0, 1, 1, 2, 2], list("abdecc")
    assert metrics.knn_accuracy(Z, y, groups=groups, n_neighbors=1) == 1.0
    assert metrics.recall_at_k(Z, y, groups=groups) == 1.0
    assert metrics.mean_average_precision(Z, y, groups=groups) == 1.0
    with pytest.raises(ValueError, match="Class 2 has labels in a single group"):
        metrics.few_label_accuracy(Z, y, groups=groups, n_labels=1)
    with pytest.raises(ValueError, match="smallest class has 1 groups, fewer than cv=2"):
        metrics.linear_probe_accuracy(Z, y, groups=groups, cv=2)
    single = list("aabbcc")
    with pytest.raises(ValueError, match="fewer than two have labels in more than one group"):
        metrics.knn_accuracy(Z, y, groups=single)
    with pytest.raises(ValueError, match="Each class has a single group"):
        metrics.recall_at_k(Z, y, groups=single)


def test_fewer_images_of_other_groups_than_neighbors_are_all_that_vote():
    Z, y, groups = fan(0, 1, 2, 3, 50, 51), [0, 0, 0, 1, 0, 1], list("aaaabb")
    # Those of a are told by one vote each of 50 and 51, where class 0 is first; those of b by three to one.
    expected = ((3 + 1) / 4 + 0 / 2) / 2
    assert metrics.knn_accuracy(Z, y, groups=groups, balanced=False) == pytest.approx(4 / 6)
    assert metrics.recall_at_k(Z, y, groups=groups, k=5) == 1.0
    # By sizes of 4 and 2: 1/4 to 1/2 in a, where class 1 wins; 3/4 to 1/2 in b.
    assert metrics.knn_accuracy(Z, y, groups=groups) == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert expected != metrics.knn_accuracy(Z, y, groups=groups)


def test_no_fold_and_no_draw_trains_on_a_group_that_it_is_tested_on(monkeypatch):
    rng = np.random.default_rng(0)
    groups, y = PATIENTS, rng.integers(0, 2, 160)
    Z = np.column_stack([groups, rng.normal(size=160)])  # the group can be read in the first column
    trained = []

    class Probe(LogisticRegression):
        def fit(self, X, y):
            trained.append({*X[:, 0]})
            return super().fit(X, y)

        def predict(self, X):
            assert not trained[-1] & {*X[:, 0]}
            return super().predict(X)

    monkeypatch.setattr(_labeled, "linear_probe", lambda *args: Probe())
    metrics.linear_probe_accuracy(Z, y, groups=groups)
    assert len(trained) == 5
    metrics.linear_probe_accuracy(Z, y, groups=groups, cv=GroupShuffleSplit(3, random_state=0))
    assert len(trained) == 8
    metrics.few_label_accuracy(Z, y, groups=groups, n_draws=4)
    assert len(trained) == 12


# ---------------------------------------------------------------------------- rare classes


@pytest.mark.parametrize("shares", [(0.97, 0.03), (0.8, 0.2), (0.1, 0.9), (0.6, 0.3, 0.1), (0.9, 0.05, 0.05)])
def test_noise_has_the_score_of_chance_and_information_a_higher_one(metric, shares):
    n, n_classes = 300, len(shares)
    y = np.repeat(np.arange(n_classes), [round(share * n) for share in shares])
    noise, informed = [], []
    for seed in range(6):
        Z = np.random.default_rng(seed).normal(size=(n, 12))
        noise.append(metric(Z, y))
        informed.append(metric(Z + 2 * np.eye(12)[y], y))
    assert np.mean(noise) == pytest.approx(1 / n_classes, abs=0.09)
    assert np.mean(informed) > np.mean(noise) + 0.07


def test_an_accuracy_over_all_images_can_be_had():
    y = np.repeat([0, 1], [291, 9])
    noise = np.random.default_rng(0).normal(size=(300, 16))
    assert metrics.knn_accuracy(noise, y, balanced=False) == pytest.approx(0.97)
    assert metrics.linear_probe_accuracy(noise, y, balanced=False) > 0.95


def test_classes_of_equal_size_have_the_accuracy(metric):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 40)
    Z = rng.normal(size=(160, 6)) + np.eye(6)[y]
    assert metric(Z, y) == pytest.approx(metric(Z, y, balanced=False), abs=1e-9)
    if metric is metrics.knn_accuracy:
        reference = KNeighborsClassifier(10).fit(normalize(Z), y).score(None, y)
        assert metric(Z, y) == pytest.approx(reference)


def test_the_probe_takes_the_scores_of_scikit_learn():
    rng = np.random.default_rng(0)
    defect = np.repeat(["fine", "broken"], [270, 30])
    Z = rng.normal(size=(300, 8))
    informed = Z + 1.5 * (defect == "broken")[:, None] * np.eye(8)[0]
    for scoring, chance in (("roc_auc", 0.5), ("average_precision", 0.9), ("balanced_accuracy", 0.5)):
        params = {"scoring": scoring, "groups": np.arange(300) // 2}
        assert metrics.linear_probe_accuracy(Z, defect, **params) == pytest.approx(chance, abs=0.1)
        assert metrics.linear_probe_accuracy(informed, defect, **params) > chance + 0.07


# ---------------------------------------------------------------------------- scores and searches

PATIENT = PATIENTS[:80]  # ten patients
IMAGES = np.random.default_rng(0).integers(0, 255, (10, 8, 8, 3))[PATIENT]
IMAGES = (IMAGES + np.random.default_rng(1).normal(0, 8, IMAGES.shape)).clip(0, 255).astype(np.uint8)
DIAGNOSIS = np.random.default_rng(2).permutation(np.arange(10) % 2)[PATIENT]


def test_score_and_scorers_take_groups(embedder):
    fitted = embedder().fit(IMAGES)
    Z = fitted.transform(IMAGES)
    assert fitted.score(IMAGES, DIAGNOSIS) > 0.9
    grouped = metrics.knn_accuracy(Z, DIAGNOSIS, groups=PATIENT)
    assert grouped < 0.7
    assert fitted.score(IMAGES, DIAGNOSIS, groups=PATIENT) == grouped
    assert fitted.score(IMAGES, groups=PATIENT) == fitted.score(IMAGES)
    for name in available_scorers():
        scorer = get_scorer(name, **({"first": 2, "last": 6} if "alpha_req" in name else {}))
        value = scorer(fitted, IMAGES, DIAGNOSIS, groups=PATIENT)
        if SCORES[name].of == "labels":
            expected = SCORES[name].better(SCORES[name].metric(Z, DIAGNOSIS, groups=PATIENT))
            assert value == pytest.approx(expected)
        else:
            assert value == scorer(fitted, IMAGES, DIAGNOSIS)
    few = get_scorer("knn_accuracy", n_images=40, random_state=3)
    drawn = np.sort(np.random.RandomState(3).permutation(80)[:40])
    expected = metrics.knn_accuracy(Z[drawn], DIAGNOSIS[drawn], groups=PATIENT[drawn])
    assert few(fitted, IMAGES, DIAGNOSIS, groups=PATIENT) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"groups belong to the images.*enable_metadata_routing"):
        get_scorer("knn_accuracy", groups=PATIENT)


KNN = get_scorer("knn_accuracy")


@pytest.mark.parametrize("cv", [GroupKFold(2), LabeledKFold(2)], ids=str)
@pytest.mark.parametrize(
    ("scoring", "refit"),
    [(None, True), (KNN, True), ({"neighbors": KNN, "rank": get_scorer("rankme")}, "neighbors")],
    ids=["score", "scorer", "several"],
)
def test_a_search_passes_groups_on_to_scores(embedder, cv, scoring, refit):
    side = np.arange(80) // 2 % 2  # each patient has both
    params = {"cv": cv, "scoring": scoring, "refit": refit, "error_score": "raise"}
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(embedder(), {"max_epochs": [1]}, **params)
        search.fit(IMAGES, side, groups=PATIENT)
        nested = cross_val_score(
            search, IMAGES, side, params={"groups": PATIENT}, cv=GroupKFold(2), error_score="raise"
        )
    expected = []
    for train, test in cv.split(IMAGES, side, PATIENT):
        assert not {*PATIENT[train]} & {*PATIENT[test]}
        fold = embedder().fit(IMAGES[train])
        expected.append(fold.score(IMAGES[test], side[test], groups=PATIENT[test]))
    assert search.best_score_ == pytest.approx(np.mean(expected))
    assert np.isfinite(nested).all()


def test_groups_may_be_kept_from_a_scorer_or_have_another_name(embedder):
    plain, renamed = get_scorer("knn_accuracy"), get_scorer("knn_accuracy")
    with pytest.raises(RuntimeError, match="enable_metadata_routing=True"):
        plain.set_score_request(groups=False)
    search = GridSearchCV(embedder(), {"max_epochs": [0]}, cv=GroupKFold(2))
    with config_context(enable_metadata_routing=True):
        search.set_params(scoring=plain.set_score_request(groups=False))
        leaked = search.fit(IMAGES, DIAGNOSIS, groups=PATIENT).best_score_
        search.set_params(scoring=renamed.set_score_request(groups="patients"))
        kept = search.fit(IMAGES, DIAGNOSIS, groups=PATIENT, patients=PATIENT).best_score_
        estimator = SSLImageEmbedder().set_score_request(groups=True).set_fit_request(groups=True)
    assert leaked > kept + 0.2
    assert estimator.get_metadata_routing().score.requests == {"groups": True}


def test_folds_of_groups_hold_labels_of_each_class_and_leave_out_what_is_unlabeled_of_tested_groups():
    y = np.where(np.arange(160) % 4 == 0, np.arange(20)[PATIENTS] % 2, -1)
    tested = []
    for train, test in LabeledKFold(4).split(None, y, PATIENTS):
        assert not {*PATIENTS[train]} & {*PATIENTS[test]}
        assert {*y[test]} == {0, 1}
        assert {*train} == {*np.flatnonzero(~np.isin(PATIENTS, PATIENTS[test]))}
        assert -1 in y[train]
        tested += test.tolist()
    assert sorted(tested) == np.flatnonzero(y >= 0).tolist()
    with pytest.raises(ValueError, match="Class 0 has 10 groups with labels, fewer than n_splits=11"):
        next(LabeledKFold(11).split(None, y, PATIENTS))


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.8])
def test_whole_groups_are_held_back(fraction):
    groups = np.repeat(np.arange(12), [3, 9, 4, 4, 6, 5, 8, 2, 7, 1, 5, 6])  # 60 images
    source = ArraySource(torch.zeros(60 + 5, 3, 4, 4))  # the last five are of X_unlabeled
    train, held = hold_back(source, 60, fraction, groups)
    rows, held_rows = train.rows.numpy(), held.rows.numpy()
    assert sorted([*rows, *held_rows]) == list(range(65))
    assert not {*groups[rows[rows < 60]]} & {*groups[held_rows]}
    assert abs(len(held) - fraction * 60) <= 4.5


def test_held_back_groups_are_scored_by_groups(embedder):
    params = {"validation_fraction": 0.5, "eval_metrics": ["knn_accuracy", "recall_at_k"]}
    fitted = embedder(**params).fit(IMAGES, DIAGNOSIS, groups=PATIENT)
    held = hold_back(ArraySource(torch.zeros(80, 3, 4, 4)), 80, 0.5, PATIENT)[1].rows.numpy()
    assert len({*PATIENT[held]}) == 5
    expected = fitted.score(IMAGES[held], DIAGNOSIS[held], groups=PATIENT[held])
    assert fitted.history_[-1]["knn_accuracy"] == expected
    beside = embedder().fit(IMAGES, eval_set=(IMAGES, DIAGNOSIS, PATIENT))
    assert beside.history_[-1]["knn_accuracy"] == beside.score(IMAGES, DIAGNOSIS, groups=PATIENT)


def test_held_back_labels_of_one_group_are_no_score(embedder):
    # A tenth is one patient, with whose images alone no class can be found in another group.
    fitted = embedder(validation_fraction=0.1).fit(IMAGES, DIAGNOSIS, groups=PATIENT)
    assert fitted.eval_metrics_ == ["rankme"]
    with pytest.raises(ValueError, match="in two groups each of at least two classes"):
        embedder(validation_fraction=0.1, eval_metrics="knn_accuracy").fit(IMAGES, DIAGNOSIS, groups=PATIENT)
    with pytest.raises(ValueError, match=r"holds 0 back, in whole groups \(1 in all\)"):
        embedder(validation_fraction=0.4).fit(IMAGES, groups=np.zeros(80))


def test_displays_take_groups(embedder):
    fitted = embedder().fit(IMAGES)
    display = NeighborsDisplay.from_estimator(fitted, IMAGES, groups=PATIENT)
    assert (PATIENT[display.index[:, 1:]] != PATIENT[display.index[:, :1]]).all()
    leaked = NeighborsDisplay.from_estimator(fitted, IMAGES).index
    assert (PATIENT[leaked[:, 1:]] == PATIENT[leaked[:, :1]]).mean() > 0.5
    two = NeighborsDisplay.from_estimator(fitted, IMAGES, groups=PATIENT > 0, queries=[3, 9], n_neighbors=50)
    assert two.index.shape == (2, 1 + 8)  # of the second query, the eight images of patient 0
    with pytest.raises(ValueError, match="All images are of one group"):
        NeighborsDisplay.from_estimator(fitted, IMAGES, groups=np.zeros(80))
    efficiency = LabelEfficiencyDisplay.from_estimator(
        fitted, IMAGES, DIAGNOSIS, groups=PATIENT, n_labels=(1, 8, 30)
    )
    assert efficiency.n_labels.tolist() == [1, 8]  # no half has 30 of a class, of 40
    Z = fitted.transform(IMAGES)
    expected = metrics.few_label_accuracy(Z, DIAGNOSIS, groups=PATIENT, n_labels=8)
    assert efficiency.accuracies[1] == expected
    with pytest.raises(ValueError, match="in one half of the groups: n_labels=39 are more"):
        LabelEfficiencyDisplay.from_embeddings(Z, DIAGNOSIS, groups=PATIENT, n_labels=[39])


def test_callbacks_of_scikit_learn_score_by_groups(embedder):
    callback = pytest.importorskip("sklearn.callback", reason="scikit-learn before 1.9 has no callbacks")
    monitor = callback.ScoringMonitor(scoring={"knn": KNN, "rank": get_scorer("rankme")})
    fitted = embedder().set_callbacks(monitor).fit(IMAGES, DIAGNOSIS, groups=PATIENT)
    row = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"][-1]
    assert row["knn"] == KNN(fitted, IMAGES, DIAGNOSIS, groups=PATIENT)


# ---------------------------------------------------------------------------- unlabeled images

BRIGHT = np.arange(60) % 2
FEW = np.where(np.arange(60) < 24, BRIGHT, -1)
SHADES = (np.random.default_rng(0).integers(0, 60, (60, 8, 8, 3)) + 120 * BRIGHT[:, None, None, None]).astype(
    np.uint8
)


def test_a_classifier_that_leaves_out_unlabeled_images(embedder):
    learner = SelfTrainingClassifier(LogisticRegression(max_iter=1000), max_iter=0)
    pipe = make_pipeline(embedder(augment="none"), learner)
    assert cross_val_score(pipe, SHADES, FEW, cv=LabeledKFold(3), error_score="raise").mean() > 0.9
    assert (pipe.fit(SHADES, FEW).predict(SHADES) == BRIGHT).mean() > 0.9
    assert KNN(pipe, SHADES, FEW) > 0.9  # without a warning


def test_a_scorer_warns_of_a_classifier_that_has_learned_unlabeled_as_a_class(embedder):
    pipe = make_pipeline(embedder(augment="none"), LogisticRegression(max_iter=1000))
    assert cross_val_score(pipe, SHADES, FEW, cv=LabeledKFold(3)).mean() < 0.5
    with pytest.warns(UserWarning, match=r"learned -1, .* beside \[0, 1\].*SelfTrainingClassifier"):
        KNN(pipe.fit(SHADES, FEW), SHADES, FEW)
    for y in (BRIGHT, 2 * BRIGHT - 1, np.array(["dark", "bright"])[BRIGHT]):
        get_scorer("rankme")(pipe.fit(SHADES, y), SHADES)  # -1 and 1 are two classes: no warning
