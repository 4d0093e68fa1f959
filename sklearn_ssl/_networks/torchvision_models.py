"""ResNets and other classification models of torchvision as backbones."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import VisionTransformer, WeightsEnum, get_model, get_model_weights

from sklearn_ssl._checks import check_choice, check_number
from sklearn_ssl._networks.small_resnets import BLOCKS, WIDTH, BasicResNet
from sklearn_ssl._networks.vit import fit_positions
from sklearn_ssl._networks.weights import fit_channels, layers_of, load_weights, read_weights

# `torchvision.models` itself holds the classification models only.
TORCHVISION = tuple(models.list_models(module=models))
# Sorted by length, so that error messages begin with resnet10.
RESNETS = tuple(
    sorted(
        {*BLOCKS, *(name for name in TORCHVISION if name.startswith(("resnet", "resnext", "wide_resnet")))},
        key=lambda name: (len(name), name),
    )
)
# Stem -> kernel size and stride of the first convolution, and the pooling layer.
STEMS: dict[str, tuple[int, int, Callable[[], nn.Module]]] = {
    "imagenet": (7, 2, partial(nn.MaxPool2d, 3, stride=2, padding=1)),
    "3x3": (3, 1, nn.Identity),  # SimCLR, arXiv:2002.05709, appendix B.9
    "3x3-pool": (3, 1, partial(nn.MaxPool2d, 2, ceil_mode=True)),  # keeps an image of height 1
    "3x3-stride2": (3, 2, nn.Identity),
}
# Stem for "auto", by the short side of the images. Layers 2 to 4 divide it by 8 and the ImageNet stem by
# another 4, which would reduce 32 pixels to one; at any size the 3x3 stem costs about 15 times the arithmetic
# of the ImageNet stem.
AUTO_STEMS = ((32, "3x3"), (64, "3x3-pool"), (math.inf, "imagenet"))  # (below this many pixels, stem)
# Keyword arguments of models with auxiliary classifiers, which are dropped; torchvision's default of
# init_weights, None, warns.
AUXILIARY = {name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")}
# Prefixes of the weights of auxiliary classifiers in state dicts.
AUXILIARY_KEYS = ("aux1.", "aux2.", "AuxLogits.")


def auto_stem(image_size: tuple[int, int]) -> str:
    """Return the name of the ResNet stem for images of this (height, width) in pixels.

    "3x3" for a short side below 32 pixels, "3x3-pool" below 64, else "imagenet".
    """
    return next(stem for below, stem in AUTO_STEMS if min(image_size) < below)


def resnet(
    name: str,
    in_channels: int,
    image_size: tuple[int, int],
    /,
    *,
    stem: str = "auto",
    width: int = WIDTH,
    weights: Mapping[str, Tensor] | str | os.PathLike | WeightsEnum | None = None,
) -> nn.Module:
    """Create a ResNet, ResNeXt or Wide ResNet, without its classifier.

    Parameters
    ----------
    name : str
        "resnet10" (one block in each stage) or the name of a model in torchvision.
    in_channels : int
        Number of channels of an image.
    image_size : tuple of two ints
        (height, width) of an image, in pixels.
    stem : {"auto", "imagenet", "3x3", "3x3-pool", "3x3-stride2"}, default="auto"
        Layers before the first block. "imagenet": 7x7 convolution and 3x3 max pooling, stride 2 each;
        "3x3": 3x3 convolution with stride 1, no pooling (SimCLR for CIFAR-10, arXiv:2002.05709);
        "3x3-pool": the same and 2x2 max pooling; "3x3-stride2": 3x3 convolution with stride 2, no pooling.
        The less a stem reduces the image, the more arithmetic the blocks do. "auto": the stem that matches
        the weights if some are given ("3x3" for a 3x3 convolution), else `auto_stem`.
    width : int, default=64
        Number of channels of the first stage, an eighth of that of the features; for "resnet10", "resnet18"
        and "resnet34" only. Half the width takes about a quarter of the arithmetic.
    weights : state dict, path, torchvision weights or their name, default=None
        Initial weights; None: random. A path is that of a file of `SSLImageEmbedder.save`, of `torch.save` or
        of safetensors. Weights given by a name such as "IMAGENET1K_V1" are downloaded by
        torchvision. Classifier weights are ignored. Filters for RGB are adapted to other numbers of
        channels (`widen_filters`).

    Returns
    -------
    nn.Module
        Module that maps images (n, in_channels, height, width) to features (n, d).

    Raises
    ------
    ValueError
        If the stem is unknown, the width cannot be had, or the weights cannot be read or do not match.
    """
    state = read_weights(name, weights)
    kernel, stride, pool = STEMS[choose_stem(stem, image_size, state)]
    model = _bare_resnet(name, width)
    model.conv1 = nn.Conv2d(in_channels, width, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
    model.maxpool = pool()
    _finish(model, name, state, in_channels)
    return model


def _bare_resnet(name: str, width: int) -> nn.Module:
    width = check_number("backbone__width", width, whole=True, at_least=1)
    if width == WIDTH and name in TORCHVISION:
        return get_model(name, weights=None)
    if name not in BLOCKS:
        raise ValueError(
            f"backbone__width={width}: {name} has one width only. Narrower or wider networks are made of "
            f"{', '.join(BLOCKS)}."
        )
    return BasicResNet(BLOCKS[name], width)


def torchvision_model(
    name: str,
    in_channels: int,
    image_size: tuple[int, int],
    /,
    *,
    weights: Mapping[str, Tensor] | str | os.PathLike | WeightsEnum | None = None,
) -> nn.Module:
    """Create any other classification model of torchvision, unchanged except for the classifier.

    Parameters
    ----------
    name : str
        Name of the model in torchvision.
    in_channels : int
        Number of channels of an image.
    image_size : tuple of two ints
        (height, width) of an image, in pixels; ignored, as the models are the same for all sizes. Those named
        ``vit_...`` and maxvit_t take images of 224 pixels only, inception_v3 of 75 and more, and others no
        tiny ones.
    weights : state dict, path, torchvision weights or their name, default=None
        Initial weights, as in `resnet`. Position embeddings are interpolated to 224 pixels.

    Returns
    -------
    nn.Module
        Module that maps images (n, in_channels, height, width) to features (n, d).

    Raises
    ------
    ValueError
        If the weights cannot be read or do not match.
    """
    state = read_weights(name, weights)
    model = get_model(name, weights=None, **AUXILIARY.get(name, {}))
    _, first = layers_of(model, nn.Conv2d)[0]
    if in_channels != first.in_channels:
        _redraw(first, in_channels)
    _finish(model, name, state, in_channels)
    return model


def native_sizes(name: str) -> list[tuple[int, int]]:
    """Return the (height, width) in pixels of the images that torchvision has trained a model on."""
    crops = {weights.transforms.keywords["crop_size"] for weights in get_model_weights(name)}
    return [(side, side) for side in sorted(crops)]


def choose_stem(stem: str, image_size: tuple[int, int], state: Mapping[str, Tensor] | None) -> str:
    """Return the stem: for "auto", the one that matches the weights, or the images without weights."""
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
    """Remove the classifier, then load the weights if some are given."""
    head = _remove_head(model)
    if state is None:
        return
    state = {key: value for key, value in state.items() if not key.startswith((f"{head}.", *AUXILIARY_KEYS))}
    fit_channels(state, layers_of(model, nn.Conv2d)[0][0], in_channels)
    if isinstance(model, VisionTransformer):
        side = model.image_size // model.patch_size
        fit_positions(state, (side, side))
    load_weights(model, name, state)


def _remove_head(model: nn.Module) -> str:
    """Replace the classifier, the last layer with weights, and the dropout before it; return its name."""
    head, _ = layers_of(model, (nn.Linear, nn.Conv2d))[-1]  # SqueezeNet's classifier is a convolution
    names = [name for name, _ in model.named_modules()]
    before = names[names.index(head) - 1]
    if isinstance(model.get_submodule(before), nn.Dropout):
        model.set_submodule(before, nn.Identity())
    model.set_submodule(head, nn.Identity())
    return head


def _redraw(conv: nn.Conv2d, in_channels: int) -> None:
    """Initialize a convolution for another number of input channels, keeping the scale of its outputs."""
    std = conv.weight.detach().std() * math.sqrt(conv.in_channels / in_channels)
    conv.in_channels = in_channels
    conv.weight = nn.Parameter(std * torch.randn(conv.out_channels, in_channels, *conv.kernel_size))
