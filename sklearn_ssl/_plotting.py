"""Pictures of what the network is shown, and of what it fills in."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import clone

from sklearn_ssl._embedder import SSLImageEmbedder
from sklearn_ssl._hardware.ambient import own_settings
from sklearn_ssl._images.pixel_scale import PixelScale
from sklearn_ssl.losses._adapters import loss_name, resolve_loss
from sklearn_ssl.losses._base import ViewSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        Seed of the views.

    Returns
    -------
    ndarray of shape (n_images, n_views, height, width, channels), float32
        Pixel values in [0, 1], or about it.
    """
    probe = clone(embedder).set_params(warm_start=False)
    with own_settings():
        source, _ = probe._open(X)
        pixels = probe._pixels
        unit = pixels.to_unit(source.batch(torch.arange(len(source))))
        drawn = probe._make_views()(unit, ViewSpec(n=n_views), random_state)
        return _in_pixels(torch.stack(drawn, dim=1), pixels)  # (n, n_views, C, H, W)


def plot_views(embedder: SSLImageEmbedder, X: Any, n_views: int = 6, random_state: int = 0) -> Figure:
    """Draw the views of some images, a row for each: look at them before a long fit.

    Parameters
    ----------
    embedder : SSLImageEmbedder
        Fitted or not; left as it is.
    X : images
        At least two, as for `sample_views`. Three channels are drawn in colour, others as the grey of
        the first.
    n_views : int, default=6
        Views of each image.
    random_state : int, default=0
        Seed of the views.

    Returns
    -------
    matplotlib Figure
    """
    return _drawn(sample_views(embedder, X, n_views, random_state))


def plot_reconstructions(embedder: SSLImageEmbedder, X: Any, random_state: int = 0) -> Figure:
    """Draw what a loss such as "mae" fills in: a row for each image, itself, what is shown of it, the result.

    Parameters
    ----------
    embedder : SSLImageEmbedder
        Fitted with ``warm_start=True``, which keeps what `transform` does not need; left as it is.
    X : images
        At least two, like those of the training.
    random_state : int, default=0
        Decides what is hidden.

    Returns
    -------
    matplotlib Figure
        What is hidden is drawn in middle grey, and three channels in colour, others as the grey of the first.

    Raises
    ------
    ValueError
        The loss fills nothing in, or what it has learned for it was not kept.
    """
    loss = resolve_loss(embedder.loss)
    if not hasattr(loss, "reconstruct"):
        raise ValueError(
            f"The loss {loss_name(loss)} fills nothing in. Among those that do are 'mae', 'simmim', "
            "'inpainting', 'beit' and 'colorization'."
        )
    if getattr(embedder, "_training_state", None) is None:
        raise ValueError(
            "What paints the pictures is thrown away after a training: fit with warm_start=True, which keeps "
            "it."
        )
    probe = copy.copy(embedder).set_params(warm_start=True, callbacks=None, verbose=0)
    with own_settings(), torch.no_grad():
        source, loss = probe._open(X)
        net, pixels = probe._make_net(loss, source), probe._pixels
        unit = pixels.to_unit(source.batch(torch.arange(len(source))).to(probe.device_))
        views = probe._make_views()(unit, ViewSpec(1, recipes=("none",)), random_state)
        generator = torch.Generator(probe.device_).manual_seed(random_state)
        shown, made = net.criterion_.eval().reconstruct(views, net.module_.eval(), generator)
        rows = torch.stack([views[0], shown, made], dim=1).cpu()  # (n, 3, C, H, W)
    return _drawn(np.nan_to_num(_in_pixels(rows, pixels), nan=0.5), titles=("image", "shown", "filled in"))


def _in_pixels(standardised: torch.Tensor, pixels: PixelScale) -> np.ndarray:
    """(rows, columns, C, H, W) -> (rows, columns, H, W, C), values about [0, 1]."""
    return (standardised * pixels.std[:, None, None] + pixels.mean[:, None, None]).movedim(2, -1).numpy()


def _drawn(pictures: np.ndarray, titles: Sequence[str] = ()) -> Figure:
    """Pictures (rows, columns, height, width, channels), side by side, with titles of the columns."""
    import matplotlib.pyplot as plt

    rows, columns = pictures.shape[:2]
    figure, axes = plt.subplots(rows, columns, figsize=(1.3 * columns, 1.3 * rows), squeeze=False)
    for axis, picture in zip(axes.flat, pictures.clip(0, 1).reshape(-1, *pictures.shape[2:]), strict=True):
        axis.imshow(picture if picture.shape[2] == 3 else picture[:, :, 0], cmap="gray", vmin=0, vmax=1)
        axis.axis("off")
    for axis, title in zip(axes[0], titles, strict=False):
        axis.set_title(title, fontsize=9)
    figure.tight_layout(pad=0.2)
    return figure
