"""Files, PIL images and arrays -> pixels; every rule of what a file's numbers mean is here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

# Pillow knows 42 formats; more doors than images need.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (
    ".bmp",
    ".gif",
    ".jp2",
    ".jpeg",
    ".jpg",
    ".npy",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
TIFFS = (".tif", ".tiff")
NPY = b"\x93NUMPY"


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


def header_of(path: Path, max_pixels: int) -> Header:
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
        return header_of_array(_read_tiff(path, max_pixels))
    with image:
        return header_of_image(image)


def header_of_image(image: Image.Image) -> Header:
    width, height = image.size
    return Header(height, width, 1 if _is_grey(image) else 3, _is_deep(image) or _is_deep_colour(image))


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
        _check_pixels(*array.shape[:2], max_pixels)
        return pixels_of_array(array, channels)
    image = _opened(path)
    if image is None:
        return pixels_of_array(_read_tiff(path, max_pixels), channels)
    with image:
        _check_pixels(*image.size, max_pixels)
        if _is_deep_colour(image):
            return pixels_of_array(_deep_colours(path, image.format, max_pixels, background), channels)
        if size is not None:
            # A JPEG can be decoded at a half, a quarter or an eighth: still twice as large as needed.
            image.draft(None, (2 * max(size), 2 * max(size)))
        return pixels_of_image(image, size, channels, background)


def pixels_of_image(
    image: Image.Image, size: tuple[int, int] | None, channels: int, background: str
) -> np.ndarray:
    """The pixels of a PIL image (of an animation, the frame that it is at): see `pixels_of_file`."""
    image = ImageOps.exif_transpose(image)
    if _is_deep(image):
        # Not convert(): Pillow clips 16-bit values at 255.
        return pixels_of_array(np.asarray(image), channels)
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(page, image.convert("RGBA"))
    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None and (image.height, image.width) != size:
        image = ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR)
    return pixels_of_array(np.array(image), channels)


def pixels_of_array(array: Any, channels: int) -> np.ndarray:
    """An array of shape (height, width[, channels]), with so many channels; grey ones are repeated."""
    array = np.asarray(array)
    if array.ndim not in (2, 3):
        raise ValueError(
            f"an image has the shape (height, width) or (height, width, channels), not {array.shape}"
        )
    array = array[:, :, None] if array.ndim == 2 else array
    if array.shape[2] == 1 and channels != 1:
        return np.repeat(array, channels, axis=2)
    if array.shape[2] != channels:
        raise ValueError(f"it has {array.shape[2]} channels, the images looked at first have {channels}")
    return array


def header_of_array(array: np.ndarray) -> Header:
    if array.ndim not in (2, 3):
        raise ValueError(
            f"an image has the shape (height, width) or (height, width, channels), not {array.shape}"
        )
    channels = array.shape[2] if array.ndim == 3 else 1
    return Header(*array.shape[:2], channels, array.dtype != np.uint8)


def _opened(path: Path) -> Image.Image | None:
    """None: a TIFF that Pillow does not know."""
    try:
        return Image.open(path, formats=_formats())
    except UnidentifiedImageError:
        if path.suffix.lower() in TIFFS:
            return None
        raise


def _deep_colours(path: Path, kind: str, max_pixels: int, background: str) -> np.ndarray:
    """Colours or transparency of 16 bits, (height, width, 1 or 3): Pillow would take the upper 8."""
    array = _read_tiff(path, max_pixels) if kind == "TIFF" else _read_deep_png(path)
    if array.shape[2] in (1, 3):
        return array
    colours, seen = array[..., :-1].astype(np.float32), array[..., -1:] / np.float32(65535)
    behind = np.array(ImageColor.getrgb(background)[: colours.shape[2]], np.float32) * 257
    return seen * colours + (1 - seen) * behind


def _read_deep_png(path: Path) -> np.ndarray:
    """Pillow keeps the first byte of each number, and the second one when it takes them for swapped."""
    with Image.open(path, formats=["PNG"]) as upper, Image.open(path, formats=["PNG"]) as lower:
        [(codec, box, offset, order)] = lower.tile
        if order not in ("RGB;16B", "RGBA;16B"):
            raise ValueError("grey of 16 bits with transparency is not supported: save it without")
        lower.tile = [(codec, box, offset, order[:-1] + "L")]
        return np.asarray(upper).astype(np.uint16) * 256 + np.asarray(lower)


def _check_axes(array: np.ndarray) -> None:
    if array.ndim not in (2, 3):
        raise ValueError(f"an image is (height, width[, channels]), and this has the shape {array.shape}")


def _check_pixels(a: int, b: int, max_pixels: int) -> None:
    if a * b > max_pixels:
        raise ValueError(
            f"it has {a} x {b} pixels, more than reader__max_pixels={max_pixels}: raise that if you trust it"
        )


def _read_tiff(path: Path, max_pixels: int) -> np.ndarray:
    """TIFFs of many channels, or of three with 16 bits, which Pillow does not know."""
    try:
        import tifffile
    except ImportError:
        raise ValueError(
            "Pillow does not know this kind of TIFF. pip install tifffile, which does, or convert it to .npy"
        ) from None
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        _check_pixels(page.imagelength, page.imagewidth, max_pixels)
        array = page.asarray()
    # (channels, height, width), as many instruments write it
    return np.moveaxis(array, 0, 2) if array.ndim == 3 and page.planarconfig == 2 else array


def _is_npy(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(NPY)) == NPY


@lru_cache(maxsize=1)
def _formats() -> list[str]:
    """Those that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether Pillow reads 16 bits a channel as 8: in PNG and TIFF, before it is decoded."""
    return not _is_deep(image) and any(";16" in str(tile) for tile in getattr(image, "tile", ()))
