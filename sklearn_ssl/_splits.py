"""Splits of few labels among many images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.model_selection import BaseCrossValidator, StratifiedKFold

from sklearn_ssl.metrics._arrays import is_labeled


class LabeledKFold(BaseCrossValidator):
    """Stratified folds of the labeled images; unlabeled ones are in every training set, and never tested on.

    For ``cv=`` in scikit-learn, where `y` has few labels among many: other splitters spread them without
    regard to which images are labeled, so that a fold may have none.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds; each class needs as many labels.
    random_state : int, RandomState instance or None, default=0
        Source of the order in which images are assigned to folds.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_ssl import LabeledKFold
    >>> y = np.array([0, 0, 1, 1, -1, -1])
    >>> for train, test in LabeledKFold(n_splits=2).split(y, y):
    ...     print(y[train], y[test])
    [ 0  1 -1 -1] [0 1]
    [ 0  1 -1 -1] [0 1]
    """

    def __init__(self, n_splits: int = 5, *, random_state: Any = 0):
        self.n_splits = n_splits
        self.random_state = random_state

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of folds.

        Parameters
        ----------
        X, y, groups : object
            Ignored.

        Returns
        -------
        int
            Number of folds.
        """
        return self.n_splits

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the positions of each fold.

        Parameters
        ----------
        X : object
            Ignored.
        y : array-like of shape (n_images,)
            Labels; -1 for unlabeled images.
        groups : object
            Ignored.

        Yields
        ------
        train : ndarray of shape (n_train,)
            Positions of the training images: all but those in `test`.
        test : ndarray of shape (n_test,)
            Positions of the test images, all of which are labeled.

        Raises
        ------
        ValueError
            If there are no labels, fewer than two classes, or a class with fewer labels than folds.
        """
        if y is None:
            raise ValueError("LabeledKFold needs labels: give y, with -1 for unlabeled images.")
        y = np.asarray(y)
        labeled = np.flatnonzero(is_labeled(y))
        classes, counts = np.unique(y[labeled], return_counts=True)
        if counts.min() < self.n_splits:
            raise ValueError(
                f"Class {classes[counts.argmin()]} has {counts.min()} labels, fewer than "
                f"n_splits={self.n_splits}: give a smaller n_splits, or label more images."
            )
        folds = StratifiedKFold(self.n_splits, shuffle=True, random_state=self.random_state)
        for _, test in folds.split(labeled, y[labeled]):
            yield np.setdiff1d(np.arange(len(y)), labeled[test]), labeled[test]
