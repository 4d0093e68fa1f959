"""Display of the accuracy by the number of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator

from sklearn_ssl._displays.display import Display, embeddings_of, style
from sklearn_ssl.metrics import Interval, few_label_accuracy
from sklearn_ssl.metrics._labeled import TooFewLabels

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class LabelEfficiencyDisplay(Display):
    """Plot of the accuracy by the number of labels per class.

    Parameters
    ----------
    n_labels : array of shape (n_points,)
        Numbers of labels per class.
    accuracies : list of Interval
        Accuracy for each: mean over several draws of the labels, and interval.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axis of the plot.
    figure_ : matplotlib.figure.Figure
        Its figure.
    line_ : matplotlib.lines.Line2D
        Means.
    band_ : matplotlib.collections.PolyCollection
        Intervals that hold 95 % of the draws.

    Examples
    --------
    >>> from sklearn_ssl import LabelEfficiencyDisplay
    >>> display = LabelEfficiencyDisplay.from_estimator(embedder, images, y)  # doctest: +SKIP
    >>> pixels = images.reshape(len(images), -1)  # doctest: +SKIP
    >>> LabelEfficiencyDisplay.from_embeddings(pixels, y, ax=display.ax_, name="pixels")  # doctest: +SKIP
    """

    def __init__(self, *, n_labels: np.ndarray, accuracies: list[Interval]):
        self.n_labels = n_labels
        self.accuracies = accuracies

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: Any,
        y: Any,
        *,
        groups: Any = None,
        n_labels: Sequence[int] = (1, 2, 5, 10, 20, 50),
        n_draws: int = 10,
        random_state: int = 0,
        ax: Axes | None = None,
        name: str | None = None,
    ) -> Self:
        """Plot the accuracy of logistic regression on the embeddings of images.

        Parameters
        ----------
        estimator : SSLImageEmbedder or Pipeline
            Fitted embedder, or pipeline that begins with one.
        X : images
            Images, in any form that `transform` accepts.
        y : array-like of shape (n_images,)
            Labels; images with the label -1, NaN or None are left out.
        groups : array-like of shape (n_images,), default=None
            Groups of images that resemble each other, such as patients, plates or videos: the labels of a
            draw are those of one half of the groups, and it is tested on the other half.
        n_labels : list of int, default=(1, 2, 5, 10, 20, 50)
            Numbers of labels per class; those that leave no image of a class to test on are left out.
        n_draws : int, default=10
            Number of times that the labels are drawn.
        random_state : int, default=0
            Seed of the draws.
        ax : matplotlib.axes.Axes, default=None
            Axis to plot on, such as that of another display; None: a new one.
        name : str, default=None
            Name in the legend.

        Returns
        -------
        LabelEfficiencyDisplay
            The display.
        """
        return cls.from_embeddings(
            embeddings_of(estimator, X),
            y,
            groups=groups,
            n_labels=n_labels,
            n_draws=n_draws,
            random_state=random_state,
            ax=ax,
            name=name,
        )

    @classmethod
    def from_embeddings(
        cls,
        embeddings: Any,
        y: Any,
        *,
        groups: Any = None,
        n_labels: Sequence[int] = (1, 2, 5, 10, 20, 50),
        n_draws: int = 10,
        random_state: int = 0,
        ax: Axes | None = None,
        name: str | None = None,
    ) -> Self:
        """Plot the accuracy of logistic regression on embeddings, or on any other features.

        Parameters
        ----------
        embeddings : array-like of shape (n, d)
            Embeddings.
        y, groups, n_labels, n_draws, random_state, ax, name : object
            As in `from_estimator`.

        Returns
        -------
        LabelEfficiencyDisplay
            The display.
        """
        params = {"groups": groups, "n_draws": n_draws, "random_state": random_state}
        accuracies = {}
        for n in n_labels:
            try:
                accuracies[n] = few_label_accuracy(embeddings, y, n_labels=int(n), **params)
            except TooFewLabels as error:
                too_few = error
        if not accuracies:
            raise ValueError(f"n_labels={list(n_labels)}: {too_few}") from None
        return cls(n_labels=np.array([*accuracies]), accuracies=[*accuracies.values()]).plot(ax, name=name)

    def plot(self, ax: Axes | None = None, *, name: str | None = None) -> Self:
        """Plot means and intervals.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Axis to plot on; None: a new one.
        name : str, default=None
            Name in the legend.

        Returns
        -------
        LabelEfficiencyDisplay
            The display.
        """
        ax = self.use_axis(ax)
        look = style(len(ax.lines))
        means = [each.mean for each in self.accuracies]
        (self.line_,) = ax.plot(self.n_labels, means, label=name or "embeddings", **look)
        low, high = ([getattr(each, end) for each in self.accuracies] for end in ("low", "high"))
        self.band_ = ax.fill_between(self.n_labels, low, high, color=look["color"], alpha=0.15, linewidth=0)
        ax.set(xscale="log", xlabel="labels per class", ylabel="accuracy")
        ax.set_xticks(self.n_labels, map(str, self.n_labels))
        ax.minorticks_off()
        ax.legend(frameon=False)
        return self
