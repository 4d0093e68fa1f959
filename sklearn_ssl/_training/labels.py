"""Labels of the training images, for losses that use them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.utils.validation import _num_samples
from torch import Tensor
from torch.utils.data import Dataset

from sklearn_ssl._labels import as_array, class_numbers, is_missing
from sklearn_ssl._warnings import warn


def check_is_target(y: Any, n_images: int) -> None:
    """Check that y contains one target for each image of X.

    Raises
    ------
    ValueError
        If y contains images, or its length differs from that of X.
    """
    if y is None:
        return
    advice = "Pass images without labels by keyword: fit(X, X_unlabeled=images)."
    items = y[:1] if isinstance(y, list | tuple) else ()
    if (
        isinstance(y, str | os.PathLike | Dataset)
        or np.ndim(items) > 2
        or getattr(y, "ndim", 1) > 2
        or any(isinstance(item, Image.Image | os.PathLike) for item in items)
    ):
        raise ValueError(f"y holds images, rather than a label or target for each image of X. {advice}")
    length = _num_samples(y)
    if length != n_images:
        raise ValueError(
            f"There are {n_images} images in X and {length} labels in y: give one label each. {advice}"
        )


def labels_for(uses_labels: bool | str, y: Any, n_samples: int, loss_name: str) -> Tensor | None:
    """Return the labels as a loss is given them.

    Parameters
    ----------
    uses_labels : bool or "values"
        Kind of the labels; see `SSLLoss`.
    y : array-like of shape (n_images,) or (n_images, n_values), or None
        Classes or values of the first images; -1 (of classes), NaN, None and pandas' NA mark unlabeled
        images (see `class_numbers`).
    n_samples : int
        Number of all training images; those after the first n_images are unlabeled.
    loss_name : str
        Name of the loss, for messages.

    Returns
    -------
    Tensor or None
        Class numbers from 0, or -1, of shape (n_samples,), int64; values, or NaN, of shape (n_samples,
        n_values), float32; None for a loss without labels.

    Raises
    ------
    ValueError
        If the loss needs labels and y is None, or its values are no finite numbers; or if it declares
        another kind of labels.
    """
    if not uses_labels:
        return None
    if uses_labels not in (True, "values"):
        raise ValueError(
            f"The loss {loss_name!r} declares uses_labels={uses_labels!r}: give True for classes, or "
            f"'values'."
        )
    of_values = uses_labels == "values"
    unknown = "NaN" if of_values else "-1"
    if y is None:
        raise ValueError(
            f"The loss {loss_name!r} learns from labels, but y is None: fit(X, y), with {unknown} where "
            f"unlabeled."
        )
    labels, unlabeled = _values(y, n_samples, loss_name) if of_values else _class_numbers(y, n_samples)
    if unlabeled.all():
        warn(
            f"The loss {loss_name!r} learns from labels, but every y is {unknown}, unlabeled: it can only "
            f"learn from the views. Give the known ones, or choose a loss without labels ('ntxent')."
        )
    return torch.from_numpy(labels)


def _class_numbers(y: Any, n_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return class numbers, and which of the given labels are unknown, as in `sklearn.semi_supervised`."""
    given, _ = class_numbers(y)
    numbers = np.full(n_samples, -1)
    numbers[: len(given)] = given
    return numbers, given == -1


def _values(y: Any, n_samples: int, loss_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return values, a row of NaN for unlabeled images, and which of the given rows are unlabeled."""
    try:
        given = as_array(y).astype(object)
        given[np.frompyfunc(is_missing, 1, 1)(given).astype(bool)] = np.nan
        given = given.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The loss {loss_name!r} learns from values, but y holds other things than numbers: {error}. "
            f"Give one number, or a row of numbers, for each image, and NaN where unlabeled."
        ) from error
    if np.isinf(given).any():
        raise ValueError(f"The loss {loss_name!r} learns from values, and y holds infinite ones.")
    given = given.reshape(len(given), -1)
    values = np.full((n_samples, given.shape[1]), np.nan, dtype=np.float32)
    values[: len(given)] = given
    unlabeled = np.isnan(given).any(axis=1)
    values[: len(given)][unlabeled] = np.nan
    return values, np.asarray(unlabeled)
