"""Files, PIL images and arrays -> pixels; every rule of what a file's numbers mean is here."""

from __future__ import annotations

import gzip
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageOps, UnidentifiedImageError

from sklearn_ssl._images.tiff import bits_of, check_single, is_misread, read_tiff, tiff_shape

# Pillow knows 42 formats; more doors than images need.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (
    *(".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".npy", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff"),
    ".webp",
)
# Raised where the rules change: images in a cache were made by some.
RULES = 2
HEAD = 352  # bytes at the start of a file that tell of what kind it is
NPY = b"\x93NUMPY"
TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Where files that others read have these bytes, what they are, and what reads one.
OTHERS = (
    (128, b"DICM", "a DICOM file", "pydicom.dcmread(path).pixel_array"),
    (344, b"n+1\0", "a NIfTI volume", "nibabel.load(path).dataobj[..., 0]"),
)


@dataclass(frozen=True)
class Header:
    """What is known of an image before its pixels are.

    Attributes
    ----------
    height, width : int
    channels : int
        1 for grey, 3 for anything coloured or transparent, else as many as an array has.
    deep : bool
        More than 8 bits a channel.
    """

    height: int
    width: int
    channels: int
    deep: bool


def header_of(path: Path) -> Header:
    """Of a file, without decoding it.

    Raises
    ------
    Exception
        Whatever Pillow, numpy or tifffile say to a file that is no image.
    """
    if _is_npy(path):
        return header_of_array(np.load(path, mmap_mode="r", allow_pickle=False))
    image = _opened(path)
    if image is None:
        return _header_of_shape(*tiff_shape(path))
    with image:
        header = header_of_image(image)
        return replace(header, deep=header.deep or _has_deep_colours(image))


def header_of_image(image: Image.Image) -> Header:
    width, height = image.size
    return Header(height, width, 1 if _is_grey(image) else 3, _is_deep(image))


