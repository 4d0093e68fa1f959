"""Colorization: prediction of the colors of a grayscale image."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl.losses import (
    Batch,
    MapsToPixels,
    Spec,
    SSLLoss,
    Student,
    Teacher,
    ViewSpec,
    check_number,
    map_size,
)

# Temperature of the annealed mean of the colors (the paper's, equation 5).
ANNEALED_MEAN_TEMPERATURE = 0.38
# Weight of the current batch in the moving average of the colors' scale.
SCALE_UPDATE = 0.05
# Mean absolute color, of standardized channels, below which images count as gray.
MIN_SCALE = 1e-3


class Colorization(SSLLoss):
    r"""Colorful image colorization [1]_.

    The backbone sees the image without its colors. On its last feature maps, a small decoder classifies the
    color of each position into Q bins, for which the backbone has to recognize the content of the image (the
    sky is blue):

    .. math::
        \ell = - \frac{1}{P} \sum_{p=1}^{P} \log q_p(c_p)

    averaged over the images, where P is the number of positions, :math:`c_p` the bin of the true color, and
    :math:`q_p` the decoder's probabilities.

    Parameters
    ----------
    bins : int, default=8
        Number of bins along each of two color axes, red to green and yellow to blue: Q is its square. (The
        paper: 313 bins of Lab space, for a million photographs.)
    decoder_width : int, default=128
        Number of channels of the decoder between the feature maps and the bins.

    Attributes
    ----------
    decoder : nn.Module
        Decoder from feature maps to logits of the bins.
    scale : Tensor of shape (2,)
        Moving average of the mean absolute colors; 0 before the first batch.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range; in `build`, if the images do not have three channels or the
        backbone does not expose feature maps; after the first step, if the images are gray.

    Notes
    -----
    Most of a photograph is nearly gray. The paper gives rare colors a larger weight; here, bins are narrow
    near gray and wide far from it, so that they have about equal frequencies: their edges are quantiles of a
    Laplace distribution, whose scale follows the images. Brightness is the mean of the standardized channels;
    the color axes are R - G and (R + G) / 2 - B of them. Colors are predicted at a quarter of the
    resolution, as in the paper, but at 8 x 8 positions at least.

    References
    ----------
    .. [1] Zhang, Isola and Efros, "Colorful Image Colorization", ECCV 2016, arXiv:1603.08511, equations 1 to
       5.
    """

    family = "pretext"
    view_spec = ViewSpec(1, recipes=("weak",))
    defaults: ClassVar[dict] = {"projector": ()}

    def __init__(self, bins: int = 8, decoder_width: int = 128):
        super().__init__()
        self.bins = check_number("loss__bins", bins, whole=True, at_least=2)
        self.decoder_width = check_number("loss__decoder_width", decoder_width, whole=True, at_least=1)

    def build(self, spec: Spec) -> None:
        if spec.in_channels != 3:
            raise ValueError(
                f"colorization needs images of three channels, red, green and blue; these have "
                f"{spec.in_channels}. Without colors, take another loss: rotation, inpainting, simmim."
            )
        width, size = self.decoder_width, tuple(places(side) for side in spec.image_size)
        self.size = size
        self.decoder = MapsToPixels(spec.feature_dim, self.bins**2, map_size(spec), size, width=width)
        # Checked once, by the first `after_step`: a check reads from the device, which synchronizes with it.
        self.has_colors = False
        self.register_buffer("scale", torch.zeros(2))  # 0: no batch seen yet

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        x = batch.views[0]
        colors = F.adaptive_avg_pool2d(to_colors(x), self.size)
        self._follow(colors)
        return F.cross_entropy(self.decoder(student.maps(without_colors(x))), self._bin(colors))

    def after_step(self, student: Student, teacher: Teacher | None) -> None:
        if not self.has_colors and self.scale.max() < MIN_SCALE:
            raise ValueError(
                "the images are gray, with three equal channels: there are no colors to be told. Take "
                "another loss: rotation, inpainting, simmim."
            )
        self.has_colors = True

    @torch.no_grad()
    def reconstruct(
        self, views: list[Tensor], student: Student, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return images without colors, as the backbone sees them, and with predicted colors.

        Parameters
        ----------
        views : list of Tensor of shape (n, 3, height, width)
            Views of a batch; the first one is used.
        student : Student
            Trained network.
        generator : torch.Generator
            Not used; the prediction is deterministic.

        Returns
        -------
        visible : Tensor of shape (n, 3, height, width)
            Grayscale images.
        reconstruction : Tensor of shape (n, 3, height, width)
            Images with the predicted colors.
        """
        x = views[0]
        gray = without_colors(x)
        q = (self.decoder(student.maps(gray)) / ANNEALED_MEAN_TEMPERATURE).softmax(dim=1)
        colors = torch.einsum("nqhw,qc->nchw", q, self._centers().to(q.dtype))
        return gray, with_colors(gray, F.interpolate(colors, x.shape[2:], mode="bilinear"))

    @torch.no_grad()
    def _follow(self, colors: Tensor) -> None:
        """Update the scale of the colors, an exponential moving average over the batches."""
        size = colors.abs().mean(dim=(0, 2, 3))
        self.scale.copy_(torch.where(self.scale > 0, self.scale.lerp(size, SCALE_UPDATE), size))

    def _bin(self, colors: Tensor) -> Tensor:
        """Return the bin of each color, (n, rows, columns), for colors (n, 2, rows, columns)."""
        share = laplace_cdf(colors / self.scale.clamp(min=1e-6).view(1, 2, 1, 1))
        first, second = (share * self.bins).long().clamp(max=self.bins - 1).unbind(dim=1)
        return first * self.bins + second

    def _centers(self) -> Tensor:
        """Return the color at the center of each bin, (Q, 2)."""
        middle = laplace_quantile((torch.arange(self.bins, device=self.scale.device) + 0.5) / self.bins)
        return torch.cartesian_prod(middle, middle) * self.scale


def places(side: int) -> int:
    """Return the number of positions, in a row or a column, at which colors are predicted."""
    return min(side, max(8, side // 4))


def to_colors(x: Tensor) -> Tensor:
    """Return the colors, red-green and yellow-blue, (n, 2, h, w), of images (n, 3, h, w)."""
    red, green, blue = x.unbind(dim=1)
    return torch.stack([red - green, (red + green) / 2 - blue], dim=1)


def without_colors(x: Tensor) -> Tensor:
    """Return grayscale images: the brightness in all three channels."""
    return x.mean(dim=1, keepdim=True).expand_as(x)


def with_colors(gray: Tensor, colors: Tensor) -> Tensor:
    """Return images of the given brightness and colors; inverts `to_colors` and `without_colors`."""
    brightness, (first, second) = gray[:, 0], colors.unbind(dim=1)
    yellow = brightness + second / 3
    return torch.stack([yellow + first / 2, yellow - first / 2, brightness - 2 * second / 3], dim=1)


def laplace_cdf(x: Tensor) -> Tensor:
    """Return the cumulative distribution function of a Laplace distribution with mean absolute value 1."""
    return 0.5 - 0.5 * x.sign() * torch.expm1(-x.abs())


def laplace_quantile(p: Tensor) -> Tensor:
    """Return the quantile function of that distribution, the inverse of `laplace_cdf`."""
    return -(p - 0.5).sign() * torch.log1p(-2 * (p - 0.5).abs())
