"""SimMIM: prediction of masked pixels by a single linear layer."""

from __future__ import annotations

from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from sklearn_ssl.losses import MapsToPixels, Spec, Student, check_number, is_whole, map_size, patch_side
from sklearn_ssl_masked.filling import PixelFilling
from sklearn_ssl_masked.patches import as_pixels, number_hidden, random_mask

# Number of squares along the short side of the image for "auto".
AUTO_SQUARES = 6


class SimMIM(PixelFilling):
    r"""Simple framework for masked image modeling (SimMIM) [1]_.

    Random squares of the image are replaced by a shared learned mask token, and a single linear layer on the
    backbone's last feature maps predicts their pixels, so that the representation has to be learned by the
    backbone:

    .. math::
        \ell = \frac{1}{|M|} \, \| \hat x_M - x_M \|_1

    where M is the set of masked values of the batch.

    In a vision transformer, the paper's backbone (``backbone="vit"``), the mask token replaces the embedding
    of a masked patch. Other backbones, such as the default ResNet-18, which learns more from few images in
    little time, receive images whose masked pixels have a learned color.

    Parameters
    ----------
    mask_ratio : float, default=0.6
        Masking ratio: fraction of the squares that is masked. The default is the paper's.
    mask_size : int or "auto", default="auto"
        Side of a square in pixels. "auto": about a sixth of the image's side, as the paper's 32 of 192, and
        a multiple of the patch size for a vision transformer.

    Attributes
    ----------
    token : nn.Parameter of shape (feature_dim,) or (in_channels,)
        Mask token of a vision transformer; color of masked pixels for other backbones.
    paint : nn.Module
        Linear layer from feature maps to pixels.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range; in `build`, if the backbone does not expose feature maps, if
        there is a single square, or if `mask_size` is not a multiple of the patch size or exceeds half the
        image.

    References
    ----------
    .. [1] Xie et al., "SimMIM: A Simple Framework for Masked Image Modeling", CVPR 2022, arXiv:2111.09886.
    """

    _error = staticmethod(torch.abs)
    defaults: ClassVar[dict] = {"projector": (), "batch_size": 64}

    def __init__(self, mask_ratio: float = 0.6, mask_size: int | str = "auto"):
        super().__init__()
        self.mask_ratio = check_number("loss__mask_ratio", mask_ratio, above=0, below=1)
        self.mask_size = mask_size

    def build(self, spec: Spec) -> None:
        self.patch = patch_side(spec)
        self.hides_tokens = hasattr(spec.backbone, "tokens")
        self.square = checked_square(self.mask_size, spec.image_size, self.patch)
        self.squares = tuple(-(-side // self.square) for side in spec.image_size)  # rounded up
        number_hidden(self.squares[0] * self.squares[1], self.mask_ratio)  # raises for a single square
        self.token = nn.Parameter(torch.zeros(spec.feature_dim if self.hides_tokens else spec.in_channels))
        self.paint = MapsToPixels(spec.feature_dim, spec.in_channels, map_size(spec), spec.image_size)

    def _hidden(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the mask of pixels, (n, 1, height, width), True where masked."""
        rows, columns = self.squares
        mask = random_mask(len(x), rows * columns, self.mask_ratio, generator)
        # Squares at the right and bottom edges may reach beyond the image.
        pixels = as_pixels(mask, self.square, (rows, columns))
        return pixels[:, :, : x.shape[2], : x.shape[3]].to(x.device)

    def _painted(self, student: Student, x: Tensor, hidden: Tensor) -> Tensor:
        if not self.hides_tokens:
            return self.paint(student.maps(torch.where(hidden, self.token[:, None, None], x)))
        # One pixel of each patch tells whether it is masked: squares are whole patches.
        mask = hidden[:, 0, :: self.patch, :: self.patch]
        tokens = student.tokens(x, mask.flatten(1), self.token)
        return self.paint(rearrange(tokens, "n (rows columns) d -> n d rows columns", rows=mask.shape[1]))


def checked_square(given: int | str, image_size: tuple[int, int], patch: int) -> int:
    """Return the side in pixels of a square, the unit of masking."""
    if isinstance(given, str) and given == "auto":
        return max(1, round(min(image_size) / AUTO_SQUARES / patch)) * patch
    largest = max(image_size) // 2 // patch * patch
    if not is_whole(given) or given < 1 or given % patch or given > largest:
        multiple = f"a multiple of the patch's {patch}" if patch > 1 else "an integer"
        raise ValueError(f"loss__mask_size={given!r}: give {multiple}, at most {largest}, or 'auto'.")
    return given
