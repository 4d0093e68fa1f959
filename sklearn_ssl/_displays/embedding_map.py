"""Display of embeddings as a map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from sklearn_ssl._checks import check_choice
from sklearn_ssl._displays.display import COLORS, Display, embeddings_of, pictures_of, style
from sklearn_ssl._images.sources import evenly_spaced

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class EmbeddingMapDisplay(Display):
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
        positions = _places(embeddings_of(estimator, X), method, random_state)
        pictures, shown = None, None
        if thumbnails:
            shown = evenly_spaced(len(positions), thumbnails).numpy()
            pictures = pictures_of(estimator, X, shown)
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
        ax = self.use_axis(ax, (6.0, 6.0))
        self.scatters_ = {}
        y = np.full(len(self.positions), -1) if self.y is None else self.y
        classes = [c for c in np.unique(y) if y.dtype.kind not in "iuf" or c != -1]
        if len(classes) < len(np.unique(y)):
            x_axis, y_axis = self.positions[y == -1].T
            self.scatters_[-1] = ax.scatter(x_axis, y_axis, s=8, color="0.7", label="unlabeled", linewidths=0)
        for i, c in enumerate(classes):
            color, marker = style(i)["color"], style(i + i // len(COLORS))["marker"]
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
