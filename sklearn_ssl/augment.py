"""Augmentation presets for several kinds of images."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, Literal

from sklearn_ssl._checks import check_number

__all__ = ["Augment", "Overhead", "Photo", "Symbols"]
# Fields of Augment -> range of their values, as keyword arguments of `check_number`.
FIELD_LIMITS: dict[str, dict[str, Any]] = {
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
    """Random augmentation of images; by default, in the preset "none", all operations are disabled.

    The operations are applied in the order of the parameters, except that noise and cutout come last.
    Pixel values are expected to lie in [0, 1], or near it.

    Parameters
    ----------
    crop : float, default=1.0
        Minimum fraction that a view covers of the largest part of the image with the view's aspect ratio.
        The fraction is uniform in [crop, 1], the distortion of the aspect ratio log-uniform in 3/4 .. 4/3,
        as in torchvision's RandomResizedCrop. Smaller values make the task harder. 1: no cropping.
    flip : float, default=0.0
        Probability of a horizontal flip.
    vertical_flip : float, default=0.0
        Probability of a vertical flip.
    rotation : float, default=0.0
        Maximum angle of a rotation in degrees; the angle is uniform in [-rotation, rotation].
    quarter_turns : float, default=0.0
        Probability of a rotation by 90, 180 or 270 degrees, each equally likely.
    shear : float, default=0.0
        Maximum angle of a shear along the rows, in degrees; the angle is uniform in [-shear, shear].
    color_jitter : float, default=0.0
        Probability of changing brightness, contrast, saturation and hue together: at 0, their four
        strengths have no effect.
    brightness : float, default=0.0
        Strength s of the change of brightness: the factor is uniform in [max(0, 1 - s), 1 + s], as in
        torchvision's ColorJitter.
    contrast : float, default=0.0
        Strength of the change of contrast, as for `brightness`.
    saturation : float, default=0.0
        Strength of the change of saturation, as for `brightness`.
    hue : float, default=0.0
        Maximum rotation of the hue in YIQ space, as a fraction of a full turn, at most 0.5.
    grayscale : float, default=0.0
        Probability of conversion to grayscale. Like saturation and hue, it has no effect on images that do
        not have three channels.
    blur : float or "auto", default=0.0
        Probability of a Gaussian blur, with sigma uniform in 0.1 .. 2 pixels and a kernel of a tenth of the
        view's short side (23 pixels at 224 px, at least 3). "auto": 0.5 if the short side of the view has
        64 px or more, else 0.
    noise : float, default=0.0
        Standard deviation of Gaussian noise in each pixel.
    cutout : float, default=0.0
        Probability of filling a rectangle with the mean color of the view; its fraction of the area is
        uniform in 0.02 .. 0.33, its aspect ratio log-uniform in 0.3 .. 3.3, as in torchvision's
        RandomErasing.
    solarize : float, default=0.0
        Probability of inverting all values of at least 0.5.
    sobel : float, default=0.0
        Probability of replacing each channel by the magnitude of its Sobel gradient.

    Raises
    ------
    ValueError
        If a value is not a number in its range.

    See Also
    --------
    Photo : Preset for photographs.
    Symbols : Preset for digits, letters and signs.
    Overhead : Preset for aerial and microscope images.
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

    def __post_init__(self) -> None:
        for names, limits in FIELD_LIMITS.items():
            for name in names.split():
                words = ("auto",) if name == "blur" else ()
                value = check_number(f"augment__{name}", getattr(self, name), **limits, instead=words)
                object.__setattr__(self, name, value)  # a plain number, not one of numpy


def _documents_parameters(preset: type[Augment]) -> type[Augment]:
    """Put Augment's parameters, with a preset's own defaults, into the preset's docstring; a decorator."""
    if preset.__doc__ is None or Augment.__doc__ is None:  # python -OO
        return preset
    sections = Augment.__doc__.partition("    Parameters\n")[2].partition("    See Also\n")[0].rstrip()
    for field in fields(preset):
        default = repr(field.default).replace("'", '"')
        sections = re.sub(rf"(\n    {field.name} : .*, default=).*", rf"\g<1>{default}", sections)
    preset.__doc__ = preset.__doc__.replace("    {parameters}", f"    Parameters\n{sections}")
    return preset


@_documents_parameters
@dataclass(frozen=True)
class Photo(Augment):
    """Augmentation of photographs; the preset "photo".

    The recipe of SimCLR [1]_, in the strength of its CIFAR experiments. Blur is "auto", as SimCLR uses none
    on CIFAR.

    {parameters}

    See Also
    --------
    Augment : Augmentation with all operations disabled.
    Symbols : Preset for digits, letters and signs.
    Overhead : Preset for aerial and microscope images.

    References
    ----------
    .. [1] Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020,
       arXiv:2002.05709.
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


@_documents_parameters
@dataclass(frozen=True)
class Symbols(Augment):
    """Augmentation of digits, letters and signs; the preset "symbols".

    Flips are disabled, as they may turn a symbol into another one.

    {parameters}

    See Also
    --------
    Augment : Augmentation with all operations disabled.
    Photo : Preset for photographs.
    Overhead : Preset for aerial and microscope images.
    """

    crop: float = 0.4
    rotation: float = 15.0
    shear: float = 15.0
    color_jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4


@_documents_parameters
@dataclass(frozen=True)
class Overhead(Photo):
    """Augmentation of aerial and microscope images; the preset "overhead".

    The preset "photo", with flips and rotations that make all orientations equally likely, as no direction
    is distinguished.

    {parameters}

    See Also
    --------
    Augment : Augmentation with all operations disabled.
    Photo : Preset for photographs.
    Symbols : Preset for digits, letters and signs.
    """

    vertical_flip: float = 0.5
    quarter_turns: float = 0.75  # makes the four orientations equally likely


# Value of the parameter `augment` -> preset.
PRESETS = {"photo": Photo, "symbols": Symbols, "overhead": Overhead, "none": Augment}
