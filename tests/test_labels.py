"""Labels and groups in every form in which users have them, at every door that takes them."""

import decimal

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from sklearn_ssl import (
    EmbeddingMapDisplay,
    LabeledKFold,
    LabelEfficiencyDisplay,
    NeighborsDisplay,
    SSLLoss,
    get_scorer,
    metrics,
)
from sklearn_ssl._labels import class_numbers, group_numbers

NAN = float("nan")
KINDS = [0, 1, -1, 1, 0, 0, 1, -1, 0, 1, 0, 1]  # -1: unlabeled
LABELED = [kind for kind in KINDS if kind >= 0]


def of(zero, one, unlabeled):
    """Return the list of labels in which the two classes and unlabeled IMAGES are written so."""
    return [{0: zero, 1: one, -1: unlabeled}[kind] for kind in KINDS]


def column_of(library, make):
    def form():
        return make(pytest.importorskip(library))

    return form


FORMS = {
    "list": lambda: KINDS,
    "tuple": lambda: tuple(KINDS),
    "array": lambda: np.array(KINDS),
    "column": lambda: np.array(KINDS)[:, None],
    "list of rows": lambda: [[kind] for kind in KINDS],
    "small integers": lambda: np.array(KINDS, np.int8),
    "floats": lambda: np.array(KINDS, float),
    "NaN": lambda: of(0, 1, NAN),
    "None": lambda: of(0, 1, None),
    "half grades": lambda: of(0.5, 1.5, NAN),
    "decimals": lambda: of(decimal.Decimal(2), decimal.Decimal(7), decimal.Decimal(-1)),
    "bool": lambda: np.array(of(False, True, None), object),
    "bool and -1": lambda: of(False, True, -1),
    "names": lambda: of("cat", "dog", None),
    "names and -1": lambda: np.array(of("cat", "dog", -1), object),
    "names and -1 as numpy joins them": lambda: np.array(of("cat", "dog", -1)),
    "names and NaN": lambda: np.array(of("cat", "dog", NAN), object),
    "names and NaN as numpy joins them": lambda: np.array(of("cat", "dog", NAN)),
    "names and empty cells": lambda: of("cat", "dog", ""),
    "bytes": lambda: np.array(of(b"cat", b"dog", b"-1")),
    "all kinds of missing": lambda: np.array([*of("a", "b", None)[:3], *of("a", "b", NAN)[3:]], object),
    "masked": lambda: np.ma.array(of(3, 4, 5), mask=[kind < 0 for kind in KINDS]),
    "masked names": lambda: np.ma.array(of("a", "b", "c"), mask=[kind < 0 for kind in KINDS]),
    "tensor": lambda: torch.tensor(KINDS),
    "tensor column": lambda: torch.tensor(KINDS)[:, None],
    "tensor with gradient": lambda: torch.tensor(KINDS, dtype=torch.float32, requires_grad=True),
    "tensor of 16 bits": lambda: torch.tensor(KINDS, dtype=torch.bfloat16),
    "list of tensors": lambda: [torch.tensor(kind) for kind in KINDS],
    "pandas": column_of("pandas", lambda pd: pd.Series(KINDS, index=range(12, 0, -1))),
    "pandas categories": column_of("pandas", lambda pd: pd.Categorical(of("cat", "dog", None))),
    "pandas integers": column_of("pandas", lambda pd: pd.Series(of(0, 1, None), dtype="Int64")),
    "pandas bool": column_of("pandas", lambda pd: pd.Series(of(False, True, None), dtype="boolean")),
    "pandas names": column_of("pandas", lambda pd: pd.Series(of("cat", "dog", None), dtype="string")),
    "pandas frame": column_of("pandas", lambda pd: pd.DataFrame({"y": of("cat", "dog", None)})),
    "pandas names as text": column_of("pandas", lambda pd: pd.Series(of("a", "b", pd.NA)).map(str)),
    "polars": column_of("polars", lambda pl: pl.Series(of(0, 1, None))),
    "polars bool": column_of("polars", lambda pl: pl.Series(of(False, True, None))),
    "polars categories": column_of(
        "polars", lambda pl: pl.Series(of("cat", "dog", None), dtype=pl.Enum(["cat", "dog"]))
    ),
    "polars frame": column_of("polars", lambda pl: pl.DataFrame({"y": of("cat", "dog", None)})),
    "pyarrow": column_of("pyarrow", lambda pa: pa.array(of(0, 1, None))),
    "pyarrow categories": column_of(
        "pyarrow", lambda pa: pa.array(of("cat", "dog", None)).dictionary_encode()
    ),
    "pyarrow table": column_of("pyarrow", lambda pa: pa.table({"y": of("cat", "dog", None)})),
    "Hugging Face": column_of(
        "datasets", lambda datasets: datasets.Dataset.from_dict({"y": of("cat", "dog", None)})["y"]
    ),
}


