"""For losses that look inside a backbone: its tokens, its feature maps, and a way from these to pixels."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_ssl._networks.backbones import feature_maps
from sklearn_ssl._networks.vit import ViT
from sklearn_ssl.losses._base import Spec


def backbone_with_tokens(spec: Spec) -> ViT:
    """The backbone, whose patches a loss can hide (`student.encode`, `student.tokens`).

    Raises
    ------
    ValueError
        It has none. A loss names "vit" in its `defaults`, so that only a user's own choice can fail.
    """
    if not isinstance(spec.backbone, ViT):
        raise ValueError(
            "This loss hides patches of an image from the backbone, which only 'vit' allows for; it is a "
            f"{type(spec.backbone).__name__}. Leave backbone at 'auto', or set backbone='vit'."
        )
    return spec.backbone


def patch_side(spec: Spec) -> int:
    """In pixels, of the backbone's patches; 1 for a backbone that has none, or hides them."""
    return spec.backbone.patch_size if isinstance(spec.backbone, ViT) else 1


def map_size(spec: Spec) -> tuple[int, int]:
    """(rows, columns) of the feature maps (`student.maps`) of a full-size view.

    Raises
    ------
    ValueError
        The backbone shows its features only, or its features are not the mean of its maps.
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
    """From each place of a feature map the pixels that it stands for, by a single layer (arXiv:2111.09886).

    Parameters
    ----------
    feature_dim : int
    channels : int
        Of what comes out.
    maps : tuple of two ints
        (rows, columns) of the feature maps.
    size : tuple of two ints
        (height, width) of what comes out.
    width : int, optional
        Channels of two more layers before it, the second of which sees the places around. None: no more.
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
        self.before = nn.Identity() if width is None else around(feature_dim, width)
        self.size = size
        self.factor = max(math.ceil(out / rows) for out, rows in zip(size, maps, strict=True))
        self.linear = nn.Conv2d(width or feature_dim, channels * self.factor**2, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, feature_dim, rows, columns) to (n, channels, height, width)."""
        pixels = F.pixel_shuffle(self.linear(self.before(maps)), self.factor)
        if pixels.shape[2:] == self.size:
            return pixels
        return F.interpolate(pixels, self.size, mode="bilinear", antialias=True)


def around(feature_dim: int, width: int) -> nn.Sequential:
    """Maps of `width` channels, of which each place has seen those around it."""
    return nn.Sequential(
        nn.Conv2d(feature_dim, width, 1),
        nn.GELU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.GELU(),
    )
