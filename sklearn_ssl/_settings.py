"""Parameters of the estimator, checked, and the values that "auto" resolves to."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.utils import check_random_state
from skorch.callbacks import Callback
from torch import nn

from sklearn_ssl._checks import check_bool, check_number, is_whole, shortened
from sklearn_ssl._hardware.devices import resolve_compile, resolve_device, resolve_precision
from sklearn_ssl._images.sources import Source
from sklearn_ssl._models.model_file import backbone_of_file
from sklearn_ssl._params import did_you_mean
from sklearn_ssl._training.optimizers import AUTO_OPTIMIZER, base_settings
from sklearn_ssl._views.two_tones import SYMBOLS_FROM, share_of_two_tones
from sklearn_ssl.losses._adapters import defaults_of
from sklearn_ssl.losses._base import SSLLoss

# Maximum learning rate and weight decay: more is a slip, and overflows in torch's steps.
MAX_RATE = 1_000_000


def contrastive_widths(feature_dim: int) -> tuple[int, ...]:
    """Return the widths of SimCLR's projector: as wide as the features, then 128."""
    return feature_dim, 128


# Backbone for "auto": on a CPU, where it learns more in the same time than a ResNet-18, which sees half as
# many images (docs/results.md, "Which network?"); and on other devices.
ON_CPU, ELSEWHERE = "resnet10", "resnet18"
# Values of "auto" where a loss's own `defaults` do not have the parameter.
DEFAULTS: dict[str, Any] = {
    "backbone": "auto",
    "projector": contrastive_widths,
    "augment": "auto",
    "optimizer": AUTO_OPTIMIZER,
    "warmup": 0.05,
    "max_epochs": 100,
    "batch_size": 256,
    "precision": "auto",
}
# Further keys of a loss's `defaults`: those of an optimizer, and the training resolution.
ALSO_DEFAULTS = {"lr", "weight_decay", "image_size"}


@dataclass(frozen=True)
class Settings:
    """Settings of one fit: parameters as given, and resolved where they were "auto".

    Each is an attribute of the fitted estimator, with an underscore at its end.
    """

    backbone: Any
    projector: Any
    augment: Any
    optimizer: Any
    lr: float
    weight_decay: float
    warmup: float
    max_epochs: int | None
    batch_size: int
    device: torch.device
    precision: str
    compile: bool


def check_parameters(params: Mapping[str, Any]) -> None:
    """Check parameters that would only fail, or mislead, later on.

    Raises
    ------
    ValueError
    """
    check_number("batch_size", params["batch_size"], whole=True, at_least=2, instead=("auto",))
    check_number("micro_batches", params["micro_batches"], whole=True, at_least=1)
    check_number("max_epochs", params["max_epochs"], whole=True, at_least=0, instead=("auto",))
    check_number("max_time", params["max_time"], above=0, instead=(None,))
    check_number("lr", params["lr"], above=0, at_most=MAX_RATE, instead=("auto",))
    check_number("weight_decay", params["weight_decay"], at_least=0, at_most=MAX_RATE, instead=("auto",))
    check_number("warmup", params["warmup"], at_least=0, at_most=1, instead=("auto",))
    check_number("eval_every", params["eval_every"], whole=True, at_least=1, instead=("auto",))
    check_number("validation_fraction", params["validation_fraction"], at_least=0, below=1)
    check_number("frozen_fraction", params["frozen_fraction"], at_least=0, below=1)
    check_number("verbose", params["verbose"], whole=True, at_least=0, instead=(True, False))
    check_bool("compile", params["compile"])
    check_bool("warm_start", params["warm_start"])
    _check_random_state(params["random_state"])
    _check_projector(params["projector"])
    _check_callbacks(params["callbacks"])
    if not isinstance(params["checkpoint"], str | os.PathLike | None):
        raise ValueError(f"checkpoint={params['checkpoint']!r}: give the path of a folder, or None.")


def resolve_settings(
    params: Mapping[str, Any], loss: SSLLoss, source: Source, tell: bool = False
) -> Settings:
    """Resolve every "auto", from the images, the device and the loss.

    Parameters
    ----------
    params : mapping
        Parameters of the estimator.
    loss : SSLLoss
        Its `defaults` come before those of this module.
    source : Source
        Training images.
    tell : bool, default=False
        Whether to print which augmentation was chosen.

    Raises
    ------
    ValueError
    """
    usual = _usual_values(params, loss)
    chosen = {name: usual[name] if is_auto(params[name]) else params[name] for name in DEFAULTS}
    if is_auto(params["max_epochs"]) and params["max_time"] is not None:
        chosen["max_epochs"] = None
    if is_auto(chosen["augment"]):
        chosen["augment"] = _augment_for(source, tell)
    device = resolve_device(params["device"])
    if is_auto(chosen["backbone"]):
        chosen["backbone"] = _backbone_for(device, params["backbone_params"] or {})
    chosen["precision"] = resolve_precision(chosen["precision"], device)
    chosen["batch_size"] = batch_size = min(int(chosen["batch_size"]), len(source))
    _check_micro_batches(params["micro_batches"], batch_size)
    return Settings(
        **chosen,
        # Learning rates are those of 256 images in a step.
        lr=usual["lr"] * batch_size / 256 if is_auto(params["lr"]) else params["lr"],
        weight_decay=usual["weight_decay"] if is_auto(params["weight_decay"]) else params["weight_decay"],
        device=device,
        compile=resolve_compile(params["compile"], device),
    )


