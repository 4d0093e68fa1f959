"""Display of the loss, and of scores, by epoch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from sklearn_ssl._checks import check_choice
from sklearn_ssl._displays.display import Display, style
from sklearn_ssl._scorers import embedder_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Entries of a row of `history_` that are shown on demand.
ON_DEMAND = ("epoch", "dur", "images_per_second", "lr")


class TrainingCurveDisplay(Display):
    """Plot of the loss and its terms by epoch, and of the scores of held-back images on an axis at the right.

    Parameters
    ----------
    epochs : array of shape (n_epochs,)
        Numbers of the epochs.
    curves : dict of str to array of shape (n_epochs,)
        Values by name; NaN, which is left out, in epochs without an evaluation.
    scores : collection of str, default=()
        Names of the curves that belong to the axis at the right.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axis of the plot.
    figure_ : matplotlib.figure.Figure
        Its figure.
    score_ax_ : matplotlib.axes.Axes or None
        Axis of the scores.
    lines_ : dict of str to matplotlib.lines.Line2D
        Curves by name.

    Examples
    --------
    >>> from sklearn_ssl import TrainingCurveDisplay
    >>> display = TrainingCurveDisplay.from_estimator(embedder)  # doctest: +SKIP
    """

    def __init__(self, *, epochs: np.ndarray, curves: dict[str, np.ndarray], scores: Collection[str] = ()):
        self.epochs = epochs
        self.curves = curves
        self.scores = scores

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
            Entries of `history_` to plot, such as "lr". None: the loss, its terms, and scores.
        ax : matplotlib.axes.Axes, default=None
            Axis to plot on; None: a new one.

        Returns
        -------
        TrainingCurveDisplay
            The display.

        Raises
        ------
        ValueError
            If the embedder was not trained, or has no entries of these names.
        """
        embedder = embedder_of(estimator)
        check_is_fitted(embedder)
        history = embedder.history_
        if not history:
            raise ValueError("The embedder was not trained (max_epochs=0): there is no history to plot.")
        known = [name for name in history[0] if name != "epoch"]
        for name in names or ():
            check_choice("names", name, known)
        shown = names or [name for name in known if name not in ON_DEMAND]
        curves = {name: np.array([row.get(name, np.nan) for row in history], float) for name in shown}
        scores = set(getattr(embedder, "eval_metrics_", ())) & curves.keys()
        for name in {"valid_loss", *scores} & curves.keys():
            curves[name][_repeated(history, sorted(scores))] = np.nan
        return cls(epochs=np.array([row["epoch"] for row in history]), curves=curves, scores=scores).plot(ax)

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
        right = [name for name in self.curves if name in self.scores]
        left = [name for name in self.curves if name not in self.scores] or right
        self.score_ax_ = ax.twinx() if right and left is not right else None
        self.lines_ = {}
        for i, (name, values) in enumerate(self.curves.items()):
            axis = ax if name in left or self.score_ax_ is None else self.score_ax_
            known = np.isfinite(values)
            x, y = self.epochs[known], values[known]
            (self.lines_[name],) = axis.plot(x, y, label=name, markersize=4, **style(i))
        ax.set_xlabel("epoch")
        ax.locator_params(axis="x", integer=True)
        ax.set_ylabel(left[0] if len(left) == 1 else "loss")
        if self.score_ax_ is not None:
            self.score_ax_.set_ylabel(", ".join(right))
        if len(self.curves) > 1:
            ax.legend(handles=list(self.lines_.values()), frameon=False)
        return self


def _repeated(history: Sequence[Mapping[str, float]], scores: Sequence[str]) -> list[int]:
    """Return the rows that repeat the evaluation of the row before; the last one is always new."""
    names = ("valid_loss", *scores)
    values = [[row.get(name) for name in names] for row in history]
    return [i for i in range(1, len(values) - 1) if values[i] == values[i - 1]]
