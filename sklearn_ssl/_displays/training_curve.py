"""Display of the loss by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from sklearn_ssl._checks import check_choice
from sklearn_ssl._displays.display import Display, style
from sklearn_ssl._scorers import embedder_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Entries of a row of `history_` that are no terms of the loss.
NOT_TERMS = ("epoch", "dur", "images_per_second", "lr")


class TrainingCurveDisplay(Display):
    """Plot of the loss, and of its terms, by epoch.

    Parameters
    ----------
    epochs : array of shape (n_epochs,)
        Numbers of the epochs.
    curves : dict of str to array of shape (n_epochs,)
        Values by name.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axis of the plot.
    figure_ : matplotlib.figure.Figure
        Its figure.
    lines_ : dict of str to matplotlib.lines.Line2D
        Curves by name.

    Examples
    --------
    >>> from sklearn_ssl import TrainingCurveDisplay
    >>> display = TrainingCurveDisplay.from_estimator(embedder)  # doctest: +SKIP
    """

    def __init__(self, *, epochs: np.ndarray, curves: dict[str, np.ndarray]):
        self.epochs = epochs
        self.curves = curves

    @classmethod
    def from_estimator(
        cls, estimator: BaseEstimator, *, names: Sequence[str] | None = None, ax: Axes | None = None
    ) -> Self:
        """Plot the history of a fitted embedder.

        Parameters
        ----------
        estimator : SSLImageEmbedder or Pipeline
            Fitted embedder, or pipeline that begins with one.
        names : list of str, default=None
            Entries of `history_` to plot, such as "lr". None: the loss and its terms.
        ax : matplotlib.axes.Axes, default=None
            Axis to plot on; None: a new one.

        Returns
        -------
        TrainingCurveDisplay
            The display.
        """
        embedder = embedder_of(estimator)
        check_is_fitted(embedder)
        history = embedder.history_
        known = [name for name in history[0] if name != "epoch"]
        for name in names or ():
            check_choice("names", name, known)
        shown = names or [name for name in known if name not in NOT_TERMS]
        curves = {name: np.array([row.get(name, np.nan) for row in history], float) for name in shown}
        return cls(epochs=np.array([row["epoch"] for row in history]), curves=curves).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Plot the curves.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Axis to plot on; None: a new one.

        Returns
        -------
        TrainingCurveDisplay
            The display.
        """
        ax = self.use_axis(ax)
        self.lines_ = {}
        for i, (name, values) in enumerate(self.curves.items()):
            (self.lines_[name],) = ax.plot(self.epochs, values, label=name, markersize=4, **style(i))
        ax.set_xlabel("epoch")
        ax.locator_params(axis="x", integer=True)
        if len(self.curves) == 1:
            ax.set_ylabel(next(iter(self.curves)))
        else:
            ax.legend(frameon=False)
        return self
