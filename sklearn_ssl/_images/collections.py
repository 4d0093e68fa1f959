"""Collections of images that are not a single array in memory: files, PIL images, datasets, memory maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from sklearn_ssl._images.decode import (
    Header,
    are_channels_first,
    header_of,
    header_of_array,
    header_of_image,
    pixels_of_array,
    pixels_of_file,
    pixels_of_image,
)
from sklearn_ssl._images.files import NOT_REGULAR, is_special
from sklearn_ssl._images.reader import Reader


class ImageCollection(Protocol):
    """Interface of a sequence of images that may differ in size and kind."""

    @property
    def single_threaded(self) -> bool:
        """Whether only one thread may read by default."""
        ...

    def __len__(self) -> int: ...

    def name(self, position: int) -> str:
        """Return a name for messages, such as the path."""
        ...

    def identity(self, position: int) -> tuple | None:
        """Return values that change with the image, without reading it; None if there are none."""
        ...

    def header(self, position: int, reader: Reader) -> Header:
        """Return size and kind of an image, without decoding it if possible."""
        ...

    def pixels(
        self, position: int, size: tuple[int, int] | None, channels: int, reader: Reader
    ) -> np.ndarray:
        """Return pixels (height, width, channels); 8-bit PIL images and files are resized to `size`."""
        ...


@dataclass(frozen=True)
class ImageFiles:
    """Image files."""

    paths: Sequence[Path]
    single_threaded = False

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, position: int) -> str:
        return str(self.paths[position])

    def identity(self, position: int) -> tuple:
        path = self.paths[position]
        stat = path.stat()
        return str(path.absolute()), stat.st_size, stat.st_mtime_ns

    def header(self, position: int, reader: Reader) -> Header:
        path = self._regular(position)
        if reader.read is not None:
            return header_of_array(np.asarray(reader.read(path)))
        return header_of(path)

    def pixels(self, position: int, size: tuple | None, channels: int, reader: Reader) -> np.ndarray:
        path = self._regular(position)
        if reader.read is not None:
            return pixels_of_array(reader.read(path), channels)
        return pixels_of_file(path, size, channels, reader.max_pixels, reader.background)

    def _regular(self, position: int) -> Path:
        """Return the path of a regular file; opening a pipe or a device could block forever."""
        path = self.paths[position]
        if is_special(path):
            raise ValueError(f"it is {NOT_REGULAR}")
        return path


@dataclass(frozen=True)
class IndexedImages:
    """Images by index: a list of PIL images, a memory-mapped array, or a map-style dataset.

    The items of a dataset are images, or tuples whose first element is an image.
    """

    images: Any
    single_threaded: bool

    def __len__(self) -> int:
        return len(self.images)

    def name(self, position: int) -> str:
        return "The image"

    def identity(self, position: int) -> None:
        return None

    def header(self, position: int, reader: Reader) -> Header:
        image = self._image(position)
        return header_of_image(image) if isinstance(image, Image.Image) else header_of_array(image)

    def pixels(self, position: int, size: tuple | None, channels: int, reader: Reader) -> np.ndarray:
        image = self._image(position)
        if isinstance(image, Image.Image):
            return pixels_of_image(image, size, channels, reader.background)
        return pixels_of_array(image, channels)

    def _image(self, position: int) -> Image.Image | np.ndarray:
        item = self.images[position]
        image = item[0] if isinstance(item, tuple | list) else item
        if isinstance(image, dict):
            raise ValueError(
                f"it is a dict with the keys {list(image)}: let the dataset return the image itself, or a "
                f"tuple that begins with it"
            )
        if isinstance(image, Tensor):
            return _array_of_tensor(image)
        return image if isinstance(image, Image.Image) else np.asanyarray(image)


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
