"""Models of timm (PyTorch Image Models) as backbones, by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sklearn_ssl._networks.weights import load_weights, read_state_dict, widen_filters
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
        Initial weights; None: random. "pretrained": timm's, which it downloads. Classifier weights are
        ignored. Filters for RGB are adapted to other numbers of channels.

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
    settings: dict[str, Any] = dict(pretrained=given, in_chans=in_channels, num_classes=0)
    try:
        model = timm.create_model(name, img_size=image_size, **settings)
    except TypeError:  # convolutional networks take images of any size
        model = timm.create_model(name, **settings)
    if weights is not None and not given:
        state = read_state_dict(name, weights, f"{PRETRAINED!r} for timm's")
        load_weights(model, name, _suited(state, model.default_cfg, in_channels))
    return model


def _suited(state: dict[str, Tensor], about: Mapping[str, Any], in_channels: int) -> dict[str, Tensor]:
    """Return a state dict without its classifier, and with filters for the number of channels.

    `about` is timm's description of the model, with the names of these layers.
    """
    heads = _names(about.get("classifier"))
    state = {key: value for key, value in state.items() if not key.startswith(tuple(f"{h}." for h in heads))}
    for first in _names(about.get("first_conv")):
        weight = state.get(f"{first}.weight")
        if weight is not None and in_channels != 3 and weight.shape[1] == 3:
            state[f"{first}.weight"] = widen_filters(weight, in_channels)
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
