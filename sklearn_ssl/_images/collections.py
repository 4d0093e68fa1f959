"""Collections of images that are not in memory as one array: files, PIL images, datasets, memory maps."""

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
from sklearn_ssl._images.files import SPECIAL, is_special
from sklearn_ssl._images.reader import Reader


class ImageCollection(Protocol):
    """Images by position."""

    one_by_one: bool  # whether only one thread may read

    def __len__(self) -> int: ...

    def name(self, position: int) -> str:
        """For messages."""
        ...

    def identity(self, position: int) -> tuple | None:
        """What differs where the image does, without reading it; None if nothing does."""
        ...

    def header(self, position: int, reader: Reader) -> Header: ...

    def pixels(
        self, position: int, size: tuple[int, int] | None, channels: int, reader: Reader
    ) -> np.ndarray:
        """(height, width, channels); 8-bit images of some kinds at that size already."""
        ...


@dataclass(frozen=True)
class ImageFiles:
    paths: Sequence[Path]
    one_by_one = False

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
        """The path, unless it is a special one."""
        path = self.paths[position]
        if is_special(path):
            raise ValueError(f"it is {SPECIAL}")
        return path


@dataclass(frozen=True)
class IndexedImages:
    """A list of PIL images, a dataset of images or of tuples that begin with one, an array on disk."""

    things: Any
    one_by_one: bool

    def __len__(self) -> int:
        return len(self.things)

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
        thing = self.things[position]
        image = thing[0] if isinstance(thing, tuple | list) else thing
        if isinstance(image, dict):
            raise ValueError(
                f"it is a dict with the keys {list(image)}: let the dataset return the image itself, or a "
                f"tuple that begins with it"
            )
        if isinstance(image, Tensor):
            return _array_of_tensor(image)
        return image if isinstance(image, Image.Image) else np.asanyarray(image)


def _array_of_tensor(image: Tensor) -> np.ndarray:
    """(height, width[, channels]) of (height, width) or (channels, height, width)."""
    array = image.detach().cpu().numpy()
    if array.ndim != 3:
        return array
    if are_channels_first(array.shape[::-1]):
        raise ValueError(
            f"it is a torch tensor of the shape {array.shape}, whose last axis looks like channels. A tensor "
            f"is (channels, height, width): image.permute(2, 0, 1)"
        )
    return np.moveaxis(array, 0, -1)
