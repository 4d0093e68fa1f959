"""SimMIM: hide half of an image, and guess its pixels with a single layer."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from sklearn_ssl import Spec
from sklearn_ssl.losses import MapsToPixels, check_number, is_whole, map_size, patch_side
from sklearn_ssl_masked.filling import PixelFilling
from sklearn_ssl_masked.patches import number_hidden, random_mask

# Squares in a row of the image, where the user leaves it to us.
AUTO_SQUARES = 6


class SimMIM(PixelFilling):
    r"""A simple framework for masked image modelling: say what colour the hidden pixels have.

    Random squares of the image are replaced by one and the same learned token, and a single linear layer on
    the backbone's last maps predicts their pixels. All the work is left to the backbone:

    .. math::
        \ell = \frac{1}{|M|} \, \| \hat x_M - x_M \|_1

    where M are the hidden values of the batch.

    A vision transformer, the paper's backbone, gets the token in the place of a hidden patch: backbone="vit".
    Others, such as the default ResNet-18, which learns more from few images in little time, get images in
    which hidden pixels have a learned colour.

    Parameters
    ----------
    mask_ratio : float, default=0.6
        Share of the squares that is hidden; the paper's.
    mask_size : int or "auto", default="auto"
        Side of a square in pixels. "auto": about a sixth of the image's, as the paper's 32 of 192, and with a
        vision transformer whole patches.

    Raises
    ------
    ValueError
        When `build` finds a backbone without maps, a ratio that hides nothing or everything, or squares
        that are no whole patches, or larger than half the image.

    References
    ----------
    Xie et al., "SimMIM: A Simple Framework for Masked Image Modeling", CVPR 2022, arXiv:2111.09886.
    """

    _error = staticmethod(torch.abs)
    defaults: ClassVar[dict] = {"projector": ()}

    def __init__(self, mask_ratio: float = 0.6, mask_size: int | str = "auto"):
        super().__init__()
        self.mask_ratio = check_number("loss__mask_ratio", mask_ratio, above=0, below=1)
        self.mask_size = mask_size

    def build(self, spec: Spec) -> None:
        self.patch = patch_side(spec)
        self.hides_tokens = hasattr(spec.backbone, "tokens")
        self.square = checked_square(self.mask_size, spec.image_size, self.patch)
        self.squares = tuple(-(-side // self.square) for side in spec.image_size)  # in a column, in a row
        number_hidden(self.squares[0] * self.squares[1], self.mask_ratio)  # one alone is told now
        self.token = nn.Parameter(torch.zeros(spec.feature_dim if self.hides_tokens else spec.in_channels))
        self.paint = MapsToPixels(spec.feature_dim, spec.in_channels, map_size(spec), spec.image_size)

    def _hidden(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Which pixels are hidden, (n, 1, height, width)."""
        rows, columns = self.squares
        mask = random_mask(len(x), rows * columns, self.mask_ratio, generator).view(-1, 1, rows, columns)
        pixels = mask.repeat_interleave(self.square, dim=2).repeat_interleave(self.square, dim=3)
        return pixels[:, :, : x.shape[2], : x.shape[3]].to(x.device)

    def _painted(self, student, x: Tensor, hidden: Tensor) -> Tensor:
        if not self.hides_tokens:
            return self.paint(student.maps(torch.where(hidden, self.token[:, None, None], x)))
        mask = hidden[:, 0, :: self.patch, :: self.patch]
        tokens = student.tokens(x, mask.flatten(1), self.token)
        return self.paint(tokens.transpose(1, 2).unflatten(2, mask.shape[1:]))


def checked_square(given: int | str, image_size: tuple[int, int], patch: int) -> int:
    """Side in pixels of the squares that are hidden together."""
    if isinstance(given, str) and given == "auto":
        return max(1, round(min(image_size) / AUTO_SQUARES / patch)) * patch
    largest = max(image_size) // 2 // patch * patch
    if not is_whole(given) or given < 1 or given % patch or given > largest:
        multiple = f"a multiple of the patch's {patch}" if patch > 1 else "a whole number"
        raise ValueError(f"loss__mask_size={given!r}: give {multiple}, at most {largest}, or 'auto'.")
    return given
