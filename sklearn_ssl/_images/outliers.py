"""Pixel values that are no intensities: hot pixels, values for no data, constant channels, mixed units."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl._images.sources import Source, evenly_spaced
from sklearn_ssl._warnings import warn

# Values that stand for no data: of GDAL, NetCDF, SRTM, CT scanners, and the largest of 16 bits.
NO_DATA = (-99999.0, -9999.0, -32768.0, -32767.0, -2000.0, -999.0, 65535.0, 1e20, 9.96920996838687e36)
LARGEST_FLOAT = float(np.finfo(np.float32).max)
# Minimum share of the pixels that have such a value.
MIN_SHARE = 1e-3
# Distance of such a value from all others, relative to their range: if it is known, or any value.
KNOWN_GAP, ANY_GAP = 0.1, 3.0
# Hot pixels exceed the bulk of the pixels by HOT ranges, their neighbors by at most half a range.
HOT = 3.0
# Maximum number of hot pixels among the 3 x 3 around one.
MAX_HOT_NEIGHBORS = 3
# Number of images, and side in pixels of their center, that are searched for hot pixels.
N_SEARCHED, SIDE_SEARCHED = 64, 512
# Number of integer levels below which a range is too narrow to tell outliers in it.
FEW_LEVELS = 8
# Range of a channel below which it is nearly constant: relative to the widest, or to its own level.
NEARLY_CONSTANT, OF_ITS_LEVEL = 0.01, 1e-3


def main_range(source: Source, pixels: Tensor) -> Tensor | None:
    """Return the range of the intensities where some values are none, with a warning of values for no data.

    Parameters
    ----------
    source : Source
        Training images, which are searched for hot pixels: single ones far above (or below) all others and
        their neighbors.
    pixels : Tensor of shape (n, channels), float32
        Sample of their pixels.

    Returns
    -------
    Tensor of shape (2, channels) or None
        Smallest and largest intensity of each channel; None if there are neither hot pixels nor values for
        no data.
    """
    columns = [pixels.reshape(-1)] if pixels.shape[1] == 3 else list(pixels.T)
    ranges = [_without_no_data(values) for values in columns]
    told = {value: share for _, _, found in ranges for value, share in found.items()}
    if told:
        _warn_of_no_data(told)
    clip = torch.tensor([[low, high] for low, high, _ in ranges]).T  # (2, 1 or C)
    hot = _without_hot_pixels(source, clip)
    if not told and hot is None:
        return None
    return (clip if hot is None else hot).expand(2, pixels.shape[1]).contiguous()


def _without_no_data(values: Tensor) -> tuple[float, float, dict[float, float]]:
    """Return the range of values (n,) that stand for intensities, and the share of each other value."""
    rest, found = values, {}
    while len(rest) > 1:
        low, high = rest.aminmax()
        for edge, sign in ((low, 1.0), (high, -1.0)):
            at_edge = rest == edge
            others = rest[~at_edge]
            share = float(at_edge.sum()) / len(values)
            if len(others) and MIN_SHARE <= share <= 0.5 and _is_no_data(edge, sign, others):
                found[float(edge)] = share
                rest = others
                break
        else:
            break
    low, high = rest.aminmax()
    return float(low), float(high), found


def _is_no_data(edge: Tensor, sign: float, others: Tensor) -> bool:
    """Return whether the smallest (sign 1) or largest value (sign -1) is far from all others (n,)."""
    low, high = _bulk(others)
    if high - low <= 0 or _has_few_levels(others, low, high):
        return False  # a mask, or symbols of a few tones
    nearest = float(others.min() if sign > 0 else others.max())
    gap = sign * (nearest - float(edge))
    known = abs(float(edge)) >= 0.99 * LARGEST_FLOAT or any(np.isclose(float(edge), v) for v in NO_DATA)
    return gap > (KNOWN_GAP if known else ANY_GAP) * (high - low)


def _bulk(values: Tensor) -> tuple[float, float]:
    """Return the 1st and the 99th percentile of values (n,), as float64."""
    low, high = np.percentile(values.numpy().astype(np.float64), [1, 99])
    return float(low), float(high)


def _has_few_levels(values: Tensor, low: float, high: float) -> bool:
    """Return whether values (n,) are integers, and the bulk of them takes a few levels only."""
    return high - low < FEW_LEVELS and bool((values == values.round()).all())


def _warn_of_no_data(told: dict[float, float]) -> None:
    values = ", ".join(f"{value:g} ({share:.2g} of the pixels)" for value, share in told.items())
    first = next(iter(told))
    warn(
        f"Some pixel values lie far from all others and look like values for no data, or saturation: "
        f"{values}. They are clipped to the range of the others. Replace them, for example "
        f"X[X == {first:g}] = X[X != {first:g}].{'min' if first < 0 else 'max'}(), or leave these images out."
    )


def _without_hot_pixels(source: Source, clip: Tensor) -> Tensor | None:
    """Return the range (2, channels) of pixels that are not hot; None if there are no hot ones."""
    index = evenly_spaced(len(source), N_SEARCHED)
    lows, highs, found = [], [], False
    for part in index.split(8):
        images = _center(source.batch(part)).to(torch.float32)
        images = images.clamp(*clip[:, :, None, None])
        top, any_above = _largest_of_cold(images)
        bottom, any_below = _largest_of_cold(-images)
        highs.append(top)
        lows.append(-bottom)
        found |= any_above or any_below
    if not found:
        return None
    high, low = torch.stack(highs).amax(0), torch.stack(lows).amin(0)
    if clip.shape[1] == 1:
        low, high = low.amin(0, keepdim=True), high.amax(0, keepdim=True)
    return torch.stack([low, high])


def _center(images: Tensor) -> Tensor:
    top, left = (max(0, side - SIDE_SEARCHED) // 2 for side in images.shape[2:])
    return images[:, :, top : top + SIDE_SEARCHED, left : left + SIDE_SEARCHED]


def _largest_of_cold(images: Tensor) -> tuple[Tensor, bool]:
    """Return the largest value of each channel (channels,) without hot pixels, and whether there are any."""
    flat = images.movedim(1, 0).flatten(1)  # (C, n)
    if min(images.shape[2:]) < 3:
        return flat.amax(1), False
    bulk = torch.tensor([_bulk(values) for values in flat], dtype=torch.float32)  # (C, 2)
    low, high = bulk[:, 0], bulk[:, 1]
    width = high - low
    narrow = torch.tensor([_has_few_levels(v, *map(float, b)) for v, b in zip(flat, bulk, strict=True)])
    bright = high + HOT * width.where(width > 0, torch.inf)
    hot = images > bright.where(~narrow, torch.inf)[:, None, None]
    if not hot.any():
        return flat.amax(1), False
    above = (images > (high + HOT / 6 * width)[:, None, None]).float()
    around = F.avg_pool2d(F.pad(above, (1, 1, 1, 1)), 3, stride=1) * 9  # number among 3 x 3
    hot &= around.round() <= MAX_HOT_NEIGHBORS
    return images.masked_fill(hot, -torch.inf).movedim(1, 0).flatten(1).amax(1), bool(hot.any())


def warn_of_constant_channels(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Return which channels tell nothing of the images, with a warning of them.

    Parameters
    ----------
    pixels : Tensor of shape (n, channels), float32
        Sample of the pixels.
    dtype : torch.dtype
        uint8 or float32.

    Returns
    -------
    Tensor of shape (channels,), bool
        False for images of one channel, and for a color that is 0 throughout.
    """
    low, high = torch.from_numpy(np.percentile(pixels.numpy(), [0.1, 99.9], axis=0)).to(torch.float32)
    width, level = high - low, torch.maximum(low.abs(), high.abs())
    whole = dtype == torch.uint8 or bool((pixels == pixels.round()).all())
    of_one_unit = whole or bool(pixels.min() >= 0 and pixels.max() <= 1)
    limit = NEARLY_CONSTANT * width.max() if of_one_unit else OF_ITS_LEVEL * level
    constant = width <= limit
    if len(width) == 1 or constant.all():
        return torch.zeros_like(constant)
    if len(width) == 3:  # a color that a picture does not use
        constant &= level > 0
    if constant.any():
        listed = ", ".join(
            f"channel {i} (values from {low[i]:g} to {high[i]:g})"
            for i in torch.nonzero(constant).flatten().tolist()
        )
        kept = torch.nonzero(~constant).flatten().tolist()
        warn(
            f"Constant or nearly constant, so that it tells nothing of the images: {listed}. Its contrast is "
            f"not enhanced. Leave it out: X[..., {kept}]."
        )
    return constant


