"""Display of images and their nearest neighbors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from sklearn_ssl._displays.display import PictureGrid, embeddings_of, pictures_of
from sklearn_ssl._images.sources import evenly_spaced

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class NeighborsDisplay(PictureGrid):
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

    title = "query, and its nearest neighbors"
    apart = True

    def __init__(self, *, pictures: np.ndarray, index: np.ndarray):
        super().__init__(pictures=pictures)
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
        Z = normalize(embeddings_of(estimator, X))
        chosen = evenly_spaced(len(Z), queries).numpy() if isinstance(queries, int) else np.asarray(queries)
        n_neighbors = min(n_neighbors, len(Z) - 1)
        found = (
            NearestNeighbors(n_neighbors=n_neighbors + 1).fit(Z).kneighbors(Z[chosen], return_distance=False)
        )
        # The query itself is the nearest, unless there are copies of it.
        rows = [[q, *[i for i in row if i != q][:n_neighbors]] for q, row in zip(chosen, found, strict=True)]
        index = np.array(rows)
        pictures = pictures_of(estimator, X, index.ravel())
        return cls(pictures=pictures.reshape(*index.shape, *pictures.shape[1:]), index=index).plot(ax)