@pytest.fixture(autouse=True)
def no_window():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.fixture(params=FORMS)
def y(request):
    return FORMS[request.param]()


def test_a_form_does_not_change_the_classes(y):
    numbers, classes = class_numbers(y)
    assert numbers.tolist() == KINDS
    assert len(classes) == 2


PAIRS = [(0, 1), (2.0, 3.0), (False, True), ("a", "b"), ("0", "1"), (b"0", b"1")]
MISSING = [-1, -1.0, None, NAN, np.float32(-1), np.int8(-1)]


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("seed", range(10))
def test_any_mixture_of_missing_labels_is_unlabeled(pair, seed):
    rng = np.random.default_rng(seed)
    kinds = [0, 1, *rng.integers(-1, 2, 30)]
    y = np.empty(len(kinds), object)
    y[:] = [MISSING[rng.integers(len(MISSING))] if kind < 0 else pair[kind] for kind in kinds]
    assert class_numbers(y)[0].tolist() == kinds


METRICS = {
    "knn": metrics.knn_accuracy,
    "probe": lambda Z, y, **params: metrics.linear_probe_accuracy(Z, y, cv=2, **params),
    "few labels": lambda Z, y, **params: (
        metrics.few_label_accuracy(Z, y, n_labels=1, n_draws=2, **params).mean
    ),
    "recall": metrics.recall_at_k,
    "mean average precision": metrics.mean_average_precision,
}
Z = np.random.default_rng(0).normal(size=(12, 3))
GROUPS = np.arange(12) // 2


VALUES = [metric(Z, KINDS, groups=groups) for metric in METRICS.values() for groups in (None, GROUPS)]


def test_a_form_does_not_change_a_metric(y):
    values = [metric(Z, y, groups=groups) for metric in METRICS.values() for groups in (None, GROUPS)]
    assert values == VALUES


IMAGES = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def fitted(embedder):
    return embedder(max_epochs=0).fit(IMAGES)


def test_a_form_does_not_change_scores_folds_and_displays(y, fitted):
    assert fitted.score(IMAGES, y) == fitted.score(IMAGES, KINDS)
    scorer = get_scorer("mean_average_precision")
    assert scorer(fitted, IMAGES, y, groups=GROUPS) == scorer(fitted, IMAGES, KINDS, groups=GROUPS)
    for groups in (None, GROUPS):
        one, other = (LabeledKFold(2).split(IMAGES, labels, groups) for labels in (y, KINDS))
        for (train, test), (other_train, other_test) in zip(one, other, strict=True):
            assert (train.tolist(), test.tolist()) == (other_train.tolist(), other_test.tolist())
    points = EmbeddingMapDisplay(positions=Z[:, :2], method="pca", y=y).plot().scatters_
    assert [len(part.get_offsets()) for part in points.values()] == [2, 5, 5]
    display = LabelEfficiencyDisplay.from_embeddings(Z, y, n_labels=[1], n_draws=2)
    assert display.accuracies[0].mean == METRICS["few labels"](Z, KINDS)


class SeesLabels(SSLLoss):
    """A loss that keeps the labels of its batches."""

    uses_labels = True
    seen: dict = {}  # noqa: RUF012  # of the class: the instance is copied

    def step(self, batch, student, teacher):
        SeesLabels.seen |= dict(zip(batch.index.tolist(), batch.y.tolist(), strict=True))
        return torch.stack(student(batch.views)).square().mean()


