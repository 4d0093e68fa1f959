"""Display of the images that a loss has filled in."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Self

import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from sklearn_ssl._displays.display import PictureGrid, as_pictures
from sklearn_ssl._hardware.ambient import own_settings
from sklearn_ssl._scorers import embedder_of
from sklearn_ssl.losses._adapters import loss_name, resolve_loss
from sklearn_ssl.losses._base import ViewSpec
from sklearn_ssl.losses._registry import available_losses, get_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class ReconstructionDisplay(PictureGrid):
    """Pictures of reconstructions by a loss such as "mae": the image, the visible part and the result.

    Parameters
    ----------
    pictures : array of shape (n_images, 3, height, width[, 3])
        Image, visible part and reconstruction, with values in [0, 1]; hidden pixels are gray.

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
    >>> from sklearn_ssl import ReconstructionDisplay
    >>> display = ReconstructionDisplay.from_estimator(embedder, images[:4])  # doctest: +SKIP
    """

    columns = ("image", "visible", "reconstruction")

    @classmethod
    def from_estimator(
        cls, estimator: BaseEstimator, X: Any, *, random_state: int = 0, ax: Axes | None = None
    ) -> Self:
        """Plot reconstructions of images.

        Parameters
        ----------
        estimator : SSLImageEmbedder or Pipeline
            Embedder fitted with ``warm_start=True``, which keeps the trained loss, or pipeline that begins
            with one; it is not modified.
        X : images
            At least two images of the same kind as the training images. Images with three channels are
            plotted in color, others in gray by their first channel.
        random_state : int, default=0
            Seed of the masks.
        ax : matplotlib.axes.Axes, default=None
            Axis to plot on; None: a new one.

        Returns
        -------
        ReconstructionDisplay
            The display.

        Raises
        ------
        ValueError
            If the loss does not reconstruct images, or its trained parameters were not kept.
        """
        embedder = embedder_of(estimator)
        check_is_fitted(embedder)
        loss = resolve_loss(embedder.loss)
        if not hasattr(loss, "reconstruct"):
            raise ValueError(
                f"The loss {loss_name(loss)} does not reconstruct images. Installed losses that do: "
                f"{', '.join(map(repr, _reconstructing_losses())) or 'none'}."
            )
        if getattr(embedder, "_training_state", None) is None:
            raise ValueError(
                "The trained parameters of the loss are not kept after a fit, unless warm_start=True: fit "
                "again with warm_start=True."
            )
        probe = copy.copy(embedder).set_params(warm_start=True, callbacks=None, verbose=0)
        with own_settings(), torch.no_grad():
            task, _ = probe._open(X)
            net, pixels, device = task.make_net()[0], task.pixels, task.settings.device
            unit = pixels.to_unit(task.source.batch(torch.arange(len(task.source))).to(device))
            views = task.make_views()(unit, ViewSpec(1, recipes=("none",)), random_state)
            generator = torch.Generator(device).manual_seed(random_state)
            shown, made = net.criterion_.eval().reconstruct(views, net.module_.eval(), generator)
            rows = pixels.unit_of(torch.stack([views[0], shown, made], dim=1).cpu())  # (n, 3, C, H, W)
        # `reconstruct` marks hidden pixels by NaN.
        return cls(pictures=as_pictures(rows.nan_to_num(nan=0.5))).plot(ax)


def _reconstructing_losses() -> list[str]:
    """Return the names of the installed losses with the optional method `reconstruct`."""
    usable = [name for name, info in available_losses(details=True).items() if info.error is None]
    return [name for name in usable if hasattr(get_loss(name), "reconstruct")]
