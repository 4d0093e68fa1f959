"""Image source that reads images when they are needed, in threads, and keeps them if memory suffices."""

from __future__ import annotations

import errno
import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sklearn_ssl._hardware.ambient import lent_generators
from sklearn_ssl._hardware.devices import local_threads
from sklearn_ssl._hashing import fingerprint
from sklearn_ssl._images.cache import DiskCache
from sklearn_ssl._images.collections import EncodedImages, ImageCollection, ImageFiles
from sklearn_ssl._images.decode import DECODER_VERSION, Header
from sklearn_ssl._images.reader import Reader
from sklearn_ssl._images.resize import resized
from sklearn_ssl._images.sources import evenly_spaced
from sklearn_ssl._images.units import Units, check_precision, factor_of_8_bits
from sklearn_ssl._warnings import warn

# Maximum number of images whose headers are inspected before any image is decoded, to determine the size and
# the kind of all images.
N_INSPECTED = 64
# Number of images that are read twice to find out whether reading them draws random numbers.
N_READ_TWICE = 4
# Error numbers for too many open files, in this process or on the machine: no fault of an image.
TOO_MANY_FILES_ERRNOS = (errno.EMFILE, errno.ENFILE)


class LazySource:
    """Image source that reads a collection when its images are needed, in threads.

    Parameters
    ----------
    items : ImageCollection
        Images to read.
    size : (height, width)
        Size to which every image is resized (short side, antialiased) and center-cropped.
    channels : int
        Number of channels of every image.
    dtype : torch.dtype
        uint8; or float32 if some images have more than 8 bits per channel, all levels of which are kept.
    reader : Reader
        Settings of reading images.
    units : Units or None
        Units of the images, to which 8-bit ones are brought if `dtype` is float32; None: not known.
    training : bool
        If True, images are kept in memory if they fit, and an unreadable one is replaced by another image.
        If False, nothing is kept, and unreadable images are black.

    Attributes
    ----------
    bad : dict of int to str
        Positions of the images found unreadable so far, and the reasons. Empty unless ``on_error="skip"``.
    """

    device = torch.device("cpu")
    lazy = True

    def __init__(
        self,
        items: ImageCollection,
        size: tuple[int, int],
        channels: int,
        dtype: torch.dtype,
        reader: Reader,
        units: Units | None,
        training: bool,
    ):
        self.items = items
        self._length = len(items)  # fixed here: the length of a dataset might change
        self.size = size
        self.channels = channels
        self.dtype = dtype
        self.reader = reader
        self.units = units
        self.factor = None if units is None else factor_of_8_bits(units)
        self.is_random = is_random(items, channels, reader)
        self.replaces_bad = training
        self.bad: dict[int, str] = {}
        shape = (len(items), channels, *size)
        fits = math.prod(shape) * dtype.itemsize <= reader.memory_limit
        self._kept = torch.empty(shape, dtype=dtype) if training and fits else None
        self._is_kept = np.zeros(len(items), dtype=bool)
        self._cache = None if reader.cache is None else DiskCache(reader.cache, reader.cache_limit)
        self._kind = fingerprint(
            DECODER_VERSION,
            size,
            channels,
            dtype,
            self.factor,
            reader.background,
            reader.read,
            reader.channels,
        )
        self._threads = ThreadPoolExecutor(self._workers(), thread_name_prefix="sklearn_ssl-read")

    def __len__(self) -> int:
        return self._length

    def batch(self, index: Tensor) -> Tensor:
        """Return the images at given positions; unreadable ones are replaced (see `stand_ins`) or black."""
        if self._kept is not None and self._is_kept[index.numpy()].all():
            return self._kept[index]
        images = torch.zeros(len(index), self.channels, *self.size, dtype=self.dtype)
        positions = index.tolist()
        items = self._read(positions)
        is_read = list(self._threads.map(partial(self._read_into, items), images, positions))
        # Replaced after all threads are done: a replacement may be another image of the same batch.
        for i in range(len(images)) if self.replaces_bad else ():
            if not is_read[i]:
                images[i] = self._stand_in(positions[i])[1]
        return images

    def _read(self, positions: list[int]) -> ImageCollection:
        """Return a collection that has read the images at once, where it can and they are not here yet."""
        missing = [p for p in dict.fromkeys(positions) if not self._is_kept[p] and p not in self.bad]
        if self._cache is not None or not missing:
            return self.items
        try:
            return self.items.read(missing)
        except Exception:  # which of them cannot be read comes out when they are read one by one
            return self.items

    def _read_into(self, items: ImageCollection, target: Tensor, position: int) -> bool:
        """Copy an image to `target`; return False if it is unreadable and to be skipped."""
        image = self._image_or_none(position, items)
        if image is not None:
            target.copy_(image)
        return image is not None

    def stand_ins(self, index: Tensor) -> Tensor:
        """Return the positions of the images that `batch` returned for these positions."""
        if not self.bad:
            return index
        others = [self._stand_in(p)[0] if p in self.bad else p for p in index.tolist()]
        return torch.tensor(others, dtype=index.dtype)

    def identity(self) -> tuple:
        """Return the identity of every image. Datasets are read and hashed for that."""
        kind = self.size, self.channels, self.dtype, self.factor, self.reader.background, self.reader.channels
        return kind, [self._identity(p) or self._digest(p) for p in range(len(self))]

    # ------------------------------------------------------------------ one image

    def _image_or_none(self, position: int, items: ImageCollection | None = None) -> Tensor | None:
        """Return an image, or None if it is unreadable and to be skipped."""
        if position in self.bad:
            return None
        try:
            return self._image(position, self.items if items is None else items)
        except UnreadableImage as error:
            if self.reader.on_error == "raise":
                raise
            self.bad[position] = str(error)
            return None

    def _stand_in(self, position: int) -> tuple[int, Tensor]:
        """Return position and pixels of the next readable image, independent of what has been read before."""
        for step in range(1, len(self)):
            other = (position + step) % len(self)
            image = self._image_or_none(other)
            if image is not None:
                return other, image
        raise ValueError(f"None of the {len(self)} images can be read. {self.bad[position]}")

    def _image(self, position: int, items: ImageCollection) -> Tensor:
        """Return an image from memory, or read it and keep it if memory suffices."""
        if self._kept is not None and self._is_kept[position]:
            return self._kept[position]
        image = self._cached(position, items)
        if self._kept is not None:
            self._kept[position] = image
            self._is_kept[position] = True
        return image

    def _cached(self, position: int, items: ImageCollection) -> Tensor:
        """Return an image from the disk cache, or decode it and write it to the cache, if there is one."""
        if self._cache is None:
            return self._decode(position, items)
        identity = self._identity(position)
        if identity is None:
            return self._decode(position, items)
        key = fingerprint(self._kind, identity)
        image = self._cache.get(key, (self.channels, *self.size), self.dtype)
        if image is None:
            image = self._decode(position, items)
            self._cache.put(key, image)
        return image

    def _identity(self, position: int) -> tuple | None:
        try:
            return self.items.identity(position)
        except (OSError, ValueError):  # the file, or the row, is missing: raised when the image is read
            return None

    def _digest(self, position: int) -> str | None:
        image = self._image_or_none(position)
        return None if image is None else fingerprint(image)

    def _decode(self, position: int, items: ImageCollection) -> Tensor:
        try:
            with lent_generators(position, self.device) if self.is_random else nullcontext():
                pixels = items.pixels(position, self.size, self.channels, self.reader)
            return self._as_tensor(pixels)
        except Exception as error:  # OSError, SyntaxError, struct.error, ...: every decoder has its own
            raise unreadable(self.items, position, error) from error

    def _as_tensor(self, pixels: np.ndarray) -> Tensor:
        """Convert decoded pixels to an image (channels, *size) of the dtype of the source."""
        if pixels.dtype.kind not in "buif" or 0 in pixels.shape:
            raise ValueError(f"it is an array of dtype {pixels.dtype} and shape {pixels.shape}")
        if pixels.dtype != np.uint8 and self.dtype == torch.uint8:
            advice = "or put an image with more bits first" if self.replaces_bad else "of 8 bits"
            raise ValueError(
                f"it has more than 8 bits per channel (dtype {pixels.dtype}), while "
                f"{'the images inspected first' if self.replaces_bad else 'those of the fit'} have 8 (0 to "
                f"255). Convert them to the same kind, {advice}"
            )
        if pixels.dtype == np.uint8 and self.dtype != torch.uint8 and self.factor is None:
            raise ValueError(
                f"it is an 8-bit image (0 to 255), while {'the others' if self.replaces_bad else 'the fit'} "
                f"had {self.units or 'more bits'}: their units differ. Convert it to those"
            )
        check_precision(pixels)
        kind = np.uint8 if self.dtype == torch.uint8 else np.float32
        with np.errstate(over="ignore"):  # float64 may become infinity in float32, which is rejected below
            image = torch.from_numpy(np.array(pixels.transpose(2, 0, 1), dtype=kind, order="C"))
        if image.is_floating_point() and not image.isfinite().all():
            raise ValueError("it contains NaN or infinity: replace these values, or remove the image")
        if self.dtype == torch.float32 and pixels.dtype == np.uint8:
            assert self.factor is not None
            image *= self.factor
        return resized(image[None], self.size)[0]

    def _workers(self) -> int:
        if self.reader.workers != "auto":
            return int(self.reader.workers)
        return 1 if self.items.single_threaded else local_threads()


