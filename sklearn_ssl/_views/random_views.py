"""Random views of a batch by batched tensor operations on the device, with random parameters per image.

All random numbers come from CPU generators seeded by (seed, view): the views are a pure function of the
seed, the same on every device, and choosing the images that an operation processes never synchronizes with
the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sklearn_ssl._hardware.ambient import lent_generators
from sklearn_ssl._hardware.devices import is_out_of_memory
from sklearn_ssl._images.pixel_scale import PixelScale
from sklearn_ssl._images.resize import Size, resize_and_center
from sklearn_ssl._views.draws import Draws, Rows
from sklearn_ssl._views.geometry import Scale, change_geometry, draw_place
from sklearn_ssl._views.photometry import change_pixels
from sklearn_ssl.augment import Augment
from sklearn_ssl.losses._base import ViewKind, ViewSpec, view_kinds


class RandomViews:
    """Generator of random views of a batch of images.

    Parameters
    ----------
    augment : Augment or callable
        Strength of each operation; or a function ``f(images, generator)`` that takes float32 images of
        shape (n, channels, height, width) and a torch.Generator on their device, and returns one view of
        each image. If a loss sets the fraction of the image that a view covers (local crops), images are
        cropped before the function is called.
    image_size : tuple of two ints
        (height, width) of a full-size view.
    mean, std : Tensor of shape (channels,)
        Normalization: each view is returned as (view - mean) / std.
    clamp : bool, default=True
        Whether to clip values to [0, 1] after color operations and noise. False for images whose values
        exceed [0, 1].
    """

    def __init__(
        self,
        augment: Augment | Callable[[Tensor, torch.Generator], Tensor],
        image_size: Size,
        mean: Tensor,
        std: Tensor,
        clamp: bool = True,
    ):
        # A preset is a dataclass without __call__, so only functions and transforms are callable.
        self.augment = augment if callable(augment) else fit_to_size(augment, image_size)
        self.image_size = image_size
        self.mean = mean
        self.std = std
        self.clamp = clamp

    @classmethod
    def of(cls, augment: Augment | Callable, image_size: Size, pixels: PixelScale) -> RandomViews:
        """Make the generator for images in the unit values of a scale."""
        return cls(augment, image_size, pixels.mean, pixels.std, clamp=pixels.bounded)

    @torch.no_grad()
    def __call__(self, images: Tensor, views: ViewSpec, seed: int, rows: Rows | None = None) -> list[Tensor]:
        """Draw the views of each image.

        Parameters
        ----------
        images : Tensor of shape (n, channels, height, width), float32
            Images on any device, of any height and width; not changed.
        views : ViewSpec
            Number and kind of the views.
        seed : int
            Non-negative seed. The same seed gives the same views.
        rows : Rows, optional
            Rows of the images in a larger batch: their views are those that they have there. None: the images
            are the whole batch. (A user's function draws for the images that it is given, from a seed of
            their first row.)

        Returns
        -------
        list of Tensor
            `views.n` views of shape (n, channels, *image_size), then `views.local` local crops with sides of
            `views.local_size` times that; normalized, float32, contiguous if the images are.

        Raises
        ------
        ValueError
            If the user's function does not return views.
        """
        rows = rows or Rows(len(images))
        drawn = [
            self._view(images, kind, seed_of_view(seed, number), rows)
            for number, kind in enumerate(view_kinds(views))
        ]
        return [normalize(view, self.mean, self.std) for view in drawn]

    def places(
        self, image_size: Sequence[int], views: ViewSpec, seed: int, rows: Rows, device: torch.device
    ) -> list[Tensor]:
        """Return where the views of a seed lie in their images.

        Parameters
        ----------
        image_size : sequence of two ints
            (height, width) of the images.
        views : ViewSpec
            Number and kind of the views.
        seed : int
            Seed of the views.
        rows : Rows
            Rows of the images in a larger batch.
        device : torch.device
            Device of the result.

        Returns
        -------
        list of Tensor of shape (n, 2, 3), float32
            See `Batch.places`.
        """
        return [
            self._place(image_size, kind, Draws(seed_of_view(seed, number), rows)).to(device)
            for number, kind in enumerate(view_kinds(views))
        ]

    def _place(self, image_size: Sequence[int], kind: ViewKind, draws: Draws) -> Tensor:
        augment, scale = self._strengths(kind)
        return draw_place(augment, scale, image_size, kind.shape(self.image_size), draws)

    def _view(self, images: Tensor, kind: ViewKind, seed: int, rows: Rows) -> Tensor:
        size = kind.shape(self.image_size)
        if kind.recipe == "none":
            return resize_and_center(images, size)
        draws = Draws(seed, rows)
        if callable(self.augment):
            return self._view_by_function(images, size, kind.scale, draws, seed + (rows.taken.start or 0))
        augment, scale = self._strengths(kind)
        view = change_geometry(images, augment, scale, size, draws)
        return change_pixels(view, augment, self.clamp, draws)

    def _strengths(self, kind: ViewKind) -> tuple[Augment, Scale]:
        """Return the augmentation of a view, and the range of the fraction of the area that it covers."""
        if kind.recipe == "none":
            return Augment(), (1.0, 1.0)
        assert isinstance(self.augment, Augment)
        augment = self.augment
        if isinstance(kind.recipe, Mapping):
            augment = replace(augment, **kind.recipe)  # checked by Augment
        elif kind.recipe == "weak":
            augment = only_crop_and_flips(augment)
        return augment, kind.scale or (augment.crop, 1.0)

    def _view_by_function(
        self, images: Tensor, size: Size, scale: Scale | None, draws: Draws, seed: int
    ) -> Tensor:
        # The function receives a copy: if it works in place, it must not change the images of the next view.
        source = images if scale is None else change_geometry(images, Augment(), scale, size, draws)
        assert callable(self.augment)
        device_generator = torch.Generator(images.device).manual_seed(seed % 2**64)
        try:
            # Another seed than the device generator's: the global generators must not repeat its numbers.
            with lent_generators(seed_of_view(seed, 0), images.device):
                view = self.augment(source.clone(), device_generator)
        except Exception as error:  # functions of users may raise any exception
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"augment failed on images of shape {tuple(source.shape)}: {error}. It is called as "
                f"augment(images, generator) and returns one view of each image; a function that is called "
                f"otherwise needs a wrapper, augment=lambda images, generator: f(images). A transform gets "
                f"float tensors with values of about 0 to 1: leave ToTensor and Normalize out."
            ) from error
        check_views(view, images)
        return resize_and_center(view.to(images.dtype), size)


def fit_to_size(augment: Augment, image_size: Size) -> Augment:
    """Resolve blur="auto" for images of this size."""
    if augment.blur != "auto":
        return augment
    return replace(augment, blur=0.5 if min(image_size) >= 64 else 0.0)


def only_crop_and_flips(augment: Augment) -> Augment:
    """Return the augmentation of the recipe "weak": crops, flips and quarter turns only."""
    kept = ("crop", "flip", "vertical_flip", "quarter_turns")
    return Augment(**{name: getattr(augment, name) for name in kept})


def check_views(view: object, images: Tensor) -> None:
    """Raise a ValueError unless a user's function returned one view of each image."""
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
    """Return (images - mean) / std per channel, as a new tensor of shape (n, channels, height, width)."""
    mean, std = (each.to(images.device, non_blocking=True)[:, None, None] for each in (mean, std))
    return (images - mean).div_(std)


def seed_of_view(seed: int, view: int) -> int:
    """Return the seed of one view of one step, decorrelated from those of all others."""
    return int(np.random.SeedSequence((int(seed), view)).generate_state(1, np.uint64)[0])
