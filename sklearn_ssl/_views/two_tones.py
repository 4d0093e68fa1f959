"""Choice of a preset by looking at the images: symbols consist of two tones, photographs and scans do not."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sklearn_ssl._images.sources import Source, evenly_spaced

# Number of images that are looked at, and about how many pixels of each.
N_IMAGES, N_PIXELS = 256, 4096
# Share of the variance within an image from which on it is one of symbols, by the median of the images.
# Measured: symbols 0.86 and 0.94, photographs and scans 0.70 to 0.79 (`benchmarks/auto_augment.py`).
SYMBOLS_FROM = 0.835


def share_of_two_tones(source: Source) -> float:
    """Return which share of the variance within an image two tones explain, the median of some images.

    Parameters
    ----------
    source : Source
        Images, of which the means over the channels are used.

    Returns
    -------
    float
        From 0 to 1: between-class variance of the best threshold, divided by the whole variance.

    References
    ----------
    Otsu, "A Threshold Selection Method from Gray-Level Histograms", IEEE Transactions on Systems, Man, and
    Cybernetics 9 (1979), equation 18 (eta).
    """
    shares = [
        _separability(image)
        for part in evenly_spaced(len(source), N_IMAGES).split(64)
        for image in _some_pixels(source.batch(part))
    ]
    return float(np.median(shares))


def _some_pixels(images: Tensor) -> np.ndarray:
    """Return evenly spaced pixels (n, n_pixels) of images (n, C, H, W), the means over the channels."""
    gray = images.to(torch.float64).mean(dim=1).flatten(1)
    return gray[:, :: max(1, gray.shape[1] // N_PIXELS)].numpy()


def _separability(pixels: np.ndarray) -> float:
    """Return the largest share of the variance of pixels (n,) that lies between two classes of them."""
    variance = pixels.var()
    if variance == 0:
        return 0.0
    ordered = np.sort(pixels)
    sums, sizes = ordered.cumsum()[:-1], np.arange(1, len(ordered))
    low, high = sums / sizes, (ordered.sum() - sums) / sizes[::-1]
    weight = sizes / len(ordered)
    return float((weight * (1 - weight) * (high - low) ** 2).max() / variance)
