"""Display of the singular values of embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator

from sklearn_ssl._displays.display import Display, embeddings_of, style
from sklearn_ssl.metrics import rankme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Range of singular values that is plotted, relative to the largest: smaller ones are rounding errors.
SPECTRUM_LIMITS = (1e-7, 2)


class SpectrumDisplay(Display):
    """Plot of the singular values of embeddings: how many dimensions they use.

    Parameters
    ----------
    singular_values : array of shape (n,)
        Singular values of the embeddings, not centered, the largest first.
    rank : float
        Effective rank (`sklearn_ssl.metrics.rankme`).

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axis of the plot.
    figure_ : matplotlib.figure.Figure
        Its figure.
    line_ : matplotlib.lines.Line2D
        The curve.

    Examples
    --------
    >>> from sklearn_ssl import SpectrumDisplay
    >>> display = SpectrumDisplay.from_estimator(embedder, images)  # doctest: +SKIP
    """

    def __init__(self, *, singular_values: np.ndarray, rank: float):
        self.singular_values = singular_values
        self.rank = rank

    @classmethod
    def from_estimator(
        cls, estimator: BaseEstimator, X: Any, *, ax: Axes | None = None, name: str | None = None
    ) -> Self:
        """Plot the spectrum of the embeddings of images.

        Parameters
        ----------
        estimator : SSLImageEmbedder or Pipeline
            Fitted embedder, or pipeline that begins with one.
        X : images
            Images, in any form that `transform` accepts.
        ax : matplotlib.axes.Axes, default=None
            Axis to plot on, such as that of another display; None: a new one.
        name : str, default=None
            Name in the legend.

        Returns
        -------
        SpectrumDisplay
            The display.
        """
        return cls.from_embeddings(embeddings_of(estimator, X), ax=ax, name=name)

    @classmethod
    def from_embeddings(cls, embeddings: Any, *, ax: Axes | None = None, name: str | None = None) -> Self:
        """Plot the spectrum of embeddings.

        Parameters
        ----------
        embeddings : array-like of shape (n, d)
            Embeddings.
        ax : matplotlib.axes.Axes, default=None
            Axis to plot on; None: a new one.
        name : str, default=None
            Name in the legend.

        Returns
        -------
        SpectrumDisplay
            The display.
        """
        rank = rankme(embeddings)
        s = np.linalg.svd(np.asarray(embeddings, float), compute_uv=False)
        return cls(singular_values=s, rank=rank).plot(ax, name=name)

    def plot(self, ax: Axes | None = None, *, name: str | None = None) -> Self:
        """Plot the singular values on a logarithmic scale.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Axis to plot on; None: a new one.
        name : str, default=None
            Name in the legend.

        Returns
        -------
        SpectrumDisplay
            The display.
        """
        ax = self.use_axis(ax)
        i = len(ax.lines)
        label = f"{name or 'embeddings'}: effective rank {self.rank:.0f} of {len(self.singular_values)}"
        shares = self.singular_values / max(self.singular_values[0], np.finfo(float).tiny)
        look = style(i) | {"marker": None}
        (self.line_,) = ax.plot(np.arange(1, len(shares) + 1), shares, label=label, **look)
        ax.set(xlabel="dimension", ylabel="singular value / the largest", yscale="log", ylim=SPECTRUM_LIMITS)
        ax.legend(frameon=False)
        return self
