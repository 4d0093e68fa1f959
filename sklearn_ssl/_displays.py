"""Displays of what was learned, with the interface of scikit-learn's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize
from sklearn.utils.validation import check_is_fitted

from sklearn_ssl._checks import check_choice
from sklearn_ssl._images.pixel_scale import evenly_spaced
from sklearn_ssl._images.resize import resize_and_center
from sklearn_ssl._scorers import embedder_of
from sklearn_ssl.metrics import Interval, few_label_accuracy, is_labeled, rankme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colors that color-blind people can tell apart (Okabe and Ito, 2008), and markers for prints in gray.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
MARKERS = "osD^vPX*"
LINES = ("-", "--", ":", "-.")
# Range of singular values that is plotted, relative to the largest: smaller ones are rounding errors.
SPECTRUM_LIMITS = (1e-7, 2)
# Entries of a row of `history_` that are no terms of the loss.
NOT_TERMS = ("epoch", "dur", "images_per_second", "lr")


class _Display:
    """Display with an axis: the one that is given, or a new one."""

    ax_: Axes
    figure_: Figure

    def _axis(self, ax: Axes | None, size: tuple[float, float] = (5.0, 4.0)) -> Axes:
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots(figsize=size, layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure  # type: ignore[assignment]  # not a subfigure of one's own
        return ax


class TrainingCurveDisplay(_Display):
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
        ax = self._axis(ax)
        self.lines_ = {}
        for i, (name, values) in enumerate(self.curves.items()):
            (self.lines_[name],) = ax.plot(self.epochs, values, label=name, markersize=4, **_style(i))
        ax.set_xlabel("epoch")
        ax.locator_params(axis="x", integer=True)
        if len(self.curves) == 1:
            ax.set_ylabel(next(iter(self.curves)))
        else:
            ax.legend(frameon=False)
        return self


class SpectrumDisplay(_Display):
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
        return cls.from_embeddings(_embeddings(estimator, X), ax=ax, name=name)

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
        ax = self._axis(ax)
        i = len(ax.lines)
        label = f"{name or 'embeddings'}: effective rank {self.rank:.0f} of {len(self.singular_values)}"
        shares = self.singular_values / max(self.singular_values[0], np.finfo(float).tiny)
        style = _style(i) | {"marker": None}
        (self.line_,) = ax.plot(np.arange(1, len(shares) + 1), shares, label=label, **style)
        ax.set(xlabel="dimension", ylabel="singular value / the largest", yscale="log", ylim=SPECTRUM_LIMITS)
        ax.legend(frameon=False)
        return self


class EmbeddingMapDisplay(_Display):
    """Map of embeddings in the plane.

    Parameters
    ----------
    positions : array of shape (n, 2)
        Position of each image.
    method : {"pca", "tsne", "umap"}
        Method by which they were found.
    y : array of shape (n,) or None
        Labels, -1 for unlabeled images.
    thumbnails : array of shape (n_shown, height, width[, 3]) or None
        Images to draw, with values in [0, 1].
    shown : array of shape (n_shown,) or None
        Positions of these images in `positions`.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axis of the plot.
    figure_ : matplotlib.figure.Figure
        Its figure.
    scatters_ : dict of object to matplotlib.collections.PathCollection
        Points of each class.

    Examples
    --------
    >>> from sklearn_ssl import EmbeddingMapDisplay
    >>> display = EmbeddingMapDisplay.from_estimator(embedder, images, y, thumbnails=50)  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        positions: np.ndarray,
        method: str,
        y: np.ndarray | None = None,
        thumbnails: np.ndarray | None = None,
        shown: np.ndarray | None = None,
    ):
        self.positions = positions
        self.method = method
        self.y = y
        self.thumbnails = thumbnails
        self.shown = shown

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: Any,
        y: Any = None,
        *,
        method: str = "tsne",
        thumbnails: int = 0,
        random_state: int = 0,
        ax: Axes | None = None,
    ) -> Self:
        """Plot a map of images.

        Parameters
        ----------
        estimator : SSLImageEmbedder or Pipeline
            Fitted embedder, or pipeline that begins with one.
        X : images
            Images, in any form that `transform` accepts.
        y : array-like of shape (n_images,), default=None
            Labels, by which points are colored; -1 for unlabeled images, which are gray.
        method : {"tsne", "pca", "umap"}, default="tsne"
            Method that places the images. "tsne": near ones stay near; distances between groups mean
            nothing. "pca": the two directions of largest variance. "umap": as "tsne", for more images;
            needs ``pip install umap-learn``.
        thumbnails : int, default=0
            Number of images to draw, evenly spaced among X.
        random_state : int, default=0
            Seed of the method.
        ax : matplotlib.axes.Axes, default=None
            Axis to plot on; None: a new one.

        Returns
        -------
        EmbeddingMapDisplay
            The display.
        """
        positions = _places(_embeddings(estimator, X), method, random_state)
        pictures, shown = None, None
        if thumbnails:
            shown = _evenly_spaced(len(positions), thumbnails)
            pictures = _pictures(estimator, X, shown)
        labels = None if y is None else np.asarray(y)
        display = cls(positions=positions, method=method, y=labels, thumbnails=pictures, shown=shown)
        return display.plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Plot the map.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Axis to plot on; None: a new one.

        Returns
        -------
        EmbeddingMapDisplay
            The display.
        """
        ax = self._axis(ax, (6.0, 6.0))
        self.scatters_ = {}
        y = np.full(len(self.positions), -1) if self.y is None else self.y
        classes = [c for c in np.unique(y) if y.dtype.kind not in "iuf" or c != -1]
        if len(classes) < len(np.unique(y)):
            x_axis, y_axis = self.positions[y == -1].T
            self.scatters_[-1] = ax.scatter(x_axis, y_axis, s=8, color="0.7", label="unlabeled", linewidths=0)
        for i, c in enumerate(classes):
            color, marker = _style(i)["color"], _style(i + i // len(COLORS))["marker"]
            x_axis, y_axis = self.positions[y == c].T
            self.scatters_[c] = ax.scatter(
                x_axis, y_axis, s=14, color=color, marker=marker, label=str(c), linewidths=0
            )
        if classes:
            ax.legend(frameon=False, markerscale=1.5, loc="upper left", bbox_to_anchor=(1, 1))
        self._draw_thumbnails(ax)
        ax.set(xticks=[], yticks=[], title={"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}[self.method])
        return self

    def _draw_thumbnails(self, ax: Axes) -> None:
        from matplotlib.offsetbox import AnnotationBbox, OffsetImage

        if self.thumbnails is None or self.shown is None:
            return
        for picture, place in zip(self.thumbnails, self.positions[self.shown], strict=True):
            image = OffsetImage(picture, zoom=24 / max(picture.shape[:2]), cmap="gray", clim=(0, 1))
            ax.add_artist(AnnotationBbox(image, tuple(place), pad=0.1))


class NeighborsDisplay(_Display):
    """Pictures of queries, each with its nearest neighbors in a row.

    Parameters
    ----------
    pictures : array of shape (n_queries, 1 + n_neighbors, height, width[, 3])
        Query and neighbors, with values in [0, 1].
    index : array of shape (n_queries, 1 + n_neighbors)
        Positions of these images in X.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axis of the plot.
    figure_ : matplotlib.figure.Figure
        Its figure.
    im_ : matplotlib.image.AxesImage
        All pictures as one image.

    Examples
    --------
    >>> from sklearn_ssl import NeighborsDisplay
    >>> display = NeighborsDisplay.from_estimator(embedder, images, queries=[0, 7])  # doctest: +SKIP
    """

    def __init__(self, *, pictures: np.ndarray, index: np.ndarray):
        self.pictures = pictures
        self.index = index

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: Any,
        *,
        queries: int | Sequence[int] = 6,
        n_neighbors: int = 6,
        ax: Axes | None = None,
    ) -> Self:
        """Plot the nearest neighbors of some images, by cosine similarity.

        Parameters
        ----------
        estimator : SSLImageEmbedder or Pipeline
            Fitted embedder, or pipeline that begins with one.
        X : images
            Images, in any form that `transform` accepts.
        queries : int or list of int, default=6
            Positions of the queries in X, or their number: then they are evenly spaced.
        n_neighbors : int, default=6
            Number of neighbors of each.
        ax : matplotlib.axes.Axes, default=None
            Axis to plot on; None: a new one.

        Returns
        -------
        NeighborsDisplay
            The display.
        """
        Z = normalize(_embeddings(estimator, X))
        chosen = _evenly_spaced(len(Z), queries) if isinstance(queries, int) else np.asarray(queries)
        n_neighbors = min(n_neighbors, len(Z) - 1)
        found = (
            NearestNeighbors(n_neighbors=n_neighbors + 1).fit(Z).kneighbors(Z[chosen], return_distance=False)
        )
        # The query itself is the nearest, unless there are copies of it.
        rows = [[q, *[i for i in row if i != q][:n_neighbors]] for q, row in zip(chosen, found, strict=True)]
        index = np.array(rows)
        pictures = _pictures(estimator, X, index.ravel())
        return cls(pictures=pictures.reshape(*index.shape, *pictures.shape[1:]), index=index).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Plot the pictures, queries at the left.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Axis to plot on; None: a new one.

        Returns
        -------
        NeighborsDisplay
            The display.
        """
        n_rows, n_columns, height, width = self.pictures.shape[:4]
        ax = self._axis(ax, (0.9 * n_columns, 0.9 * n_rows + 0.3))
        gap = max(1, height // 16)
        size = (n_rows * (height + gap) - gap, n_columns * (width + gap) + gap, *self.pictures.shape[4:])
        canvas = np.ones(size, np.float32)
        for row in range(n_rows):
            for column in range(n_columns):
                top, left = row * (height + gap), column * (width + gap) + (2 * gap if column else 0)
                canvas[top : top + height, left : left + width] = self.pictures[row, column]
        self.im_ = ax.imshow(canvas, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title("query, and its nearest neighbors", fontsize="medium", loc="left")
        ax.axis("off")
        return self


class LabelEfficiencyDisplay(_Display):
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
            Labels; images with the label -1 are left out.
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
            _embeddings(estimator, X),
            y,
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
        y, n_labels, n_draws, random_state, ax, name : object
            As in `from_estimator`.

        Returns
        -------
        LabelEfficiencyDisplay
            The display.
        """
        y = np.asarray(y)
        smallest = np.unique(y[is_labeled(y)], return_counts=True)[1].min()
        usable = np.array([n for n in n_labels if n < smallest])
        if len(usable) == 0:
            raise ValueError(
                f"The smallest class has {smallest} labels: n_labels={list(n_labels)} leaves none to test "
                f"on. Give smaller numbers."
            )
        params = {"n_draws": n_draws, "random_state": random_state}
        accuracies = [few_label_accuracy(embeddings, y, n_labels=int(n), **params) for n in usable]
        return cls(n_labels=usable, accuracies=accuracies).plot(ax, name=name)

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
        ax = self._axis(ax)
        style = _style(len(ax.lines))
        means = [each.mean for each in self.accuracies]
        (self.line_,) = ax.plot(self.n_labels, means, label=name or "embeddings", **style)
        low, high = ([getattr(each, end) for each in self.accuracies] for end in ("low", "high"))
        self.band_ = ax.fill_between(self.n_labels, low, high, color=style["color"], alpha=0.15, linewidth=0)
        ax.set(xscale="log", xlabel="labels per class", ylabel="accuracy")
        ax.set_xticks(self.n_labels, map(str, self.n_labels))
        ax.minorticks_off()
        ax.legend(frameon=False)
        return self


def _style(i: int) -> dict[str, Any]:
    """Return color, marker and line of the i-th curve or class."""
    return {
        "color": COLORS[i % len(COLORS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": LINES[i % len(LINES)],
    }


def _embeddings(estimator: BaseEstimator, X: Any) -> np.ndarray:
    embedder = embedder_of(estimator)
    check_is_fitted(embedder)
    Z = embedder.transform(X)
    if not np.isfinite(Z).all():
        bad = np.flatnonzero(~np.isfinite(Z).all(axis=1))
        raise ValueError(
            f"{len(bad)} of {len(Z)} images cannot be read, such as number {bad[0]}: leave them out of X."
        )
    return Z


def _evenly_spaced(n: int, k: int) -> np.ndarray:
    return evenly_spaced(n, k).numpy()


def _places(Z: np.ndarray, method: str, random_state: int) -> np.ndarray:
    """Return a place (n, 2) for each embedding."""
    check_choice("method", method, ("pca", "tsne", "umap"))
    if len(Z) < 3:
        raise ValueError(f"There are {len(Z)} images: a map needs at least 3.")
    if method == "pca":
        return PCA(2, random_state=random_state).fit_transform(Z)
    if method == "tsne":
        perplexity = min(30.0, (len(Z) - 1) / 3)
        return TSNE(
            init="pca", metric="cosine", perplexity=perplexity, random_state=random_state
        ).fit_transform(Z)
    try:
        from umap import UMAP  # type: ignore[import-not-found]  # optional
    except ImportError:
        raise ImportError("method='umap' needs umap-learn: pip install umap-learn, or take 'tsne'.") from None
    return UMAP(metric="cosine", random_state=random_state).fit_transform(Z)


def _pictures(estimator: BaseEstimator, X: Any, index: np.ndarray) -> np.ndarray:
    """Return images at training resolution, (n, height, width[, 3]), with values in [0, 1]."""
    embedder = embedder_of(estimator)
    source = embedder._open_for_inference(X)
    images = embedder._pixels.to_unit(source.batch(torch.from_numpy(np.asarray(index, np.int64))))
    array = resize_and_center(images, embedder.image_size_).clamp(0, 1).movedim(1, -1).numpy()
    return array if array.shape[-1] == 3 else array[..., 0]
