"""Backbones by name, with a stem or patches that fit the image size, or of any `nn.Module`; feature maps.

Torchvision takes longer to import than the rest of the package: it is imported where a backbone is made.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

from sklearn_ssl._checks import as_nested, as_side
from sklearn_ssl._hardware.ambient import lent_generators
from sklearn_ssl._networks.borders import (
    ignored_border,
    ignored_share,
    is_worth_telling,
    sizes_that_fit,
)
from sklearn_ssl._networks.weights import first_five, layers_of
from sklearn_ssl._params import did_you_mean
from sklearn_ssl._warnings import warn

if TYPE_CHECKING:
    from sklearn_ssl._networks.vit import ViT

# Names of the classifier, the last layer, in models of torchvision, timm and many other packages.
CLASSIFIER_NAMES = ("classifier", "fc", "head", "heads", "last_linear", "logits")


def resolve_backbone(backbone: str | nn.Module | Callable) -> Callable:
    """Return the callable that creates a backbone; its keyword-only parameters are those of `backbone__`.

    Parameters
    ----------
    backbone : str, nn.Module or callable
        "auto" (a ResNet), "resnet10", "vit", the name of a torchvision classification model, or "timm:" and
        the name of a model of timm; a module; or a factory that returns a module.

    Returns
    -------
    callable
        For a name: `make_vit`, or a partial of `resnet`, `torchvision_model` or `timm_model` with the name. A
        module or a factory is returned unchanged.

    Raises
    ------
    ValueError
        If the name is unknown.
    TypeError
        If `backbone` is neither a name nor callable.
    """
    if callable(backbone):
        return backbone
    if not isinstance(backbone, str):
        raise TypeError(
            "backbone must be a name such as 'resnet18', an nn.Module, or a factory (a class or function "
            f"that returns an nn.Module); got {backbone!r}."
        )
    from sklearn_ssl._networks.timm_models import PREFIX, timm_model
    from sklearn_ssl._networks.torchvision_models import RESNETS, TORCHVISION, resnet, torchvision_model
    from sklearn_ssl._networks.vit import make_vit

    if backbone.startswith(PREFIX):
        return partial(timm_model, backbone.removeprefix(PREFIX))
    name = "resnet18" if backbone == "auto" else backbone
    if name == "vit":
        return make_vit
    if name not in (*RESNETS, *TORCHVISION):
        raise ValueError(_unknown_name(name))
    return partial(resnet if name in RESNETS else torchvision_model, name)


def build_backbone(
    backbone: str | nn.Module | Callable, params: dict, *, in_channels: int, image_size: tuple[int, int]
) -> tuple[nn.Module, int]:
    """Create the backbone, and determine the width of its features by a dry run in eval mode.

    Parameters
    ----------
    backbone : str, nn.Module or callable
        See `resolve_backbone`. A module is copied, so that it is never trained in place. A factory
        receives `in_channels` and `image_size` if it has parameters of these names.
    params : dict
        Parameters of a named backbone (see `resnet`, `make_vit`, `torchvision_model`) or of the factory;
        must be empty for a module.
    in_channels : int
        Number of channels of an image.
    image_size : tuple of two ints
        (height, width) in pixels.

    Returns
    -------
    module : nn.Module
        Module on the CPU that maps float images (n, in_channels, height, width) to features
        (n, feature_dim). Feature maps are averaged over space.
    feature_dim : int
        Width of the features.

    Raises
    ------
    ValueError
        If the backbone is unknown, rejects images of this size, does not return features, or does not match
        the given weights.
    TypeError
        If a factory does not return a module.
    """
    module, label = make_backbone(backbone, params, in_channels, image_size), _label(backbone)
    with _in_eval_mode(module):
        try:
            output = _output(module, in_channels, image_size)
        except Exception as error:  # modules may raise any exception
            size = " x ".join(map(str, (in_channels, *image_size)))
            raise ValueError(
                f"backbone {label} cannot take images of {size}: {_reason(error)}. "
                + _way_out(backbone, params, module, in_channels, image_size)
            ) from error
        _check_features(output, label)
        _warn_of_ignored_border(backbone, params, module, in_channels, image_size)
    if not isinstance(backbone, str):
        _warn_of_classifier(module, label, output.shape[1])
    if output.ndim == 4:  # (2, d, h, w)
        module = averaged(module)
    return module, output.shape[1]


def make_backbone(
    backbone: str | nn.Module | Callable, params: dict, in_channels: int, image_size: tuple[int, int]
) -> nn.Module:
    """Create the backbone without checking its output; see `build_backbone`."""
    make = resolve_backbone(backbone)
    if isinstance(make, torch.jit.ScriptModule):
        raise ValueError(
            "backbone is a scripted module, which cannot be copied and trained as others can: give the "
            "module that torch.jit was given."
        )
    if isinstance(make, nn.Module) and params:
        raise ValueError(
            f"backbone is an instance of {_label(backbone)}, which takes no parameters; got "
            f"{', '.join(f'backbone__{key}' for key in params)}. Pass the class or a factory to set them."
        )
    try:
        module = _made(backbone, params, in_channels, image_size)
    except Exception as error:  # factories may raise any exception
        if isinstance(backbone, str) and isinstance(error, ValueError | ImportError):
            raise  # a message of this package, which already names the parameter
        given = {name: value for name, value in params.items() if not isinstance(value, Mapping)}
        raise ValueError(
            f"backbone {_label(backbone)} cannot be made"
            + (f" with {as_nested('backbone', given)}" if given else "")
            + f": {_reason(error)}"
            + _another_size(backbone, params, in_channels, image_size, ". Set ")
        ) from error
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"backbone factory {_label(backbone)} returned a {type(module).__name__}; "
            "it must return an nn.Module."
        )
    return module


def _made(
    backbone: str | nn.Module | Callable, params: dict, in_channels: int, image_size: tuple[int, int]
) -> Any:
    """Return the module of a name, a copy of a module, or what a factory returns."""
    make = resolve_backbone(backbone)
    if isinstance(make, nn.Module):
        return copy.deepcopy(make).cpu()  # the user's module may be on a GPU
    if isinstance(backbone, str):
        return make(in_channels, image_size, **params)
    sizes = {"in_channels": in_channels, "image_size": image_size}
    wanted = {key: size for key, size in sizes.items() if key in inspect.signature(make).parameters}
    return make(**{**wanted, **params})


def averaged(module: nn.Module) -> nn.Sequential:
    """Append global average pooling to a module: maps (n, d, height, width) become features (n, d)."""
    return nn.Sequential(module, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def freeze(module: nn.Module, fraction: float) -> None:
    """Exclude the weights of the first layers from training; layers are counted in the order of `modules()`.

    Parameters
    ----------
    module : nn.Module
        Network, changed in place.
    fraction : float
        Fraction of the layers that have weights, rounded to whole layers.
    """
    layers = [layer for layer in module.modules() if next(layer.parameters(recurse=False), None) is not None]
    for layer in layers[: round(fraction * len(layers))]:
        for parameter in layer.parameters(recurse=False):
            parameter.requires_grad_(False)


def feature_maps(backbone: nn.Module, x: Tensor) -> Tensor:
    """Return the feature maps whose average over space is a backbone's features.

    Parameters
    ----------
    backbone : nn.Module
        Module of `build_backbone`: a ResNet, a vision transformer, or a module that returns feature maps.
    x : Tensor of shape (n, channels, height, width)
        Images.

    Returns
    -------
    Tensor of shape (n, feature_dim, rows, columns)
        Feature maps.

    Raises
    ------
    ValueError
        If the backbone does not expose feature maps.
    """
    from torchvision.models import ResNet

    if is_vit(backbone):
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
        f"{', '.join(_resnets())}, vit, and modules that return maps (n, d, height, width)"
    )


def is_vit(backbone: nn.Module) -> TypeGuard[ViT]:
    """Return whether a backbone is the vision transformer of `backbone="vit"`."""
    from sklearn_ssl._networks.vit import ViT

    return isinstance(backbone, ViT)


def _is_pooled(backbone: nn.Sequential) -> bool:
    """Return whether the last layers are the global average pooling that `averaged` appends."""
    kinds = [type(layer) for layer in backbone][-2:]
    return kinds == [nn.AdaptiveAvgPool2d, nn.Flatten] and backbone[-2].output_size in (1, (1, 1))


def _reason(error: Exception) -> str:
    """Return what an error says, or its type, as of an assertion without words."""
    return str(error).rstrip(".") or type(error).__name__


@contextmanager
def _in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Context manager in which BatchNorm's statistics do not change."""
    # Modules can be in different modes (a frozen BatchNorm): each one's is restored.
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@torch.no_grad()
def _output(module: nn.Module, in_channels: int, image_size: tuple[int, int]) -> Any:
    """Return the output for two black images."""
    return module(torch.zeros(2, in_channels, *image_size))


