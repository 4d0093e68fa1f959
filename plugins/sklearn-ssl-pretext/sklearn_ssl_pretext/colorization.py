"""Colorization: which colours has this grey image?"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl import Batch, Spec, SSLLoss, ViewSpec
from sklearn_ssl.losses import MapsToPixels, check_number, map_size

# Temperature at which the colours of a picture are averaged (the paper's, equation 5).
ANNEALED = 0.38
# How fast the scale of the colours follows the batches.
FOLLOWS = 0.05
# Mean size of the colours, of standardised channels, below which there are none.
SMALLEST_SCALE = 1e-3


class Colorization(SSLLoss):
    r"""Colourful image colorization: from brightness alone, say which colour each place has.

    Sky is blue where one knows that it is sky. The backbone sees the image without its colours; on its last
    maps, a small decoder says for each place in which of Q bins of colours it lies:

    .. math::
        \ell = - \frac{1}{P} \sum_{p=1}^{P} \log q_p(c_p)

    averaged over the images, where P are the places, :math:`c_p` the bin of the true colour, and
    :math:`q_p` what the decoder says.

    Parameters
    ----------
    bins : int, default=8
        Of each of two axes of colour, red to green and yellow to blue: Q is its square. (The paper: 313 bins
        of Lab space, for a million photographs.)
    decoder_width : int, default=128
        Channels between the maps and the bins.

    Raises
    ------
    ValueError
        When `build` finds images without three channels, or a backbone without maps; when the first batch is
        grey.

    Notes
    -----
    Most of a photograph is nearly grey. The paper gives rare colours more weight; here bins are narrow near
    grey and wide far from it, so that each has about as many places: by the distribution function of
    Laplace's law, whose scale follows the images. Brightness is the mean of the standardised channels, the
    axes are R - G and (R + G) / 2 - B of them. Colours are predicted at a quarter of the resolution, as in
    the paper, but in 8 x 8 places at least.

    References
    ----------
    Zhang, Isola and Efros, "Colorful Image Colorization", ECCV 2016, arXiv:1603.08511, equations 1 to 5.
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
                f"{spec.in_channels}. Without colours, take another loss: rotation, inpainting, simmim."
            )
        width, size = self.decoder_width, tuple(places(side) for side in spec.image_size)
        self.size = size
        self.decoder = MapsToPixels(spec.feature_dim, self.bins**2, map_size(spec), size, width=width)
        self.has_colours = False  # nobody has looked yet
        self.register_buffer("scale", torch.zeros(2))  # mean size of both colours; 0: nothing seen yet

    def step(self, batch: Batch, student, teacher) -> Tensor:
        x = batch.views[0]
        colours = F.adaptive_avg_pool2d(to_colours(x), self.size)
        self._follow(colours)
        return F.cross_entropy(self.decoder(student.maps(without_colours(x))), self._bin(colours))

    def after_step(self, student, teacher) -> None:
        if not self.has_colours and self.scale.max() < SMALLEST_SCALE:
            raise ValueError(
                "the images are grey, with three equal channels: there are no colours to be told. Take "
                "another loss: rotation, inpainting, simmim."
            )
        self.has_colours = True

    @torch.no_grad()
    def reconstruct(self, views: list[Tensor], student, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """What the backbone saw of each image, and the colours that it gave to it."""
        x = views[0]
        grey = without_colours(x)
        q = (self.decoder(student.maps(grey)) / ANNEALED).softmax(dim=1)
        colours = torch.einsum("nqhw,qc->nchw", q, self._centers().to(q.dtype))
        return grey, with_colours(grey, F.interpolate(colours, x.shape[2:], mode="bilinear"))

    @torch.no_grad()
    def _follow(self, colours: Tensor) -> None:
        size = colours.abs().mean(dim=(0, 2, 3))
        self.scale.copy_(torch.where(self.scale > 0, self.scale.lerp(size, FOLLOWS), size))

    def _bin(self, colours: Tensor) -> Tensor:
        """(n, 2, rows, columns) -> the number of the bin, (n, rows, columns)."""
        share = laplace_cdf(colours / self.scale.clamp(min=1e-6).view(1, 2, 1, 1))
        first, second = (share * self.bins).long().clamp(max=self.bins - 1).unbind(dim=1)
        return first * self.bins + second

    def _centers(self) -> Tensor:
        """The colour in the middle of each bin, (Q, 2)."""
        middle = laplace_quantile((torch.arange(self.bins, device=self.scale.device) + 0.5) / self.bins)
        return torch.cartesian_prod(middle, middle) * self.scale


def places(side: int) -> int:
    """In a row or a column, of which the colour is asked."""
    return min(side, max(8, side // 4))


def to_colours(x: Tensor) -> Tensor:
    """(n, 3, height, width) -> red against green, and yellow against blue: (n, 2, height, width)."""
    red, green, blue = x.unbind(dim=1)
    return torch.stack([red - green, (red + green) / 2 - blue], dim=1)


def without_colours(x: Tensor) -> Tensor:
    """The brightness in all three channels."""
    return x.mean(dim=1, keepdim=True).expand_as(x)


def with_colours(grey: Tensor, colours: Tensor) -> Tensor:
    """The image of this brightness and these colours; the inverse of the two functions above."""
    brightness, (first, second) = grey[:, 0], colours.unbind(dim=1)
    yellow = brightness + second / 3
    return torch.stack([yellow + first / 2, yellow - first / 2, brightness - 2 * second / 3], dim=1)


def laplace_cdf(x: Tensor) -> Tensor:
    """Of the law with mean absolute value 1."""
    return 0.5 - 0.5 * x.sign() * torch.expm1(-x.abs())


def laplace_quantile(p: Tensor) -> Tensor:
    """The inverse of `laplace_cdf`."""
    return -(p - 0.5).sign() * torch.log1p(-2 * (p - 0.5).abs())
