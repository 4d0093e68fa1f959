"""TIFFs that Pillow does not support or misreads: many channels, colors of more than 8 bits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

# Maximum number of decoded values, as a multiple of `max_pixels`.
MAX_CHANNELS = 64
# Tags of TIFF 6.0.
BITS_PER_SAMPLE, PHOTOMETRIC, ORIENTATION, SAMPLES_PER_PIXEL, SAMPLE_FORMAT = 258, 262, 274, 277, 339
# Values of the tag PHOTOMETRIC.
WHITE_IS_ZERO, RGB, CMYK = 0, 2, 5
# Value of the tag ExtraSamples: alpha that the colors are not multiplied by.
UNASSOCIATED_ALPHA = 2
# Value of the tag PlanarConfiguration: each channel is stored separately.
SEPARATE_PLANES = 2
# Values of the tag SAMPLE_FORMAT.
UNSIGNED, SIGNED = 1, 2
STACK_MESSAGE = (
    "it is a stack of pages of one size, not a single image: save each page as a separate file, or choose "
    "one with reader__read, for example lambda path: tifffile.imread(path, key=0)"
)


def bits_of(image: TiffImageFile) -> int:
    """Return the bits per channel of a TIFF that Pillow has opened."""
    return max(image.tag_v2.get(BITS_PER_SAMPLE, (1,)))


def is_misread(image: TiffImageFile) -> bool:
    """Return whether Pillow misreads a TIFF: it drops channels, or misinterprets the sign or white as 0."""
    bits, tags = bits_of(image), image.tag_v2
    kind = tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0]
    return (
        (tags.get(SAMPLES_PER_PIXEL, 1) > len(image.getbands()) and image.mode != "P")
        or image.mode == "RGBX"  # in older versions of Pillow, any fourth channel that is not alpha
        or (kind, bits) in ((SIGNED, 8), (UNSIGNED, 32))
        # Pillow inverts the values of images with up to 8 bits only.
        or (tags.get(PHOTOMETRIC) == WHITE_IS_ZERO and bits > 8)
    )


def check_single(image: Image.Image) -> None:
    """Raise ValueError if the second page is as large as the first: the file is then a stack of images.

    Pages of another size are previews or levels of a pyramid.
    """
    size = image.size
    try:
        image.seek(1)
        if image.size == size:
            raise ValueError(STACK_MESSAGE)
    except (EOFError, SyntaxError):  # no other page, or none that Pillow supports
        pass
    finally:
        image.seek(0)


def tiff_shape(file: Path | BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and dtype of the array that `read_tiff` would decode."""
    with _first_page(file) as page:
        # int raises an error if a damaged file has several values in such a tag.
        height, width, channels = map(int, (page.imagelength, page.imagewidth, page.samplesperpixel))
        return (height, width) if channels == 1 else (height, width, channels), page.dtype


def read_tiff(file: Path | BinaryIO, max_pixels: int) -> tuple[np.ndarray, int]:
    """Decode the first page with tifffile.

    Parameters
    ----------
    file : Path or file object
        A TIFF.
    max_pixels : int
        Maximum height * width.

    Returns
    -------
    ndarray of shape (height, width) or (height, width, channels)
        Pixels, of the dtype of the file.
    int
        EXIF orientation.

    Raises
    ------
    ValueError
        If tifffile is not installed, or the page is too large or would be misinterpreted.
    """
    with _first_page(file) as page:
        n_pixels = page.imagelength * page.imagewidth
        if n_pixels > max_pixels or math.prod(page.shape) > MAX_CHANNELS * max_pixels:
            raise ValueError(f"it has the shape {page.shape}, more than reader__max_pixels={max_pixels}")
        if page.photometric == CMYK:
            raise ValueError("CMYK of more than 8 bits or channels is not supported: save it as RGB")
        has_fourth = page.photometric == RGB and page.samplesperpixel == 4
        if has_fourth and page.extrasamples != (UNASSOCIATED_ALPHA,):
            raise ValueError("its fourth channel is not unassociated alpha: save it as RGB, or as .npy")
        array = _with_black_as_zero(page, page.asarray(maxworkers=1))
        if array.ndim == 3 and page.planarconfig == SEPARATE_PLANES:
            array = np.moveaxis(array, 0, 2)  # from (channels, height, width)
        return array, page.tags.valueof(ORIENTATION, 1)


def _with_black_as_zero(page: Any, array: np.ndarray) -> np.ndarray:
    """Invert images that store white as 0."""
    if page.photometric != WHITE_IS_ZERO:
        return array
    if array.dtype.kind != "u":
        raise ValueError(f"it stores white as 0, in values of dtype {array.dtype}: save it with black as 0")
    return array.dtype.type(2**page.bitspersample - 1) - array


@contextmanager
def _first_page(file: Path | BinaryIO) -> Iterator[Any]:
    """Open a TIFF with tifffile; the context manager yields its first page."""
    try:
        import tifffile
    except ImportError:
        raise ValueError(
            "this TIFF has many channels, colors of more than 8 bits, or values that Pillow misreads: pip "
            "install tifffile to read it, or convert it to .npy"
        ) from None
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0]
        if len(tiff.pages) > 1 and tiff.pages[1].shape == page.shape:
            raise ValueError(STACK_MESSAGE)
        yield page
