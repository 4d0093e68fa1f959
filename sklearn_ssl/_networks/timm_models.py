"""Models of timm (PyTorch Image Models) as backbones, by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_ssl._checks import as_side
from sklearn_ssl._hardware.ambient import lent_generators
from sklearn_ssl._networks.weights import fit_channels, load_weights, mismatches, read_state_dict
from sklearn_ssl._params import did_you_mean

# Beginning of the names of these models as a `backbone`.
PREFIX = "timm:"
# Value of `weights` for the weights that timm downloads.
PRETRAINED = "pretrained"


def timm_model(
    name: str,
    in_channels: int,
    image_size: tuple[int, int],
    /,
    *,
    weights: Mapping[str, Tensor] | str | os.PathLike | None = None,
) -> nn.Module:
    """Create a model of timm, without its classifier.

    Parameters
    ----------
    name : str
        Name of the model in timm, such as "convnext_tiny" or "vit_small_patch16_224.dino".
    in_channels : int
        Number of channels of an image.
    image_size : tuple of two ints
        (height, width) of an image, in pixels, for models that depend on it.
    weights : state dict, path or "pretrained", default=None
        Initial weights; None: random. A path is that of a file of `SSLImageEmbedder.save`, of `torch.save` or
        of safetensors. "pretrained": timm's, which it downloads. Classifier weights are
        ignored. Filters for RGB are adapted to other numbers of channels, and weights that depend on the
        image size, such as position embeddings, to `image_size`, where timm can.

    Returns
    -------
    nn.Module
        Module that maps images (n, in_channels, height, width) to features (n, d).

    Raises
    ------
    ImportError
        If timm is not installed.
    ValueError
        If timm has no model of this name, or the weights cannot be read or do not match.
    """
    timm = _timm()
    if not timm.is_model(name):
        names = timm.list_models()
        raise ValueError(
            f"timm has no model {name!r}.{did_you_mean(name, names)} timm.list_models() returns the names of "
            f"its {len(names)} models."
        )
    given = isinstance(weights, str) and weights == PRETRAINED
    model = _create(name, image_size, in_chans=in_channels, num_classes=0, pretrained=given)
    if weights is not None and not given:
        state = read_state_dict(name, weights, f", or {PRETRAINED!r} for timm's")
        state = _suited(state, vars(model)["default_cfg"], in_channels)
        with lent_generators(0, torch.device("cpu")):  # models that are made for comparison draw weights
            _load(model, name, state, in_channels, image_size)
    return model


def native_size(name: str) -> tuple[int, int]:
    """Return the (height, width) in pixels of the images that a model of timm was designed for."""
    about = None
    with suppress(RuntimeError):  # an unknown tag after the name
        about = _timm().get_pretrained_cfg(name)
    return tuple(about.input_size[1:]) if about else (224, 224)


def _create(name: str, image_size: tuple[int, int], **settings: Any) -> nn.Module:
    timm = _timm()
    try:
        return timm.create_model(name, img_size=image_size, **settings)
    except TypeError:  # convolutional networks take images of any size
        return timm.create_model(name, **settings)


def _load(
    model: nn.Module, name: str, state: dict[str, Tensor], in_channels: int, image_size: tuple[int, int]
) -> None:
    """Load a state dict of the model with any head, for images of any size if timm can resample it."""
    own, native, channels = model.state_dict(), native_size(name), {"in_chans": in_channels}
    if state.keys() - own.keys():
        head = _create(name, image_size, **channels).state_dict().keys() - own.keys()
        state = {key: value for key, value in state.items() if key not in head}
    if state.keys() == own.keys() and mismatches(own, state):
        # timm's own code for its pretrained weights; for those of other models it raises anything.
        source = {"state_dict": dict(state), "num_classes": 0, "label_offset": 0, "custom_load": False}
        source["input_size"] = (in_channels, *native)
        options = {"pretrained": True, "num_classes": 0, "pretrained_cfg_overlay": source}
        with suppress(Exception):
            state = _create(name, image_size, **channels, **options).state_dict()
    found = mismatches(own, state)
    if found and not mismatches(_create(name, native, num_classes=0, **channels).state_dict(), state):
        raise ValueError(
            f"backbone__weights are of a {name} for images of {native[0]} x {native[1]} pixels, and timm "
            f"does not resample them: {found}. Set image_size={as_side(native)}."
        )
    load_weights(model, name, state)


def _suited(state: dict[str, Tensor], about: Mapping[str, Any], in_channels: int) -> dict[str, Tensor]:
    """Return a state dict without its classifier, and with filters for the number of channels.

    `about` is timm's description of the model, with the names of these layers.
    """
    heads = _names(about.get("classifier"))
    state = {key: value for key, value in state.items() if not key.startswith(tuple(f"{h}." for h in heads))}
    for first in _names(about.get("first_conv")):
        fit_channels(state, first, in_channels)
    return state


def _names(given: Any) -> tuple[str, ...]:
    """Return the names of layers in a configuration of timm: none, one or several."""
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else tuple(given)


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"Backbones whose names begin with {PREFIX!r} are models of timm, which is not installed: "
            f"pip install timm."
        ) from error
    return timm
