"""Conversion of the items of datasets and columns to images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from sklearn_ssl._images.decode import (
    Encoded,
    Header,
    are_channels_first,
    header_of,
    header_of_array,
    header_of_image,
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
    return is_bytes or (isinstance(item, dict) and set(item) == ENCODED_KEYS)


def image_of(item: Any) -> Image.Image | np.ndarray | Encoded | FilePart:
    """Return the image in an item.

    Parameters
    ----------
    item : object
        A PIL image, an array (height, width[, channels]), a tensor ([channels, ]height, width), an encoded
        image, or a part of a file; a tuple or list that begins with one; or a dict with exactly one.

    Raises
    ------
    ValueError
        If there is no image, or more than one.
    """
    if isinstance(item, tuple | list):
        return image_of(item[0])
    if is_encoded(item):
        return _encoded(item)
    if isinstance(item, dict):
        return image_of(_only_image(item))
    if isinstance(item, Tensor):
        return _array_of_tensor(item)
    if item is None:
        raise ValueError("it is None: the image is missing")
    return item if isinstance(item, Image.Image | Path | FilePart) else np.asanyarray(item)


def header_of_item(item: Any, reader: Reader) -> Header:
    """Return the header of the image in an item; see `image_of`."""
    image = image_of(item)
    if isinstance(image, Image.Image):
        return header_of_image(image)
    if isinstance(image, np.ndarray):
        return header_of_array(image)
    if isinstance(image, FilePart) or reader.read is not None:
        return header_of_array(_read(image, reader))
    _check_regular(image)
    return header_of(image)


def pixels_of_item(item: Any, size: tuple[int, int] | None, channels: int, reader: Reader) -> np.ndarray:
    """Decode the image in an item to (height, width, channels); see `pixels_of_encoded`."""
    image = image_of(item)
    if isinstance(image, Image.Image):
        return pixels_of_image(image, size, channels, reader.background)
    if isinstance(image, np.ndarray):
        return pixels_of_array(image, channels)
    if isinstance(image, FilePart) or reader.read is not None:
        return pixels_of_array(_read(image, reader), channels)
    _check_regular(image)
    return pixels_of_encoded(image, size, channels, reader.max_pixels, reader.background)


def _read(image: Encoded | FilePart, reader: Reader) -> np.ndarray:
    """Read an image by the user's function."""
    _check_regular(image.path if isinstance(image, FilePart) else image)
    if reader.read is None:
        raise ValueError(
            "it is a part of a file: set reader__read to a function that maps a FilePart to its pixels"
        )
    return np.asarray(reader.read(image if isinstance(image, FilePart) else opened(image)))


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


def _only_image(item: dict[str, Any]) -> Any:
    """Return the only value that is an image."""
    images = [value for value in item.values() if _is_image(value)]
    if len(images) != 1:
        raise ValueError(
            f"it is a dict with the keys {list(item)}, {len(images)} of which hold an image: let the dataset "
            f"return the image itself, or a tuple that begins with it"
        )
    return images[0]


def _is_image(value: Any) -> bool:
    if is_encoded(value) or isinstance(value, Image.Image | Path | FilePart):
        return True
    return isinstance(value, np.ndarray | Tensor) and value.ndim in (2, 3)


def _array_of_tensor(image: Tensor) -> np.ndarray:
    """Convert a tensor (height, width) or (channels, height, width) to an array, channels last."""
    array = image.detach().cpu().numpy()
    if array.ndim != 3:
        return array
    if are_channels_first(array.shape[::-1]):
        raise ValueError(
            f"it is a torch tensor of shape {array.shape}, whose last axis looks like channels. A tensor is "
            f"(channels, height, width): image.permute(2, 0, 1)"
        )
    return np.moveaxis(array, 0, -1)
