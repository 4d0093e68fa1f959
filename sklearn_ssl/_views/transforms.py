"""Functions and transforms of the user, of whatever library, as functions of a batch and a generator."""

from __future__ import annotations

import copy
import functools
import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

OfBatch: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]

# Libraries whose transforms are recognized by the modules of their classes: none need be installed.
LIBRARIES = ("torchvision", "kornia", "albumentations", "lightly")


def of_batch(augment: Any, params: Mapping[str, Any]) -> OfBatch:
    """Return the function f(images, generator) that a function, a transform, or several in a row stand for.

    Parameters
    ----------
    augment : callable, or sequence of callables
        Function of images (n, channels, height, width) and a generator; transform of torchvision or
        albumentations, applied to each image; transform of kornia, applied to the batch; or a list, tuple or
        `nn.Sequential` of these.
    params : mapping
        Keyword arguments of a function.

    Raises
    ------
    ValueError
        If it cannot be called in this way; the message has a line of code that wraps it.
    """
    library = library_of(augment)
    if library == "kornia":  # a copy, as its transforms remember what they have drawn
        return functools.partial(_without_generator, copy.deepcopy(augment))
    if library == "albumentations":
        return Albumentations(copy.deepcopy(augment))
    if library == "torchvision":
        return OneByOne(augment)
    if library == "lightly":
        raise ValueError(_lightly_message(augment))
    if type(augment) in (list, tuple, nn.Sequential):
        return _in_turn(list(augment))
    _check_takes_generator(augment)
    return functools.partial(augment, **params) if params else augment


def library_of(augment: Any) -> str:
    """Return the library that a transform's class is made of, or ""."""
    roots = [kind.__module__.partition(".")[0] for kind in type(augment).__mro__]
    return next((root for root in roots if root in LIBRARIES), "")


class OneByOne:
    """Apply a transform to each image of a batch separately, so that each has its own random numbers.

    Parameters
    ----------
    transform : callable
        Maps a float tensor of shape (channels, height, width) to another; all results have the same shape.
        It may draw from the global generators of torch, numpy and Python.
    """

    def __init__(self, transform: Callable[..., Any]):
        self.transform = transform

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return torch.stack([self.transform(image) for image in images])


class Albumentations(OneByOne):
    """Apply a transform of albumentations to each image, as an array of shape (height, width, channels)."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        # Its generators are its own; before version 1.4, the global ones. After `set_random_seed`, all steps
        # of a Compose would draw the same numbers.
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        if hasattr(self.transform, "set_random_state"):
            self.transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        arrays = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        views = [self.transform(image=array)["image"] for array in arrays]
        return torch.stack([_as_tensor(view) for view in views]).to(images.device)


def _as_tensor(view: np.ndarray | Tensor) -> Tensor:
    """Return an array (height, width, channels), or (height, width), as a tensor; ToTensorV2 has made one."""
    from torchvision.transforms.functional import to_tensor  # late, as its import takes a while

    # A copy, as a flip may be a view with negative strides.
    return view if isinstance(view, Tensor) else to_tensor(np.ascontiguousarray(view))


def _without_generator(transform: Callable[[Tensor], Tensor], images: Tensor, _: torch.Generator) -> Tensor:
    return transform(images)


def _in_turn(steps: list[Any]) -> OfBatch:
    if steps and all(library_of(step) == "torchvision" for step in steps):
        from torchvision.transforms.v2 import Compose  # as late

        return OneByOne(Compose(steps))
    return functools.partial(_one_after_another, [of_batch(step, {}) for step in steps])


def _one_after_another(steps: Sequence[OfBatch], images: Tensor, generator: torch.Generator) -> Tensor:
    for step in steps:
        images = step(images, generator)
    return images


def _lightly_message(transform: Any) -> str:
    name = type(transform).__name__
    one = f"{name}(..., normalize=None)" + (".transforms[0]" if hasattr(transform, "transforms") else "")
    return (
        f"augment={name}(...): lightly's transforms take a PIL image, most make several views of it, and "
        f"they normalize, while augment returns one view in the values of the images. Wrap one of them: "
        f"augment=v2.Compose([v2.ToPILImage(), {one}]), with v2 of torchvision.transforms."
    )


def _check_takes_generator(augment: Any) -> None:
    """Raise a ValueError for what is no function, or has no second argument that can be the generator."""
    if not callable(augment):
        raise ValueError(
            f"augment is a list with {augment!r}. It may hold functions and transforms; a preset stands "
            f"alone: augment='photo'."
        )
    try:
        signature = inspect.signature(augment.forward if isinstance(augment, nn.Module) else augment)
    except (TypeError, ValueError):  # some functions in C do not tell
        return
    if not _has_place_for_generator(signature):
        name = getattr(augment, "__name__", "transform").replace("<lambda>", "f")
        raise ValueError(
            f"augment is called as augment(images, generator), but takes {signature}. If it takes a batch "
            f"(n, channels, height, width): augment=lambda images, generator: {name}(images). If it takes "
            f"one image (channels, height, width): augment=v2.Lambda({name}), with v2 of "
            f"torchvision.transforms."
        )


def _has_place_for_generator(signature: inspect.Signature) -> bool:
    arguments = signature.parameters.values()
    if any(each.kind is each.VAR_POSITIONAL for each in arguments):
        return True
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    second = [each.default for each in arguments if each.kind in by_position][1:2]
    return any(default is None or default is inspect.Parameter.empty for default in second)  # no strength=0.1
