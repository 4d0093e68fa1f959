"""Serialization of fitted estimators: model files without code, and the state that is pickled."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, fields
from importlib import metadata
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sklearn_ssl._checks import as_nested
from sklearn_ssl._hardware.ambient import lent_generators
from sklearn_ssl._hardware.devices import is_out_of_memory
from sklearn_ssl._images.inputs import ImageFormat
from sklearn_ssl._images.pixel_scale import PixelScale
from sklearn_ssl._images.reader import Reader, make_reader
from sklearn_ssl._images.units import Units
from sklearn_ssl._models.container import (
    ArchiveError,
    is_archive,
    is_plain,
    plain_items,
    read_archive,
    write_archive,
)
from sklearn_ssl._models.schema import printable
from sklearn_ssl._models.structure import have_same_structure
from sklearn_ssl._networks.backbones import averaged, make_backbone, resolve_backbone
from sklearn_ssl._networks.inference import detached_copy, has_hooks, make_encoder
from sklearn_ssl._networks.student import load_plain_state
from sklearn_ssl._networks.timm_models import PREFIX
from sklearn_ssl._warnings import warn

KIND = "model"
# Parameters that are paths on the user's machine, or belong to one; never written to a model file.
MACHINE_PATH_PARAMS = ("checkpoint", "reader_params.cache", "reader_params.cache_limit")
# Parameters never read from a model file: an untrusted file could make them read, download or write files,
# or call code.
UNTRUSTED_PARAMS = (*MACHINE_PATH_PARAMS, "backbone_params.weights", "callbacks")
# Key under which `pack` stores the state dict of `encoder_`.
ENCODER_WEIGHTS = "_encoder_weights"
# Fields of a `PixelScale` that hold one value per channel.
PIXEL_SCALE_FIELDS = ("low", "span", "mean", "std")
UNITS_FIELDS = tuple(field.name for field in fields(Units))
# Attributes that are not saved: what a warm start needs, and scikit-learn's callbacks.
NOT_SAVED = ("_training_state", "_skl_callbacks")
NUMBER = (int, float)


def _is_size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= Reader.max_pixels


def _is_device(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(torch.device(value))
    except RuntimeError:
        return False


# Schema of the fitted attributes in a model file. Other attributes are ignored, so that a file cannot set
# parameters or methods.
FITTED_SCHEMA = {
    ENCODER_WEIGHTS: {str: Tensor},
    "_n_features_out": _is_size,
    "_images": {
        "shape": lambda value: _are_sizes(value, 3),
        "size": lambda value: _are_sizes(value, 2),
        "dtype": lambda value: value in ("uint8", "float32"),
        "is_array": bool,
    },
    "_pixels": {
        **{name: [float] for name in PIXEL_SCALE_FIELDS},
        "bounded": bool,
        "units?": {name: bool if name in ("whole", "bits8") else float for name in UNITS_FIELDS},
        "clip?": ([[float]], None),
    },
    "augment_?": str,
    "backbone_?": str,
    "batch_size_": _is_size,
    "compile_": bool,
    "device_": _is_device,
    "eval_every_?": (int, None),
    "eval_metrics_?": [str],
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
PARAMS_SCHEMA = {str: object, "backbone_params?": ({str: object}, None)}
MODEL_SCHEMA = {"version": str, "params": PARAMS_SCHEMA, "left_out": {str: str}, "fitted": FITTED_SCHEMA}
# Types of the weights that a file may contain.
FLOAT_TYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
INTEGER_TYPES = (torch.bool, torch.uint8, torch.int32, torch.int64)


def _are_sizes(value: Any, n: int) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == n
        and all(map(_is_size, value))
        and _is_size(math.prod(value))  # the number of pixels is limited as well as each side
    )


# ---------------------------------------------------------------------------- files


def save_model(embedder: BaseEstimator, path: str | os.PathLike) -> None:
    """Write a fitted embedder to a model file; see `SSLImageEmbedder.save`."""
    params = embedder.get_params(deep=False)
    state = {name: value for name, value in vars(embedder).items() if name not in NOT_SAVED}
    fitted = {name: value for name, value in pack(state).items() if name not in params}
    if "encoder_" in fitted:
        # `pack` keeps the module itself if its layers cannot be recreated from a name.
        _check_backbone_is_custom(embedder)
        fitted[ENCODER_WEIGHTS] = _arrays(fitted.pop("encoder_").state_dict())
    if "feature_names_in_" in fitted:
        fitted["feature_names_in_"] = list(map(str, fitted["feature_names_in_"]))
    fitted["history_"] = [plain_items(row) for row in fitted["history_"]]
    params["backbone_params"], start = _without_pretrained(state, fitted[ENCODER_WEIGHTS])
    # A Reader instance is stored as plain settings, from which the machine's paths are then removed.
    reader = make_reader(params["reader"], params["reader_params"] or {})
    params |= {"reader": None, "reader_params": _changed(reader) or None}
    params, left_out = _plain_params(params)
    if start is not None:
        left_out["backbone__weights"] = _description(start)
    fitted = _known(plain_items(_tensors({name: _as_plain(value) for name, value in fitted.items()})))
    if "backbone_" not in fitted:
        left_out["backbone"] = _description(embedder.backbone_)
    version = metadata.version("sklearn-ssl")
    write_archive(path, KIND, dict(version=version, params=params, left_out=left_out, fitted=fitted))


def _changed(reader: Reader) -> dict[str, Any]:
    """Return the settings that differ from the defaults of `Reader`."""
    return {name: value for name, value in vars(reader).items() if value != getattr(Reader, name)}


def _plain_params(params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the parameters that a model file can store, and descriptions of the others by name."""
    left_out: dict[str, str] = {}
    for name, value in _without(params, MACHINE_PATH_PARAMS).items():
        nested = name.endswith("_params") and isinstance(value, dict)
        items = {key: _as_plain(item) for key, item in (value if nested else {name: value}).items()}
        prefix = f"{name.removesuffix('_params')}__" if nested else ""
        left_out |= {prefix + key: _description(item) for key, item in items.items() if not is_plain(item)}
        params[name] = plain_items(items) if nested else items[name]
    return plain_items(_without(params, MACHINE_PATH_PARAMS)), left_out


