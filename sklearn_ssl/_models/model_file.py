"""Fitted estimators without code: a file of tensors and plain values, and pickles of arrays."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from importlib import metadata
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sklearn_ssl._hardware.ambient import lent_generators
from sklearn_ssl._hardware.devices import is_out_of_memory
from sklearn_ssl._images.inputs import ImageFormat
from sklearn_ssl._images.pixel_scale import PixelScale
from sklearn_ssl._images.reader import Reader, make_reader
from sklearn_ssl._models.container import ArchiveError, is_plain, plain_items, read_archive, write_archive
from sklearn_ssl._models.schema import printable
from sklearn_ssl._networks.backbones import averaged, make_backbone
from sklearn_ssl._networks.inference import detached_copy, has_hooks, make_encoder
from sklearn_ssl._networks.student import load_plain_state
from sklearn_ssl._networks.torchvision_models import RESNETS, choose_stem
from sklearn_ssl._warnings import warn

KIND = "model"
# Parameters that are places on the machine: not a model's business.
PLACES = ("checkpoint", "reader_params.cache", "reader_params.cache_limit")
# What a stranger's file could have read, downloaded, written or called.
NEVER_TAKEN = (*PLACES, "backbone_params.weights", "callbacks")
# What `pack` puts in place of `encoder_`.
WEIGHTS = "_encoder_weights"
# Fields of a PixelScale that are numbers of each channel.
SCALE = ("low", "span", "mean", "std")
NUMBER = (int, float)


def _is_size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= Reader.max_pixels


def _is_device(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(torch.device(value))
    except RuntimeError:
        return False


# What is taken from a file of what `fit` leaves; nothing else, and no parameter among it.
FITTED = {
    WEIGHTS: {str: Tensor},
    "_n_features_out": _is_size,
    "_images": {
        "shape": lambda value: _are_sizes(value, 3),
        "size": lambda value: _are_sizes(value, 2),
        "dtype": lambda value: value in ("uint8", "float32"),
        "is_array": bool,
    },
    "_pixels": {**{name: [float] for name in SCALE}, "bounded": bool},
    "augment_?": str,
    "backbone_?": str,
    "batch_size_": _is_size,
    "compile_": bool,
    "device_": _is_device,
    "feature_names_in_?": [str],
    "history_": [{str: object}],
    "lr_": NUMBER,
    "max_epochs_": (int, None),
    "n_features_in_?": _is_size,
    "n_iter_": int,
    "optimizer_?": str,
    "precision_": str,
    "projector_?": [_is_size],
    "skipped_?": {int: str},
    "warmup_": NUMBER,
    "weight_decay_": NUMBER,
}
PARAMS = {str: object, "backbone_params?": ({str: object}, None)}
FORM = {"version": str, "params": PARAMS, "left_out": {str: str}, "fitted": FITTED}
FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
INTEGERS = (torch.bool, torch.uint8, torch.int32, torch.int64)


def _are_sizes(value: Any, n: int) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == n
        and all(map(_is_size, value))
        and _is_size(math.prod(value))
    )


# ---------------------------------------------------------------------------- files


def save_model(embedder: BaseEstimator, path: str | os.PathLike) -> None:
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
    # As plain settings, of which paths on the machine are left out.
    reader = make_reader(params["reader"], params["reader_params"] or {})
    params |= {"reader": None, "reader_params": _changed(reader) or None}
    params, left_out = _plain_params(params)
    if start is not None:
        left_out["backbone__weights"] = _named(start)
    fitted = _known(plain_items(_tensors({name: _in_words(value) for name, value in fitted.items()})))
    if "backbone_" not in fitted:
        left_out["backbone"] = _named(embedder.backbone_)
    version = metadata.version("sklearn-ssl")
    write_archive(path, KIND, dict(version=version, params=params, left_out=left_out, fitted=fitted))


def _changed(reader: Reader) -> dict[str, Any]:
    """Return the settings that are not those of a plain Reader."""
    return {name: value for name, value in vars(reader).items() if value != getattr(Reader, name)}


def _plain_params(params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What a file without code can hold of the parameters, and what it cannot, in words."""
    left_out: dict[str, str] = {}
    for name, value in _without(params, PLACES).items():
        nested = name.endswith("_params") and isinstance(value, dict)
        items = {key: _in_words(item) for key, item in (value if nested else {name: value}).items()}
        prefix = f"{name.removesuffix('_params')}__" if nested else ""
        left_out |= {prefix + key: _named(item) for key, item in items.items() if not is_plain(item)}
        params[name] = plain_items(items) if nested else items[name]
    return plain_items(_without(params, PLACES)), left_out


