"""Random views of a whole batch: a few tensor operations on the device, each image with its own randomness.

All random numbers come from CPU generators seeded by (seed, view): the views are a pure function of the
seed, the same on every device, and choosing which images an operation meets never waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sklearn_ssl._hardware.ambient import lent_generators
from sklearn_ssl._hardware.devices import is_out_of_memory
from sklearn_ssl._images.resize import Size, resize_and_center
from sklearn_ssl._views.geometry import Scale, change_geometry
from sklearn_ssl._views.photometry import change_pixels
from sklearn_ssl.augment import Augment
from sklearn_ssl.losses._base import ViewSpec


class RandomViews:
    """Draws the views of a batch of images.

    Parameters
    ----------
    augment : Augment or callable
        How strong each operation is; or a function ``f(images, generator)`` that takes float32 images
        of shape (n, channels, height, width) and a torch.Generator on their device, and returns one
        view of each. Where a loss sets the share of the image that a view covers (local crops), that
        crop comes before the function.
    image_size : tuple of two ints
        (height, width) of a full-size view.
    mean, std : Tensor of shape (channels,)
        Each view leaves as (view - mean) / std.
    clamp : bool, default=True
        Keep values in [0, 1] after changes of colour and noise. False for images that do not lie
        within [0, 1], so that nothing is clipped.
    """

    def __init__(
        self,
        augment: Augment | Callable[[Tensor, torch.Generator], Tensor],
        image_size: Size,
        mean: Tensor,
        std: Tensor,
        clamp: bool = True,
    ):
        self.augment = augment if callable(augment) else fit_to_size(augment, image_size)
        self.image_size = tuple(image_size)
        self.mean = mean
        self.std = std
        self.clamp = clamp

    @torch.no_grad()
    def __call__(self, images: Tensor, views: ViewSpec, seed: int) -> list[Tensor]:
        """Views of each image.

        Parameters
        ----------
        images : Tensor of shape (n, channels, height, width), float32
            On any device, of any height and width; left as they are.
        views : ViewSpec
            How many views, and which.
        seed : int
            At least 0. The same seed gives the same views.

        Returns
        -------
        list of Tensor
            `views.n` of shape (n, channels, *image_size), then `views.local` with sides of
            `views.local_size` times that; normalised, float32, contiguous where the images are.

        Raises
        ------
        ValueError
            When a recipe is unknown, or the user's function returns something else than views.
        """
        local_size = tuple(max(1, round(views.local_size * side)) for side in self.image_size)
        wanted = [(self.image_size, views.scale)] * views.n + [(local_size, views.local_scale)] * views.local
        drawn = []
        for number, (size, scale) in enumerate(wanted):
            recipe = views.recipes[number % len(views.recipes)]
            view = self._view(images, recipe, size, scale, seed_of_view(seed, number))
            drawn.append(normalize(view, self.mean, self.std))
        return drawn

    def _view(self, images: Tensor, recipe: str, size: Size, scale: Scale | None, seed: int) -> Tensor:
        if recipe == "none":
            return resize_and_center(images, size)
        if recipe not in ("strong", "weak"):
            raise ValueError(f"Unknown recipe {recipe!r} in ViewSpec. Available: 'strong', 'weak', 'none'.")
        generator = torch.Generator().manual_seed(seed)
        if callable(self.augment):
            return self._view_by_function(images, size, scale, generator)
        augment = self.augment if recipe == "strong" else only_crop_and_flips(self.augment)
        view = change_geometry(images, augment, scale or (augment.crop, 1.0), size, generator)
        return change_pixels(view, augment, self.clamp, generator)

    def _view_by_function(
        self, images: Tensor, size: Size, scale: Scale | None, generator: torch.Generator
    ) -> Tensor:
        # a copy: a function that works in place must not change the next view's images
        source = images if scale is None else change_geometry(images, Augment(), scale, size, generator)
        device_generator = torch.Generator(images.device).manual_seed(generator.initial_seed())
        try:
            # The global generators are not to repeat what this one draws.
            with lent_generators(seed_of_view(generator.initial_seed(), 0), images.device):
                view = self.augment(source.clone(), device_generator)
        except Exception as error:  # a function may raise anything
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"augment failed on images of shape {tuple(source.shape)}: {error}. It is called as "
                f"augment(images, generator) and returns one view of each image."
            ) from error
        check_views(view, images)
        return resize_and_center(view.to(images.dtype), size)


def fit_to_size(augment: Augment, image_size: Size) -> Augment:
    """What "auto" means for images of this size."""
    if augment.blur != "auto":
        return augment
    return replace(augment, blur=0.5 if min(image_size) >= 64 else 0.0)


def only_crop_and_flips(augment: Augment) -> Augment:
    """The recipe "weak"."""
    kept = ("crop", "flip", "vertical_flip", "quarter_turns")
    return Augment(**{name: getattr(augment, name) for name in kept})


def check_views(view: object, images: Tensor) -> None:
    """Raise ValueError unless a user's function has returned one view of each image."""
    n, channels = images.shape[:2]
    given = type(view).__name__
    if isinstance(view, Tensor):
        if view.is_floating_point() and view.ndim == 4 and view.shape[:2] == images.shape[:2]:
            return
        given = f"a {str(view.dtype).removeprefix('torch.')} tensor of shape {tuple(view.shape)}"
    raise ValueError(
        f"augment returned {given} for images of shape {tuple(images.shape)}. It must return one view of "
        f"each image: a float tensor of shape ({n}, {channels}, height, width)."
    )


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(images - mean) / std, channel by channel; a new tensor of shape (n, channels, height, width)."""
    mean, std = (each.to(images.device, non_blocking=True)[:, None, None] for each in (mean, std))
    return (images - mean).div_(std)


def seed_of_view(seed: int, view: int) -> int:
    """A well-mixed seed for one view of one step."""
    return int(np.random.SeedSequence((int(seed), view)).generate_state(1, np.uint64)[0])