def _way_out(
    backbone: Any, params: dict, module: nn.Module, in_channels: int, image_size: tuple[int, int]
) -> str:
    """Return what to do for a backbone that rejects images."""
    if in_channels == 1:
        with suppress(Exception):  # of color images, too
            _output(module, 3, image_size)
            return (
                "It takes color images: repeat the gray channel, "
                "np.repeat(images[..., None], 3, axis=-1), and do the same for `transform`."
            )
    return f"Backbones that take any size: {', '.join(_resnets())}" + (
        _another_size(backbone, params, in_channels, image_size, "; or set ") or "."
    )


def _another_size(
    backbone: Any, params: dict, in_channels: int, image_size: tuple[int, int], words: str
) -> str:
    """Return the advice to set an image size that a backbone takes, after some words; "" if none is found."""
    sizes = [size for size in _usual_sizes(backbone) if size != image_size]
    fit = next((size for size in sizes if _takes(backbone, params, in_channels, size)), None)
    return f"{words}image_size={as_side(fit)}." if fit else ""


def _usual_sizes(backbone: Any) -> Sequence[tuple[int, int]]:
    """Return the image sizes that a model was designed for; of a module or factory, the most usual one."""
    from sklearn_ssl._networks.timm_models import PREFIX, native_size
    from sklearn_ssl._networks.torchvision_models import TORCHVISION, native_sizes

    if isinstance(backbone, str) and backbone.startswith(PREFIX):
        return [native_size(backbone.removeprefix(PREFIX))]
    return native_sizes(backbone) if backbone in TORCHVISION else [(224, 224)]


