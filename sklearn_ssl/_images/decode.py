"""Decoding of files, PIL images and arrays to pixels: orientation, transparency, bit depth and color."""

from __future__ import annotations

import gzip
import io
import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageFile, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from sklearn_ssl._images.axes import channels_last, shape_channels_last
from sklearn_ssl._images.tiff import bits_of, check_single, is_misread, read_tiff, tiff_shape

# An encoded image: the path of a regular file, or the content of one.
Encoded = Path | bytes

# Formats that are decoded. Pillow supports more than 40; each further decoder is an attack surface.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (
    *(".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".npy", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff"),
    ".webp",
)
# Part of the key of cached images: increment it whenever the same file is decoded to other pixels.
DECODER_VERSION = 2
# Number of bytes at the start of a file that are searched for signatures; that of NIfTI ends at byte 348.
SIGNATURE_BYTES = 352
NPY_SIGNATURE = b"\x93NUMPY"
# Little- and big-endian TIFF, then BigTIFF.
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Formats that other packages read: offset and bytes of the signature, name of the format, code that reads it.
UNSUPPORTED_FORMATS = (
    (128, b"DICM", "a DICOM file", "pydicom.dcmread(path).pixel_array"),
    (344, b"n+1\0", "a NIfTI volume", "nibabel.load(path).dataobj[..., 0]"),
)
GRAY_ALPHA_MESSAGE = "16-bit grayscale with transparency is not supported: save it without transparency"


@dataclass(frozen=True)
class Header:
    """Size and kind of an image, known without decoding its pixels.

    Parameters
    ----------
    height, width : int
        Size in pixels.
    channels : int
        Number of channels: 1 for grayscale images and 3 for color images, whether they have transparency or
        not; that of the array for arrays.
    deep : bool
        Whether a channel has more than 8 bits.
    """

    height: int
    width: int
    channels: int
    deep: bool


def header_of(encoded: Encoded, order: str = "auto") -> Header:
    """Return the header of an encoded image; `order` is that of the axes of a .npy file.

    Raises
    ------
    Exception
        Any exception of Pillow, numpy or tifffile, if the file is not an image.
    """
    if _is_npy(encoded):
        array = _load_npy(encoded)
        return header_of_shape(array.shape, array.dtype, order)
    image = _open(encoded)
    if image is None:
        return header_of_shape(*tiff_shape(opened(encoded)), order="last")
    with image:
        header = header_of_image(image)
        return replace(header, deep=header.deep or _has_deep_colors(image))


def header_of_image(image: Image.Image) -> Header:
    """Return the header of a PIL image."""
    width, height = image.size
    return Header(height, width, 1 if _is_gray(image) else 3, _is_deep(image))


def opened(encoded: Encoded) -> Path | BinaryIO:
    """Return what decoders open: a path, or bytes as a file object."""
    return io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded


def pixels_of_encoded(
    encoded: Encoded,
    size: tuple[int, int] | None,
    channels: int,
    max_pixels: int,
    background: str,
    order: str = "auto",
) -> np.ndarray:
    """Decode an encoded image.

    Parameters
    ----------
    encoded : Path or bytes
        Path of a regular file, or its content.
    size : (height, width) or None
        Size to which 8-bit images are resized and center-cropped, antialiased. Other images, and all images
        if it is None, keep their size.
    channels : int
        Number of channels of the result.
    max_pixels : int
        Maximum height * width. Larger images are rejected before they are decoded: a small file may
        decompress to gigabytes.
    background : str
        Color behind transparent pixels.
    order : {"auto", "first", "last"}
        Place of the channels among the axes of a .npy file.

    Returns
    -------
    ndarray of shape (height, width, channels)
        uint8, or the dtype of the file if it has more than 8 bits per channel.

    Raises
    ------
    Exception
        Any exception of the decoders, if the file cannot be decoded.
    """
    if _is_npy(encoded):
        array = channels_last(_load_npy(encoded), order)
        height, width = array.shape[:2]
        _check_pixels(width, height, max_pixels)
        return pixels_of_array(array, channels)
    image = _open(encoded)
    if image is None:
        return pixels_of_array(_transpose(*read_tiff(opened(encoded), max_pixels)), channels)
    with image:
        _check_pixels(*image.size, max_pixels)
        if _has_deep_colors(image):
            return pixels_of_array(_read_deep_colors(encoded, image, max_pixels, background), channels)
        if size is not None:
            # JPEGs can be decoded at 1/2, 1/4 or 1/8 of their size, which is faster. At least twice the
            # wanted size is decoded, so that the antialiased resize still has pixels to average.
            image.draft(None, (2 * max(size), 2 * max(size)))
        return pixels_of_image(image, size, channels, background)


