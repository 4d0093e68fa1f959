"""Augmentations by name, or given by the user; whether one draws for each image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, make_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sklearn_ssl._hardware.ambient import lent_generators
from sklearn_ssl._params import did_you_mean
from sklearn_ssl._views.transforms import of_batch
from sklearn_ssl.augment import PRESETS, Augment

# All presets have the same fields. augment="auto" chooses a preset by the images, so before `fit` its values
# are unknown: each is shown as "auto".
AutoAugment = make_dataclass("AutoAugment", [(field.name, Any, "auto") for field in fields(Augment)])


def resolve_augment(augment: Any) -> Any:
    """Return the class or function whose keyword arguments are the parameters `augment__<name>`.

    Raises
    ------
    ValueError
        If no preset has this name.
    """
    if callable(augment) or isinstance(augment, (Augment, list, tuple)):
        return augment
    if isinstance(augment, str) and augment == "auto":
        return AutoAugment
    if isinstance(augment, str) and augment in PRESETS:
        return PRESETS[augment]
    raise ValueError(
        f"Unknown augment {augment!r}.{did_you_mean(str(augment), PRESETS)} Give 'auto', one of "
        f"{', '.join(PRESETS)}, a function f(images, generator) that returns one view of each image, or a "
        f"transform of torchvision, kornia or albumentations, or a list of them."
    )


def make_augment(augment: Any, params: dict) -> Augment | Callable:
    """Create a preset with the user's values ("auto": its own), or wrap the user's function or transform.

    Raises
    ------
    ValueError
        If there is no preset of this name, or a function or transform needs a wrapper.
    """
    target = resolve_augment(augment)
    if isinstance(target, Augment):
        return replace(target, **{name: value for name, value in params.items() if not _is_auto(value)})
    if target not in PRESETS.values():
        return of_batch(target, params)
    own = {field.name: field.default for field in fields(target)}
    return target(
        **{name: own.get(name, value) if _is_auto(value) else value for name, value in params.items()}
    )


def _is_auto(value: Any) -> bool:
    return isinstance(value, str) and value == "auto"


# Number of copies of an image, and of seeds, with which `is_drawn_once` tries a function. A flip of the whole
# batch with a probability of one half is detected in 15 of 16 cases.
N_COPIES, N_SEEDS = 4, 5


def is_drawn_once(augment: Callable[[Tensor, torch.Generator], Tensor], image: Tensor) -> bool:
    """Return whether a function draws its random numbers once for the batch instead of for each image.

    Parameters
    ----------
    augment : callable
        Maps images (n, channels, height, width) and a generator to views; tried on copies of one image.
    image : Tensor of shape (channels, height, width)
        Image to copy.

    Returns
    -------
    bool
        True if the views of all copies are equal for one seed, but differ between seeds; False if the
        function raises an error.
    """
    copies = image.expand(N_COPIES, *image.shape)
    try:
        views = [_drawn(augment, copies.clone(), seed) for seed in range(N_SEEDS)]
        return all(torch.equal(view, view[:1].expand_as(view)) for view in views) and not all(
            torch.equal(view, views[0]) for view in views
        )
    except Exception:  # any exception; it is reported when the function is used
        return False


def _drawn(augment: Callable, images: Tensor, seed: int) -> Tensor:
    with lent_generators(seed, images.device):
        return augment(images, torch.Generator(images.device).manual_seed(seed))
