"""Display of the random views that a fit trains on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone

from sklearn_ssl._displays.display import PictureGrid, as_pictures
from sklearn_ssl._hardware.ambient import own_settings
from sklearn_ssl._scorers import embedder_of
from sklearn_ssl.losses._base import ViewSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def sample_views(estimator: BaseEstimator, X: Any, n_views: int = 6, random_state: int = 0) -> np.ndarray:
    """Draw random views of images, as in training.

    Parameters
    ----------
    estimator : SSLImageEmbedder or Pipeline
        Embedder with the augmentation to use, or pipeline that begins with one, fitted or not; it is not
        modified.
    X : images
        At least two images, in any form that `fit` accepts. Pixel values are scaled by the statistics of
        these images.
    n_views : int, default=6
        Number of views per image.
    random_state : int, default=0
        Seed of the views.

    Returns
    -------
    ndarray of shape (n_images, n_views, height, width, channels), float32
        Views, with pixel values in or near [0, 1].

    See Also
    --------
    ViewsDisplay : Plot the views.
    """
    return _views(estimator, X, n_views, random_state).movedim(2, -1).numpy()


class ViewsDisplay(PictureGrid):
    """Pictures of random views, one row per image, to check an augmentation before a long fit.

    Parameters
    ----------
    pictures : array of shape (n_images, 1 + n_views, height, width[, 3])
        Image and views, with values in [0, 1].

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axis of the plot.
    figure_ : matplotlib.figure.Figure
        Its figure.
    im_ : matplotlib.image.AxesImage
        All pictures as one image.

    See Also
    --------
    sample_views : Return the views as an array.

    Examples
    --------
    >>> from sklearn_ssl import SSLImageEmbedder, ViewsDisplay
    >>> embedder = SSLImageEmbedder(augment="overhead")
    >>> display = ViewsDisplay.from_estimator(embedder, images[:4])  # doctest: +SKIP
    """

    title = "image, and its views"
    apart = True

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: Any,
        *,
        n_views: int = 6,
        random_state: int = 0,
        ax: Axes | None = None,
    ) -> Self:
        """Plot views of images.

        Parameters
        ----------
        estimator : SSLImageEmbedder or Pipeline
            Embedder with the augmentation to use, or pipeline that begins with one, fitted or not; it is not
            modified.
        X : images
            At least two images, as for `sample_views`. Images with three channels are plotted in color,
            others in gray by their first channel.
        n_views : int, default=6
            Number of views per image.
        random_state : int, default=0
            Seed of the views.
        ax : matplotlib.axes.Axes, default=None
            Axis to plot on; None: a new one.

        Returns
        -------
        ViewsDisplay
            The display.
        """
        views = _views(estimator, X, n_views, random_state)
        image = _views(estimator, X, 1, random_state, recipe="none")
        return cls(pictures=as_pictures(torch.cat([image, views], dim=1))).plot(ax)


def _views(
    estimator: BaseEstimator, X: Any, n_views: int, random_state: int, recipe: str = "strong"
) -> torch.Tensor:
    """Return views in unit values (n_images, n_views, C, H, W)."""
    probe = clone(embedder_of(estimator)).set_params(warm_start=False, verbose=0)
    with own_settings():
        task, _ = probe._open(X)
        unit = task.pixels.to_unit(task.source.batch(torch.arange(len(task.source))))
        drawn = task.make_views()(unit, ViewSpec(n=n_views, recipes=(recipe,)), random_state)
        return task.pixels.unit_of(torch.stack(drawn, dim=1))
