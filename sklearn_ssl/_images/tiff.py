"""TIFFs that Pillow does not know, or reads as something else: many channels, colours of more than 8 bits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Numbers that a pixel may have, with regard to the limit of pixels.
CHANNELS = 64
# What tags say of colours.
WHITE_IS_ZERO, RGB, CMYK, STRAIGHT_ALPHA = 0, 2, 5, 2
# Tags, and what they say of numbers.
BITS_PER_SAMPLE, PHOTOMETRIC, ORIENTATION, SAMPLES_PER_PIXEL, SAMPLE_FORMAT = 258, 262, 274, 277, 339
UNSIGNED, SIGNED = 1, 2
STACK = (
    "it is a stack of pages of one size, not one image: write each page as a file of its own, or choose one "
    "with reader__read, for example lambda path: tifffile.imread(path, key=0)"
)


def bits_of(image: Image.Image) -> int:
    """Bits a channel of a TIFF that Pillow has opened."""
    return max(image.tag_v2.get(BITS_PER_SAMPLE, (1,)))


def is_misread(image: Image.Image) -> bool:
    """Whether Pillow gives other numbers than a TIFF holds: fewer channels, another sign, white for black."""
    bits, tags = bits_of(image), image.tag_v2
    kind = tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0]
    return (
        (tags.get(SAMPLES_PER_PIXEL, 1) > len(image.getbands()) and image.mode != "P")
        or image.mode == "RGBX"  # older Pillows name the fourth channel so
        or (kind, bits) in ((SIGNED, 8), (UNSIGNED, 32))
        # Pillow turns it round at up to 8 bits.
        or (tags.get(PHOTOMETRIC) == WHITE_IS_ZERO and bits > 8)
    )


def check_single(image: Image.Image) -> None:
    """Raise ValueError for a stack of pages; smaller pages, such as a preview or a pyramid's, are none."""
    size = image.size
    try:
        image.seek(1)
        if image.size == size:
            raise ValueError(STACK)
    except (EOFError, SyntaxError):  # no other page, or none that Pillow knows
        pass
    finally:
        image.seek(0)


def tiff_shape(path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of `read_tiff`, without decoding."""
    with _first_page(path) as page:
        # int: a damaged file may have several lengths
        height, width, channels = map(int, (page.imagelength, page.imagewidth, page.samplesperpixel))
        return (height, width) if channels == 1 else (height, width, channels), page.dtype


def read_tiff(path: Path, max_pixels: int) -> tuple[np.ndarray, int]:
    """The first page: (height, width) or (height, width, channels), in the file's own type; its orientation.

    Raises
    ------
    ValueError
        tifffile is not installed; the page is too large, or of a kind that would be misunderstood.
    """
    with _first_page(path) as page:
        if math.prod(page.shape) > CHANNELS * max_pixels or page.imagelength * page.imagewidth > max_pixels:
            raise ValueError(f"it has the shape {page.shape}, more than reader__max_pixels={max_pixels}")
        if page.photometric == CMYK:
            raise ValueError("CMYK of more than 8 bits or channels is not supported: save it as RGB")
        if page.photometric == RGB and page.samplesperpixel == 4 and page.extrasamples != (STRAIGHT_ALPHA,):
            raise ValueError("its fourth channel is no plain transparency: save it as RGB, or as .npy")
        array = _with_white_above(page, page.asarray(maxworkers=1))
        if array.ndim == 3 and page.planarconfig == 2:
            array = np.moveaxis(array, 0, 2)  # (channels, height, width), as many instruments write it
        return array, page.tags.valueof(ORIENTATION, 1)


def _with_white_above(page: Any, array: np.ndarray) -> np.ndarray:
    """The brighter, the larger, as in all other images."""
    if page.photometric != WHITE_IS_ZERO:
        return array
    if array.dtype.kind != "u":
        raise ValueError(f"its white is 0 among numbers of {array.dtype}: save it with black as 0")
    return array.dtype.type(2**page.bitspersample - 1) - array


@contextmanager
def _first_page(path: Path) -> Iterator[Any]:
    try:
        import tifffile
    except ImportError:
        raise ValueError(
            "this TIFF has many channels, colours of more than 8 bits, or numbers that Pillow misreads: pip "
            "install tifffile to read it, or convert it to .npy"
        ) from None
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        if len(file.pages) > 1 and file.pages[1].shape == page.shape:
            raise ValueError(STACK)
        yield page
