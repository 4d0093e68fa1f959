"""Fitted estimators without code: a file of tensors and plain values, and pickles of arrays."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_ssl.archive import is_plain, plain_items, read_archive, write_archive
from sklearn_ssl.backbones import RESNETS, build_backbone, choose_stem
from sklearn_ssl.inference import detached_copy, has_hooks, make_encoder
from sklearn_ssl.network import load_plain_state
from sklearn_ssl.pixels import PixelScale

if TYPE_CHECKING:
    from sklearn_ssl.embedder import SSLImageEmbedder

KIND = "model"
# Parameters that are places on the machine: not a model's business, and never taken from a stranger's file.
PLACES = ("checkpoint", "reader_params.cache", "reader_params.cache_limit")
# What `pack` puts in place of `encoder_`.
WEIGHTS = "_encoder_weights"


# ---------------------------------------------------------------------------- files


def save_model(embedder: SSLImageEmbedder, path: str | os.PathLike) -> None:
    """See `SSLImageEmbedder.save`."""
    params = embedder.get_params(deep=False)
    state = {name: value for name, value in vars(embedder).items() if name != "_training_state"}
    fitted = {name: value for name, value in pack(state).items() if name not in params}
    if "encoder_" in fitted:
        _check_is_users_own(embedder)
        fitted[WEIGHTS] = _arrays(fitted.pop("encoder_").state_dict())
    if "feature_names_in_" in fitted:
        fitted["feature_names_in_"] = list(map(str, fitted["feature_names_in_"]))
    fitted["history_"] = [plain_items(row) for row in fitted["history_"]]
    params["backbone_params"], start = _without_start(state, fitted[WEIGHTS])
    params, left_out = _plain_params(params)
    if start is not None:
        left_out["backbone__weights"] = _named(start)
    fitted = plain_items(_tensors({name: _in_words(value) for name, value in fitted.items()}))
    if "backbone_" not in fitted:
        left_out["backbone"] = _named(embedder.backbone_)
    version = metadata.version("sklearn-ssl")
    write_archive(path, KIND, dict(version=version, params=params, left_out=left_out, fitted=fitted))


def _plain_params(params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What a file without code can hold of the parameters, and what it cannot, in words."""
    params = {name: value for name, value in params.items() if name not in PLACES}
    left_out: dict[str, str] = {}
    for name, value in params.items():
        nested = name.endswith("_params") and isinstance(value, dict)
        items = value if nested else {name: value}
        items = {key: _in_words(item) for key, item in items.items() if f"{name}.{key}" not in PLACES}
        prefix = f"{name.removesuffix('_params')}__" if nested else ""
        left_out |= {prefix + key: _named(item) for key, item in items.items() if not is_plain(item)}
        params[name] = plain_items(items) if nested else items[name]
    return plain_items(params), left_out


def _check_is_users_own(embedder: SSLImageEmbedder) -> None:
    """No name says how to make the encoder: its backbone has to be the user's."""
    if isinstance(embedder.backbone_, str):
        raise ValueError(
            f"The layers of encoder_ are no longer those of backbone={embedder.backbone_!r}, and a file "
            f"without code could not say what they are. Save the weights alone: "
            f"torch.save(embedder.encoder_.state_dict(), path)."
        )


def load_model(
    make: type[SSLImageEmbedder], path: str | os.PathLike, backbone: nn.Module | Callable | None
) -> SSLImageEmbedder:
    """See `sklearn_ssl.load`."""
    content = read_archive(path, KIND)
    params, _ = _plain_params(content["params"])
    left_out, fitted = content["left_out"], content["fitted"]
    unknown = params.keys() - make().get_params(deep=False).keys()
    if unknown:
        raise ValueError(
            f"{path} was written by sklearn_ssl {content['version']}, whose parameters {sorted(unknown)} "
            f"this version does not have: pip install -U sklearn-ssl."
        )
    if "backbone" in left_out:
        if backbone is None:
            raise ValueError(
                f"The backbone of {path} was {left_out.pop('backbone')}, whose code is not in the file. Give "
                f"the class, factory or module that it was: load(path, backbone=...)."
            )
        left_out.pop("backbone")
        params["backbone"] = fitted["backbone_"] = backbone
    elif backbone is not None:
        raise ValueError(f"{path} has the backbone {params['backbone']!r}: leave backbone= out.")
    if "feature_names_in_" in fitted:
        fitted["feature_names_in_"] = np.array(fitted["feature_names_in_"], dtype=object)
    embedder = make(**params)
    vars(embedder).update(unpack({**params, **fitted}))
    if left_out:
        given = ", ".join(f"{name}={value}" for name, value in left_out.items())
        when = "before files are read or it is fitted" if "reader__read" in left_out else "before another fit"
        warnings.warn(f"A file without code could not hold {given}: set it again {when}.", stacklevel=3)
    return embedder


