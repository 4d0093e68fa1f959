"""Backbones by name, whose stem or patches fit the image size, or any `nn.Module`; and their feature maps."""

from __future__ import annotations

import copy
import inspect
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import ResNet, WeightsEnum, get_model, get_model_weights

from sklearn_ssl.checks import as_nested, check_choice
from sklearn_ssl.nested_params import did_you_mean
from sklearn_ssl.vit import ViT, make_vit

TORCHVISION = tuple(models.list_models(module=models))  # this module holds the classification models only
RESNETS = tuple(  # by length, so that error messages begin with resnet18
    sorted((name for name in TORCHVISION if name.startswith(("resnet", "resnext", "wide_resnet"))), key=len)
)

# first convolution's kernel size and stride, then the pooling
STEMS: dict[str, tuple[int, int, Callable[[], nn.Module]]] = {
    "imagenet": (7, 2, partial(nn.MaxPool2d, 3, stride=2, padding=1)),
    "3x3": (3, 1, nn.Identity),  # SimCLR, arXiv:2002.05709, appendix B.9
    "3x3-pool": (3, 1, partial(nn.MaxPool2d, 2, ceil_mode=True)),  # an image one pixel high stays one high
    "3x3-stride2": (3, 2, nn.Identity),
}
# The short side decides. Layers 2 to 4 divide it by 8 and the ImageNet stem by another 4, which would
# leave one pixel of 32; at any size the 3x3 stem makes for about 15 times the ImageNet stem's arithmetic.
AUTO_STEMS = ((32, "3x3"), (64, "3x3-pool"), (math.inf, "imagenet"))  # (below this many pixels, stem)

# auxiliary classifiers are thrown away; init_weights=None, torchvision's default, warns
AUXILIARY = {name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")}
AUXILIARY_KEYS = ("aux1.", "aux2.", "AuxLogits.")
# First names of the last layer in torchvision, timm and many others, where it is a classifier.
CLASSIFIERS = ("classifier", "fc", "head", "heads", "last_linear", "logits")
PREFIXES = ("module.", "backbone.", "encoder_.")


def auto_stem(image_size: tuple[int, int]) -> str:
    """Name of the ResNet stem for images of this (height, width) in pixels.

    Below 32 pixels (short side) "3x3", below 64 "3x3-pool", else "imagenet".
    """
    return next(stem for below, stem in AUTO_STEMS if min(image_size) < below)


def resolve_backbone(backbone: str | nn.Module | Callable) -> Callable:
    """What makes this backbone; its keyword-only parameters are the names after `backbone__`.

    Parameters
    ----------
    backbone : str, nn.Module or callable
        "auto" (resnet18), "vit" or the name of a torchvision classification model; a module; or a
        factory that returns a module.

    Returns
    -------
    callable
        For a name: `make_vit`, or `resnet` or `torchvision_model` with the name filled in. A module
        or a factory is returned as it is.

    Raises
    ------
    ValueError
        For an unknown name.
    TypeError
        For anything else that cannot be called.
    """
    if callable(backbone):
        return backbone
    if not isinstance(backbone, str):
        raise TypeError(
            "backbone must be a name such as 'resnet18', an nn.Module, or a factory (a class or function "
            f"that returns an nn.Module); got {backbone!r}."
        )
    name = "resnet18" if backbone == "auto" else backbone
    if name == "vit":
        return make_vit
    if name not in TORCHVISION:
        raise ValueError(_unknown_name(name))
    return partial(resnet if name in RESNETS else torchvision_model, name)


def build_backbone(
    backbone: str | nn.Module | Callable, params: dict, *, in_channels: int, image_size: tuple[int, int]
) -> tuple[nn.Module, int]:
    """Make the backbone, and find the width of its features by a dry run in eval mode.

    Parameters
    ----------
    backbone : str, nn.Module or callable
        See `resolve_backbone`. A module is copied, so it is never trained in place. A factory that
        has a parameter `in_channels` or `image_size` is given it.
    params : dict
        Parameters of a named backbone (see `resnet`, `make_vit`, `torchvision_model`) or of the factory;
        a module takes none.
    in_channels : int
        Channels of an image.
    image_size : tuple of two ints
        (height, width) in pixels.

    Returns
    -------
    module : nn.Module
        Maps images (n, in_channels, height, width), float, to features (n, feature_dim). Feature maps
        are averaged over space. It is on the CPU.
    feature_dim : int

    Raises
    ------
    ValueError
        If there is no such backbone, if it cannot take these images, if it returns something else
        than features, or if its weights do not fit.
    TypeError
        If a factory returns no module.
    """
    module, label = make_backbone(backbone, params, in_channels, image_size), _label(backbone)
    output = _dry_run(module, label, in_channels, image_size)
    _check_features(output, label)
    if not isinstance(backbone, str):
        _warn_of_classifier(module, label, output.shape[1])
    if output.ndim == 4:  # (2, d, h, w)
        module = averaged(module)
    return module, output.shape[1]


def make_backbone(
    backbone: str | nn.Module | Callable, params: dict, in_channels: int, image_size: tuple[int, int]
) -> nn.Module:
    """Make the backbone, without a look at what it returns; see `build_backbone`."""
    make = resolve_backbone(backbone)
    if isinstance(make, torch.jit.ScriptModule):
        raise ValueError(
            "backbone is a scripted module, which cannot be copied and trained as others can: give the "
            "module that torch.jit was given."
        )
    if isinstance(make, nn.Module):
        if params:
            raise ValueError(
                f"backbone is an instance of {_label(backbone)}, which takes no parameters; got "
                f"{', '.join(f'backbone__{key}' for key in params)}. Pass the class or a factory to set them."
            )
        return copy.deepcopy(make).cpu()  # the user's own may be on a GPU; what is built here is on the CPU
    with _told_of(backbone, params):
        if isinstance(backbone, str):
            return make(in_channels, image_size, **params)
        sizes = {"in_channels": in_channels, "image_size": image_size}
        wanted = {key: size for key, size in sizes.items() if key in inspect.signature(make).parameters}
        module = make(**{**wanted, **params})
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"backbone factory {_label(backbone)} returned a {type(module).__name__}; "
            "it must return an nn.Module."
        )
    return module


