"""Columns of tables: data frames of pandas and polars, tables of pyarrow, datasets of Hugging Face."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sklearn_ssl._images.arrays import array_of_rows
from sklearn_ssl._images.collections import EncodedImages, IndexedImages
from sklearn_ssl._images.file_parts import FilePart
from sklearn_ssl._images.items import is_encoded

# Number of rows among which the first that is not missing tells what a column holds.
N_LOOKED_AT = 100
# Names of Hugging Face's feature types that hold images, in the order of preference.
IMAGE_FEATURES = ("Image", "Array2D", "Array3D", "List of lists")


# Types of polars whose cells are lists or dicts.
POLARS_NESTED = ("Array", "List", "Struct")


@dataclass(frozen=True)
class DatasetColumn:
    """Column of a Hugging Face dataset, whose other columns are not read, with the dtype that it declares."""

    dataset: Any
    column: str
    dtype: str | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> Any:
        image = self.dataset[position][self.column]
        if self.dtype is None:
            return image
        # Its formats make int64 of arrays of uint8.
        return image.to(getattr(torch, self.dtype)) if isinstance(image, Tensor) else image.astype(self.dtype)


@dataclass(frozen=True)
class ArrowColumn:
    """Column of a pyarrow table, whose rows are converted to Python objects when they are read."""

    column: Any

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, position: int) -> Any:
        return self.column[position].as_py()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.column.to_pylist())


def column_of(X: Any) -> Any:
    """Return the only column of a table, by position; anything else as it is.

    A column of decoded images becomes an array (n, height, width[, channels]), or a list of images where
    they differ in size; one of flat rows an array (n, n_values).

    Raises
    ------
    ValueError
        If a table has several columns, one of which holds images or paths.
    """
    names = _names(X)
    if names is None or len(set(names)) < len(names):
        return _by_position(X)
    columns = {name: _by_position(X[name]) for name in names}
    if len(columns) == 1:
        [only] = columns.values()
        return X if np.ndim(_first(only)) == 0 and not _holds_files(only) else only  # rows of one number
    images = [name for name, column in columns.items() if _holds_files(column) or np.ndim(_first(column)) > 1]
    if images:
        raise ValueError(
            f"X is a {type(X).__name__} with the columns {names}: give the column of images, for example "
            f"X[{images[0]!r}]."
        )
    return X


def _holds_files(column: Any) -> bool:
    """Return whether a column holds paths, encoded images, PIL images or parts of files."""
    first = _first(column)
    return is_encoded(first) or isinstance(first, str | os.PathLike | FilePart | Image.Image)


def encoded_images(X: Any) -> EncodedImages | None:
    """Return a column or a list of encoded images as a collection; None for anything else."""
    return EncodedImages(X) if is_column(X) and _holds(X) else None


def holds_parts(X: Any) -> bool:
    """Return whether X is a column or a list of parts of files."""
    return is_column(X) and isinstance(_first(X), FilePart)


def is_column(X: Any) -> bool:
    """Return whether X is a list, a tuple, or something with a single axis."""
    return isinstance(X, list | tuple | ArrowColumn) or len(getattr(X, "shape", ())) == 1


def is_hugging_face(X: Any) -> bool:
    """Return whether X is a dataset of Hugging Face's `datasets`, or a dict or a column of one."""
    if isinstance(X, Mapping):
        return len(X) > 0 and all(is_hugging_face(split) for split in X.values())
    if hasattr(X, "column_name"):
        return is_hugging_face(X.source)
    return hasattr(X, "column_names") and hasattr(X, "features")


def open_hugging_face(X: Any) -> IndexedImages:
    """Return the images of a map-style dataset as a collection, which reads no other column.

    Raises
    ------
    ValueError
        If it is a dict of datasets, an iterable dataset, or has no column of images or several.
    """
    if isinstance(X, Mapping):
        raise ValueError(
            f"X is a {type(X).__name__} of several datasets: give one, for example X[{next(iter(X))!r}]."
        )
    if not hasattr(X, "__len__"):
        raise ValueError(
            f"X is an {type(X).__name__}, whose images cannot be shuffled. Load it without streaming=True."
        )
    if hasattr(X, "column_name"):
        return _open_column(X.source, X.column_name)
    return _open_column(X, _image_column(X))


