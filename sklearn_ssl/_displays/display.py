"""Parts of all displays: their axis, the look of curves, and embeddings and pictures of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_ssl._images.resize import resize_and_center
from sklearn_ssl._scorers import embedder_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colors that color-blind people can tell apart (Okabe and Ito, 2008), and markers for prints in gray.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
MARKERS = "osD^vPX*"
LINES = ("-", "--", ":", "-.")


class Display:
    """Display with an axis: the one that is given, or a new one."""

    ax_: Axes
    figure_: Figure

    def use_axis(self, ax: Axes | None, size: tuple[float, float] = (5.0, 4.0)) -> Axes:
        """Return the axis, a new one for None, and store it and its figure."""
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots(figsize=size, layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure  # type: ignore[assignment]  # not a subfigure of one's own
        return ax


class PictureGrid(Display):
    """Display of rows of pictures on one axis.

    Parameters
    ----------
    pictures : array of shape (n_rows, n_columns, height, width[, 3])
        Pictures, with values in [0, 1].

    Attributes
    ----------
    im_ : matplotlib.image.AxesImage
        All pictures as one image.
    """

    title: str = ""
    columns: Sequence[str] = ()  # titles of the columns
    apart = False  # whether the first column stands apart

    def __init__(self, *, pictures: np.ndarray):
        self.pictures = pictures

    def plot(self, ax: Axes | None = None) -> Self:
        """Plot the pictures.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Axis to plot on; None: a new one.

        Returns
        -------
        PictureGrid
            The display.
        """
        n_rows, n_columns, height, width = self.pictures.shape[:4]
        ax = self.use_axis(ax, (0.9 * n_columns + 0.1, 0.9 * n_rows + 0.3))
        gap = max(1, height // 16)
        size = n_rows * (height + gap) - gap, n_columns * (width + gap) + (gap if self.apart else -gap)
        canvas = np.ones((*size, *self.pictures.shape[4:]), np.float32)
        for column in range(n_columns):
            left = column * (width + gap) + (2 * gap if self.apart and column else 0)
            for row, picture in enumerate(self.pictures[:, column]):
                top = row * (height + gap)
                canvas[top : top + height, left : left + width] = picture
            if self.columns:
                name = self.columns[column]
                ax.text(left + (width - 1) / 2, -gap, name, ha="center", va="bottom", fontsize="small")
        self.im_ = ax.imshow(canvas.clip(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        if self.title:
            ax.set_title(self.title, fontsize="medium", loc="left")
        ax.axis("off")
        return self


def style(i: int) -> dict[str, Any]:
    """Return color, marker and line of the i-th curve or class."""
    return {
        "color": COLORS[i % len(COLORS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": LINES[i % len(LINES)],
    }


def embeddings_of(estimator: BaseEstimator, X: Any) -> np.ndarray:
    """Return the embeddings of images, all of which can be read."""
    embedder = embedder_of(estimator)
    check_is_fitted(embedder)
    Z = embedder.transform(X)
    if not np.isfinite(Z).all():
        bad = np.flatnonzero(~np.isfinite(Z).all(axis=1))
        raise ValueError(
            f"{len(bad)} of {len(Z)} images cannot be read, such as number {bad[0]}: leave them out of X."
        )
    return Z


def pictures_of(estimator: BaseEstimator, X: Any, index: np.ndarray) -> np.ndarray:
    """Return images at training resolution, (n, height, width[, 3]), with values in [0, 1]."""
    embedder = embedder_of(estimator)
    source = embedder._open_for_inference(X)
    images = embedder._pixels.to_unit(source.batch(torch.from_numpy(np.asarray(index, np.int64))))
    return as_pictures(resize_and_center(images, embedder.image_size_))


def as_pictures(images: Tensor) -> np.ndarray:
    """Convert unit values (..., C, H, W) to pictures (..., H, W, 3), or (..., H, W) of the first channel."""
    array = images.movedim(-3, -1).clamp(0, 1).numpy()
    return array if array.shape[-1] == 3 else array[..., 0]