def averaged(module: nn.Module) -> nn.Sequential:
    """A module that returns feature maps (n, d, height, width), made to return features (n, d)."""
    return nn.Sequential(module, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def feature_maps(backbone: nn.Module, x: Tensor) -> Tensor:
    """What a backbone averages over space to features.

    Parameters
    ----------
    backbone : nn.Module
        As `build_backbone` makes it: a ResNet, a vision transformer, or a module that returns maps.
    x : Tensor of shape (n, channels, height, width)

    Returns
    -------
    Tensor of shape (n, feature_dim, rows, columns)

    Raises
    ------
    ValueError
        The backbone shows its features only.
    """
    if isinstance(backbone, ViT):
        grid = (x.shape[2] // backbone.patch_size, x.shape[3] // backbone.patch_size)
        return backbone.tokens(x).transpose(1, 2).unflatten(2, grid)
    if isinstance(backbone, ResNet):
        x = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(x))))
        return backbone.layer4(backbone.layer3(backbone.layer2(backbone.layer1(x))))
    if isinstance(backbone, nn.Sequential) and _is_pooled(backbone):
        for layer in list(backbone)[:-2]:
            x = layer(x)
        return x
    raise ValueError(
        f"the backbone {type(backbone).__name__} does not show its feature maps. Backbones that do: "
        f"{', '.join(RESNETS)}, vit, and modules that return maps (n, d, height, width)"
    )


def _is_pooled(backbone: nn.Sequential) -> bool:
    """Whether its last layers average maps over space, as `build_backbone` has it."""
    kinds = [type(layer) for layer in backbone][-2:]
    return kinds == [nn.AdaptiveAvgPool2d, nn.Flatten] and backbone[-2].output_size in (1, (1, 1))