def _without(params: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Parameters without some of them, and without some entries of those that are dicts."""
    return {
        name: {key: item for key, item in value.items() if f"{name}.{key}" not in names}
        if isinstance(value, dict)
        else value
        for name, value in params.items()
        if name not in names
    }


def _known(fitted: dict[str, Any]) -> dict[str, Any]:
    names = {name.removesuffix("?") for name in FITTED}
    return {name: value for name, value in fitted.items() if name in names}


def _check_is_users_own(embedder: BaseEstimator) -> None:
    """No name says how to make the encoder: its backbone has to be the user's."""
    if isinstance(embedder.backbone_, str):
        raise ValueError(
            f"The layers of encoder_ are no longer those of backbone={embedder.backbone_!r}, and a file "
            f"without code could not say what they are. Save the weights alone: "
            f"torch.save(embedder.encoder_.state_dict(), path)."
        )


def load_model(
    make: type[BaseEstimator], path: str | os.PathLike, backbone: nn.Module | Callable | None
) -> BaseEstimator:
    """See `sklearn_ssl.load`."""
    content = read_archive(path, KIND, FORM)
    params, fitted = _without(content["params"], NEVER_TAKEN), _known(content["fitted"])
    left_out = {printable(name): printable(value) for name, value in content["left_out"].items()}
    unknown = params.keys() - make().get_params(deep=False).keys()
    if unknown:
        raise ValueError(
            f"{path} was written by sklearn_ssl {printable(content['version'])}, whose parameters "
            f"{sorted(unknown)} this version does not have: pip install -U sklearn-ssl."
        )
    given_again = left_out.pop("backbone", None)
    _check_values(path, params, fitted, has_name=given_again is None)
    if given_again and backbone is None:
        raise ValueError(
            f"The backbone of {path} was {given_again}, whose code is not in the file. Give the class, "
            f"factory or module that it was: load(path, backbone=...)."
        )
    if backbone is not None and not given_again:
        raise ValueError(f"{path} has the backbone {fitted['backbone_']!r}: leave backbone= out.")
    if given_again:
        params["backbone"] = fitted["backbone_"] = backbone
    if "feature_names_in_" in fitted:
        fitted["feature_names_in_"] = np.array(fitted["feature_names_in_"], dtype=object)
    embedder = make(**params)
    vars(embedder).update(_unpacked(path, {**params, **fitted}))
    if left_out:
        given = ", ".join(f"{name}={value}" for name, value in left_out.items())
        when = "before files are read or it is fitted" if "reader__read" in left_out else "before another fit"
        warn(f"A file without code could not hold {given}: set it again {when}.")
    return embedder


def _check_values(
    path: str | os.PathLike, params: dict[str, Any], fitted: dict[str, Any], has_name: bool
) -> None:
    """Refuse what has the right form, and yet cannot be a model."""
    scale = {name: torch.tensor(fitted["_pixels"][name]) for name in SCALE}
    tensors = {**fitted[WEIGHTS], **scale}
    wrong = [name for name, value in tensors.items() if not _is_finite(value)]
    wrong += [
        name for name in ("std", "span", "pixels.std") if name in tensors and not (tensors[name] > 0).all()
    ]
    wrong += [name for name, value in scale.items() if value.shape != (fitted["_images"]["shape"][2],)]
    if has_name != ("backbone_" in fitted):
        wrong.append("backbone_")
    depth = (params.get("backbone_params") or {}).get("depth")  # each layer takes memory, without weights too
    if isinstance(depth, int | float) and depth > len(fitted[WEIGHTS]):
        wrong.append("backbone__depth")
    if wrong:
        raise ArchiveError(f"{path} is no model that can be used: its {printable(wrong[0])} cannot be.")


def _is_finite(value: Tensor) -> bool:
    return value.dtype in INTEGERS or (value.dtype in FLOATS and bool(value.isfinite().all()))


def _unpacked(path: str | os.PathLike, packed: dict[str, Any]) -> dict[str, Any]:
    try:
        return unpack(packed)
    except (OverflowError, RuntimeError, TypeError) as error:
        if is_out_of_memory(error) or not isinstance(packed["backbone_"], str):
            raise
        raise ArchiveError(f"{path} names a network that cannot be made: {error}") from error


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
        scale = asdict(packed["_pixels"])
        packed["_pixels"] = {name: scale[name].tolist() for name in SCALE} | {"bounded": scale["bounded"]}
    if "device_" in packed:
        packed["device_"] = str(packed["device_"])
    if "_images" in packed:
        images = asdict(packed["_images"])
        packed["_images"] = {**images, "dtype": str(images["dtype"]).removeprefix("torch.")}
    if "_training_state" in packed:
        packed["_training_state"] = _arrays(packed["_training_state"])
    return packed


def unpack(packed: Mapping[str, Any]) -> dict[str, Any]:
    """What `pack` was given, on the CPU."""
    state = dict(packed)
    if "_pixels" in state:
        scale = {name: torch.tensor(state["_pixels"][name]) for name in SCALE}
        state["_pixels"] = PixelScale(**scale, bounded=state["_pixels"]["bounded"])
    if "device_" in state:
        state["device_"] = torch.device(state["device_"])
    if "_images" in state:
        images = state["_images"]
        sizes = {name: tuple(images[name]) for name in ("shape", "size")}
        state["_images"] = ImageFormat(**{**images, **sizes, "dtype": getattr(torch, images["dtype"])})
        state["image_shape_"], state["image_size_"] = state["_images"].shape, state["_images"].size
    if "_training_state" in state:
        state["_training_state"] = _tensors(state["_training_state"])
    if WEIGHTS in state:
        weights = _tensors(state.pop(WEIGHTS))
        state["encoder_"] = _with_weights(_new_encoder(state, weights), weights)
    return state


def _new_encoder(state: Mapping[str, Any], weights: dict[str, Any]) -> nn.Module:
    """Layers like those of the fitted encoder, which has these weights; by name, on "meta".

    A small file can name a network of gigabytes, which is given memory when its weights are seen to be there.
    """
    backbone_, params = state["backbone_"], _without_start(state, weights)[0] or {}
    with lent_generators(0, torch.device("cpu")), _making(backbone_):
        backbone = make_backbone(backbone_, params, state["image_shape_"][2], tuple(state["image_size_"]))
    encoder = make_encoder(state["_pixels"], backbone)
    if encoder.state_dict().keys() != weights.keys():
        encoder = make_encoder(state["_pixels"], averaged(backbone))
    return encoder.eval()


def _making(backbone: Any) -> AbstractContextManager:
    if not isinstance(backbone, str):
        return nullcontext()
    return ParametersOnMeta() if backbone.startswith("regnet") else torch.device("meta")


class ParametersOnMeta(TorchFunctionMode):
    """Layers made inside have no memory; other tensors do: a RegNet reads its widths from one."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None):
        kwargs = kwargs or {}
        return func(*args, **(kwargs | {"device": "meta"} if func is torch.empty else kwargs))


def _with_weights(encoder: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    shapes = [
        {name: tuple(value.shape) for name, value in each.items()} for each in (encoder.state_dict(), weights)
    ]
    for name in {**shapes[0], **shapes[1]}:
        made, kept = (each.get(name, "nothing") for each in shapes)
        if made != kept:
            raise ValueError(
                f"The backbone does not fit the weights that were kept: size mismatch of {printable(name)}: "
                f"it has {made}, and the weights have {kept}."
            )
    if any(value.is_meta for value in encoder.state_dict().values()):
        encoder = encoder.to_empty(device="cpu")
    load_plain_state(encoder, weights)
    return encoder


def _without_start(state: Mapping[str, Any], weights: dict[str, Any]) -> tuple[dict | None, Any]:
    """`backbone_params` without a pretrained start, but with the stem that came of it; and that start."""
    params = state.get("backbone_params")
    start = (params or {}).get("weights")
    if start is None:
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
