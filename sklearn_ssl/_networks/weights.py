"""Pretrained weights of backbones."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

Layer = TypeVar("Layer", bound=nn.Module)

# Prefixes that wrappers and training scripts add to all names of a state dict.
WRAPPER_PREFIXES = ("module.", "backbone.", "encoder_.")
# Further names in the state dict of an encoder, of its standardization, and the prefix of a backbone that
# returns maps.
PIXELS, BEFORE_POOLING = ("pixels.mean", "pixels.std"), "0."


def widen_filters(weight: Tensor, in_channels: int) -> Tensor:
    """Adapt filters (out, 3, k, k) for RGB to another number of channels, (out, in_channels, k, k).

    One channel: the sum over RGB, so that the output for a grayscale image equals that for its RGB copy.
    Otherwise the filters of R, G and B are repeated cyclically and scaled by 3 / in_channels, so that the
    output for a constant image stays about the same.
    """
    if in_channels == 1:
        return weight.sum(1, keepdim=True)  # (out, 1, k, k)
    return weight[:, torch.arange(in_channels) % 3] * (3 / in_channels)  # (out, in_channels, k, k)


def fit_channels(state: dict[str, Tensor], first: str, in_channels: int) -> None:
    """Adapt the weights of a first convolution in a state dict from RGB to another number of channels."""
    weight = state.get(f"{first}.weight")
    if weight is not None and weight.shape[1] == 3 != in_channels:
        state[f"{first}.weight"] = widen_filters(weight, in_channels)


def read_weights(
    name: str, weights: Mapping[str, Tensor] | str | os.PathLike | WeightsEnum | None
) -> dict[str, Tensor] | None:
    """Return the state dict of given weights, without a prefix "module.", "backbone." or "encoder_.".

    Parameters
    ----------
    name : str
        Name of the model in torchvision.
    weights : state dict, path, torchvision weights or their name, or None
        Given weights; see `read_state_dict`.

    Returns
    -------
    dict or None
        State dict; None if no weights are given.

    Raises
    ------
    ValueError
        If `weights` is none of these, or a file contains no state dict.
    """
    from torchvision.models import WeightsEnum, get_model

    if weights is None:
        return None
    published = _published_weights(name)
    if isinstance(weights, str):
        of_name = {f"{type(each).__name__}.{name}": each for name, each in published.items()} | {**published}
        weights = of_name.get(weights, weights)
    if isinstance(weights, WeightsEnum) and weights in published.values():
        # Files of torchvision may have old key names (densenet), which only its own loader converts.
        return get_model(name, weights=weights).state_dict()
    published_names = ", ".join(published) or "none of this model"
    return read_state_dict(name, weights, f", or weights of torchvision: {published_names}")


def read_state_dict(name: str, weights: Any, other: str = "") -> dict[str, Tensor]:
    """Return a state dict that is given as such or as a file, without a prefix of all its names.

    Parameters
    ----------
    name : str
        Name of the model.
    weights : state dict or path
        Given weights. A file is one of safetensors, whose name ends so, or is read with
        ``torch.load(weights_only=True)``: it cannot run code.
    other : str, default=""
        What else may be given, for the error message.

    Raises
    ------
    ValueError
        If `weights` is neither, or a file contains no state dict.
    """
    if isinstance(weights, (str, os.PathLike)) and Path(weights).is_file():
        weights = _read_file(weights)
    if not isinstance(weights, Mapping):
        raise ValueError(
            f"backbone__weights={weights!r:.100} cannot be used for {name}. Possible: a state dict, or the "
            f"path of an existing file of SSLImageEmbedder.save, of torch.save or of safetensors{other}."
        )
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(
            "backbone__weights must be a state dict: names and tensors. What was given or read has the "
            f"entries {first_five(weights)}. Give the one of them that is a state dict."
        )
    return _without_prefix(weights)


def _published_weights(name: str) -> Mapping[str, WeightsEnum]:
    """Return torchvision's weights of a model by name; none for a model that is not torchvision's."""
    from torchvision.models import get_model_weights, list_models

    return get_model_weights(name).__members__ if name in list_models() else {}


def _read_file(path: str | os.PathLike) -> Any:
    try:
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError, ... for a bad file
        raise ValueError(
            f"backbone__weights={os.fspath(path)!r} cannot be read as a state dict. Write such a file with "
            f"torch.save(module.state_dict(), path). The reason: {error}"
        ) from error


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove at most one prefix, and only one that all names have; of an encoder, leave the backbone."""
    state = {key: value for key, value in state.items() if key not in PIXELS}
    for prefixes in (WRAPPER_PREFIXES, (BEFORE_POOLING,)):
        for prefix in prefixes:
            if all(key.startswith(prefix) for key in state):
                state = {key.removeprefix(prefix): value for key, value in state.items()}
                break
    return state


def load_weights(model: nn.Module, name: str, state: dict[str, Tensor]) -> None:
    """Load a state dict into a model, with an error that lists what does not match.

    Raises
    ------
    ValueError
        If entries are missing, unexpected, or of another shape.
    """
    own = model.state_dict()  # shares memory with the model
    found = mismatches(own, state)
    if found:
        raise ValueError(
            f"backbone__weights do not fit {name}; {found}. "
            f"Give weights of a {name}, or choose the backbone that they come from."
        )
    with torch.no_grad():
        for key, value in state.items():
            own[key].copy_(value)


def mismatches(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Return in words what is missing, unexpected or of another shape in a state dict; "" if it fits."""
    # Files from before torch 0.4.1, torchvision's own among them, lack num_batches_tracked.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    misshapen = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    return "; ".join(f"{len(keys)} {what}: {first_five(keys)}" for what, keys in found.items() if keys)


def layers_of(model: nn.Module, kind: type[Layer] | tuple[type[Layer], ...]) -> list[tuple[str, Layer]]:
    """Return (name, layer) in the order of creation, which in torchvision is the order of use."""
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, kind)]


def first_five(keys: Iterable[object]) -> str:
    """Join the first five keys by commas, followed by an ellipsis if there are more."""
    names = list(map(str, keys))
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
