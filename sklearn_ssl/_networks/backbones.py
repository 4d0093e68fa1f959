"""Backbones by name, whose stem or patches fit the image size, or any `nn.Module`; and their feature maps."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import ResNet

from sklearn_ssl._checks import as_nested
from sklearn_ssl._networks.torchvision_models import (
    RESNETS,
    TORCHVISION,
    layers_of,
    resnet,
    torchvision_model,
)
from sklearn_ssl._networks.vit import ViT, make_vit
from sklearn_ssl._networks.weights import first_five
from sklearn_ssl._params import did_you_mean

# First names of the last layer in torchvision, timm and many others, where it is a classifier.
CLASSIFIERS = ("classifier", "fc", "head", "heads", "last_linear", "logits")


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
        got += f" with the entries {first_five(output)}"
    raise ValueError(
        f"backbone {label} must return one tensor: features (n, d), or feature maps (n, d, height, width), "
        f"which are averaged; it returned {got}. Wrap it in a module whose forward picks one entry, "
        "or one token or the mean of the tokens, x.mean(1)."
    )


def _warn_of_classifier(module: nn.Module, label: str, feature_dim: int) -> None:
    """A classifier on new classes is untrained: its outputs say less of an image than what goes into it."""
    layers = layers_of(module, (nn.Linear, nn.Conv2d))
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
