"""What there is to read: files, folders of them, PIL images, datasets, arrays on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from sklearn_ssl.decoding import (
    SUFFIXES,
    Header,
    are_channels_first,
    header_of,
    header_of_array,
    header_of_image,
    pixels_of_array,
    pixels_of_file,
    pixels_of_image,
)
from sklearn_ssl.reader import Reader

# Opening one may wait for ever.
SPECIAL = "no regular file, but a named pipe, a socket or a device"


class Items(Protocol):
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
class Files:
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
class Things:
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


def is_special(path: Path) -> bool:
    """Whether a path leads to something that is neither a file nor a folder: a pipe, a socket, a device."""
    return path.exists() and not (path.is_file() or path.is_dir())


def list_images(folder: str | os.PathLike) -> list[Path]:
    """The image files in a folder and in those below it, sorted: the rows of ``fit(folder)``.

    Parameters
    ----------
    folder : path-like
        Links to folders are followed. Names that begin with a dot are left out.

    Returns
    -------
    list of Path
        Those whose names end as images' do, in any case: .bmp, .gif, .jp2, .jpg, .jpeg, .npy, .pgm, .png,
        .pnm, .ppm, .tif, .tiff, .webp. Nothing is opened: `fit` refuses named pipes and devices among them.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, PermissionError
        There is no such folder, or one of those below cannot be listed.
    ValueError
        There is no image in it, or a link in it leads back to where it is.
    """
    return files_below(folder, SUFFIXES)


def files_below(folder: str | os.PathLike, suffixes: tuple[str, ...] | None) -> list[Path]:
    """Those with one of these suffixes, or all; see `list_images`."""
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"There is no folder {folder}.")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: give a list of paths, or a folder.")
    found = [path for path in _walk(folder) if suffixes is None or path.suffix.lower() in suffixes]
    if not found:
        kinds = "" if suffixes is None else f" whose name ends in {', '.join(suffixes)}"
        raise ValueError(f"There is no file{kinds} in the folder {folder}, or below it.")
    return sorted(found)


def _walk(folder: Path) -> Iterator[Path]:
    """What is no folder, in any order; without recursion, for folders may be nested deeper than calls."""
    pending: list[tuple[Path, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while pending:
        folder, above = pending.pop()
        stat = folder.stat()
        itself = stat.st_dev, stat.st_ino
        if itself in above:
            real = folder.resolve()
            raise ValueError(
                f"{folder} is a link that leads back to {real}: remove it, or give a list of paths."
            )
        for entry in _visible(folder):
            if entry.is_dir():
                pending.append((entry, above | {itself}))
            else:
                yield entry


def _visible(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise PermissionError(f"The folder {folder} cannot be read: {error.strerror}.") from error
