"""MAE: reconstruction of an image from a quarter of its patches."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_ssl.losses import (
    Batch,
    Spec,
    SSLLoss,
    Student,
    Teacher,
    ViewSpec,
    backbone_with_tokens,
    check_bool,
    check_number,
)
from sklearn_ssl_masked.patches import (
    as_pixels,
    number_hidden,
    patchify,
    shown_and_made,
    shuffled,
    unpatchify,
)

# Added to the variance of a patch, to avoid a division by zero.
EPSILON = 1e-6


class MAE(SSLLoss):
    r"""Masked autoencoder (MAE) [1]_.

    Most patches are masked. The backbone encodes the visible patches only, which saves computation. A small
    decoder receives their tokens, and a shared learned mask token at each masked position, and predicts the
    pixels there; it is discarded after training:

    .. math::
        \ell = \frac{1}{|M|} \sum_{i \in M} \frac1P \,
        \Bigl\| \hat x_i - \frac{x_i - \mu_i}{\sigma_i} \Bigr\|^2

    averaged over the images, where M is the set of masked patches, :math:`x_i` the P values of a patch,
    standardized by their own mean :math:`\mu_i` and standard deviation :math:`\sigma_i`, and :math:`\hat x_i`
    the decoder's prediction.

    Parameters
    ----------
    mask_ratio : float, default=0.75
        Masking ratio: fraction of the patches that is masked. The default is the paper's.
    decoder_width : int, default=128
        Width of the decoder's tokens. The paper uses 512 for tokens of width 1,024; the default backbone's
        tokens have 192.
    decoder_depth : int, default=2
        Number of layers of the decoder. 8 layers, as in the paper, help a linear probe; a single one is as
        good for fine-tuning (table 1a), and cheaper.
    normalize_targets : bool, default=True
        Whether to standardize the pixels of each patch. False: :math:`\mu_i = 0, \sigma_i = 1`.

    Attributes
    ----------
    token : nn.Parameter of shape (decoder_width,)
        Mask token.
    decoder : nn.Module
        Transformer layers of the decoder.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range; in `build`, if the backbone is not a vision transformer, the
        image is a single patch, or a patch is a single value, which cannot be standardized.

    References
    ----------
    .. [1] He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377,
       section 3.
    """

    family = "masked"
    mean_over_images = True
    view_spec = ViewSpec(1, recipes=("weak",))
    defaults: ClassVar[dict] = {"backbone": "vit", "projector": (), "batch_size": 64}

    def __init__(
        self,
        mask_ratio: float = 0.75,
        decoder_width: int = 128,
        decoder_depth: int = 2,
        normalize_targets: bool = True,
    ):
        super().__init__()
        self.mask_ratio = check_number("loss__mask_ratio", mask_ratio, above=0, below=1)
        self.decoder_width = check_number("loss__decoder_width", decoder_width, whole=True, at_least=1)
        self.decoder_depth = check_number("loss__decoder_depth", decoder_depth, whole=True, at_least=0)
        self.normalize_targets = check_bool("loss__normalize_targets", normalize_targets)

    def build(self, spec: Spec) -> None:
        vit = backbone_with_tokens(spec)
        self.side, self.grid = vit.patch_size, vit.grid
        self.patches = self.grid[0] * self.grid[1]
        self.hidden = number_hidden(self.patches, self.mask_ratio)
        if self.normalize_targets and self.side**2 * spec.in_channels == 1:
            raise ValueError(
                "a patch is a single value here, which cannot be standardized: set a larger backbone__patch, "
                "or loss__normalize_targets=False."
            )
        width = self.decoder_width
        self.embed = nn.Linear(spec.feature_dim, width)
        self.token = nn.Parameter(0.02 * torch.randn(width, generator=spec.generator))
        self.positions = nn.Parameter(0.02 * torch.randn(self.patches, width, generator=spec.generator))
        self.decoder = nn.Sequential(*(decoder_layer(width) for _ in range(self.decoder_depth)))
        self.paint = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, self.side**2 * spec.in_channels))

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        x = batch.views[0]
        keep, hidden = self._split(
            batch.draw(lambda n: shuffled(n, self.patches, batch.generator)).to(x.device)
        )
        painted = self._painted(student, x, keep)
        target = self._standardized(patchify(x, self.side))
        return F.mse_loss(rows(painted, hidden), rows(target, hidden))

    @torch.no_grad()
    def reconstruct(
        self, views: list[Tensor], student: Student, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the visible part of images and their reconstruction; see `SSLLoss`.

        Standardized predictions are mapped back by the true mean and standard deviation of each patch, which
        the decoder does not predict.
        """
        x = views[0]
        keep, hidden = self._split(shuffled(len(x), self.patches, generator).to(x.device))
        patches = patchify(x, self.side)
        painted = self._painted(student, x, keep)
        if self.normalize_targets:
            mean, std = moments(patches)
            painted = painted * std + mean
        is_hidden = torch.zeros(patches.shape[:2], dtype=torch.bool, device=x.device).scatter(1, hidden, True)
        pixels = as_pixels(is_hidden, self.side, self.grid)
        return shown_and_made(x, pixels, unpatchify(painted, self.side, self.grid))

    def _split(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """Return the indices of the visible and of the masked patches, (n, k) each, of shuffled patches."""
        return order[:, self.hidden :], order[:, : self.hidden]

    def _painted(self, student: Student, x: Tensor, keep: Tensor) -> Tensor:
        """Return the decoder's prediction for every patch, (n, patches, P)."""
        h = self.embed(student.encode(x, keep))
        full = self.token.expand(len(x), self.patches, -1)
        # The tokens of visible patches replace the mask tokens at their positions.
        full = full.scatter(1, keep[:, :, None].expand_as(h), h) + self.positions
        return self.paint(self.decoder(full))

    def _standardized(self, patches: Tensor) -> Tensor:
        """Return the targets: the patches, standardized if `normalize_targets` is set."""
        if not self.normalize_targets:
            return patches
        mean, std = moments(patches)
        return (patches - mean) / std


def decoder_layer(width: int) -> nn.Module:
    """Build a transformer layer with about one attention head per 32 channels."""
    heads = next(heads for heads in range(max(1, width // 32), 0, -1) if width % heads == 0)
    return nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )


def moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of each patch, (n, patches, 1) each."""
    variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
    return mean, (variance + EPSILON).sqrt()


def rows(x: Tensor, index: Tensor) -> Tensor:
    """Return the rows with indices `index` (n, k) of each x (n, patches, d), as (n, k, d)."""
    return torch.take_along_dim(x, index[:, :, None], dim=1)