def _without(params: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return parameters except the named ones; "name.key" names one entry of a dict."""
    return {
        name: {key: item for key, item in value.items() if f"{name}.{key}" not in names}
        if isinstance(value, dict)
        else value
        for name, value in params.items()
        if name not in names
    }


def _known(fitted: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes that the schema contains."""
    names = {name.removesuffix("?") for name in FITTED_SCHEMA}
    return {name: value for name, value in fitted.items() if name in names}


def _check_backbone_is_custom(embedder: BaseEstimator) -> None:
    """Raise an error if the layers of a named backbone were changed; a custom backbone is given to `load`."""
    if isinstance(embedder.backbone_, str):
        raise ValueError(
            f"The layers of encoder_ are no longer those of backbone={embedder.backbone_!r}, and a model "
            f"file cannot store layers. Save the weights alone: "
            f"torch.save(embedder.encoder_.state_dict(), path)."
        )


def load_model(
    make: type[BaseEstimator], path: str | os.PathLike, backbone: nn.Module | Callable | None
) -> BaseEstimator:
    """Read a model file; see `sklearn_ssl.load`. `make` is the class of the estimator."""
    content = read_archive(path, KIND, MODEL_SCHEMA)
    params, fitted = _without(content["params"], UNTRUSTED_PARAMS), _known(content["fitted"])
    left_out = {printable(name): printable(value) for name, value in content["left_out"].items()}
    unknown = params.keys() - make().get_params(deep=False).keys()
    if unknown:
        raise ValueError(
            f"{path} was written by sklearn_ssl {printable(content['version'])}, whose parameters "
            f"{sorted(unknown)} this version does not have. Upgrade: pip install -U sklearn-ssl."
        )
    custom_backbone = left_out.pop("backbone", None)  # description of a backbone that has no name
    _check_values(path, params, fitted, has_name=custom_backbone is None)
    if custom_backbone and backbone is None:
        raise ValueError(
            f"The backbone of {path} was {custom_backbone}, whose code is not in the file. Pass the same "
            f"class, factory or module: load(path, backbone=...)."
        )
    if backbone is not None and not custom_backbone:
        raise ValueError(f"{path} contains the backbone {fitted['backbone_']!r}: omit backbone=.")
    if custom_backbone:
        params["backbone"] = fitted["backbone_"] = backbone
    if "feature_names_in_" in fitted:
        fitted["feature_names_in_"] = np.array(fitted["feature_names_in_"], dtype=object)
    embedder = make(**params)
    vars(embedder).update(_unpacked(path, {**params, **fitted}))
    if left_out:
        given = ", ".join(f"{name}={value}" for name, value in left_out.items())
        when = "before reading files or fitting" if "reader__read" in left_out else "before another fit"
        warn(f"A model file cannot store {given}: set it again {when}.")
    return embedder


def with_weights_of_file(backbone: Any, params: dict[str, Any], images: ImageFormat) -> dict[str, Any]:
    """Return the parameters of a backbone, with what a model file holds if its weights are to be from one.

    Parameters
    ----------
    backbone : str, nn.Module or callable
        Backbone to create.
    params : dict
        Its parameters. If "weights" of a named backbone is a file of `SSLImageEmbedder.save`, they become the
        weights in the file, and parameters that are not given those of the file.
    images : ImageFormat
        Images to train on.

    Raises
    ------
    ValueError
        If the file is damaged, or its network has another name, other parameters or other channels.
    """
    path: Any = params.get("weights")
    if not isinstance(backbone, str) or not is_archive(path):
        return params
    file_params, fitted = _read_model(path)
    channels = fitted["_images"]["shape"][2]
    if channels not in (3, images.shape[2]):  # filters for RGB are adapted
        raise _misfit(path, f"images of {channels} channels", f"images of {images.shape[2]}", "")
    weights = fitted[ENCODER_WEIGHTS]
    state = {key.removeprefix("backbone."): weights[key] for key in weights if key.startswith("backbone.")}
    if "backbone_" not in fitted:  # of a module or factory
        return {**params, "weights": state}
    _unpacked(path, {**file_params, **fitted})  # refuses sizes that the weights do not have
    its_own = _params_of_file(path, backbone, params, file_params, fitted)
    if backbone == "vit":
        from sklearn_ssl._networks.vit import fit_positions

        side, sizes = its_own["patch"], (images.size, fitted["_images"]["size"])
        fit_positions(state, *((height // side, width // side) for height, width in sizes))
    return {**its_own, "weights": state}


def backbone_of_file(path: Any) -> str | None:
    """Return the name of the backbone in a model file; None if it has none, or `path` is of no such file."""
    return _read_model(path)[1].get("backbone_") if is_archive(path) else None


def _params_of_file(
    path: str | os.PathLike, backbone: str, params: dict, file_params: dict, fitted: dict
) -> dict[str, Any]:
    """Return the parameters of the backbone in a file, with "auto" resolved; refuse others that are given."""
    from sklearn_ssl._networks.torchvision_models import RESNETS, choose_stem
    from sklearn_ssl._networks.vit import resolve_sizes

    name, size = fitted["backbone_"], tuple(fitted["_images"]["size"])
    if name.partition(".")[0] != backbone.partition(".")[0]:  # timm's tags of weights follow a dot
        wanted = f"backbone={printable(name)!r}"
        raise _misfit(path, wanted, f"backbone={backbone!r}", f"Set {wanted}.")
    every = inspect.signature(resolve_backbone(backbone)).parameters.values()
    its_own = {each.name: each.default for each in every if each.kind is each.KEYWORD_ONLY}
    its_own |= file_params.get("backbone_params") or {}
    if backbone in RESNETS:
        its_own["stem"] = choose_stem(its_own["stem"], size, {})
    if backbone == "vit":
        its_own |= resolve_sizes(its_own["patch"], its_own["heads"], its_own["width"], size, {})
    given = {key: value for key, value in params.items() if key != "weights" and value != "auto"}
    wrong = {key: its_own[key] for key, value in given.items() if its_own[key] != value}
    if wrong:
        wanted = as_nested("backbone", wrong)
        other = as_nested("backbone", {key: given[key] for key in wrong})
        raise _misfit(path, wanted, other, f"Set {wanted}.")
    return its_own


def _misfit(path: str | os.PathLike, its_own: str, given: str, way_out: str) -> ValueError:
    return ValueError(
        f"backbone__weights={os.fspath(path)!r} comes from a fit with {its_own}, and this one has {given}. "
        f"{way_out or 'Give such images, or leave backbone__weights out.'}"
    )


def _read_model(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters and the fitted attributes in a model file, checked."""
    content = read_archive(path, KIND, MODEL_SCHEMA)
    params, fitted = _without(content["params"], UNTRUSTED_PARAMS), _known(content["fitted"])
    _check_values(path, params, fitted, has_name="backbone" not in content["left_out"])
    return params, fitted


def _check_values(
    path: str | os.PathLike, params: dict[str, Any], fitted: dict[str, Any], has_name: bool
) -> None:
    """Raise an error for values that match the schema, but cannot belong to a model."""
    scale = {name: torch.tensor(fitted["_pixels"][name]) for name in PIXEL_SCALE_FIELDS}
    tensors = {**fitted[ENCODER_WEIGHTS], **scale}
    wrong = [name for name, value in tensors.items() if not _is_finite(value)]
    wrong += [
        name for name in ("std", "span", "pixels.std") if name in tensors and not (tensors[name] > 0).all()
    ]
    wrong += [name for name, value in scale.items() if value.shape != (fitted["_images"]["shape"][2],)]
    clip = fitted["_pixels"].get("clip")
    if clip is not None and [len(row) for row in clip] != [fitted["_images"]["shape"][2]] * 2:
        wrong.append("clip")
    if has_name != ("backbone_" in fitted):
        wrong.append("backbone_")
    # Each layer takes memory even on "meta", and every layer has a weight: a depth beyond their number is
    # refused before the network is created.
    depth = (params.get("backbone_params") or {}).get("depth")
    if isinstance(depth, int | float) and depth > len(fitted[ENCODER_WEIGHTS]):
        wrong.append("backbone__depth")
    if wrong:
        raise ArchiveError(f"{path} is not a usable model: its {printable(wrong[0])} is invalid.")


def _is_finite(value: Tensor) -> bool:
    return value.dtype in INTEGER_TYPES or (value.dtype in FLOAT_TYPES and bool(value.isfinite().all()))


def _unpacked(path: str | os.PathLike, packed: dict[str, Any]) -> dict[str, Any]:
    """Call `unpack`; report a named network that cannot be created as an error in the file."""
    try:
        return unpack(packed)
    except (OverflowError, RuntimeError, TypeError) as error:
        if is_out_of_memory(error) or not isinstance(packed["backbone_"], str):
            raise
        raise ArchiveError(f"{path} names a network that cannot be created: {error}") from error


def _as_plain(value: Any) -> Any:
    """Convert devices and paths to strings."""
    return str(value) if isinstance(value, torch.device | os.PathLike) else value


def _description(value: Any) -> str:
    """Return a short description of a parameter that cannot be stored."""
    if isinstance(value, Mapping):
        return "a state dict"
    return getattr(value, "__qualname__", None) or repr(value)[:100]


# ---------------------------------------------------------------------------- states


def pack(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of an estimator for pickling, with numpy arrays in place of tensors.

    `encoder_` is replaced by its weights if its layers can be recreated from the backbone's name. A packed
    state can thus be unpickled without a GPU, and contains no modules other than the user's own.
    """
    packed = dict(state)
    packed.pop("_kept_network", None)
    encoder = packed.pop("encoder_", None)
    if encoder is not None and _can_be_recreated(state, encoder):
        packed[ENCODER_WEIGHTS] = _arrays(encoder.state_dict())
    elif encoder is not None:
        packed["encoder_"] = detached_copy(encoder).cpu()
    if "_pixels" in packed:
        scale = asdict(packed["_pixels"])
        packed["_pixels"] = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in scale.items()}
    if "device_" in packed:
        packed["device_"] = str(packed["device_"])
    if "_images" in packed:
        images = asdict(packed["_images"])
        packed["_images"] = {**images, "dtype": str(images["dtype"]).removeprefix("torch.")}
    if "_training_state" in packed:
        packed["_training_state"] = _arrays(packed["_training_state"])
    return packed


def unpack(packed: Mapping[str, Any]) -> dict[str, Any]:
    """Invert `pack`; all tensors are on the CPU."""
    state = dict(packed)
    if "_pixels" in state:
        state["_pixels"] = _pixel_scale(state["_pixels"], state["_images"]["dtype"])
    if "device_" in state:
        state["device_"] = torch.device(state["device_"])
    if "_images" in state:
        images = state["_images"]
        sizes = {name: tuple(images[name]) for name in ("shape", "size")}
        state["_images"] = ImageFormat(**{**images, **sizes, "dtype": getattr(torch, images["dtype"])})
        state["image_shape_"], state["image_size_"] = state["_images"].shape, state["_images"].size
    if "_training_state" in state:
        state["_training_state"] = _tensors(state["_training_state"])
    if ENCODER_WEIGHTS in state:
        weights = _tensors(state.pop(ENCODER_WEIGHTS))
        state["encoder_"] = _with_weights(_new_encoder(state, weights), weights)
    return state


def _pixel_scale(packed: Mapping[str, Any], dtype: str) -> PixelScale:
    """Return the scale of pixel values; files of earlier versions tell the range of the pixels only."""
    scale = {name: torch.tensor(packed[name]) for name in PIXEL_SCALE_FIELDS}
    ends = torch.stack([scale["low"], scale["low"] + scale["span"]])
    low, high = (float(each) for each in ends.aminmax())
    seen = {"low": low, "high": high, "level": (abs(low) + abs(high)) / 4, "negative": 0.0, "whole": False}
    known = packed.get("units", {**seen, "bits8": dtype == "uint8"})
    units = Units(**{name: known[name] for name in UNITS_FIELDS})
    clip = packed.get("clip")
    return PixelScale(
        **scale, bounded=packed["bounded"], units=units, clip=None if clip is None else torch.tensor(clip)
    )


def _new_encoder(state: Mapping[str, Any], weights: dict[str, Any]) -> nn.Module:
    """Create an encoder for these weights; a named backbone is created on "meta", without memory.

    A small file can name a network of several gigabytes. Its memory is allocated only after the shapes of the
    weights in the file have been compared with it.
    """
    backbone_, params = state["backbone_"], _without_pretrained(state, weights)[0] or {}
    with lent_generators(0, torch.device("cpu")), _without_memory(backbone_):
        backbone = make_backbone(backbone_, params, state["image_shape_"][2], tuple(state["image_size_"]))
    encoder = make_encoder(state["_pixels"], backbone)
    # `fit` appends average pooling to backbones that return maps, which adds a level to the weights' names.
    if encoder.state_dict().keys() != weights.keys():
        encoder = make_encoder(state["_pixels"], averaged(backbone))
    return encoder.eval()


def _without_memory(backbone: Any) -> AbstractContextManager:
    """Return the context in which a named backbone is created on "meta"; do nothing for other backbones."""
    if not isinstance(backbone, str) or backbone.startswith(PREFIX):  # timm computes with tensors it creates
        return nullcontext()
    return ParametersOnMeta() if backbone.startswith("regnet") else torch.device("meta")


class ParametersOnMeta(TorchFunctionMode):
    """Create parameters, which use `torch.empty`, on "meta", and all other tensors as usual.

    Unlike `torch.device("meta")`, this suits RegNets, which read the widths of layers from a tensor.
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return func(*args, **(kwargs | {"device": "meta"} if func is torch.empty else kwargs))


def _with_weights(encoder: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """Load weights into an encoder after a comparison of all shapes; allocate its memory if necessary."""
    shapes = [
        {name: tuple(value.shape) for name, value in each.items()} for each in (encoder.state_dict(), weights)
    ]
    for name in {**shapes[0], **shapes[1]}:
        expected, stored = (each.get(name, "nothing") for each in shapes)
        if expected != stored:
            raise ValueError(
                f"The backbone does not match the stored weights: size mismatch of {printable(name)}: the "
                f"backbone has {expected}, and the weights have {stored}."
            )
    if any(value.is_meta for value in encoder.state_dict().values()):
        encoder = encoder.to_empty(device="cpu")
    load_plain_state(encoder, weights)
    return encoder


def _without_pretrained(state: Mapping[str, Any], weights: dict[str, Any]) -> tuple[dict | None, Any]:
    """Return `backbone_params` without pretrained weights, which are no longer needed, and those weights.

    The stem of a ResNet, and the patches of a vision transformer, may depend on the pretrained weights; they
    are set explicitly.
    """
    # Imported here because torchvision takes long to import.
    from sklearn_ssl._networks.torchvision_models import RESNETS, choose_stem

    params = state.get("backbone_params")
    if not params or params.get("weights") is None:
        return params, None
    made_with = state.get("_backbone_params", params)  # also with those of a model file
    rest = {name: value for name, value in made_with.items() if name != "weights"}
    if state["backbone_"] in RESNETS:
        first = {"conv1.weight": weights["backbone.conv1.weight"]}
        rest["stem"] = choose_stem(rest.get("stem", "auto"), tuple(state["image_size_"]), first)
    if state["backbone_"] == "vit":
        rest["patch"] = weights["backbone.conv_proj.weight"].shape[-1]
    return rest, params["weights"]


def _can_be_recreated(state: Mapping[str, Any], encoder: nn.Module) -> bool:
    """Return whether the backbone's name recreates the layers of the encoder, apart from their weights."""
    if not isinstance(state["backbone_"], str) or any(map(has_hooks, encoder.modules())):
        return False
    try:
        again = _new_encoder(state, encoder.state_dict())
    except (KeyError, ValueError):
        return False
    return have_same_structure(again, encoder)


def _arrays(value: Any) -> Any:
    """Replace tensors by numpy arrays, except for bfloat16, which numpy does not have."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return value if value.dtype == torch.bfloat16 else value.numpy().copy()
    return _mapped(_arrays, value)


def _tensors(value: Any) -> Any:
    """Invert `_arrays`."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return torch.from_numpy(value.copy())
    return _mapped(_tensors, value)


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to the items of a dict, list or tuple; return other values unchanged."""
    if isinstance(value, dict):
        return {name: function(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(function, value))
    return value
