"""Labels and groups of images, in any form: the only place that knows which images are unlabeled."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np
from sklearn.preprocessing import LabelEncoder
from torch import Tensor

# Label of an image without label, as in sklearn.semi_supervised; as text, where numpy puts it among names.
UNLABELED = -1
UNLABELED_TEXTS = ("-1", "-1.0")
# A missing value as numpy and pandas write it among names, and an empty cell of a table.
MISSING_TEXTS = ("", "nan", "NaN", "NaT", "<NA>")
# Largest number of classes that are numbers and not whole, such as grades of 0.5, 1.0 and 1.5.
MAX_GRADES = 20


def as_array(values: Any) -> np.ndarray:
    """Return one value, or row of values, per image as an array; masked values are None.

    Raises
    ------
    ValueError
        If the rows have different lengths.
    """
    if isinstance(values, np.ma.MaskedArray):
        array = values.data.astype(object)
        array[np.ma.getmaskarray(values)] = None
        return array
    if isinstance(values, Tensor):
        return np.asarray(values.tolist())  # on any device, with a gradient or not, in bfloat16 too
    if isinstance(values, list | tuple):
        values = [value.tolist() if isinstance(value, Tensor) else value for value in values]
    return np.asarray(values)


def as_column(values: Any, name: str) -> np.ndarray:
    """Return one value per image as an array (n,), of a column (n, 1) too.

    Raises
    ------
    ValueError
        If there is not one value for each image.
    """
    try:
        array = as_array(values)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name} holds several values for an image: give one. ({error})") from error
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim != 1:
        one_hot = f" (of one-hot rows: {name}.argmax(axis=1))" if name == "y" else ""
        one = "class label" if name == "y" else "group"
        raise ValueError(f"{name} has the shape {array.shape}: give one {one} for each image{one_hot}.")
    return array


def class_numbers(y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each image's class, in sorted order from 0, and the classes.

    Unlabeled images have the number -1. They are those with the label -1, None, NaN, pandas' NA, an empty
    name, or one of these as numpy or pandas write it among names ("-1", "nan"); or with a masked label.

    Raises
    ------
    ValueError
        If there is not one label for each image, or these are values rather than classes (infinite, or many
        different numbers that are not whole), or of several types.
    """
    column = as_column(y, "y")
    known = _is_labeled(column)
    numbers = np.full(len(column), UNLABELED)
    numbers[known], classes = _numbered(column[known], "y")
    broken = [label for label in classes.tolist() if isinstance(label, float) and label % 1]
    if broken and (len(classes) > min(MAX_GRADES, known.sum() / 2) or np.isinf(broken).any()):
        raise ValueError(
            f"y holds {len(classes)} different numbers, such as {broken[0]:g}, which are values rather than "
            f"classes: give one class label for each image (of values, for example np.digitize(y, bounds))."
        )
    return numbers, classes


def group_numbers(groups: Any, n_images: int) -> np.ndarray:
    """Return the number of each image's group; without groups, each image is its own.

    Raises
    ------
    ValueError
        If there is not one group for each image.
    """
    if groups is None:
        return np.arange(n_images)
    column = as_column(groups, "groups")
    if len(column) != n_images:
        raise ValueError(f"There are {n_images} images and {len(column)} groups: give one group each.")
    missing = sum(is_missing(group) for group in column.tolist())
    if missing:
        raise ValueError(
            f"groups has no value for {missing} of {n_images} images: give each its group, or one of its own."
        )
    return _numbered(column, "groups")[0]


@dataclass(frozen=True)
class Labeled:
    """Labeled images.

    Parameters
    ----------
    index : ndarray of shape (n,)
        Their positions among all images.
    y : ndarray of shape (n,)
        Numbers of their classes, from 0.
    groups : ndarray of shape (n,)
        Numbers of their groups; without groups, each image is its own.
    classes : ndarray of shape (n_classes,)
        Labels of the classes.
    """

    index: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(cls, y: Any, groups: Any = None) -> Labeled:
        """Find the labeled images.

        Raises
        ------
        ValueError
            If `y` holds no class labels, or fewer than two classes, or `groups` does not fit.
        """
        numbers, classes = class_numbers(y)
        index = np.flatnonzero(numbers != UNLABELED)
        if len(classes) < 2:
            raise ValueError(
                f"{len(index)} of {len(numbers)} images are labeled, with {len(classes)} classes: give "
                f"labels of at least two classes (in folds of few labels, by LabeledKFold), or use a metric "
                f"without labels, such as rankme."
            )
        return cls(index, numbers[index], group_numbers(groups, len(numbers))[index], classes)

    @property
    def groups_of_classes(self) -> np.ndarray:
        """Number of groups (n_classes,) that have labeled images of each class."""
        pairs = np.unique(self.y * (self.groups.max() + 1) + self.groups)
        return np.bincount(pairs // (self.groups.max() + 1))

    @property
    def queries(self) -> np.ndarray:
        """Positions among the labeled images of those whose class is in another group, too."""
        return np.flatnonzero(self.groups_of_classes[self.y] > 1)

    @property
    def n_comparable(self) -> int:
        """Number of classes that have labeled images in several groups."""
        return int((self.groups_of_classes > 1).sum())


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN, pandas' NA, or one of them as a text."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, str | bytes):
        return _text(value) in MISSING_TEXTS
    return isinstance(value, Number) and bool(value != value)  # NaN is not equal to itself


def _is_labeled(column: np.ndarray) -> np.ndarray:
    """Return which of the labels (n,) name a class."""
    if column.dtype.kind in "biuf":
        return (column == column) & (column != UNLABELED)
    return np.array([not (is_missing(label) or _is_minus_1(label)) for label in column.tolist()], dtype=bool)


def _is_minus_1(label: Any) -> bool:
    return _text(label) in UNLABELED_TEXTS if isinstance(label, str | bytes) else bool(label == UNLABELED)


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _numbered(values: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers from 0 in sorted order, and the different values."""
    encoder = LabelEncoder()
    try:
        return encoder.fit_transform(values), encoder.classes_
    except TypeError:
        types = sorted({type(value).__name__ for value in values.tolist()})
        raise ValueError(
            f"{name} holds values of several types ({', '.join(types)}): give names or numbers, for example "
            f"[str(value) for value in {name}]."
        ) from None