def resnet(
    name: str,
    in_channels: int,
    image_size: tuple[int, int],
    /,
    *,
    stem: str = "auto",
    weights: Mapping[str, Tensor] | str | os.PathLike | WeightsEnum | None = None,
) -> nn.Module:
    """ResNet, ResNeXt or Wide ResNet of torchvision, without its classifier.

    Parameters
    ----------
    name : str
        Torchvision's name.
    in_channels, image_size : int, tuple of two ints
        Channels and (height, width) of an image.
    stem : {"auto", "imagenet", "3x3", "3x3-pool", "3x3-stride2"}, default="auto"
        The layers before the first block. "imagenet": 7x7 convolution and 3x3 max-pool, stride 2 each;
        "3x3": 3x3 convolution with stride 1, no pool (SimCLR for CIFAR-10, arXiv:2002.05709);
        "3x3-pool": that and 2x2 max-pool; "3x3-stride2": 3x3 convolution with stride 2, no pool.
        The less a stem shrinks the image, the more arithmetic the blocks do. "auto": what fits the
        weights if some are given ("3x3" for a 3x3 convolution), else `auto_stem`.
    weights : state dict, path, torchvision weights or their name, default=None
        Start from these; None: random. A name such as "IMAGENET1K_V1" is downloaded by torchvision.
        Classifier weights are ignored. Filters for RGB are adapted to other channels (`widen_filters`).

    Returns
    -------
    nn.Module
        Images (n, in_channels, height, width) to features (n, d).

    Raises
    ------
    ValueError
        For an unknown stem, and for weights that cannot be read or do not fit.
    """
    state = read_weights(name, weights)
    kernel, stride, pool = STEMS[choose_stem(stem, image_size, state)]
    model = get_model(name, weights=None)
    model.conv1 = nn.Conv2d(in_channels, 64, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
    model.maxpool = pool()
    _finish(model, name, state, in_channels)
    return model


def torchvision_model(
    name: str,
    in_channels: int,
    image_size: tuple[int, int],
    /,
    *,
    weights: Mapping[str, Tensor] | str | os.PathLike | WeightsEnum | None = None,
) -> nn.Module:
    """Any other classification model of torchvision: as it is, without its classifier.

    Parameters
    ----------
    name : str
        Torchvision's name.
    in_channels, image_size : int, tuple of two ints
        Channels and (height, width) of an image. The size changes nothing in these models.
    weights : state dict, path, torchvision weights or their name, default=None
        As in `resnet`.

    Returns
    -------
    nn.Module
        Images (n, in_channels, height, width) to features (n, d).

    Raises
    ------
    ValueError
        For weights that cannot be read or do not fit.
    """
    state = read_weights(name, weights)
    model = get_model(name, weights=None, **AUXILIARY.get(name, {}))
    _, first = _layers(model, nn.Conv2d)[0]
    if in_channels != first.in_channels:
        _redraw(first, in_channels)
    _finish(model, name, state, in_channels)
    return model


def widen_filters(weight: Tensor, in_channels: int) -> Tensor:
    """Filters (out, 3, k, k) for RGB, made into filters (out, in_channels, k, k).

    One channel: the sum over RGB, so that a grey image gives what its RGB copy gave. Otherwise R, G, B
    are repeated cyclically and scaled by 3 / in_channels, so that a constant image gives about the same.
    """
    if in_channels == 1:
        return weight.sum(1, keepdim=True)  # (out, 1, k, k)
    return weight[:, torch.arange(in_channels) % 3] * (3 / in_channels)  # (out, in_channels, k, k)


def read_weights(
    name: str, weights: Mapping[str, Tensor] | str | os.PathLike | WeightsEnum | None
) -> dict[str, Tensor] | None:
    """State dict in whatever was given as weights, without a prefix "module.", "backbone." or "encoder_.".

    Parameters
    ----------
    name : str
        Torchvision's name of the model.
    weights : state dict, path, torchvision weights or their name, or None
        A file is read with ``torch.load(weights_only=True)``: it cannot run code.

    Returns
    -------
    dict or None
        None if no weights are given.

    Raises
    ------
    ValueError
        For what is neither, and for a file without a state dict.
    """
    if weights is None:
        return None
    published = get_model_weights(name)
    if isinstance(weights, str):
        weights = published.__members__.get(weights.removeprefix(f"{published.__name__}."), weights)
    if isinstance(weights, published):
        # torchvision's files have old key names (densenet), which only its own loading understands
        return get_model(name, weights=weights).state_dict()
    if isinstance(weights, (str, os.PathLike)) and Path(weights).is_file():
        weights = _read_file(weights)
    if not isinstance(weights, Mapping):
        raise ValueError(
            f"backbone__weights={weights!r:.100} cannot be used for {name}. Possible: a state dict, the path "
            "of an existing file that torch.save wrote, or weights of torchvision: "
            f"{', '.join(published.__members__)}."
        )
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(
            "backbone__weights must be a state dict: names and tensors. What was given or read has the "
            f"entries {_first_five(weights)}. Give the one of them that is a state dict."
        )
    return _without_prefix(weights)


def _read_file(path: str | os.PathLike) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError, ... for a bad file
        raise ValueError(
            f"backbone__weights={os.fspath(path)!r} cannot be read as a state dict. Write such a file with "
            f"torch.save(module.state_dict(), path). torch.load says: {error}"
        ) from error


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """At most one prefix is removed, and only if all names have it."""
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state):
            return {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)


