"""Plots of augmented views and of reconstructions."""

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
from sklearn_ssl.losses._registry import available_losses, get_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sample_views(embedder: SSLImageEmbedder, X: Any, n_views: int = 6, random_state: int = 0) -> np.ndarray:
    """Draw random views of images, as in training.

    Parameters
    ----------
    embedder : SSLImageEmbedder
        Embedder with the augmentation to use, fitted or not; it is not modified.
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
    plot_views : Plot the views.
    """
    probe = clone(embedder).set_params(warm_start=False)
    with own_settings():
        task = probe._open(X)
        unit = task.pixels.to_unit(task.source.batch(torch.arange(len(task.source))))
        drawn = task.make_views()(unit, ViewSpec(n=n_views), random_state)
        return _in_pixels(torch.stack(drawn, dim=1), task.pixels)  # (n, n_views, C, H, W)


def plot_views(embedder: SSLImageEmbedder, X: Any, n_views: int = 6, random_state: int = 0) -> Figure:
    """Plot random views of images, one row per image, to check an augmentation before a long fit.

    Parameters
    ----------
    embedder : SSLImageEmbedder
        Embedder with the augmentation to use, fitted or not; it is not modified.
    X : images
        At least two images, as for `sample_views`. Images with three channels are plotted in color, others
        in gray by their first channel.
    n_views : int, default=6
        Number of views per image.
    random_state : int, default=0
        Seed of the views.

    Returns
    -------
    matplotlib.figure.Figure
        Figure with one row of views per image.

    See Also
    --------
    sample_views : Return the views as an array.
    """
    return _draw(sample_views(embedder, X, n_views, random_state))


def plot_reconstructions(embedder: SSLImageEmbedder, X: Any, random_state: int = 0) -> Figure:
    """Plot reconstructions by a loss such as "mae": per image, the image, the visible part and the result.

    Parameters
    ----------
    embedder : SSLImageEmbedder
        Embedder fitted with ``warm_start=True``, which keeps the trained loss; it is not modified.
    X : images
        At least two images of the same kind as the training images.
    random_state : int, default=0
        Seed of the masks.

    Returns
    -------
    matplotlib.figure.Figure
        Figure with one row per image. Hidden pixels are gray. Images with three channels are plotted in
        color, others in gray by their first channel.

    Raises
    ------
    ValueError
        If the loss does not reconstruct images, or its trained parameters were not kept.
    """
    loss = resolve_loss(embedder.loss)
    if not hasattr(loss, "reconstruct"):
        raise ValueError(
            f"The loss {loss_name(loss)} does not reconstruct images. Installed losses that do: "
            f"{', '.join(map(repr, _reconstructing_losses())) or 'none'}."
        )
    if getattr(embedder, "_training_state", None) is None:
        raise ValueError(
            "The trained parameters of the loss are not kept after a fit, unless warm_start=True: fit again "
            "with warm_start=True."
        )
    probe = copy.copy(embedder).set_params(warm_start=True, callbacks=None, verbose=0)
    with own_settings(), torch.no_grad():
        task = probe._open(X)
        net, pixels, device = task.make_net()[0], task.pixels, task.settings.device
        unit = pixels.to_unit(task.source.batch(torch.arange(len(task.source))).to(device))
        views = task.make_views()(unit, ViewSpec(1, recipes=("none",)), random_state)
        generator = torch.Generator(device).manual_seed(random_state)
        shown, made = net.criterion_.eval().reconstruct(views, net.module_.eval(), generator)
        rows = torch.stack([views[0], shown, made], dim=1).cpu()  # (n, 3, C, H, W)
    pictures = np.nan_to_num(_in_pixels(rows, pixels), nan=0.5)  # `reconstruct` marks hidden pixels by NaN
    return _draw(pictures, titles=("image", "visible", "reconstruction"))


def _reconstructing_losses() -> list[str]:
    """Return the names of the installed losses with the optional method `reconstruct`."""
    usable = [name for name, info in available_losses(details=True).items() if info.error is None]
    return [name for name in usable if hasattr(get_loss(name), "reconstruct")]


def _in_pixels(standardized: torch.Tensor, pixels: PixelScale) -> np.ndarray:
    """Convert standardized views (rows, columns, C, H, W) to unit values (rows, columns, H, W, C)."""
    return (standardized * pixels.std[:, None, None] + pixels.mean[:, None, None]).movedim(2, -1).numpy()


def _draw(pictures: np.ndarray, titles: Sequence[str] = ()) -> Figure:
    """Plot a grid of pictures (rows, columns, height, width, channels) with titles above the columns."""
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
