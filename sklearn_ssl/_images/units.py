"""Units of pixel values: what a fit was trained on, and whether other images have the same units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Largest values of 8 and 16 bits; the same picture in 16 bits is 257 times as bright.
MAX_8_BITS, MAX_16_BITS = 255, 65535
EIGHT_TO_SIXTEEN = 257
# Minimum largest value from which values between 0 and 1 are other units.
WIDE_RANGE = 100
# Ratio of brightness from which units differ: 12 and 16 bits differ by 16, two cameras rarely by 8.
OTHER_SCALE = 8
# Share of negative pixels, or of ones among zeros, that is no accident.
FEW = 0.01
# Share of negative pixels in the fit from which images without any have other units.
MANY_NEGATIVE = 0.1
# Undershoot of interpolated values that are not negative by themselves, relative to their range.
UNDERSHOOT = 0.02
# Number of levels below which float32 has lost those of wider types.
MIN_LEVELS = 256


@dataclass(frozen=True)
class Units:
    """Range of the pixel values of some images.

    Parameters
    ----------
    low, high : float
        Smallest and largest value.
    level : float
        Mean of the absolute values.
    negative : float
        Share of negative values.
    whole : bool
        Whether all values are integers.
    bits8 : bool
        Whether the type of the images is uint8.
    """

    low: float
    high: float
    level: float
    negative: float
    whole: bool
    bits8: bool

    @classmethod
    def of(cls, images: Tensor) -> Units:
        """Return the units of pixel values of any shape."""
        bits8 = images.dtype == torch.uint8
        values = images.to(torch.float32)
        low, high = (float(each) for each in values.aminmax())
        return cls(
            low=low,
            high=high,
            level=float(values.abs().mean(dtype=torch.float64)),
            negative=float((values < 0).float().mean()) if low < 0 else 0.0,
            whole=bits8 or bool((values == values.round()).all()),
            bits8=bits8,
        )

    @property
    def is_unit(self) -> bool:
        """Whether all values lie between 0 and 1, and some are fractions."""
        return self.low >= 0 and self.high <= 1 and not self.whole

    def __str__(self) -> str:
        low, high = (0, 1) if self.is_unit else (self.low, self.high)
        if self.bits8 and high > MAX_8_BITS / OTHER_SCALE:
            low, high = 0, MAX_8_BITS
        return f"values from {low:g} to {high:g}"


def factor_of_8_bits(fitted: Units) -> float | None:
    """Return the factor that brings 8-bit images to the units of other images; None if there is none."""
    if fitted.bits8:
        return 1.0
    if fitted.low >= 0 and fitted.whole and MAX_16_BITS // 2 < fitted.high <= MAX_16_BITS:
        return float(EIGHT_TO_SIXTEEN)
    return 1.0 if fitted.low >= 0 and fitted.high <= MAX_8_BITS else None


def other_units(fitted: Units, given: Units) -> tuple[str, str] | None:
    """Describe values in other units than those of the fit, and code that converts them; None if alike."""
    return next(_differences(fitted, given), None)


def _differences(fitted: Units, given: Units) -> Iterator[tuple[str, str]]:
    """Yield what speaks for other units, the plainest reason first."""
    if fitted.low >= 0 and given.negative >= FEW and -given.low > UNDERSHOOT * (given.high - given.low):
        fix = "(X + 1) / 2" if fitted.is_unit else "(X + 1) * 127.5"
        how = f"{fix} for values from -1 to 1; X * std + mean for normalized ones"
        yield f"have negative values, down to {given.low:g}", how
    if fitted.negative >= MANY_NEGATIVE and given.low >= 0 and given.high > 0:
        yield f"have no negative value, but {given}", "2 * X - 1 for -1 to 1; (X - mean) / std"
    if fitted.high >= WIDE_RANGE and given.is_unit and given.high > 0:
        yield "lie between 0 and 1", "X * 255; or X.round(), if they are really that dark"
    # The sample of the fit may have missed a few float values above 1.
    if (
        fitted.low >= 0
        and fitted.high <= 1
        and not fitted.bits8
        and (given.level > 1 or given.high > (1 if given.bits8 else WIDE_RANGE))
    ):
        yield f"reach {given.high:g}", f"X / {_largest(given.high)}"
    if fitted.bits8 and given.high > MAX_8_BITS + 1 and given.level > 0 and given.whole:
        yield f"reach {given.high:g}", f"X / {(_largest(given.high) + 1) // 256}"
    if _is_brighter(given, fitted) and not (
        fitted.bits8 and given.bits8 and fitted.high > MAX_8_BITS / OTHER_SCALE
    ):
        yield f"reach {given.high:g}", f"X * {fitted.high / given.high:.3g}"
    if _is_brighter(fitted, given) and not given.bits8 and given.high > 1:  # masks of 0 and 1 have any unit
        yield f"reach only {given.high:g}", f"X * {fitted.high / max(given.high, 1e-30):.3g}"


def _is_brighter(one: Units, other: Units) -> bool:
    """Return whether images are so much brighter than others, throughout, that their units differ."""
    largest, others = max(-one.low, one.high), max(-other.low, other.high)
    return others > 0 and one.level > OTHER_SCALE * other.level and largest > OTHER_SCALE * others


def _largest(high: float) -> int:
    """Return the largest value of the fewest bits (8, 10, 12, 14 or 16) that hold a value."""
    return next((2**bits - 1 for bits in (8, 10, 12, 14) if high < 2**bits), MAX_16_BITS)


def check_precision(pixels: np.ndarray) -> None:
    """Raise ValueError if float32 cannot tell the values of wider types apart."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype.kind not in "iuf" or pixels.dtype.itemsize < 4:
        return
    if pixels.dtype == np.float32 or pixels.size == 0:
        return
    low, high = float(pixels.min()), float(pixels.max())
    largest = max(abs(low), abs(high))
    step = float(np.spacing(np.float32(largest))) if largest < np.finfo(np.float32).max else 0.0
    levels = min(MIN_LEVELS, high - low + 1) if pixels.dtype.kind in "iu" else MIN_LEVELS
    if 0 < high - low < step * (levels - 1):
        raise ValueError(
            f"values from {low:.17g} to {high:.17g} differ too little for float32, in which images are "
            f"processed. Subtract a constant, for example X - X.min()"
        )