def choose_stem(stem: str, image_size: tuple[int, int], state: Mapping[str, Tensor] | None) -> str:
    """What "auto" means: what fits the weights, if there are some, else the images."""
    check_choice("backbone__stem", stem, ("auto", *STEMS))
    if not state or "conv1.weight" not in state:
        return auto_stem(image_size) if stem == "auto" else stem
    given = state["conv1.weight"].shape[-1]
    if stem == "auto":
        return "3x3" if given == 3 else "imagenet"
    if given != (kernel := STEMS[stem][0]):
        raise ValueError(
            f"backbone__stem={stem!r} begins with a {kernel}x{kernel} convolution, but the weights have a "
            f"{given}x{given} one. Leave backbone__stem at 'auto', or give other weights."
        )
    return stem


def _finish(model: nn.Module, name: str, state: dict[str, Tensor] | None, in_channels: int) -> None:
    """Remove the classifier, then load the weights, if any."""
    head = _remove_head(model)
    if state is None:
        return
    state = {key: value for key, value in state.items() if not key.startswith((f"{head}.", *AUXILIARY_KEYS))}
    first = _layers(model, nn.Conv2d)[0][0] + ".weight"
    if first in state and in_channels != 3 and state[first].shape[1] == 3:
        state[first] = widen_filters(state[first], in_channels)
    _load(model, name, state)


def _remove_head(model: nn.Module) -> str:
    """Replace the classifier, which is the last layer with weights, and the dropout that is a part of it."""
    head, _ = _layers(model, (nn.Linear, nn.Conv2d))[-1]  # SqueezeNet's classifier is a convolution
    names = [name for name, _ in model.named_modules()]
    before = names[names.index(head) - 1]
    if isinstance(model.get_submodule(before), nn.Dropout):
        model.set_submodule(before, nn.Identity())
    model.set_submodule(head, nn.Identity())
    return head


def _load(model: nn.Module, name: str, state: dict[str, Tensor]) -> None:
    own = model.state_dict()  # shares memory with the model
    # files from before torch 0.4.1 lack num_batches_tracked, torchvision's own among them
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    misshapen = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    problems = [f"{len(keys)} {what}: {_first_five(keys)}" for what, keys in found.items() if keys]
    if problems:
        raise ValueError(
            f"backbone__weights do not fit {name}; {'; '.join(problems)}. "
            f"Give weights of a {name}, or choose the backbone that they come from."
        )
    with torch.no_grad():
        for key, value in state.items():
            own[key].copy_(value)