def _open_column(dataset: Any, column: str) -> IndexedImages:
    if dataset.format["type"] == "custom":  # the user's transform is applied
        return IndexedImages(DatasetColumn(dataset, column), single_threaded=True)
    feature = dataset.features[column]
    if type(feature).__name__ != "Image":
        kind = dataset.format["type"]  # tensors have their channels first
        arrays = dataset.with_format("torch" if kind == "torch" else "numpy", columns=[column])
        declared = DatasetColumn(arrays, column, getattr(feature, "dtype", None))
        return IndexedImages(declared, single_threaded=False)
    # Encoded, as our own decoder can decode JPEGs at a fraction of their size.
    encoded = dataset.with_format(None).select_columns([column])
    encoded = encoded.cast_column(column, replace(feature, decode=False))
    return EncodedImages(DatasetColumn(encoded, column))


def _image_column(X: Any) -> str:
    """Return the name of the only column of images."""
    kinds = {name: _kind(feature) for name, feature in X.features.items()}
    for kind in IMAGE_FEATURES:
        columns = [name for name in kinds if kinds[name] == kind]
        if len(columns) == 1:
            return columns[0]
        if columns:
            raise ValueError(
                f"X is a {type(X).__name__} with several columns of images, {columns}: give one of them, for "
                f"example X[{columns[0]!r}]."
            )
    raise ValueError(
        f"X is a {type(X).__name__} without a column of images: it has {kinds}. Cast a column of paths or "
        f"bytes, for example X.cast_column('image', datasets.Image())."
    )


def _kind(feature: Any) -> str:
    """Return the name of a feature's type."""
    is_nested = hasattr(getattr(feature, "feature", None), "feature")
    return "List of lists" if is_nested else type(feature).__name__


def _names(X: Any) -> list[str] | None:
    """Return the names of the columns of a data frame or a pyarrow table, None for anything else."""
    if hasattr(X, "columns") and hasattr(X, "shape"):  # a table of pyarrow has columns without names, too
        return list(getattr(X, "column_names", X.columns))
    return None


def _by_position(X: Any) -> Any:
    """Return a column whose rows can be read by position; see `column_of`."""
    if hasattr(X, "iloc") and X.ndim == 1:  # a Series of pandas: X[0] would be the row with the label 0
        if type(X.dtype).__name__ == "ArrowDtype":
            X = X.array.__arrow_array__()
        else:
            first = _first(X.array)
            if (
                isinstance(first, np.ndarray) and first.dtype == object
            ):  # rows of arrays, as polars makes them
                return [None if row is None else array_of_rows(row) for row in X.array]
            X = X.array if np.ndim(first) == 0 and X.dtype != object else X.to_numpy(object)
    elif type(X).__module__.startswith("polars.series"):
        X = X.ext.storage() if type(X.dtype).__name__ == "Extension" else X  # of Hugging Face
        kind = type(X.dtype).__name__
        X = X.to_list() if kind == "Object" else X.to_arrow() if kind in POLARS_NESTED else X
    if hasattr(X, "null_count") and hasattr(X, "type"):
        return _of_arrow(X)
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1] == 1 and X.dtype.kind not in "buif":
        return X[:, 0]
    return X


def _of_arrow(column: Any) -> Any:
    """Return a column of pyarrow: decoded images as `column_of` says, other values as Python objects."""
    whole = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    if hasattr(whole, "to_numpy_ndarray"):  # of FixedShapeTensorArray
        return whole.to_numpy_ndarray()
    lists = getattr(whole, "storage", whole)
    values = lists.type
    while hasattr(values, "value_type"):
        values = values.value_type
    dtype = np.dtype(object if values == lists.type else values.to_pandas_dtype())
    if dtype.kind not in "buif":
        return ArrowColumn(column)
    if (regular := _of_equal_lists(lists)) is not None:
        return regular
    return [None if row is None else array_of_rows(row).astype(dtype) for row in lists.to_pylist()]


def _of_equal_lists(lists: Any) -> np.ndarray | None:
    """Return nested lists of pyarrow as an array (n, ...); None if their lengths differ."""
    import pyarrow.compute

    sides = [len(lists)]
    while hasattr(lists.type, "value_type"):
        lengths = pyarrow.compute.list_value_length(lists).unique()
        if lists.null_count or len(lengths) != 1:
            return None
        sides.append(lengths[0].as_py())
        lists = lists.flatten()
    return None if lists.null_count else lists.to_numpy(zero_copy_only=False).reshape(sides)


def _first(X: Any) -> Any:
    """Return the first row that is not None, if it is among the first rows."""
    rows = (X[i] for i in range(min(len(X), N_LOOKED_AT)))
    return next((row for row in rows if row is not None), None)


def _holds(X: Any) -> bool:
    """Return whether the first row of a column that is not missing is an encoded image."""
    return is_encoded(_first(X))