def _takes(backbone: Any, params: dict, in_channels: int, size: tuple[int, int]) -> bool:
    """Return whether a backbone with random weights takes images of a size."""
    params = {name: value for name, value in params.items() if name != "weights"}
    with suppress(Exception), lent_generators(0, torch.device("cpu")):  # whatever is the matter with it
        _output(_made(backbone, params, in_channels, size).eval(), in_channels, size)
        return True
    return False


def _warn_of_ignored_border(
    backbone: Any, params: dict, module: nn.Module, in_channels: int, image_size: tuple[int, int]
) -> None:
    """Warn of pixels at the border that have no influence, as patches do not divide the images."""
    rows, columns = ignored_border(module, in_channels, image_size)
    if not (rows or columns) or not is_worth_telling(module, image_size, (rows, columns)):
        return
    height, width = image_size
    lines = [f"{n} {what}{'s' * (n > 1)}" for n, what in ((rows, "row"), (columns, "column")) if n]
    sizes = sizes_that_fit(module, image_size, (rows, columns))
    fit = [as_side(size) for size in sizes if _takes(backbone, params, in_channels, size)]
    warn(
        f"The backbone {_label(backbone)} ignores {ignored_share(image_size, (rows, columns)):.0%} of the "
        f"pixels: the last {' and '.join(lines)} of images of {height} x {width} have no influence on its "
        f"features" + (f". Set image_size={' or '.join(fit)}." if fit else ".")
    )


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
    """Warn if the backbone seems to end in a classifier, whose outputs inform less than its inputs."""
    layers = layers_of(module, (nn.Linear, nn.Conv2d))
    if not layers or layers[-1][0].split(".")[0] not in CLASSIFIER_NAMES:
        return
    name, last = layers[-1]
    linear = isinstance(last, nn.Linear)
    before, after = (last.in_features, last.out_features) if linear else (last.in_channels, last.out_channels)
    if after == feature_dim != before:
        warn(
            f"The backbone {label} ends in the layer {name!r}, from {before} to {after} "
            f"features, which looks like a classifier, and embeddings would be its outputs. If it is one, "
            f"take it off: module.{name} = nn.Identity(), or num_classes=0 for a model of timm."
        )


def _resnets() -> tuple[str, ...]:
    from sklearn_ssl._networks.torchvision_models import RESNETS

    return RESNETS


def _unknown_name(name: str) -> str:
    from sklearn_ssl._networks.torchvision_models import RESNETS, TORCHVISION

    return (
        f"Unknown backbone {name!r}.{did_you_mean(name, ('auto', 'vit', *RESNETS, *TORCHVISION))}"
        f" Available: auto, vit, {', '.join(RESNETS)}, and every other name in"
        " torchvision.models.list_models(torchvision.models); an nn.Module; a factory that returns one."
        f" A model of timm: backbone='timm:{name}'."
    )


def _label(backbone: Any) -> str:
    if isinstance(backbone, str):
        return repr(backbone)
    return getattr(backbone, "__qualname__", type(backbone).__name__)
