"""TIFFs: which of them Pillow reads rightly, and reading of all others with tifffile."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL
from PIL.TiffImagePlugin import TiffImageFile

# Maximum number of decoded values, as a multiple of `max_pixels`.
MAX_CHANNELS = 64
# Tags of TIFF 6.0; the tile of a sparse file that holds no data has the offset 0.
SUBFILE_TYPE, WIDTH, HEIGHT, BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
FILL_ORDER, STRIP_OFFSETS, ORIENTATION, SAMPLES_PER_PIXEL, PLANAR_CONFIGURATION = 266, 273, 274, 277, 284
PREDICTOR, TILE_OFFSETS, SUB_IFDS, EXTRA_SAMPLES, SAMPLE_FORMAT = 317, 324, 330, 338, 339
IMAGE_DEPTH = 32997  # of SGI: a volume in one page
# Bits of the tag SUBFILE_TYPE.
REDUCED, MASK = 1, 4
# Values of the tag PHOTOMETRIC.
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
# Values of the tag EXTRA_SAMPLES: alpha that the colors are multiplied by, and alpha that they are not.
ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2
# Values of the tag COMPRESSION. Pillow decodes none, fax, LZW, JPEG, deflate, PackBits, LZMA and ZSTD.
JPEG, PACKBITS, LERC, ZSTD, WEBP = (6, 7), 32773, 34887, 50000, 50001
HAS_ZSTD = int(PIL.__version__.split(".")[0]) >= 12
BY_PILLOW = (1, 2, 3, 4, 5, *JPEG, 8, PACKBITS, 32946, 34925, *((ZSTD,) if HAS_ZSTD else ()))
# Value of the tag PLANAR_CONFIGURATION: each channel is stored separately.
SEPARATE_PLANES = 2
# Values of the tag SAMPLE_FORMAT.
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
# Sample format and bits of the values of more than 8 bits that Pillow reads rightly. It swaps the bytes of
# others that are big-endian and compressed.
BIG_ENDIAN_KINDS = ((UNSIGNED, 16),)
LITTLE_ENDIAN_KINDS = ((UNSIGNED, 12), (UNSIGNED, 16), (SIGNED, 16), (SIGNED, 32), (FLOAT, 32))
# Size (width, height) and type of a page.
Page = tuple[tuple[int | None, int | None], int]
STACK_MESSAGE = (
    "it is a stack of pages of one size, not a single image: save each page as a separate file, or choose "
    "one with reader__read, for example lambda path: tifffile.imread(path, key=0)"
)
READ_BY_RASTERIO = (
    "save it with another compression, or read it with reader__read, for example "
    "lambda path: rasterio.open(path).read().transpose(1, 2, 0)"
)
MASK_MESSAGE = (
    "it has a mask of the pixels without data: give them a value with reader__read, for example "
    "lambda path: rasterio.open(path).read(masked=True).filled(0).transpose(1, 2, 0)"
)
REDUCED_MESSAGE = (
    "its first page is a preview of another one: choose the image with reader__read, for example "
    "lambda path: tifffile.imread(path, series=1)"
)


@dataclass(frozen=True)
class TiffPixels:
    """What tifffile has decoded.

    Parameters
    ----------
    array : ndarray of shape (height, width) or (height, width, channels)
        Pixels, of the dtype of the file.
    orientation : int
        EXIF orientation.
    n_colors : int
        1 for gray and 3 for RGB, each with an alpha channel if the array has a channel more; 0 for bands.
    """

    array: np.ndarray
    orientation: int
    n_colors: int

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is unassociated alpha."""
        return self.n_colors > 0 and self.array.ndim == 3 and self.array.shape[2] > self.n_colors


def suits_pillow(image: TiffImageFile) -> bool:
    """Return whether Pillow is known to read a TIFF rightly. All others are left to tifffile."""
    tags = image.tag_v2
    if tags.get(SAMPLES_PER_PIXEL, 1) != (1 if image.mode == "P" else len(image.getbands())):
        return False  # it drops a channel
    if 0 in tags.get(TILE_OFFSETS, tags.get(STRIP_OFFSETS, ())):
        return False  # it takes the start of the file for blocks that a sparse file leaves out
    kind, bits = tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0], max(tags.get(BITS_PER_SAMPLE, (1,)))
    if bits > 1 and tags.get(FILL_ORDER, 1) != 1:
        return False  # it ignores the order of the bits, or fails
    compression = tags.get(COMPRESSION, 1)
    if compression not in BY_PILLOW or (compression == PACKBITS and tags.get(PREDICTOR, 1) != 1):
        return False  # it ignores the predictor of PackBits
    if bits <= 8:
        return kind == UNSIGNED and _suits_in_8_bits(image)
    return (
        (kind, bits) in (BIG_ENDIAN_KINDS if tags.prefix == b"MM" else LITTLE_ENDIAN_KINDS)
        and tags.get(SAMPLES_PER_PIXEL, 1) == 1
        and tags.get(PLANAR_CONFIGURATION) != SEPARATE_PLANES
        and tags.get(PHOTOMETRIC) == BLACK_IS_ZERO
        and compression not in JPEG
    )


