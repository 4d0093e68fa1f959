"""Augmentations by name, and those of the user: functions of a batch and torchvision transforms."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields, make_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_ssl._hardware.ambient import lent_generators
from sklearn_ssl._params import did_you_mean
from sklearn_ssl.augment import PRESETS, Augment

# The fields of every preset are the same; "auto" has not seen the images yet, so neither has its values.
AutoAugment = make_dataclass("AutoAugment", [(field.name, Any, "auto") for field in fields(Augment)])


def resolve_augment(augment: Any) -> Any:
    """The class or function whose keywords are the `augment__<name>` parameters.

    Raises
    ------
    ValueError
        No preset has this name.
    """
    if callable(augment):
        return augment
    if isinstance(augment, str) and augment == "auto":
        return AutoAugment
    if isinstance(augment, str) and augment in PRESETS:
        return PRESETS[augment]
    raise ValueError(
        f"Unknown augment {augment!r}.{did_you_mean(str(augment), PRESETS)} Give 'auto', one of "
        f"{', '.join(PRESETS)}, a function f(images, generator) that returns one view of each image, or a "
        f"transform of torchvision."
    )


def make_augment(augment: Any, params: dict) -> Augment | Callable:
    """The preset with the user's values ("auto": the preset's own), or the user's function or transform."""
    target = resolve_augment(augment)
    if is_transform(target):
        return OneByOne(target)
    if target not in PRESETS.values():
        return functools.partial(target, **params) if params else target
    own = {field.name: field.default for field in fields(target)}
    return target(
        **{
            name: own.get(name, value) if isinstance(value, str) and value == "auto" else value
            for name, value in params.items()
        }
    )


# On which a function is tried: a flip of the whole batch, at a chance of one half, shows in 15 of 16 cases.
COPIES, SEEDS = 4, 5


class OneByOne:
    """Apply a transform to each image of a batch, so that each has random numbers of its own.

    Parameters
    ----------
    transform : callable
        From a float tensor of shape (channels, height, width) to another; all results have one shape. It may
        draw from the global generators of torch, numpy and Python.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor]):
        self.transform = transform

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return torch.stack([self.transform(image) for image in images])


def is_transform(augment: Any) -> bool:
    """Return whether it is a transform of torchvision (v1 or v2), or an `nn.Sequential` of such."""
    if isinstance(augment, nn.Sequential):
        return len(augment) > 0 and all(map(is_transform, augment))
    return any(kind.__module__.startswith("torchvision.transforms") for kind in type(augment).__mro__)


def is_drawn_once(augment: Callable[[Tensor, torch.Generator], Tensor], image: Tensor) -> bool:
    """Return whether a function changes all images of a batch alike, by numbers drawn once for the batch.

    Parameters
    ----------
    augment : callable
        From images (n, channels, height, width) and a generator to their views; tried on copies of an image.
    image : Tensor of shape (channels, height, width)

    Returns
    -------
    bool
        True if copies of the image come out equal, but other ones by other seeds; False where it fails.
    """
    copies = image.expand(COPIES, *image.shape)
    try:
        views = [_drawn(augment, copies.clone(), seed) for seed in range(SEEDS)]
        return all(torch.equal(view, view[:1].expand_as(view)) for view in views) and not all(
            torch.equal(view, views[0]) for view in views
        )
    except Exception:  # a function may raise anything, and is told so when it is used
        return False


def _drawn(augment: Callable, images: Tensor, seed: int) -> Tensor:
    with lent_generators(seed, images.device):
        return augment(images, torch.Generator(images.device).manual_seed(seed))
