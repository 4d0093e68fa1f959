"""Conversion of the items of datasets and columns to images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from sklearn_ssl._images.axes import channels_last
from sklearn_ssl._images.decode import (
    Encoded,
    Header,
    header_of,
    header_of_image,
    header_of_shape,
    opened,
    pixels_of_array,
    pixels_of_encoded,
    pixels_of_image,
)
from sklearn_ssl._images.file_parts import FilePart
from sklearn_ssl._images.files import NOT_REGULAR, is_special
from sklearn_ssl._images.reader import Reader

# Keys of an encoded image among the rows of a table, as Hugging Face's `datasets` store it.
ENCODED_KEYS = {"bytes", "path"}


def is_encoded(item: Any) -> bool:
    """Return whether an item is an encoded image: bytes, or a dict of bytes and a path."""
    # numpy's own bytes end at the last byte that is not zero: the content of a file may be longer.
    is_bytes = isinstance(item, bytes | bytearray | memoryview) and not isinstance(item, np.generic)
    return is_bytes or (isinstance(item, dict) and set(item.keys()) == ENCODED_KEYS)


def image_of(item: Any, order: str = "auto") -> Image.Image | np.ndarray | Encoded | FilePart:
    """Return the image in an item; arrays and tensors as (height, width[, channels]).

    Parameters
    ----------
    item : object
        A PIL image, an array, a tensor, an encoded image, or a part of a file; a tuple or list that begins
        with one, or with a path; or a dict with exactly one.
    order : {"auto", "first", "last"}, default="auto"
        Place of the channels in arrays and tensors.

    Raises
    ------
    ValueError
        If there is no image, or it cannot be known which or how it is meant.
    """
    if isinstance(item, tuple | list):
        return image_of(first_image(item), order)
    if is_encoded(item):
        return _encoded(item)
    if isinstance(item, dict):
        return image_of(_only_image(item), order)
    if item is None:
        raise ValueError("it is None: the image is missing")
    if isinstance(item, str):
        return Path(item)
    if isinstance(item, Image.Image | Path | FilePart):
        return item
    return channels_last(item if isinstance(item, Tensor) else np.asanyarray(item), order)


def header_of_item(item: Any, reader: Reader) -> Header:
    """Return the header of the image in an item; see `image_of`."""
    image = _opened(item, reader)
    if isinstance(image, Image.Image):
        return header_of_image(image)
    if isinstance(image, np.ndarray):
        return header_of_shape(image.shape, image.dtype, order="last")
    return header_of(image, reader.channels)


def pixels_of_item(item: Any, size: tuple[int, int] | None, channels: int, reader: Reader) -> np.ndarray:
    """Decode the image in an item to (height, width, channels); see `pixels_of_encoded`."""
    image = _opened(item, reader)
    if isinstance(image, Image.Image):
        return pixels_of_image(image, size, channels, reader.background)
    if isinstance(image, np.ndarray):
        return pixels_of_array(image, channels)
    return pixels_of_encoded(image, size, channels, reader.max_pixels, reader.background, reader.channels)


def _opened(item: Any, reader: Reader) -> Image.Image | np.ndarray | Encoded:
    """Return the image in an item, read by the user's function if it is a file and there is one."""
    image = image_of(item, reader.channels)
    if not isinstance(image, FilePart | Path | bytes):
        return image
    _check_regular(image.path if isinstance(image, FilePart) else image)
    if reader.read is not None:
        read = reader.read(image if isinstance(image, FilePart) else opened(image))
        if isinstance(read, tuple | list | dict) or read is None:
            raise ValueError(f"reader__read returned {type(read).__name__} instead of an array of pixels")
        return image_of(read, reader.channels)  # type: ignore[return-value]  # an array or a PIL image
    if isinstance(image, FilePart):
        raise ValueError(
            "it is a part of a file: set reader__read to a function that maps a FilePart to its pixels"
        )
    return image


def _check_regular(image: Encoded) -> None:
    """Raise ValueError for a pipe or a device: opening it could block forever."""
    if isinstance(image, Path) and is_special(image):
        raise ValueError(f"it is {NOT_REGULAR}")


def _encoded(item: Any) -> Encoded:
    if not isinstance(item, dict):
        return bytes(item)
    if item["bytes"] is None and item["path"] is None:
        raise ValueError("it has neither bytes nor a path: the image is missing")
    return Path(item["path"]) if item["bytes"] is None else bytes(item["bytes"])


def begins_with_image(item: tuple | list) -> bool:
    """Return whether the first entry is an image or a path, as in (image, label)."""
    return len(item) > 0 and (is_image(item[0]) or isinstance(item[0], str | os.PathLike))


def first_image(item: tuple | list) -> Any:
    """Return the image that a tuple or list begins with; refuse several views of one image."""
    if len(item) == 0:
        raise ValueError(f"it is an empty {type(item).__name__}: the image is missing")
    first = item[0]
    if isinstance(first, list | tuple) and len(first) > 0 and is_image(first[0]):
        return first_image(first)
    alike = sum(is_image(other) and _kind(other) == _kind(first) for other in item[1:])
    if alike and is_image(first):
        raise ValueError(
            f"it holds {alike + 1} images of one kind, such as several views of an image: let the dataset "
            f"return the image itself, without random transforms, as the views are drawn by augment"
        )
    return first


def _kind(image: Any) -> tuple:
    """Return what an image and its mask or depth map differ in: type, dtype or mode, number of channels."""
    if not isinstance(image, np.ndarray | Tensor):
        return type(image), getattr(image, "mode", None)
    channels = image.shape[0 if isinstance(image, Tensor) else -1] if image.ndim == 3 else 1
    return type(image), image.dtype, channels


def _only_image(item: dict[str, Any]) -> Any:
    """Return the only value that is an image."""
    images = [value for value in item.values() if is_image(value)]
    if len(images) != 1:
        raise ValueError(
            f"it is a dict with the keys {list(item)}, {len(images)} of which hold an image: let the dataset "
            f"return the image itself, or a tuple that begins with it"
        )
    return images[0]


def is_decoded(value: Any) -> bool:
    """Return whether a value is a PIL image, or an array or tensor with the axes of one."""
    return isinstance(value, Image.Image) or (isinstance(value, np.ndarray | Tensor) and value.ndim in (2, 3))


def is_image(value: Any) -> bool:
    """Return whether a value is an image: decoded, encoded, or in a file."""
    return is_encoded(value) or isinstance(value, Path | FilePart) or is_decoded(value)