def _suits_in_8_bits(image: TiffImageFile) -> bool:
    tags, mode = image.tag_v2, image.mode
    if tags.get(PHOTOMETRIC) == YCBCR and tags.get(COMPRESSION) not in JPEG:
        return False
    if tags.get(PLANAR_CONFIGURATION) == SEPARATE_PLANES:
        return mode == "RGB" or (mode == "RGBA" and tags.get(EXTRA_SAMPLES) == (UNASSOCIATED_ALPHA,))
    return mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")


def deep_pixels(image: TiffImageFile) -> np.ndarray:
    """Return the pixels of an open TIFF of one channel of more than 8 bits, of the dtype of the file."""
    if not suits_pillow(image):
        raise ValueError("Pillow misreads this kind of TIFF: give its path instead of the opened image")
    tags = image.tag_v2
    is_int16 = (tags.get(SAMPLE_FORMAT), tags.get(BITS_PER_SAMPLE)) == ((SIGNED,), (16,))
    array = np.asarray(image)
    # Pillow makes int16 int32, and leaves the byte order of uint16.
    return array.astype(np.int16 if is_int16 else array.dtype.newbyteorder("="), copy=False)


def check_single(image: TiffImageFile) -> None:
    """Raise ValueError if the file is a stack, has a mask, or begins with a preview.

    Pages of another size than the first are previews or levels of a pyramid.
    """
    if image.tag_v2.get(IMAGE_DEPTH, 1) > 1:
        raise ValueError(STACK_MESSAGE)
    try:
        _check_pages(_pages(image), has_children=SUB_IFDS in image.tag_v2)
    finally:
        image.seek(0)


def _pages(image: TiffImageFile) -> Iterator[Page]:
    """Yield size and type of each page."""
    with suppress(EOFError):  # no more pages
        for i in itertools.count():
            with suppress(SyntaxError, KeyError):  # a kind of page that Pillow does not support
                image.seek(i)
            tags = image.tag_v2
            yield (tags.get(WIDTH), tags.get(HEIGHT)), tags.get(SUBFILE_TYPE, 0)


def _check_pages(pages: Iterator[Page], has_children: bool) -> None:
    size, kind = next(pages)
    if kind & REDUCED and has_children:
        raise ValueError(REDUCED_MESSAGE)
    for other_size, other_kind in pages:
        if other_size == size:
            raise ValueError(MASK_MESSAGE if other_kind & MASK else STACK_MESSAGE)
        if kind & REDUCED:
            raise ValueError(REDUCED_MESSAGE)


