"""Inpainting: fill the hole that was cut out of an image."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from sklearn_ssl import Spec
from sklearn_ssl.losses import MapsToPixels, map_size
from sklearn_ssl_masked.filling import PixelFilling
from sklearn_ssl_masked.patches import check_ratio

PLACES = ("random", "center")


class Inpainting(PixelFilling):
    r"""Context encoder: from what is around a hole, guess what was in it.

    A square is cut out of the image and filled with the mean colour of all images; the backbone's last maps,
    through a small decoder, predict the pixels that were there:

    .. math::
        \ell = \frac{1}{|M|} \, \| \hat x_M - x_M \|_2^2

    where M are the hidden values of the batch.

    Parameters
    ----------
    mask_ratio : float, default=0.25
        Share of the image's area that is cut out; the paper's.
    place : {"random", "center"}, default="random"
        Where: anywhere in each image, or the middle, as in the paper's first experiments. Features of a hole
        that is always in one place do less well on whole images, it says.
    decoder_width : int, default=128
        Channels between the maps and the pixels.

    Raises
    ------
    ValueError
        When `build` finds a backbone without maps; a ratio that hides nothing or everything; another place.

    Notes
    -----
    The paper adds an adversarial loss, which makes fillings sharper; its features were learned without one,
    by this loss alone.

    References
    ----------
    Pathak et al., "Context Encoders: Feature Learning by Inpainting", CVPR 2016, arXiv:1604.07379,
    equation 1.
    """

    _error = staticmethod(torch.square)
    defaults: ClassVar[dict] = {"projector": ()}

    def __init__(self, mask_ratio: float = 0.25, place: str = "random", decoder_width: int = 128):
        super().__init__()
        check_ratio(mask_ratio)
        if place not in PLACES:
            raise ValueError(f"loss__place={place!r}: give 'random' or 'center'.")
        self.mask_ratio = mask_ratio
        self.place = place
        self.decoder_width = decoder_width

    def build(self, spec: Spec) -> None:
        size, maps = spec.image_size, map_size(spec)
        self.decoder = MapsToPixels(spec.feature_dim, spec.in_channels, maps, size, width=self.decoder_width)

    def _painted(self, student, x: Tensor, hidden: Tensor) -> Tensor:
        return self.decoder(student.maps(x.masked_fill(hidden, 0.0)))

    def _hidden(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Which pixels are hidden, (n, 1, height, width)."""
        n, _, *sides = x.shape
        share = math.sqrt(self.mask_ratio)
        inside = []
        for side in sides:
            length = max(1, min(round(share * side), side - 1))
            free = side - length + 1
            start = torch.full((n, 1), (free - 1) // 2, device=generator.device)
            if self.place == "random":
                start = torch.randint(free, (n, 1), generator=generator, device=generator.device)
            place = torch.arange(side, device=generator.device)
            inside.append((place >= start) & (place < start + length))
        down, across = inside
        return (down[:, None, :, None] & across[:, None, None, :]).to(x.device)