def _redraw(conv: nn.Conv2d, in_channels: int) -> None:
    """Let a fresh convolution take another number of channels, with outputs as large as before."""
    std = conv.weight.detach().std() * math.sqrt(conv.in_channels / in_channels)
    conv.in_channels = in_channels
    conv.weight = nn.Parameter(std * torch.randn(conv.out_channels, in_channels, *conv.kernel_size))


def _layers(model: nn.Module, kind: type | tuple[type, ...]) -> list[tuple[str, nn.Module]]:
    """(name, layer) in the order in which they were made, which is the order of use in torchvision."""
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, kind)]


@contextmanager
def _told_of(backbone: Any, params: dict) -> Iterator[None]:
    """Say which backbone, and with which parameters, could not be made."""
    try:
        yield
    except Exception as error:  # a factory may raise anything
        if isinstance(backbone, str) and isinstance(error, ValueError):
            raise  # in our own words
        given = f" with {as_nested('backbone', params)}" if params else ""
        raise ValueError(f"backbone {_label(backbone)} cannot be made{given}: {error}") from error


def _dry_run(module: nn.Module, label: str, in_channels: int, image_size: tuple[int, int]) -> Any:
    """Output for two black images. In eval mode, so that BatchNorm's statistics stay as they are."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        with torch.no_grad():
            return module.eval()(torch.zeros(2, in_channels, *image_size))
    except Exception as error:  # a module may raise anything
        size = " x ".join(map(str, (in_channels, *image_size)))
        raise ValueError(
            f"backbone {label} cannot take images of {size}: {str(error).rstrip('.')}. "
            f"Backbones that take any size: {', '.join(RESNETS)}; or set image_size=224."
        ) from error
    finally:
        for part, training in modes:
            part.training = training


def _check_features(output: Any, label: str) -> None:
    if isinstance(output, Tensor) and output.ndim in (2, 4) and len(output) == 2:
        return
    got = f"a {type(output).__name__}"
    if isinstance(output, Tensor):
        got = f"a tensor of shape {tuple(output.shape)} for two images"
    elif isinstance(output, Mapping):
        got += f" with the entries {_first_five(output)}"
    raise ValueError(
        f"backbone {label} must return one tensor: features (n, d), or feature maps (n, d, height, width), "
        f"which are averaged; it returned {got}. Wrap it in a module whose forward picks one entry, "
        "or one token or the mean of the tokens, x.mean(1)."
    )


def _warn_of_classifier(module: nn.Module, label: str, feature_dim: int) -> None:
    """A classifier on new classes is untrained: its outputs say less of an image than what goes into it."""
    layers = _layers(module, (nn.Linear, nn.Conv2d))
    name, last = layers[-1] if layers else ("", None)
    if name.split(".")[0] not in CLASSIFIERS:
        return
    linear = isinstance(last, nn.Linear)
    before, after = (last.in_features, last.out_features) if linear else (last.in_channels, last.out_channels)
    if after == feature_dim != before:
        warnings.warn(
            f"The backbone {label} ends in the layer {name!r}, from {before} to {after} "
            f"features, which looks like a classifier, and embeddings would be its outputs. If it is one, "
            f"take it off: module.{name} = nn.Identity(), or num_classes=0 for a model of timm.",
            stacklevel=2,
        )


def _unknown_name(name: str) -> str:
    return (
        f"Unknown backbone {name!r}.{did_you_mean(name, ('auto', 'vit', *TORCHVISION))}"
        f" Available: auto, vit, {', '.join(RESNETS)}, and every other name in"
        " torchvision.models.list_models(torchvision.models); an nn.Module; a factory that returns one."
        f" A model of timm: backbone=timm.create_model, backbone__model_name={name!r},"
        " backbone__num_classes=0."
    )


def _label(backbone: Any) -> str:
    if isinstance(backbone, str):
        return repr(backbone)
    return getattr(backbone, "__qualname__", type(backbone).__name__)


def _first_five(keys: Any) -> str:
    keys = list(map(str, keys))
    return ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