def tiff_shape(file: Path | BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and dtype of the pixels that `read_tiff` would decode, without their transparency."""
    with _first_page(file) as page:
        # int raises an error if a damaged file has several values in such a tag.
        height, width, channels = map(int, (page.imagelength, page.imagewidth, page.samplesperpixel))
        channels = _n_colors(page) or channels
        dtype = np.dtype(np.uint8) if page.photometric == PALETTE or _scale(page) > 1 else page.dtype
        return (height, width) if channels == 1 else (height, width, channels), dtype


def read_tiff(file: Path | BinaryIO, max_pixels: int) -> TiffPixels:
    """Decode the first page with tifffile.

    Parameters
    ----------
    file : Path or file object
        A TIFF.
    max_pixels : int
        Maximum height * width.

    Returns
    -------
    TiffPixels
        Black as 0, palettes as RGB, and 1, 2 and 4 bits in the range of 8, as Pillow reads them.

    Raises
    ------
    ValueError
        If tifffile is not installed, or the page is too large or would be misinterpreted.
    """
    with _first_page(file) as page:
        n_pixels = page.imagelength * page.imagewidth
        if n_pixels > max_pixels or math.prod(page.shape) > MAX_CHANNELS * max_pixels:
            raise ValueError(f"it has the shape {page.shape}, more than reader__max_pixels={max_pixels}")
        array = _with_meaning(page, _decoded(page))
        return TiffPixels(array, page.tags.valueof(ORIENTATION, 1), _n_colors(page))


def _decoded(page: Any) -> np.ndarray:
    """Return the values of a page, (height, width) or (height, width, channels)."""
    try:
        array = page.asarray(squeeze=False, maxworkers=1)  # (planes, 1, height, width, channels)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        # Without imagecodecs, tifffile says "No module named 'compression'" of ZSTD, for example.
        missing = "imagecodecs" in str(error) or find_spec("imagecodecs") is None
        remedy = "pip install imagecodecs" if missing else READ_BY_RASTERIO
        raise ValueError(f"tifffile cannot decode it ({error}): {remedy}") from error
    array = np.moveaxis(array[:, 0], 0, -1).reshape(*array.shape[2:4], -1)
    return array[..., 0] if array.shape[2] == 1 else array


def _with_meaning(page: Any, array: np.ndarray) -> np.ndarray:
    """Apply the palette, make black 0, and bring 1, 2 and 4 bits to the range of 8."""
    if page.photometric == PALETTE:
        return (page.colormap >> 8).astype(np.uint8).T[array]  # (height, width, 3)
    if array.dtype == bool:
        array = array.view(np.uint8)
    if page.photometric == WHITE_IS_ZERO:
        array = array.dtype.type(2**page.bitspersample - 1) - array
    return array * array.dtype.type(_scale(page))


def _scale(page: Any) -> int:
    """Return the factor that brings 1, 2 and 4 bits to the range of 8."""
    return 255 // (2**page.bitspersample - 1) if page.bitspersample in (1, 2, 4) else 1


def _n_colors(page: Any) -> int:
    """Return 1 for gray, 3 for RGB, each with or without alpha, and 0 for bands."""
    if page.photometric == PALETTE:
        return 3
    n_colors = 3 if page.photometric == RGB else 1
    n_more = page.samplesperpixel - n_colors
    return n_colors if n_more == 0 or (n_more == 1 and _has_alpha(page)) else 0


def _has_alpha(page: Any) -> bool:
    return bool(page.extrasamples) and page.extrasamples[-1] in (ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA)


def _check_meaning(page: Any) -> None:
    """Raise ValueError for a page whose values would be misinterpreted."""
    if page.photometric == CMYK:
        raise ValueError("CMYK of more than 8 bits or channels is not supported: save it as RGB")
    if page.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE):
        name = getattr(page.photometric, "name", page.photometric)
        raise ValueError(f"its values are {name}, neither gray nor RGB nor a palette: save it as RGB")
    if page.dtype is None or page.dtype.kind not in "buif" or isinstance(page.bitspersample, tuple):
        raise ValueError(
            f"its values, of {page.bitspersample} bits and dtype {page.dtype}, are not supported: save real "
            "numbers of 8, 16 or 32 bits, or return them from reader__read"
        )
    if page.compression == LERC and page.dtype.kind == "f":
        raise ValueError(f"in LERC, tifffile takes NaN for 0: {READ_BY_RASTERIO}")
    if page.compression == WEBP and page.planarconfig == SEPARATE_PLANES:
        raise ValueError(f"tifffile decodes no separate planes in WebP: {READ_BY_RASTERIO}")
    is_integer = page.dtype.kind in "bu"
    if page.photometric == WHITE_IS_ZERO and (page.samplesperpixel > 1 or not is_integer):
        what = f"values of dtype {page.dtype}" if page.samplesperpixel == 1 else "one of several channels"
        raise ValueError(f"it stores white as 0, in {what}: save it with black as 0")
    if page.photometric == PALETTE and (page.samplesperpixel > 1 or not is_integer):
        raise ValueError("it has a palette and further channels: save it as RGB")
    _check_alpha(page)


def _check_alpha(page: Any) -> None:
    """Raise ValueError for a last channel that might be alpha, or that is alpha in unknown units."""
    is_rgba = page.photometric == RGB and page.samplesperpixel == 4
    if is_rgba and page.extrasamples != (UNASSOCIATED_ALPHA,):
        raise ValueError("its fourth channel is not unassociated alpha: save it as RGB, or as .npy")
    if not (page.samplesperpixel == _n_colors(page) + 1 and _has_alpha(page)):
        return
    kinds = (1, 2, 4, 8, 16) if is_rgba else (1, 2, 4, 8)
    is_known = page.dtype.kind in "bu" and page.bitspersample in kinds
    if page.extrasamples != (UNASSOCIATED_ALPHA,) or not is_known:
        raise ValueError(
            f"transparency in values of {page.bitspersample} bits and dtype {page.dtype}, or multiplied into "
            "the colors, is not supported: save it without transparency, or all channels as .npy"
        )


@contextmanager
def _first_page(file: Path | BinaryIO) -> Iterator[Any]:
    """Open a TIFF with tifffile; the context manager yields its first page."""
    try:
        import tifffile
    except ImportError:
        raise ValueError(
            "this TIFF has many channels, colors of more than 8 bits, or values that Pillow misreads: pip "
            "install tifffile imagecodecs to read it, or convert it to .npy"
        ) from None
    with tifffile.TiffFile(file) as tiff:
        page: Any = tiff.pages[0]
        others: Any = tiff.pages
        pages = (((p.imagewidth, p.imagelength), p.subfiletype) for p in others)
        _check_pages(pages, has_children=SUB_IFDS in page.tags)
        if page.imagedepth > 1:
            raise ValueError(STACK_MESSAGE)
        _check_meaning(page)
        yield page
