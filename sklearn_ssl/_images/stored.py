"""Arrays that are not in memory: memory-mapped files, zarr and HDF5 arrays, dask arrays."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from sklearn_ssl._images.axes import channels_last
from sklearn_ssl._images.collections import IndexedImages
from sklearn_ssl._images.decode import Header, header_of_shape, pixels_of_array
from sklearn_ssl._images.reader import Reader


class InFile(NamedTuple):
    """Location of an array in a file: its path, and the offset of the first value in bytes."""

    path: str
    offset: int


def is_stored(X: Any) -> bool:
    """Return whether an array is memory-mapped, or read in chunks like those of zarr, h5py and dask."""
    if isinstance(X, np.ndarray):
        return in_file(X) is not None
    return all(hasattr(X, name) for name in ("shape", "dtype", "chunks"))


def check_known_shape(X: Any) -> None:
    """Raise ValueError if dask does not know the number of images."""
    if any(math.isnan(side) for side in X.shape):
        raise ValueError(f"X has the unknown shape {X.shape}: call X.compute_chunk_sizes() first.")


def in_memory(X: Any) -> np.ndarray:
    """Return an array with its mask, if it has one: dask's own conversion to numpy drops it."""
    return np.asanyarray(X.compute() if hasattr(X, "compute") else X)


def in_file(X: np.ndarray) -> InFile | None:
    """Return the location of a memory-mapped array, or of a view of one; None for other arrays."""
    root = X
    while isinstance(root.base, np.ndarray):
        root = root.base
    if not isinstance(root, np.memmap) or root.filename is None:
        return None
    first, mapped = (each.__array_interface__["data"][0] for each in (X, root))
    return InFile(os.path.abspath(root.filename), root.offset + first - mapped)


@dataclass(frozen=True)
class StoredImages(IndexedImages):
    """Images of equal shape in an array that is not in memory.

    Parameters
    ----------
    images : array (n_images, ...)
        Array that is memory-mapped or read in chunks.
    shape : tuple of int
        Shape of an image, (height, width[, channels]) or (channels, height, width).
    order : {"first", "last"}
        Place of the channels.
    """

    shape: tuple[int, ...]
    order: str

    def __len__(self) -> int:
        return int(self.images.shape[0])  # zarr's arrays have no len()

    def identity(self, position: int) -> tuple | None:
        X = self.images
        place = in_file(X) if isinstance(X, np.ndarray) else None
        if place is None:
            return None
        modified = os.stat(place.path).st_mtime_ns
        return place.path, place.offset + position * X.strides[0], X.strides, X.dtype, self.shape, modified

    def header(self, position: int, reader: Reader) -> Header:
        return header_of_shape(self.shape, self.images.dtype, self.order)

    def read(self, positions: Sequence[int]) -> IndexedImages:
        if isinstance(self.images, np.ndarray):
            return self
        rows = sorted(positions)  # as h5py requires
        images = in_memory(self.images[rows]).reshape(-1, *self.shape)
        return replace(self, images=dict(zip(rows, images, strict=True)))

    def pixels(self, position: int, size: tuple | None, channels: int, reader: Reader) -> np.ndarray:
        image = np.asanyarray(self.images[position]).reshape(self.shape)
        return pixels_of_array(channels_last(image, self.order), channels)
