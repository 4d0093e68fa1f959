"""Images that are read when they are needed, by threads, and kept while there is room."""

from __future__ import annotations

import errno
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from joblib import cpu_count
from torch import Tensor

from sklearn_ssl._hashing import fingerprint
from sklearn_ssl._images.cache import DiskCache
from sklearn_ssl._images.collections import ImageCollection
from sklearn_ssl._images.decode import RULES, Header
from sklearn_ssl._images.pixel_scale import evenly_spaced
from sklearn_ssl._images.reader import Reader
from sklearn_ssl._images.resize import resized

# Images looked at before the others, to learn of what size and kind they are.
LOOKED_AT_FIRST = 64
# Errors of a machine that has too many files open.
MACHINE = (errno.EMFILE, errno.ENFILE)


class LazySource:
    """Images that are read when they are needed, by threads; kept while there is room.

    Parameters
    ----------
    items : ImageCollection
    size : (height, width)
        Every image is resized (antialiased, short side) and centre-cropped to it.
    channels : int
    dtype : torch.dtype
        uint8, or float32 where some have more than 8 bits, whose levels are kept.
    reader : Reader
    training : bool
        Whether images will be wanted again, and bad ones have another in their place rather than black.

    Attributes
    ----------
    bad : dict of int to str
        Positions that could not be read so far, and why; only with ``on_error="skip"``.
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
        training: bool,
    ):
        self.items = items
        self._length = len(items)  # a dataset may change its mind
        self.size = size
        self.channels = channels
        self.dtype = dtype
        self.reader = reader
        self.stands_in = training
        self.bad: dict[int, str] = {}
        shape = (len(items), channels, *size)
        fits = math.prod(shape) * dtype.itemsize <= reader.memory_limit
        self._kept = torch.empty(shape, dtype=dtype) if training and fits else None
        self._is_kept = np.zeros(len(items), dtype=bool)
        self._cache = None if reader.cache is None else DiskCache(reader.cache, reader.cache_limit)
        self._kind = fingerprint(RULES, size, channels, dtype, reader.background, reader.read)
        self._threads = ThreadPoolExecutor(self._workers(), thread_name_prefix="sklearn_ssl-read")

    def __len__(self) -> int:
        return self._length

    def batch(self, index: Tensor) -> Tensor:
        """The images of these numbers; `stand_ins` says which others are in place of bad ones."""
        if self._kept is not None and self._is_kept[index.numpy()].all():
            return self._kept[index]
        images = torch.zeros(len(index), self.channels, *self.size, dtype=self.dtype)
        positions = index.tolist()
        is_read = list(self._threads.map(self._read_into, images, positions))
        for i in range(len(images)) if self.stands_in else ():
            if not is_read[i]:
                images[i] = self._stand_in(positions[i])[1]
        return images

    def _read_into(self, place: Tensor, position: int) -> bool:
        """False: it cannot be read, and is to be skipped."""
        image = self._image_or_none(position)
        if image is not None:
            place.copy_(image)
        return image is not None

    def stand_ins(self, index: Tensor) -> Tensor:
        """The numbers of the images that `batch` has given for these."""
        if not self.bad:
            return index
        others = [self._stand_in(p)[0] if p in self.bad else p for p in index.tolist()]
        return torch.tensor(others, dtype=index.dtype)

    def identity(self) -> tuple:
        """Of each image what tells it from others; a dataset's have to be read for that."""
        kind = self.size, self.channels, self.dtype, self.reader.background
        return kind, [self._identity(p) or self._digest(p) for p in range(len(self))]

    # ------------------------------------------------------------------ one image

    def _image_or_none(self, position: int) -> Tensor | None:
        """None: it cannot be read, and is to be skipped."""
        if position in self.bad:
            return None
        try:
            return self._image(position)
        except UnreadableImage as error:
            if self.reader.on_error == "raise":
                raise
            self.bad[position] = str(error)
            return None

    def _stand_in(self, position: int) -> tuple[int, Tensor]:
        """The next one that can be read: it depends on the images alone, not on what was read before."""
        for step in range(1, len(self)):
            other = (position + step) % len(self)
            image = self._image_or_none(other)
            if image is not None:
                return other, image
        raise ValueError(f"None of the {len(self)} images can be read. {self.bad[position]}")

    def _image(self, position: int) -> Tensor:
        if self._is_kept[position]:
            return self._kept[position]
        image = self._cached(position)
        if self._kept is not None:
            self._kept[position] = image
            self._is_kept[position] = True
        return image

    def _cached(self, position: int) -> Tensor:
        if self._cache is None:
            return self._decode(position)
        identity = self._identity(position)
        if identity is None:
            return self._decode(position)
        key = fingerprint(self._kind, identity)
        image = self._cache.get(key, (self.channels, *self.size), self.dtype)
        if image is None:
            image = self._decode(position)
            self._cache.put(key, image)
        return image

    def _identity(self, position: int) -> tuple | None:
        try:
            return self.items.identity(position)
        except OSError:  # a file that is not there: reading it says so
            return None

    def _digest(self, position: int) -> str | None:
        image = self._image_or_none(position)
        return None if image is None else fingerprint(image)

    def _decode(self, position: int) -> Tensor:
        try:
            pixels = self.items.pixels(position, self.size, self.channels, self.reader)
            return self._as_tensor(pixels)
        except Exception as error:  # OSError, SyntaxError, struct.error, ...: every decoder has its own
            raise unreadable(self.items, position, error) from error

    def _as_tensor(self, pixels: np.ndarray) -> Tensor:
        """(channels, *size), of the source's type."""
        if pixels.dtype.kind not in "buif" or 0 in pixels.shape:
            raise ValueError(f"it is an array of {pixels.dtype} of shape {pixels.shape}")
        if pixels.dtype != np.uint8 and self.dtype == torch.uint8:
            raise ValueError(
                "it has more than 8 bits a channel, the images looked at first have 8. Convert one kind, or "
                "give the deeper images first"
            )
        kind = np.uint8 if self.dtype == torch.uint8 else np.float32
        with np.errstate(over="ignore"):
            image = torch.from_numpy(np.array(pixels.transpose(2, 0, 1), dtype=kind, order="C"))
        if image.is_floating_point() and not image.isfinite().all():
            raise ValueError("it has NaN or infinity among its pixels: replace or leave it out")
        if self.dtype == torch.float32 and pixels.dtype == np.uint8:
            image *= 257  # the white of 8 bits becomes that of 16, where files have either
        return resized(image[None], self.size)[0]

    def _workers(self) -> int:
        if self.reader.workers != "auto":
            return int(self.reader.workers)
        # In a worker of joblib torch has a share of the processors.
        return 1 if self.items.one_by_one else min(cpu_count(), torch.get_num_threads())


class UnreadableImage(ValueError):
    """With its place and the cause."""


def unreadable(items: ImageCollection, position: int, error: Exception) -> UnreadableImage:
    """The error in our words, unless it is the machine's rather than the image's.

    MemoryError is the image's: pixels are limited, but a damaged file can promise gigabytes of other things.
    """
    if getattr(error, "errno", None) in MACHINE:
        raise error
    why = str(error) or type(error).__name__
    return UnreadableImage(f"{_where(items, position)} cannot be read as an image: {why}")


def _where(items: ImageCollection, position: int) -> str:
    return f"{items.name(position)} (position {position})"


def look_at_some(items: ImageCollection, reader: Reader) -> dict[int, Header]:
    """By position, headers of up to 64 of them, evenly spaced."""
    headers, first = {}, None
    positions = evenly_spaced(len(items), LOOKED_AT_FIRST).tolist()
    for position in positions:
        try:
            headers[position] = items.header(position, reader)
        except Exception as error:
            first = first or unreadable(items, position, error)
            if reader.on_error == "raise":
                raise first from error
    if not headers:
        raise ValueError(f"None of the {len(positions)} images looked at first can be read. {first}")
    return headers
