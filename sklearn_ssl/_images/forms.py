"""Forms of X with one meaning that is not the usual one, and forms that are refused with advice."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from sklearn_ssl._images.items import begins_with_image, first_image, is_encoded

# Code that opens a file of many images, by its suffix.
READERS = {
    ".npy": "np.load({path!r}, mmap_mode='r'), or [{path!r}] if it is one image",
    ".npz": "np.load({path!r})[name]",
    ".h5": "h5py.File({path!r})[name]",
    ".hdf5": "h5py.File({path!r})[name]",
    ".parquet": "pandas.read_parquet({path!r})[column]",
    ".csv": "pandas.read_csv({path!r})[column of paths]",
    ".tar": "ImageShards({path!r})",
    ".zarr": "zarr.open({path!r}, mode='r')",
}


def single_image(X: Any, shape: tuple[int, int, int]) -> list | None:
    """Return one image that was given for many as a list of it; None if X is not one.

    Parameters
    ----------
    X : object
        What was given to a fitted estimator.
    shape : tuple of int
        (height, width, channels) of the images of the fit: an array of that shape is one image.
    """
    if isinstance(X, Image.Image) or is_encoded(X):
        return [X]
    if isinstance(X, str | os.PathLike) and Path(X).is_file() and Path(X).suffix.lower() not in READERS:
        return [os.fspath(X)]
    given = tuple(getattr(X, "shape", ()))
    if isinstance(X, Tensor) and given in (shape, (shape[2], *shape[:2])) and len(given) == 3:
        return [X]
    # (n, width) of gray images are flat rows; (n, height, width) many gray images.
    if isinstance(X, np.ndarray) and given == (shape if shape[2] > 1 else shape[:2]):
        return [X]
    return None


def rows_of_pairs(X: Any) -> Any:
    """Return the images of a list of tuples such as (image, label); anything else as it is."""
    if isinstance(X, list | tuple) and len(X) and all(isinstance(row, tuple | list) for row in X):
        return list(map(first_image, X)) if all(map(begins_with_image, X)) else X
    return X


def is_dataset(X: Any) -> bool:
    """Return whether X has a length and items, and is no array, table, list or mapping."""
    kinds = (list, tuple, str, bytes, bytearray, memoryview, Mapping)
    others = ("shape", "__array__", "__arrow_array__", "__dataframe__", "column_names", "null_count")
    is_sized = hasattr(X, "__len__") and hasattr(X, "__getitem__")
    return is_sized and not isinstance(X, kinds) and not any(hasattr(X, name) for name in others)


def check_form(X: Any) -> None:
    """Raise ValueError, with advice, if X is of a form that holds no images by position."""
    kind = type(X).__name__
    if isinstance(X, Image.Image) or is_encoded(X):
        raise ValueError(f"X is a single image, {X!r:.80}: give a list of them.")
    if isinstance(X, str | os.PathLike):
        _check_path(Path(X))
    if isinstance(X, IterableDataset):
        raise ValueError(
            f"X is {X!r}, an iterable-style dataset. Give a map-style dataset, with __len__ and "
            f"__getitem__, whose images can be shuffled; shards of webdataset as ImageShards(paths)."
        )
    if isinstance(X, DataLoader):
        raise ValueError("X is a DataLoader: give its dataset, X.dataset. Batches are made by batch_size.")
    if hasattr(X, "dask") and not hasattr(X, "chunks"):
        raise ValueError(
            f"X is a {kind} of dask, whose rows have no index: give a column of paths as X.compute(), or a "
            f"dask.array of images."
        )
    if callable(getattr(X, "keys", None)) and not hasattr(X, "shape"):  # of numpy, h5py, zarr, xarray
        names = list(getattr(X, "data_vars", X.keys()))
        example = f", for example X[{names[0]!r}]" if names else ""
        raise ValueError(f"X is a {kind} with the entries {names}: give one that holds images{example}.")
    if isinstance(X, Iterator | set | frozenset) or (
        hasattr(X, "__iter__") and not any(hasattr(X, name) for name in ("__getitem__", "__array__", "shape"))
    ):
        raise ValueError(
            f"X is a {kind}, whose images have no position: give a list, list(X), or a map-style dataset."
        )


def _check_path(path: Path) -> None:
    """Raise ValueError for a file, or a folder of another format, that holds many images."""
    code = READERS.get(path.suffix.lower())
    if code and path.exists():
        raise ValueError(f"{path} holds many images: give {code.format(path=str(path))}.")
