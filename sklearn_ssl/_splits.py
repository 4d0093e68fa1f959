"""Splits of few labels among many images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from sklearn.model_selection import BaseCrossValidator, StratifiedGroupKFold, StratifiedKFold

from sklearn_ssl._labels import Labeled, group_numbers


class LabeledKFold(BaseCrossValidator):
    """Stratified folds of the labeled images; unlabeled ones are in every training set, and never tested on.

    For ``cv=`` in scikit-learn, where `y` has few labels among many: other splitters spread them without
    regard to which images are labeled, so that a fold may have none. With groups, such as patients, all
    images of a group are trained on, or none: unlabeled images of the tested groups are left out.

    A classifier that follows the embedder in a pipeline has to leave out unlabeled images by itself, or it
    learns -1 as a class: ``SelfTrainingClassifier(classifier, max_iter=0)``, of `sklearn.semi_supervised`.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds; each class needs as many labels, or as many groups with labels.
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

    __metadata_request__split: ClassVar = {"groups": True}

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
            Labels; -1, NaN or None for unlabeled images.
        groups : array-like of shape (n_images,), default=None
            Groups of images that resemble each other, such as patients, plates or videos.

        Yields
        ------
        train : ndarray of shape (n_train,)
            Positions of the training images: all but those in `test`, and but those of its groups.
        test : ndarray of shape (n_test,)
            Positions of the test images, all of which are labeled.

        Raises
        ------
        ValueError
            If there are no labels, fewer than two classes, or a class with fewer labels (or groups with
            labels) than folds.
        """
        if y is None:
            raise ValueError("LabeledKFold needs labels: give y, with -1 for unlabeled images.")
        labeled = Labeled.of(y, groups)
        counts = labeled.groups_of_classes
        if counts.min() < self.n_splits:
            what, more = ("labels", "images") if groups is None else ("groups with labels", "groups")
            raise ValueError(
                f"Class {labeled.classes[counts.argmin()]} has {counts.min()} {what}, fewer than "
                f"n_splits={self.n_splits}: give a smaller n_splits, or label more {more}."
            )
        kind = StratifiedKFold if groups is None else StratifiedGroupKFold
        folds = kind(self.n_splits, shuffle=True, random_state=self.random_state)
        of_group = group_numbers(groups, len(y))
        for _, test in folds.split(labeled.y, labeled.y, None if groups is None else labeled.groups):
            in_training = ~np.isin(of_group, labeled.groups[test])
            yield np.flatnonzero(in_training), labeled.index[test]
