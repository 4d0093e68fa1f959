"""Augmentation presets by kind of image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sklearn_ssl._checks import check_number

__all__ = ["Augment", "Overhead", "Photo", "Symbols"]

# Fields of Augment -> the range of their values, as `check_number` takes it.
LIMITS = {
    "flip vertical_flip quarter_turns color_jitter grayscale blur cutout solarize sobel": dict(
        at_least=0, at_most=1
    ),
    "crop": dict(above=0, at_most=1),
    "rotation": dict(at_least=0, at_most=180),
    "shear": dict(at_least=0, at_most=80),
    "brightness contrast saturation noise": dict(at_least=0),
    "hue": dict(at_least=0, at_most=0.5),
}


@dataclass(frozen=True)
class Augment:
    """What happens to an image on its way to a view; here, in the preset "none", everything is off.

    The operations follow one another in the order of the fields, except that noise and cutout come last.
    Pixel values are meant to lie in [0, 1], or near it.

    Parameters
    ----------
    crop : float, default=1.0
        Smallest share that a view covers of the largest part of the image that has the view's shape. The
        share is uniform in [crop, 1], the distortion of the shape log-uniform in 3/4 .. 4/3, as in
        torchvision's RandomResizedCrop. Smaller is harder. 1: no cropping.
    flip : float, default=0.0
        Probability of a horizontal flip.
    vertical_flip : float, default=0.0
        Probability of a vertical flip.
    rotation : float, default=0.0
        Largest free angle in degrees; the angle is uniform in [-rotation, rotation].
    quarter_turns : float, default=0.0
        Probability of a rotation by 90, 180 or 270 degrees, each equally likely.
    shear : float, default=0.0
        Largest angle of a shear along the rows, in degrees; uniform in [-shear, shear].
    color_jitter : float, default=0.0
        Probability of brightness, contrast, saturation and hue together: at 0, the four strengths
        that follow do nothing.
    brightness, contrast, saturation : float, default=0.0
        Strengths s: factors are uniform in [max(0, 1 - s), 1 + s], as in torchvision's ColorJitter.
    hue : float, default=0.0
        Largest rotation of the hue in YIQ space, as a share of a full turn, at most 0.5.
    grayscale : float, default=0.0
        Probability of losing all colour. This, saturation and hue leave images alone that do not have
        three channels.
    blur : float or "auto", default=0.0
        Probability of a Gaussian blur, sigma uniform in 0.1 .. 2 pixels, on a kernel of a tenth of the
        view's side (23 pixels at 224 px, at least 3). "auto": 0.5 where the image's short side has 64 px
        or more, else 0.
    noise : float, default=0.0
        Standard deviation of Gaussian noise in each pixel.
    cutout : float, default=0.0
        Probability of filling a rectangle with the mean colour of the view; its share of the area is
        uniform in 0.02 .. 0.33, its ratio of sides log-uniform in 0.3 .. 3.3, as in torchvision's
        RandomErasing.
    solarize : float, default=0.0
        Probability of inverting all values from 0.5 on.
    sobel : float, default=0.0
        Probability of replacing each channel by the magnitude of its Sobel gradient.

    Raises
    ------
    ValueError
        When a value is not a number in its range.
    """

    crop: float = 1.0
    flip: float = 0.0
    vertical_flip: float = 0.0
    rotation: float = 0.0
    quarter_turns: float = 0.0
    shear: float = 0.0
    color_jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grayscale: float = 0.0
    blur: float | Literal["auto"] = 0.0
    noise: float = 0.0
    cutout: float = 0.0
    solarize: float = 0.0
    sobel: float = 0.0

    def __post_init__(self):
        for names, limits in LIMITS.items():
            for name in names.split():
                words = ("auto",) if name == "blur" else ()
                value = check_number(f"augment__{name}", getattr(self, name), **limits, instead=words)
                object.__setattr__(self, name, value)  # a plain number, which tensors can be compared with


@dataclass(frozen=True)
class Photo(Augment):
    """Photographs: the recipe of SimCLR (arXiv:2002.05709), in the strength of its CIFAR experiments.

    Blur is "auto", for SimCLR has none on CIFAR. Parameters: see Augment.
    """

    crop: float = 0.2
    flip: float = 0.5
    color_jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grayscale: float = 0.2
    blur: float | Literal["auto"] = "auto"


@dataclass(frozen=True)
class Symbols(Augment):
    """Digits, letters, signs: what a flip would turn into something else. Parameters: see Augment."""

    crop: float = 0.4
    rotation: float = 15.0
    shear: float = 15.0
    color_jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4


@dataclass(frozen=True)
class Overhead(Photo):
    """Seen from above or through a microscope: no direction is up. Parameters: see Augment."""

    vertical_flip: float = 0.5
    quarter_turns: float = 0.75  # makes the four orientations equally likely


PRESETS = {"photo": Photo, "symbols": Symbols, "overhead": Overhead, "none": Augment}
