"""Borders of images that a network ignores, as its patches do not divide the image size."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sklearn_ssl._hardware.ambient import lent_generators
from sklearn_ssl._networks.weights import layers_of

# Share of the pixels from which an ignored border is told: of networks that cut images into patches, and of
# others, whose convolutions and poolings may drop a row of a map (AlexNet: up to 14 % above 63 pixels).
SHARE_OF_PATCHES, SHARE_OF_OTHERS = 0.01, 0.2
# Number of rows or columns that the latter may drop of images of any size.
FEW = 2


def ignored_border(module: nn.Module, in_channels: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return how many rows at the bottom, and columns on the right, have no influence on the features.

    Parameters
    ----------
    module : nn.Module
        Backbone on the CPU, in eval mode; nothing of it is changed.
    in_channels : int
        Number of channels of an image.
    image_size : tuple of two ints
        (height, width) of an image, in pixels.

    Returns
    -------
    tuple of two ints
        (0, 0) also if it cannot be told: of a network without gradient, or with constant features.
    """
    height, width = image_size
    with suppress(Exception), lent_generators(0, torch.device("cpu")):  # modules may raise anything
        images, network = torch.randn(2, in_channels, height, width), _without_zeros(module)
        seen = (_gradient(network, images) != 0).any(0).any(0)  # (height, width)
        rows, columns = (_zeros_at_the_end(seen.any(dim)) for dim in (1, 0))
        if rows < height:  # else the features are constant
            return _confirmed(network, images, rows, 0), _confirmed(network, images, 0, columns)
    return 0, 0


def is_worth_telling(module: nn.Module, image_size: tuple[int, int], border: tuple[int, int]) -> bool:
    """Return whether an ignored border is more than what convolutions without padding usually drop."""
    share = ignored_share(image_size, border)
    return share > SHARE_OF_PATCHES if _patch(module) else share > SHARE_OF_OTHERS and max(border) > FEW


def ignored_share(image_size: tuple[int, int], border: tuple[int, int]) -> float:
    """Return the share of the pixels in a border of (rows, columns)."""
    (height, width), (rows, columns) = image_size, border
    return 1 - (height - rows) * (width - columns) / (height * width)


def sizes_that_fit(
    module: nn.Module, image_size: tuple[int, int], border: tuple[int, int]
) -> list[tuple[int, int]]:
    """Return the next image sizes without an ignored border: a larger one, if patches tell, and a smaller."""
    smaller = (image_size[0] - border[0], image_size[1] - border[1])
    patch = _patch(module)
    if patch is None:
        return [smaller]
    larger = (-(-image_size[0] // patch[0]) * patch[0], -(-image_size[1] // patch[1]) * patch[1])
    return [larger, smaller]


def _patch(module: nn.Module) -> tuple[int, int] | None:
    """Return the size of the patches into which the first convolution cuts images; None if they overlap."""
    convolutions = layers_of(module, nn.Conv2d)
    if not convolutions:
        return None
    first = convolutions[0][1]
    height, width = first.stride
    return (height, width) if first.kernel_size == first.stride != (1, 1) else None


def _without_zeros(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the network with random numbers in place of parameters that begin at zero.

    Residual branches often do: until they are trained, shortcuts alone see a part of the pixels.
    """
    parameters = {
        name: 0.1 * torch.rand_like(value) for name, value in module.named_parameters() if not value.any()
    }
    return lambda images: functional_call(module, parameters, (images,))


def _gradient(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return the gradient at the pixels of a random combination of the features."""
    # A sum would not do: that of the outputs of a LayerNorm is constant.
    leaf = images.requires_grad_()
    with torch.enable_grad():
        features = network(leaf * 1)  # some modules change their input in place, which a leaf forbids
        return torch.autograd.grad((features * torch.randn_like(features)).sum(), leaf)[0]


def _zeros_at_the_end(flags: Tensor) -> int:
    """Return the number of False at the end of a vector."""
    return len(flags) - int(flags.nonzero().max()) - 1 if flags.any() else len(flags)


@torch.no_grad()
def _confirmed(network: Callable[[Tensor], Tensor], images: Tensor, rows: int, columns: int) -> int:
    """Return the width of a border of rows or columns if other pixels there change nothing, to the bit.

    The gradient alone does not tell: it vanishes where a ReLU is dead or another pixel is the maximum.
    """
    if not rows and not columns:
        return 0
    changed = images.clone()
    for border in (changed[:, :, changed.shape[2] - rows :], changed[..., changed.shape[3] - columns :]):
        border.copy_(100 * torch.randn_like(border))
    return rows + columns if torch.equal(network(images), network(changed)) else 0
