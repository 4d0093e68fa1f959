"""Labels of the training images, for losses that use them."""

from __future__ import annotations

import os
from numbers import Real
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import column_or_1d
from sklearn.utils.validation import _num_samples
from torch import Tensor
from torch.utils.data import Dataset

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
        or any(isinstance(item, Image.Image | os.PathLike | Tensor) for item in items)
    ):
        raise ValueError(f"y holds images, rather than a label or target for each image of X. {advice}")
    length = _num_samples(y)
    if length != n_images:
        raise ValueError(
            f"There are {n_images} images in X and {length} labels in y: give one label each. {advice}"
        )


def class_numbers(y: Any, n_samples: int, loss_name: str) -> Tensor:
    """Encode labels as class numbers, with -1 for unlabeled as in `sklearn.semi_supervised`.

    Parameters
    ----------
    y : array-like of shape (n_images,) or None
        Classes of the first images; -1, NaN, None and pandas' NA mark unlabeled images.
    n_samples : int
        Number of all training images; those after the first n_images are unlabeled.
    loss_name : str
        Name of the loss, for messages.

    Returns
    -------
    Tensor of shape (n_samples,), int64
        Class numbers from 0, or -1.

    Raises
    ------
    ValueError
        If y is None.
    """
    if y is None:
        raise ValueError(
            f"The loss {loss_name!r} learns from labels, but y is None: fit(X, y), with -1 where unlabeled."
        )
    y = column_or_1d(y)
    unlabeled = np.array([_is_unlabeled(label) for label in y.tolist()], dtype=bool)
    if unlabeled.all():
        warn(
            f"The loss {loss_name!r} learns from labels, but every y is -1, unlabeled: it can only learn "
            "from the views. Give the known classes, or choose a loss without labels ('ntxent')."
        )
    numbers = np.full(n_samples, -1)
    numbers[: len(y)][~unlabeled] = LabelEncoder().fit_transform(y[~unlabeled])
    return torch.from_numpy(numbers)


def _is_unlabeled(label: Any) -> bool:
    """Return whether a label marks an unlabeled image: -1, or a missing value."""
    if label is None or type(label).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(label, Real) and (label == -1 or label != label)  # NaN is not equal to itself