class UnreadableImage(ValueError):
    """Error for an image that cannot be read; its message names the image and the cause."""


def unreadable(items: ImageCollection, position: int, error: Exception) -> UnreadableImage:
    """Return an `UnreadableImage` for an error of a decoder; re-raise errors that the image did not cause.

    MemoryError is considered a fault of the image: the number of pixels is limited, but other fields of a
    damaged file may still claim gigabytes.
    """
    if getattr(error, "errno", None) in TOO_MANY_FILES_ERRNOS:
        raise error
    why = str(error) or type(error).__name__
    return UnreadableImage(f"{_where(items, position)} cannot be read as an image: {why}")


def _where(items: ImageCollection, position: int) -> str:
    return f"{items.name(position)} (position {position})"


def inspect_headers(items: ImageCollection, reader: Reader) -> dict[int, Header]:
    """Return the headers of up to `N_INSPECTED` evenly spaced images, by position."""
    headers, first = {}, None
    positions = evenly_spaced(len(items), N_INSPECTED).tolist()
    for position in positions:
        try:
            headers[position] = items.header(position, reader)
        except Exception as error:
            first = first or unreadable(items, position, error)
            if reader.on_error == "raise":
                raise first from error
    if not headers:
        raise ValueError(f"None of the {len(positions)} images inspected first can be read. {first}")
    return headers


def is_random(items: ImageCollection, channels: int, reader: Reader) -> bool:
    """Return whether reading an image twice gives different pixels, with a warning."""
    by_library = isinstance(items, ImageFiles | EncodedImages) or isinstance(
        getattr(items, "images", None), list | np.ndarray
    )
    if by_library and reader.read is None:
        return False
    for position in evenly_spaced(len(items), N_READ_TWICE).tolist():
        first, second = (_drawn(items, position, channels, reader, seed) for seed in (0, 1))
        if first is not None and second is not None and not np.array_equal(first, second):
            warn(
                f"{_where(items, position)} has other pixels each time it is read: the dataset, or "
                f"reader__read, applies a random transform. Each image keeps what it draws now. Let it "
                f"return the image as it is, and give the transform as augment=transform."
            )
            return True
    return False


def _drawn(
    items: ImageCollection, position: int, channels: int, reader: Reader, seed: int
) -> np.ndarray | None:
    """Return an image as it is read with seeded global generators; None if it cannot be read."""
    try:
        with lent_generators(seed, torch.device("cpu")):
            return items.pixels(position, None, channels, reader)
    except Exception:  # it is reported when the image is used
        return None
