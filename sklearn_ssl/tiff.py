"""TIFFs that Pillow does not know: many channels, or colours of more than 8 bits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

# Numbers that a pixel may have, with regard to the limit of pixels.
CHANNELS = 64
# What tags say of colours.
RGB, CMYK, STRAIGHT_ALPHA = 2, 5, 2


def tiff_shape(path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of `read_tiff`, without decoding."""
    with _first_page(path) as page:
        # int: a damaged file may have several lengths
        height, width, channels = map(int, (page.imagelength, page.imagewidth, page.samplesperpixel))
        return (height, width) if channels == 1 else (height, width, channels), page.dtype


def read_tiff(path: Path, max_pixels: int) -> np.ndarray:
    """The first page: (height, width) or (height, width, channels), in the file's own type.

    Raises
    ------
    ValueError
        tifffile is not installed; the page is too large, or of a kind that would be misunderstood.
    """
    with _first_page(path) as page:
        if math.prod(page.shape) > CHANNELS * max_pixels or page.imagelength * page.imagewidth > max_pixels:
            raise ValueError(f"it has the shape {page.shape}, more than reader__max_pixels={max_pixels}")
        if page.photometric == CMYK:
            raise ValueError("CMYK of more than 8 bits is not supported: save it as RGB")
        if page.photometric == RGB and page.samplesperpixel == 4 and page.extrasamples != (STRAIGHT_ALPHA,):
            raise ValueError("its fourth channel is no plain transparency: save it as RGB, or as .npy")
        array = page.asarray(maxworkers=1)
        # (channels, height, width), as many instruments write it
        return np.moveaxis(array, 0, 2) if array.ndim == 3 and page.planarconfig == 2 else array


@contextmanager
def _first_page(path: Path) -> Iterator[Any]:
    try:
        import tifffile
    except ImportError:
        raise ValueError(
            "this TIFF has many channels, or colours of more than 8 bits: pip install tifffile to read it, "
            "or convert it to .npy"
        ) from None
    with tifffile.TiffFile(path) as file:
        yield file.pages[0]
