"""Access to the tokens and feature maps of a backbone, and a decoder from feature maps to pixels."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_ssl._networks.backbones import feature_maps, is_vit
from sklearn_ssl.losses._base import Spec

if TYPE_CHECKING:
    from sklearn_ssl._networks.vit import ViT


def backbone_with_tokens(spec: Spec) -> ViT:
    """Return the backbone if a loss can mask its patches, by `student.encode` and `student.tokens`.

    Parameters
    ----------
    spec : Spec
        Sizes and backbone of the fit.

    Returns
    -------
    ViT
        The vision transformer ``spec.backbone``.

    Raises
    ------
    ValueError
        If the backbone is not a vision transformer. A loss that masks patches sets the backbone "vit" in its
        `defaults`, so that only a backbone chosen by the user can fail.
    """
    if not is_vit(spec.backbone):
        raise ValueError(
            "This loss hides patches of an image from the backbone, which only 'vit' allows for; it is a "
            f"{type(spec.backbone).__name__}. Leave backbone at 'auto', or set backbone='vit'."
        )
    return spec.backbone


def patch_side(spec: Spec) -> int:
    """Return the side of the backbone's patches.

    Parameters
    ----------
    spec : Spec
        Sizes and backbone of the fit.

    Returns
    -------
    int
        Side in pixels; 1 for a backbone that has no patches or does not expose them.
    """
    return spec.backbone.patch_size if is_vit(spec.backbone) else 1


def map_size(spec: Spec) -> tuple[int, int]:
    """Return the size of the feature maps (`student.maps`) of a full-size view.

    Parameters
    ----------
    spec : Spec
        Sizes and backbone of the fit. The backbone is not changed.

    Returns
    -------
    tuple of two ints
        (rows, columns) of the feature maps.

    Raises
    ------
    ValueError
        If the backbone does not expose feature maps, or its features are not the mean of its maps.
    """
    backbone = copy.deepcopy(spec.backbone).eval()
    with torch.no_grad():
        maps = feature_maps(backbone, torch.zeros(2, spec.in_channels, *spec.image_size))
    if maps.shape[1] != spec.feature_dim:
        raise ValueError(
            f"the backbone {type(backbone).__name__} makes {spec.feature_dim} features of {maps.shape[1]} "
            "maps. This loss needs those before its classifier: take that off, or name the backbone."
        )
    return maps.shape[2], maps.shape[3]


class MapsToPixels(nn.Module):
    """Decoder that predicts from each position of a feature map the pixels it covers.

    The prediction is a single linear layer, as in SimMIM [1]_.

    Parameters
    ----------
    feature_dim : int
        Number of channels of the feature maps.
    channels : int
        Number of channels of the output.
    maps : tuple of two ints
        (rows, columns) of the feature maps.
    size : tuple of two ints
        (height, width) of the output, in pixels.
    width : int, default=None
        Number of channels of two additional layers before the prediction, a 1x1 and a 3x3 convolution. None:
        no additional layers.

    References
    ----------
    .. [1] Xie et al., "SimMIM: A Simple Framework for Masked Image Modeling", CVPR 2022, arXiv:2111.09886.
    """

    def __init__(
        self,
        feature_dim: int,
        channels: int,
        maps: tuple[int, int],
        size: tuple[int, int],
        width: int | None = None,
    ):
        super().__init__()
        self.before = nn.Identity() if width is None else neighborhood_layers(feature_dim, width)
        self.size = size
        # The smallest whole upscaling that reaches the output's size; `forward` shrinks any surplus.
        self.factor = max(math.ceil(out / rows) for out, rows in zip(size, maps, strict=True))
        self.linear = nn.Conv2d(width or feature_dim, channels * self.factor**2, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Decode feature maps to pixels.

        Parameters
        ----------
        maps : Tensor of shape (n, feature_dim, rows, columns)
            Feature maps.

        Returns
        -------
        Tensor of shape (n, channels, height, width)
            Pixels.
        """
        pixels = F.pixel_shuffle(self.linear(self.before(maps)), self.factor)
        if pixels.shape[2:] == self.size:
            return pixels
        return F.interpolate(pixels, self.size, mode="bilinear", antialias=True)


def neighborhood_layers(feature_dim: int, width: int) -> nn.Sequential:
    """Build layers to maps of `width` channels, each position of which depends on its 3x3 neighborhood."""
    return nn.Sequential(
        nn.Conv2d(feature_dim, width, 1),
        nn.GELU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.GELU(),
    )
