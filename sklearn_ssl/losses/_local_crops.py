"""Multi-crop: whether images are large enough for small crops of them."""

from __future__ import annotations

import copy
import warnings

import torch

from sklearn_ssl._checks import check_number
from sklearn_ssl.losses._base import Spec

# Where the user leaves it to us. Four at half the side cost as much as one full-size view.
LOCAL_CROPS = 4


# Pixels on the short side. At 16 px the ResNets' last feature map is a single pixel, with every default stem
# for images of twice that size.
SMALLEST_SIDE = 16


def local_crops_that_fit(given: int | str, local_size: float, spec: Spec) -> int:
    """How many local crops a method's `ViewSpec` shall have.

    Parameters
    ----------
    given : int or "auto"
        The method's hyperparameter `local_crops`. "auto": 4, or none where they would have less than 16
        pixels on the short side, or the backbone cannot take them.
    local_size : float
        The method's hyperparameter `local_size`: the side of a crop, as a share of the full size.
    spec : Spec

    Raises
    ------
    ValueError
        `given` is no number of crops, or the backbone cannot take them.

    Warns
    -----
    UserWarning
        The crops that were asked for have less than 16 pixels on the short side.
    """
    local_size = check_number("loss__local_size", local_size, above=0, at_most=1)
    size = tuple(max(1, round(local_size * side)) for side in spec.image_size)
    if isinstance(given, str) and given == "auto":
        fit = min(size) >= SMALLEST_SIDE and why_size_is_rejected(spec, size) is None
        return LOCAL_CROPS if fit else 0
    given = check_number("loss__local_crops", given, whole=True, at_least=0, at_most=100, instead=("auto",))
    if given > 0:
        _check(given, spec, size)
    return given


def _check(n: int, spec: Spec, size: tuple[int, int]) -> None:
    crops = f"{n} local crops of {size[0]} x {size[1]} pixels"
    ways = "loss__local_crops=0 for none, loss__local_size=1.0 to enlarge them, or a larger image_size"
    reason = why_size_is_rejected(spec, size)
    if reason is not None:
        raise ValueError(f"loss__local_crops: the backbone cannot take {crops}: {reason}. Set {ways}.")
    if min(size) < SMALLEST_SIDE:
        warnings.warn(
            f"loss__local_crops: {crops} show little, and may cost more than they give: below "
            f"{SMALLEST_SIDE} pixels 'auto' makes none. Set {ways}.",
            stacklevel=2,
        )


def why_size_is_rejected(spec: Spec, size: tuple[int, int]) -> str | None:
    """Why the backbone cannot take images (crops, tiles) of this (height, width); None if it can."""
    backbone = copy.deepcopy(spec.backbone).eval()
    try:
        with torch.no_grad():
            width = backbone(torch.zeros(2, spec.in_channels, *size)).shape[1]
    except Exception as error:  # a module may raise anything
        return str(error)
    return None if width == spec.feature_dim else f"it makes {width} features of them, not {spec.feature_dim}"