def warn_of_mixed_units(pixels: Tensor) -> None:
    """Refuse, or warn of, images of two kinds of units among floats or integers of more than 8 bits.

    Parameters
    ----------
    pixels : Tensor of shape (n, n_pixels, channels), float32
        Sample of the pixels of each image.

    Raises
    ------
    ValueError
        If some images have values from 0 to 1, others of 100 or more, and none between.
    """
    flat = pixels.flatten(1).abs()
    largest, levels = flat.amax(1), flat.mean(1, dtype=torch.float64)
    of_unit = (largest <= 1) & (largest > 0.5) & (pixels.flatten(1).amin(1) >= 0)
    of_unit &= (pixels != pixels.round()).flatten(1).any(1)
    wide = largest >= 100
    if _are_two(of_unit, wide):
        raise ValueError(
            f"The images have different units: {int(of_unit.sum())} of {len(of_unit)} that were looked at "
            f"lie between 0 and 1, {int(wide.sum())} reach up to {largest[wide].max():g}. Bring them to one "
            f"range, for example X * 255 for the former."
        )
    ordered, _ = levels[levels > 0].sort()
    few = max(2, len(levels) // 10)
    if len(ordered) < 2 * few:
        return
    ratios = ordered[1:] / ordered[:-1]
    at = int(ratios[few - 1 : len(ratios) - few + 1].argmax()) + few - 1
    dark, bright = levels <= ordered[at], levels >= ordered[at + 1]
    if ratios[at] >= 4 and largest[dark].max() * 4 <= largest[bright].min():
        warn(
            f"The images are of two kinds: {int(dark.sum())} of {len(levels)} that were looked at have "
            f"values up to {largest[dark].max():g}, the others up to {largest[bright].max():g}, with none "
            f"between. If these are different units, such as 12 and 16 bits, bring them to one."
        )


def _are_two(first: Tensor, second: Tensor) -> bool:
    """Return whether all images (n,) are of one of two kinds, each of which is more than an accident."""
    few = max(1, len(first) // 20)
    return bool((first | second).all() and first.sum() >= few and second.sum() >= few)