def _in_words(value: Any) -> Any:
    """As plain values can say it."""
    return str(value) if isinstance(value, torch.device | os.PathLike) else value


def _named(value: Any) -> str:
    """What a parameter was, for people."""
    return getattr(value, "__qualname__", None) or repr(value)[:100]


# ---------------------------------------------------------------------------- states


def pack(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an estimator with arrays for tensors; for `encoder_` too, where its layers have a name.

    So it needs no device, and holds no module but those that a user has made.
    """
    packed = dict(state)
    packed.pop("_kept_network", None)
    encoder = packed.pop("encoder_", None)
    if encoder is not None and _can_be_made_again(state, encoder):
        packed[WEIGHTS] = _arrays(encoder.state_dict())
    elif encoder is not None:
        packed["encoder_"] = detached_copy(encoder).cpu()
    if "_pixels" in packed:
        packed["_pixels"] = _arrays(asdict(packed["_pixels"]))
    if "device_" in packed:
        packed["device_"] = str(packed["device_"])
    if "_pixel_dtype" in packed:
        packed["_pixel_dtype"] = str(packed["_pixel_dtype"]).removeprefix("torch.")
    if "_training_state" in packed:
        packed["_training_state"] = _arrays(packed["_training_state"])
    return packed


def unpack(packed: Mapping[str, Any]) -> dict[str, Any]:
    """What `pack` was given, on the CPU."""
    state = dict(packed)
    if "_pixels" in state:
        state["_pixels"] = PixelScale(**_tensors(state["_pixels"]))
    if "device_" in state:
        state["device_"] = torch.device(state["device_"])
    if "_pixel_dtype" in state:
        state["_pixel_dtype"] = getattr(torch, state["_pixel_dtype"])
    if "_training_state" in state:
        state["_training_state"] = _tensors(state["_training_state"])
    if WEIGHTS in state:
        weights = _tensors(state.pop(WEIGHTS))
        state["encoder_"] = _with_weights(_new_encoder(state, weights), weights)
    return state


def _new_encoder(state: Mapping[str, Any], weights: dict[str, Any]) -> nn.Module:
    """Layers like those of the fitted encoder, which has these weights."""
    with torch.random.fork_rng(devices=[]):
        backbone, _ = build_backbone(
            state["backbone_"],
            _without_start(state, weights)[0] or {},
            in_channels=state["image_shape_"][2],
            image_size=tuple(state["image_size_"]),
        )
    return make_encoder(state["_pixels"], backbone).eval()


def _with_weights(encoder: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    try:
        load_plain_state(encoder, weights)
    except RuntimeError as error:
        raise ValueError(f"The backbone does not fit the weights that were kept: {error}") from error
    return encoder


def _without_start(state: Mapping[str, Any], weights: dict[str, Any]) -> tuple[dict | None, Any]:
    """`backbone_params` without a pretrained start, but with the stem that came of it; and that start."""
    params = state.get("backbone_params")
    start = (params or {}).get("weights")
    if start is None or not isinstance(state["backbone_"], str):
        return params, None
    rest = {name: value for name, value in params.items() if name != "weights"}
    if state["backbone_"] in RESNETS:
        first = {"conv1.weight": weights["backbone.conv1.weight"]}
        rest["stem"] = choose_stem(rest.get("stem", "auto"), tuple(state["image_size_"]), first)
    return rest, start


def _can_be_made_again(state: Mapping[str, Any], encoder: nn.Module) -> bool:
    """Whether the layers are those that the backbone's name makes; its weights may be any."""
    if not isinstance(state["backbone_"], str) or any(map(has_hooks, encoder.modules())):
        return False
    weights = encoder.state_dict()
    try:
        again = _new_encoder(state, weights)
    except (KeyError, ValueError):
        return False
    shapes = [{name: value.shape for name, value in each.items()} for each in (again.state_dict(), weights)]
    return shapes[0] == shapes[1] and str(again) == str(encoder)


def _arrays(value: Any) -> Any:
    """With numpy arrays for the tensors that it holds, where numpy has their type."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return value if value.dtype == torch.bfloat16 else value.numpy().copy()
    return _mapped(_arrays, value)


def _tensors(value: Any) -> Any:
    """The inverse of `_arrays`."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return torch.from_numpy(value.copy())
    return _mapped(_tensors, value)


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, dict):
        return {name: function(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(function, value))
    return value
