"""Collections of images by index, which may differ in size and kind: files, and rows of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from torch.utils.data import Subset

from sklearn_ssl._hashing import fingerprint
from sklearn_ssl._images.decode import Header
from sklearn_ssl._images.file_parts import FilePart
from sklearn_ssl._images.items import header_of_item, image_of, pixels_of_item
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
        """Return values that change with the image, without decoding it; None if there are none."""
        ...

    def header(self, position: int, reader: Reader) -> Header:
        """Return size and kind of an image, without decoding it if possible."""
        ...

    def read(self, positions: Sequence[int]) -> ImageCollection:
        """Return a collection that provides the images at these positions, all different.

        It has read them already if they can be read at once.
        """
        ...

    def pixels(
        self, position: int, size: tuple[int, int] | None, channels: int, reader: Reader
    ) -> np.ndarray:
        """Return pixels (height, width, channels); encoded and PIL images of 8 bits are resized to `size`."""
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
        return header_of_item(self.paths[position], reader)

    def read(self, positions: Sequence[int]) -> Self:
        return self

    def pixels(self, position: int, size: tuple | None, channels: int, reader: Reader) -> np.ndarray:
        return pixels_of_item(self.paths[position], size, channels, reader)


@dataclass(frozen=True)
class IndexedImages:
    """Images by index: a list of PIL images, a map-style dataset, or any other object with items.

    Parameters
    ----------
    images : object with `__getitem__`
        Its items are images, or contain one (see `image_of`). If it has `__getitems__` as well, the images of
        a batch are read by one call of that.
    single_threaded : bool
        Whether only one thread may read by default.
    """

    images: Any
    single_threaded: bool

    def __len__(self) -> int:
        return len(self.images)

    def name(self, position: int) -> str:
        return "The image"

    def identity(self, position: int) -> tuple | None:
        return None

    def header(self, position: int, reader: Reader) -> Header:
        return header_of_item(self.images[position], reader)

    def read(self, positions: Sequence[int]) -> IndexedImages:
        if not _reads_batches(self.images):
            return self
        items = self.images.__getitems__(list(positions))
        return IndexedImages(dict(zip(positions, items, strict=True)), single_threaded=False)

    def pixels(self, position: int, size: tuple | None, channels: int, reader: Reader) -> np.ndarray:
        return pixels_of_item(self.images[position], size, channels, reader)


def _reads_batches(dataset: Any) -> bool:
    """Return whether a dataset reads several items at once; a `Subset` only passes the call on."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return hasattr(dataset, "__getitems__")


@dataclass(frozen=True)
class FilePartImages(IndexedImages):
    """Images that are parts of files."""

    images: Sequence[FilePart]
    single_threaded: bool = False

    def name(self, position: int) -> str:
        return str(self.images[position])

    def identity(self, position: int) -> tuple | None:
        image = self.images[position]
        if not isinstance(image, FilePart):
            return None
        return *ImageFiles([image.path]).identity(0), fingerprint(image.part)


@dataclass(frozen=True)
class EncodedImages(IndexedImages):
    """Encoded images in a column of a table, or in a list."""

    single_threaded: bool = False

    def identity(self, position: int) -> tuple:
        image = image_of(self.images[position])
        if isinstance(image, Path):
            return ImageFiles([image]).identity(0)
        return (fingerprint(image),)
