"""Pictures of what the network is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import clone

from sklearn_ssl.losses.base import Views

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sklearn_ssl.embedder import SSLImageEmbedder


def sample_views(embedder: SSLImageEmbedder, X: Any, n_views: int = 6, random_state: int = 0) -> np.ndarray:
    """Random views of some images, as training draws them.

    Parameters
    ----------
    embedder : SSLImageEmbedder
        Fitted or not; left as it is.
    X : images
        At least two, in any form that `fit` takes. Pixel values are scaled by these images' statistics.
    n_views : int, default=6
        Views of each image.
    random_state : int, default=0

    Returns
    -------
    ndarray of shape (n_images, n_views, height, width, channels), float32
        Pixel values in [0, 1], or about it.
    """
    probe = clone(embedder).set_params(warm_start=False)
    _, source = probe._prepare(X)
    pixels = probe._pixels
    unit = pixels.to_unit(source.batch(torch.arange(len(source))))
    views = torch.stack(probe._views()(unit, Views(n=n_views), random_state), dim=1)  # (n, n_views, C, H, W)
    views = views * pixels.std[:, None, None] + pixels.mean[:, None, None]
    return views.movedim(2, -1).numpy()


def plot_views(embedder: SSLImageEmbedder, X: Any, n_views: int = 6, random_state: int = 0) -> Figure:
    """Draw the views of some images, a row for each: look at them before a long fit.

    Parameters
    ----------
    embedder, X, n_views, random_state
        As in `sample_views`. Three channels are drawn in colour, others as the grey of the first.

    Returns
    -------
    matplotlib Figure
    """
    import matplotlib.pyplot as plt

    views = sample_views(embedder, X, n_views, random_state).clip(0, 1)
    rows, columns = views.shape[:2]
    figure, axes = plt.subplots(rows, columns, figsize=(1.3 * columns, 1.3 * rows), squeeze=False)
    for axis, view in zip(axes.flat, views.reshape(-1, *views.shape[2:]), strict=True):
        axis.imshow(view if view.shape[2] == 3 else view[:, :, 0], cmap="gray", vmin=0, vmax=1)
        axis.axis("off")
    figure.tight_layout(pad=0.2)
    return figure