def test_a_form_does_not_change_the_training_and_its_evaluation(y, embedder):
    SeesLabels.seen.clear()
    fit = embedder(SeesLabels).fit(IMAGES, y, eval_set=(IMAGES, y, GROUPS))
    assert [SeesLabels.seen[i] for i in range(12) if i in SeesLabels.seen] == [
        kind for i, kind in enumerate(KINDS) if i in SeesLabels.seen
    ]
    assert fit.history_[-1]["knn_accuracy"] == fit.score(IMAGES, KINDS, groups=GROUPS)
    held = embedder(max_epochs=1, batch_size=4, validation_fraction=0.7).fit(IMAGES, y)
    assert held.eval_metrics_ == ["knn_accuracy"]


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.eye(12), r"shape \(12, 12\): give one class label for each image.*argmax"),
        ([[0, 1], [1]] * 6, "y holds several values for an image: give one"),
        (np.linspace(0, 1, 12), "12 different numbers, such as .* values rather than classes"),
        ([0, 1, np.inf] * 4, "values rather than classes"),
        (np.array([0, "a", 1] * 4, object), r"several types \(int, str\): give names or numbers"),
    ],
)
def test_what_is_no_class_is_refused_at_every_door(y, words, fitted, embedder):
    doors = [
        *(lambda metric=metric: metric(Z, y) for metric in METRICS.values()),
        lambda: fitted.score(IMAGES, y),
        lambda: next(LabeledKFold(2).split(IMAGES, y)),
        lambda: embedder(SeesLabels).fit(IMAGES, y),
        lambda: EmbeddingMapDisplay(positions=Z[:, :2], method="pca", y=y).plot(),
    ]
    for door in doors:
        with pytest.raises(ValueError, match=words):
            door()


def test_values_and_several_labels_are_evaluated_without_labels(embedder):
    for y in (np.linspace(0, 1, 12), np.eye(12)):
        assert embedder(validation_fraction=0.5).fit(IMAGES, y).eval_metrics_ == ["rankme"]


@pytest.mark.parametrize(
    "groups",
    [
        GROUPS.tolist(),
        GROUPS[:, None],
        torch.tensor(GROUPS),
        np.array([f"patient {i}" for i in GROUPS]),
        GROUPS - 1,  # -1 is a group as any other
        GROUPS / 7,
        np.array(["2026-01-01", "2026-02-01"] * 3, "datetime64[D]")[GROUPS] + GROUPS,
    ],
    ids=str,
)
def test_groups_may_be_anything_that_tells_them_apart(groups):
    numbers = group_numbers(groups, 12)
    assert np.array_equal(numbers[:, None] == numbers, GROUPS[:, None] == GROUPS)
    assert metrics.knn_accuracy(Z, KINDS, groups=groups) == metrics.knn_accuracy(Z, KINDS, groups=GROUPS)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (GROUPS[:5], "12 images and 5 groups: give one group each"),
        (np.zeros((12, 2)), r"groups has the shape \(12, 2\): give one group for each image"),
        ([None, *GROUPS[1:]], "no value for 1 of 12 images: give each its group, or one of its own"),
        (np.where(GROUPS == 2, np.nan, GROUPS), "no value for 2 of 12 images"),
        (np.array([1, "a"] * 6, object), r"groups holds values of several types \(int, str\)"),
    ],
)
def test_wrong_groups_are_told_at_every_door(groups, words, fitted, embedder):
    doors = [
        *(lambda metric=metric: metric(Z, KINDS, groups=groups) for metric in METRICS.values()),
        lambda: fitted.score(IMAGES, KINDS, groups=groups),
        lambda: next(LabeledKFold(2).split(IMAGES, KINDS, groups)),
        lambda: embedder(validation_fraction=0.5).fit(IMAGES, groups=groups),
        lambda: embedder().fit(IMAGES, eval_set=(IMAGES, KINDS, groups)),
        lambda: NeighborsDisplay.from_estimator(fitted, IMAGES, groups=groups),
        lambda: LabelEfficiencyDisplay.from_embeddings(Z, KINDS, groups=groups),
    ]
    for door in doors:
        with pytest.raises(ValueError, match=words):
            door()