def pixels_of_image(
    image: Image.Image, size: tuple[int, int] | None, channels: int, background: str
) -> np.ndarray:
    """Decode a PIL image (the current frame of an animation); see `pixels_of_encoded`."""
    if _orientation(image) != 1:  # exif_transpose would copy an upright image
        image = ImageOps.exif_transpose(image)
    if _is_deep(image):
        # Image.convert would clip 16-bit values at 255.
        return pixels_of_array(np.asarray(image), channels)
    mode = "L" if channels == 1 and _is_gray(image) else "RGB"
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(canvas, image.convert("RGBA"))
    if image.mode != mode:  # convert would copy an image that has the mode already
        image = image.convert(mode)
    if size is not None and (image.height, image.width) != size:
        image = ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return pixels_of_array(_drop_equal_channels(array) if channels == 1 else array, channels)


def pixels_of_array(array: Any, channels: int) -> np.ndarray:
    """Validate an array (height, width[, channels]); a single channel is repeated if `channels` is not 1."""
    if np.ma.is_masked(array):
        raise ValueError("some of its pixels are masked: give them values, for example image.filled(0)")
    array = np.asarray(array)
    array = array[:, :, None] if array.ndim == 2 else array
    if array.shape[2] == 1 and channels != 1:
        return np.repeat(array, channels, axis=2)
    if array.shape[2] != channels:
        raise ValueError(
            f"it has {array.shape[2]} channels, while the images inspected first have {channels}"
        )
    return array


def _drop_equal_channels(array: np.ndarray) -> np.ndarray:
    """Return the gray values (height, width) of an image, which may have been saved as RGB."""
    if array.ndim == 2:
        return array
    if (array != array[..., :1]).any():
        raise ValueError(
            "it is a color image, while the images inspected first are grayscale. Convert them to the same "
            "kind, or put a color image first: all images then have three channels"
        )
    return array[..., 0]


def header_of_shape(shape: tuple[int, ...], dtype: np.dtype, order: str) -> Header:
    """Return the header of an array of this shape, whose channels are where `order` says, and dtype."""
    height, width, channels = (*shape_channels_last(shape, order), 1)[:3]
    if 0 in shape:
        raise ValueError(f"it has the shape {shape}, which contains no pixels")
    return Header(height, width, channels, dtype != np.uint8)


def _open(encoded: Encoded) -> ImageFile.ImageFile | None:
    """Open an image with Pillow; return None for a TIFF that Pillow does not support, or misreads."""
    try:
        image = Image.open(opened(encoded), formats=_formats())
    except UnidentifiedImageError:
        if _read_signature(encoded)[:4] in TIFF_SIGNATURES:
            return None
        raise
    with ExitStack() as closed_unless_returned:
        closed_unless_returned.enter_context(image)
        if isinstance(image, TiffImageFile):
            # Without a name, Pillow does not memory-map the file. For an uncompressed TIFF whose orientation
            # swaps height and width, it would map the file with the swapped size, and scramble the pixels.
            image.filename = ""
            check_single(image)
            if is_misread(image):
                return None
        closed_unless_returned.pop_all()
    return image


def _read_deep_colors(encoded: Encoded, image: Image.Image, max_pixels: int, background: str) -> np.ndarray:
    """Decode 16-bit colors to (height, width, 3); Pillow would reduce them to 8 bits."""
    if image.format == "PPM":
        raise ValueError("PPM with 16 bits per channel is not supported: save it as PNG")
    if "transparency" in image.info:
        raise ValueError("16-bit RGB with a transparent color is not supported: save it as RGBA")
    is_tiff = image.format == "TIFF"
    array = _transpose(*(read_tiff(opened(encoded), max_pixels) if is_tiff else _read_deep_png(encoded)))
    if array.shape[2] == 3:
        return array
    if array.shape[2] != 4:
        raise ValueError(GRAY_ALPHA_MESSAGE)
    colors, alpha = array[..., :3].astype(np.float32), array[..., 3:] / np.float32(65535)
    behind = np.array(ImageColor.getrgb(background)[:3], np.float32) * 257  # 255 * 257 = 65535
    return alpha * colors + (1 - alpha) * behind


