"""Views of multi-crop methods: two full-size views, and as many local crops as size and backbone allow."""

from __future__ import annotations

import copy

import torch

from sklearn_ssl._checks import check_number
from sklearn_ssl._warnings import warn
from sklearn_ssl.losses._base import Spec, ViewSpec, view_kinds

# Number of local crops for "auto". Four at half the side cost as much as one full-size view.
AUTO_LOCAL_CROPS = 4
# Minimum short side of a local crop for "auto", in pixels. Crops of 16 px of images of 32 px cost more than
# they give, at equal time (docs/lab_notes.md, "Networks, batch sizes ...").
MIN_CROP_SIDE = 24
# Short side of a local crop below which there is a warning.
SMALL_CROP_SIDE = 16


def multi_crop(local_crops: int | str, local_size: float | tuple[float, ...], spec: Spec) -> ViewSpec:
    """Return two full-size views and local crops, for the `view_spec` of a method.

    Parameters
    ----------
    local_crops : int or "auto"
        Value of the method's hyperparameter of this name, the number of local crops. "auto": 4, or 0 if the
        crops would have less than 24 pixels on the short side or the backbone rejects them.
    local_size : float or tuple of floats
        Value of the method's hyperparameter `local_size`: side of a local crop, as a fraction of the full
        size, or the sides of several.
    spec : Spec
        Sizes and backbone of the fit.

    Returns
    -------
    ViewSpec
        Views, with crops that cover a fraction of 0.05 to 0.4 of the image's area.

    Raises
    ------
    ValueError
        If `local_crops` is not a valid number of crops, or the backbone rejects crops of that size.

    Warns
    -----
    UserWarning
        If `local_crops` is a number and the crops have less than 16 pixels on the short side.

    See Also
    --------
    why_size_is_rejected : Test whether the backbone accepts an image size.
    """
    several = isinstance(local_size, tuple | list)
    given = local_size if isinstance(local_size, tuple | list) else [local_size]
    sides = tuple(check_number("loss__local_size", side, above=0, at_most=1) for side in given)
    if not sides:
        raise ValueError(
            "loss__local_size is empty: give the side of a local crop, or of several, such as 0.5."
        )
    n = check_number("loss__local_crops", local_crops, whole=True, at_least=0, at_most=100, instead=("auto",))
    shapes = [
        kind.shape(spec.image_size) for kind in view_kinds(ViewSpec(0, local=len(sides), local_size=sides))
    ]
    if n == "auto":
        fit = all(
            min(shape) >= MIN_CROP_SIDE and why_size_is_rejected(spec, shape) is None for shape in shapes
        )
        n = AUTO_LOCAL_CROPS if fit else 0
    elif n > 0:
        for shape in dict.fromkeys(shapes[:n]):
            _check(n, spec, shape)
    return ViewSpec(2, local=n, local_size=sides if several else sides[0])


def _check(n: int, spec: Spec, size: tuple[int, int]) -> None:
    crops = f"{n} local crops of {size[0]} x {size[1]} pixels"
    ways = "loss__local_crops=0 for none, loss__local_size=1.0 to enlarge them, or a larger image_size"
    reason = why_size_is_rejected(spec, size)
    if reason is not None:
        raise ValueError(f"loss__local_crops: the backbone cannot take {crops}: {reason}. Set {ways}.")
    if min(size) < SMALL_CROP_SIDE:
        warn(
            f"loss__local_crops: {crops} show little, and may cost more than they give: below "
            f"{MIN_CROP_SIDE} pixels 'auto' makes none. Set {ways}."
        )


def why_size_is_rejected(spec: Spec, size: tuple[int, int]) -> str | None:
    """Return the reason why the backbone rejects images of a size, or None if it accepts them.

    Parameters
    ----------
    spec : Spec
        Sizes and backbone of the fit. The backbone is not changed.
    size : tuple of two ints
        (height, width) of the images, crops or tiles, in pixels.

    Returns
    -------
    str or None
        Message of the error that the backbone raises, or a description of its output of another width.

    See Also
    --------
    multi_crop : Views of a multi-crop method.
    """
    # A copy in eval mode, so that the dry run changes neither BatchNorm's statistics nor the training mode.
    backbone = copy.deepcopy(spec.backbone).eval()
    try:
        with torch.no_grad():
            width = backbone(torch.zeros(2, spec.in_channels, *size)).shape[1]
    except Exception as error:  # modules may raise any exception
        return str(error)
    return None if width == spec.feature_dim else f"it makes {width} features of them, not {spec.feature_dim}"