def pixels_of_file(
    path: Path, size: tuple[int, int] | None, channels: int, max_pixels: int, background: str
) -> np.ndarray:
    """The pixels of a file.

    Parameters
    ----------
    path : Path
    size : (height, width), optional
        8-bit images are resized to it (antialiased, short side) and centre-cropped; others, and None: as they
        are.
    channels : int
    max_pixels : int
        Larger images are refused before they are decoded.
    background : str
        Colour behind transparent pixels.

    Returns
    -------
    ndarray of shape (height, width, channels)
        uint8, or the file's own type where it has more than 8 bits.

    Raises
    ------
    Exception
        Every decoder has its own.
    """
    if _is_npy(path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        _check_axes(array.shape)
        _check_pixels(*array.shape[1::-1], max_pixels)
        return pixels_of_array(array, channels)
    image = _opened(path)
    if image is None:
        return pixels_of_array(_upright(*read_tiff(path, max_pixels)), channels)
    with image:
        _check_pixels(*image.size, max_pixels)
        if _has_deep_colours(image):
            return pixels_of_array(_deep_colours(path, image, max_pixels, background), channels)
        if size is not None:
            # A JPEG can be decoded at a half, a quarter or an eighth: still twice as large as needed.
            image.draft(None, (2 * max(size), 2 * max(size)))
        return pixels_of_image(image, size, channels, background)


def pixels_of_image(
    image: Image.Image, size: tuple[int, int] | None, channels: int, background: str
) -> np.ndarray:
    """The pixels of a PIL image (of an animation, the frame that it is at): see `pixels_of_file`."""
    if _orientation(image) != 1:  # else it would be copied
        image = ImageOps.exif_transpose(image)
    if _is_deep(image):
        # Not convert(): Pillow clips 16-bit values at 255.
        return pixels_of_array(np.asarray(image), channels)
    mode = "L" if channels == 1 and _is_grey(image) else "RGB"
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(page, image.convert("RGBA"))
    if image.mode != mode:  # else it would be copied
        image = image.convert(mode)
    if size is not None and (image.height, image.width) != size:
        image = ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return pixels_of_array(_without_colours(array) if channels == 1 else array, channels)


def pixels_of_array(array: Any, channels: int) -> np.ndarray:
    """An array of shape (height, width[, channels]), with so many channels; grey ones are repeated."""
    if np.ma.is_masked(array):
        raise ValueError("some of its pixels are masked: give them values, for example image.filled(0)")
    array = np.asarray(array)
    _check_axes(array.shape)
    array = array[:, :, None] if array.ndim == 2 else array
    if array.shape[2] == 1 and channels != 1:
        return np.repeat(array, channels, axis=2)
    if array.shape[2] != channels:
        raise ValueError(f"it has {array.shape[2]} channels, the images looked at first have {channels}")
    return array


def header_of_array(array: np.ndarray) -> Header:
    return _header_of_shape(array.shape, array.dtype)


def are_channels_first(shape: tuple[int, ...]) -> bool:
    """Whether the three axes of an image look like (channels, height, width)."""
    first, height, width = shape
    return first in (1, 3, 4) and width > 4 and (height == width or width > 16)


def _without_colours(array: np.ndarray) -> np.ndarray:
    """(height, width) of an image whose three channels are one: grey that was saved as colours."""
    if array.ndim == 2:
        return array
    if (array != array[..., :1]).any():
        raise ValueError(
            "it is coloured, the images looked at first are grey. Convert one kind, or put a coloured image "
            "first: then all have three channels"
        )
    return array[..., 0]


def _header_of_shape(shape: tuple[int, ...], dtype: np.dtype) -> Header:
    _check_axes(shape)
    if 0 in shape:
        raise ValueError(f"it has the shape {shape}, without any pixel")
    return Header(*shape[:2], shape[2] if len(shape) == 3 else 1, dtype != np.uint8)


def _opened(path: Path) -> Image.Image | None:
    """None: a TIFF that Pillow does not know, or misreads."""
    try:
        image = Image.open(path, formats=_formats())
    except UnidentifiedImageError:
        if _start_of(path)[:4] in TIFFS:
            return None
        raise
    with ExitStack() as closed_unless_returned:
        closed_unless_returned.enter_context(image)
        if image.format == "TIFF":
            image.filename = ""  # else Pillow maps the file, and mixes up the sides of one that is turned
            check_single(image)
            if is_misread(image):
                return None
        closed_unless_returned.pop_all()
    return image


def _deep_colours(path: Path, image: Image.Image, max_pixels: int, background: str) -> np.ndarray:
    """Colours of 16 bits, (height, width, 3): Pillow would take the upper 8."""
    if image.format == "PPM" or "transparency" in image.info:
        raise ValueError(
            f"this kind of {image.format} with 16 bits a channel is not supported: save it as PNG"
        )
    array = _upright(*(read_tiff(path, max_pixels) if image.format == "TIFF" else _read_deep_png(path)))
    if array.shape[2] == 3:
        return array
    if array.shape[2] != 4:
        raise ValueError("grey of 16 bits with transparency is not supported: save it without")
    colours, seen = array[..., :3].astype(np.float32), array[..., 3:] / np.float32(65535)
    behind = np.array(ImageColor.getrgb(background)[:3], np.float32) * 257
    return seen * colours + (1 - seen) * behind


def _read_deep_png(path: Path) -> tuple[np.ndarray, int]:
    """The pixels and their orientation.

    Pillow keeps the first byte of each number, and the second one when it takes them for swapped.
    """
    with Image.open(path, formats=["PNG"]) as upper, Image.open(path, formats=["PNG"]) as lower:
        [(codec, box, offset, order)] = lower.tile
        if order not in ("RGB;16B", "RGBA;16B"):
            raise ValueError("grey of 16 bits with transparency is not supported: save it without")
        lower.tile = [(codec, box, offset, order[:-1] + "L")]
        return np.asarray(upper).astype(np.uint16) * 256 + np.asarray(lower), _orientation(upper)


def _orientation(image: Image.Image) -> int:
    """As EXIF says, from 1 (upright) to 8; 1 where it makes no sense."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, TypeError):
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turned as EXIF says, which Pillow does for its own images."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.flip(array, flips.get(orientation, ()))


def _check_axes(shape: tuple[int, ...]) -> None:
    if len(shape) not in (2, 3):
        raise ValueError(f"an image is (height, width) or (height, width, channels), and this is {shape}")
    if len(shape) == 3 and are_channels_first(shape):
        raise ValueError(
            f"it has the shape {shape}: axis 0, of length {shape[0]}, looks like channels. numpy images are "
            f"(height, width, channels): image.transpose(1, 2, 0), for files in a reader__read of your own"
        )


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ValueError(
            f"it has {width} x {height} pixels, more than reader__max_pixels={max_pixels}: raise that if you "
            "trust it"
        )


def _is_npy(path: Path) -> bool:
    start = _start_of(path)
    for at, magic, kind, reader in OTHERS:
        if start[at : at + len(magic)] == magic:
            raise ValueError(f"it is {kind}: read it with reader__read, for example lambda path: {reader}")
    return start.startswith(NPY)


def _start_of(path: Path) -> bytes:
    """The first bytes of a file; of what is in it, where it is a .nii.gz."""
    open_ = gzip.open if path.name.lower().endswith(".nii.gz") else open
    with open_(path, "rb") as file:
        return file.read(HEAD)


@lru_cache(maxsize=1)
def _formats() -> list[str]:
    """Those that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def _has_deep_colours(image: Image.Image) -> bool:
    """Whether Pillow reads 16 bits a channel as 8: of a file that is not decoded yet."""
    if _is_deep(image):
        return False
    if image.format == "TIFF":
        return bits_of(image) > 8
    if image.format == "PPM":  # the largest number, where it is not 255
        return any(isinstance(tile[3], tuple) and tile[3][-1] > 255 for tile in image.tile)
    return any(";16" in str(tile) for tile in image.tile)