def _read_deep_png(encoded: Encoded) -> tuple[np.ndarray, int]:
    """Decode a 16-bit RGB or RGBA PNG; return its pixels and its EXIF orientation.

    Pillow keeps the high byte of each big-endian value. A second decoder, told that the values are
    little-endian, keeps the low byte. (torchvision could decode such files directly, but its decoder
    is deprecated since 0.29, and that of 0.29.1 crashes the process if the compressed data is damaged.)
    """
    files = opened(encoded), opened(encoded)
    with Image.open(files[0], formats=["PNG"]) as upper, Image.open(files[1], formats=["PNG"]) as lower:
        [(codec, box, offset, order)] = lower.tile
        if order not in ("RGB;16B", "RGBA;16B"):
            raise ValueError(GRAY_ALPHA_MESSAGE)
        lower.tile = [(codec, box, offset, order[:-1] + "L")]  # type: ignore[list-item]  # as in older Pillow
        return np.asarray(upper).astype(np.uint16) * 256 + np.asarray(lower), _orientation(upper)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, from 1 (upright) to 8; 1 if it is missing or invalid."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, TypeError):
        return 1
    return orientation if orientation in range(1, 9) else 1


def _transpose(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation, as `ImageOps.exif_transpose` does for PIL images."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.flip(array, flips.get(orientation, ()))


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ValueError(
            f"it has {width} x {height} pixels, more than reader__max_pixels={max_pixels}: raise this "
            "limit if you trust the file"
        )


def _is_npy(encoded: Encoded) -> bool:
    """Return whether a file is .npy; raise ValueError if it is of a format that other packages read."""
    start = _read_signature(encoded)
    for offset, signature, kind, reader in UNSUPPORTED_FORMATS:
        if start[offset : offset + len(signature)] == signature:
            raise ValueError(f"it is {kind}: read it with reader__read, for example lambda path: {reader}")
    return start.startswith(NPY_SIGNATURE)


def _read_signature(encoded: Encoded) -> bytes:
    """Read the first bytes of a file; of a compressed NIfTI file, those of its decompressed content."""
    if isinstance(encoded, bytes):
        return encoded[:SIGNATURE_BYTES]
    open_ = gzip.open if encoded.name.lower().endswith(".nii.gz") else open
    with open_(encoded, "rb") as file:
        return file.read(SIGNATURE_BYTES)


def _load_npy(encoded: Encoded) -> np.ndarray:
    """Return the array of a .npy file, mapped in memory: its header may promise more than it contains."""
    if isinstance(encoded, Path):
        return np.load(encoded, mmap_mode="r", allow_pickle=False)
    file = io.BytesIO(encoded)
    if np.lib.format.read_magic(file) == (1, 0):
        shape, in_columns, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, in_columns, dtype = np.lib.format.read_array_header_2_0(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    values = np.frombuffer(encoded, dtype, math.prod(shape), file.tell())
    return values.reshape(shape, order="F" if in_columns else "C")


@lru_cache(maxsize=1)
def _formats() -> list[str]:
    """Return the formats that this Pillow was built with: `Image.open` raises KeyError for any other."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _is_gray(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")


def _is_deep(image: Image.Image) -> bool:
    """Return whether Pillow keeps more than 8 bits per channel, as float32 ("F") or integers ("I;16")."""
    return image.mode == "F" or image.mode.startswith("I")


def _has_deep_colors(image: ImageFile.ImageFile) -> bool:
    """Return whether Pillow would reduce the channels of an opened file to 8 bits when it decodes it."""
    if _is_deep(image):
        return False
    if isinstance(image, TiffImageFile):
        return bits_of(image) > 8
    if image.format == "PPM":  # the arguments of its decoder end with the maximum value
        return any(isinstance(tile[3], tuple) and tile[3][-1] > 255 for tile in image.tile)
    return any(";16" in str(tile) for tile in image.tile)  # a raw mode such as "RGB;16B" (PNG)