def resolve_backbone_name(loss: Any, backbone: Any) -> Any:
    """Return what `backbone=` stands for beside a loss, before either is made."""
    return {**DEFAULTS, **defaults_of(loss)}["backbone"] if is_auto(backbone) else backbone


def resolve_image_size(loss: Any, image_size: Any) -> Any:
    """Return what `image_size=` stands for beside a loss: the given value, the loss's, or "auto".

    Raises
    ------
    ValueError
        If the user gives a function, which only a loss may.
    """
    if callable(image_size):
        raise ValueError(
            f"image_size={shortened(image_size)}: give 'auto', a number of pixels, or (height, width)."
        )
    return defaults_of(loss).get("image_size", "auto") if is_auto(image_size) else image_size


def is_auto(value: Any) -> bool:
    """Return whether a parameter was left at "auto"."""
    return isinstance(value, str) and value == "auto"


def _backbone_for(device: torch.device, params: Mapping[str, Any]) -> str:
    """Return the ResNet for the device; with weights, the network of the file, or the most usual one."""
    weights = params.get("weights")
    if weights is not None:
        return backbone_of_file(weights) or ELSEWHERE
    return ON_CPU if device.type == "cpu" else ELSEWHERE


def _augment_for(source: Source, tell: bool) -> str:
    """Return the preset for images of their kind."""
    share = share_of_two_tones(source)
    chosen = "symbols" if share >= SYMBOLS_FROM else "photo"
    if tell:
        print(
            f"augment='auto' is {chosen!r}: two tones explain {share:.0%} of the variance within an image "
            f"('symbols' from {SYMBOLS_FROM:.1%} on).",
            file=sys.stderr,
        )
    return chosen


def _usual_values(params: Mapping[str, Any], loss: SSLLoss) -> dict[str, Any]:
    """Return the values of "auto": what suits the optimizer, then what the loss asks for."""
    _check_defaults(loss)
    wanted = {**DEFAULTS, **loss.defaults}
    optimizer = wanted["optimizer"] if is_auto(params["optimizer"]) else params["optimizer"]
    # A loss's own learning rate and weight decay are meant for its own optimizer.
    own = loss.defaults if optimizer == wanted["optimizer"] else {}
    has_rate = not is_auto(params["lr"]) or "lr" in own
    return {**wanted, **base_settings(optimizer, lr_is_given=has_rate), **own}


def _check_defaults(loss: SSLLoss) -> None:
    known = {*DEFAULTS, *ALSO_DEFAULTS}
    for name in set(loss.defaults) - known:
        raise ValueError(
            f"The `defaults` of the loss {type(loss).__name__} have no meaning for {name!r}."
            + did_you_mean(name, known)
            + f" They may set {', '.join(sorted(known))}."
        )


def _check_micro_batches(micro_batches: int, batch_size: int) -> None:
    if 2 * micro_batches > batch_size:
        raise ValueError(
            f"micro_batches={micro_batches} leaves less than 2 of a batch's {batch_size} images to a part: "
            f"give at most {batch_size // 2}, or a larger batch_size."
        )


def _check_projector(projector: Any) -> None:
    if is_auto(projector) or isinstance(projector, nn.Module):
        return
    widths = projector if isinstance(projector, Sequence) and not isinstance(projector, str | bytes) else ()
    if not widths or not all(is_whole(width) and width >= 1 for width in widths):
        raise ValueError(
            f"projector={projector!r}: give the widths of its layers, for example (512, 128), an nn.Module "
            f"from features to projections, or leave it at 'auto'."
        )


def _check_random_state(random_state: Any) -> None:
    try:
        if isinstance(random_state, bool):
            raise ValueError
        check_random_state(random_state)
    except (ValueError, TypeError):
        raise ValueError(
            f"random_state={shortened(random_state)}: give an integer from 0 to {2**32 - 1}, a "
            f"numpy.random.RandomState, or None."
        ) from None


def _check_callbacks(callbacks: Any) -> None:
    if callbacks is None or (isinstance(callbacks, list | tuple) and all(map(_is_callback, callbacks))):
        return
    raise ValueError(
        f"callbacks={shortened(callbacks)}: give a list of skorch callbacks, for example "
        f"callbacks=[skorch.callbacks.EarlyStopping()], or None."
    )


def _is_callback(given: Any) -> bool:
    """Return whether skorch takes it: a callback, its class, or a pair of a name and one of these."""
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str):
        given = given[1]
    return isinstance(given, Callback) or (isinstance(given, type) and issubclass(given, Callback))
