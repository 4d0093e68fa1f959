"""Inpainting: prediction of regions that are cut out of an image."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from sklearn_ssl.losses import MapsToPixels, Spec, Student, check_number, map_size
from sklearn_ssl_masked.filling import PixelFilling


class Inpainting(PixelFilling):
    r"""Context encoder: prediction of missing regions from their surroundings [1]_.

    Square holes are cut out of the image and filled with the mean color of all images. A small decoder
    predicts the missing pixels from the backbone's last feature maps:

    .. math::
        \ell = \frac{1}{|M|} \, \| \hat x_M - x_M \|_2^2

    where M is the set of masked values of the batch.

    Parameters
    ----------
    mask_ratio : float, default=0.25
        Masking ratio: maximum fraction of the image's area that is cut out. The default is the paper's.
    holes : int, default=4
        Number of holes, squares of equal size at random positions in each image. Their total area is that of
        the masking ratio; they may overlap. This is the paper's "random block"; a single hole in the center
        of all images performed worse there.
    decoder_width : int, default=128
        Number of channels of the decoder between the feature maps and the pixels.

    Attributes
    ----------
    decoder : nn.Module
        Decoder from feature maps to pixels.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range; in `build`, if the backbone does not expose feature maps or
        there are more holes than pixels.

    Notes
    -----
    The paper adds an adversarial loss, which gives sharper reconstructions; its features were learned without
    it, by this loss alone.

    References
    ----------
    .. [1] Pathak et al., "Context Encoders: Feature Learning by Inpainting", CVPR 2016, arXiv:1604.07379,
       equation 1.
    """

    _error = staticmethod(torch.square)
    defaults: ClassVar[dict] = {"projector": (), "batch_size": 64}

    def __init__(self, mask_ratio: float = 0.25, holes: int = 4, decoder_width: int = 128):
        super().__init__()
        self.mask_ratio = check_number("loss__mask_ratio", mask_ratio, above=0, below=1)
        self.holes = check_number("loss__holes", holes, whole=True, at_least=1)
        self.decoder_width = check_number("loss__decoder_width", decoder_width, whole=True, at_least=1)

    def build(self, spec: Spec) -> None:
        size, maps = spec.image_size, map_size(spec)
        check_number("loss__holes", self.holes, whole=True, at_most=math.prod(size))
        self.decoder = MapsToPixels(spec.feature_dim, spec.in_channels, maps, size, width=self.decoder_width)

    def _painted(self, student: Student, x: Tensor, hidden: Tensor) -> Tensor:
        return self.decoder(student.maps(x.masked_fill(hidden, 0.0)))

    def _hidden(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the mask of pixels, (n, 1, height, width), True where masked."""
        n, _, *sides = x.shape
        share = math.sqrt(self.mask_ratio / self.holes)  # side of a hole, as a fraction of the image's
        inside = []
        for side in sides:
            # At least one pixel, and never the whole side.
            length = max(1, min(round(share * side), side - 1))
            start = torch.randint(
                side - length + 1, (n, self.holes, 1), generator=generator, device=generator.device
            )
            place = torch.arange(side, device=generator.device)
            inside.append((place >= start) & (place < start + length))  # (n, holes, side)
        down, across = inside
        holes = down[:, :, :, None] & across[:, :, None, :]
        return holes.any(dim=1, keepdim=True).to(x.device)
