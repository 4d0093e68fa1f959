"""Inpainting: fill the holes that were cut out of an image."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from sklearn_ssl import Spec
from sklearn_ssl.losses import MapsToPixels, check_number, map_size
from sklearn_ssl_masked.filling import PixelFilling


class Inpainting(PixelFilling):
    r"""Context encoder: from what is around a hole, guess what was in it.

    Squares are cut out of the image and filled with the mean colour of all images; the backbone's last maps,
    through a small decoder, predict the pixels that were there:

    .. math::
        \ell = \frac{1}{|M|} \, \| \hat x_M - x_M \|_2^2

    where M are the hidden values of the batch.

    Parameters
    ----------
    mask_ratio : float, default=0.25
        Share of the image's area that is cut out at most; the paper's.
    holes : int, default=4
        Squares, of equal size and anywhere in each image, that have this area together; they may overlap. The
        paper's "random block"; a single hole in the middle of all images did less well there.
    decoder_width : int, default=128
        Channels between the maps and the pixels.

    Raises
    ------
    ValueError
        When `build` finds a backbone without maps; a ratio that hides nothing or everything; no hole.

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

    def __init__(self, mask_ratio: float = 0.25, holes: int = 4, decoder_width: int = 128):
        super().__init__()
        self.mask_ratio = check_number("loss__mask_ratio", mask_ratio, above=0, below=1)
        self.holes = check_number("loss__holes", holes, whole=True, at_least=1)
        self.decoder_width = check_number("loss__decoder_width", decoder_width, whole=True, at_least=1)

    def build(self, spec: Spec) -> None:
        size, maps = spec.image_size, map_size(spec)
        check_number("loss__holes", self.holes, whole=True, at_most=math.prod(size))
        self.decoder = MapsToPixels(spec.feature_dim, spec.in_channels, maps, size, width=self.decoder_width)

    def _painted(self, student, x: Tensor, hidden: Tensor) -> Tensor:
        return self.decoder(student.maps(x.masked_fill(hidden, 0.0)))

    def _hidden(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Which pixels are hidden, (n, 1, height, width)."""
        n, _, *sides = x.shape
        share = math.sqrt(self.mask_ratio / self.holes)
        inside = []
        for side in sides:
            length = max(1, min(round(share * side), side - 1))
            start = torch.randint(
                side - length + 1, (n, self.holes, 1), generator=generator, device=generator.device
            )
            place = torch.arange(side, device=generator.device)
            inside.append((place >= start) & (place < start + length))  # (n, holes, side)
        down, across = inside
        holes = down[:, :, :, None] & across[:, :, None, :]
        return holes.any(dim=1, keepdim=True).to(x.device)
