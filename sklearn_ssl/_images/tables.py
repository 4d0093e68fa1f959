"""Columns of tables: data frames of pandas and polars, tables of pyarrow, datasets of Hugging Face."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sklearn_ssl._images.arrays import array_of_rows
from sklearn_ssl._images.collections import EncodedImages, IndexedImages
from sklearn_ssl._images.file_parts import FilePart
from sklearn_ssl._images.items import is_encoded

# Number of rows among which the first that is not missing tells what a column holds.
N_LOOKED_AT = 100
# Names of Hugging Face's feature types that hold images, in the order of preference.
IMAGE_FEATURES = ("Image", "Array2D", "Array3D")


# Types of polars whose cells are lists, or of another library such as Hugging Face's.
POLARS_NESTED = ("Array", "List", "Struct", "Extension")


@dataclass(frozen=True)
class DatasetColumn:
    """Column of a Hugging Face dataset, whose other columns are not read."""

    dataset: Any
    column: str

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> Any:
        return self.dataset[position][self.column]


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

    Raises
    ------
    ValueError
        If a table has several columns, one of which holds paths or encoded images.
    """
    names = _names(X)
    if names is None or len(set(names)) < len(names):
        return _by_position(X)
    columns = {name: _by_position(X[name]) for name in names}
    if len(columns) == 1:
        return next(iter(columns.values()))
    images = [
        name
        for name, column in columns.items()
        if is_encoded(first := _first(column)) or isinstance(first, str | FilePart)
    ]
    if images:
        raise ValueError(
            f"X is a {type(X).__name__} with the columns {names}: give the column of images, for example "
            f"X[{images[0]!r}]."
        )
    return X


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
        arrays = dataset.with_format("numpy", columns=[column])
        return IndexedImages(DatasetColumn(arrays, column), single_threaded=False)
    # Encoded, as our own decoder can decode JPEGs at a fraction of their size.
    encoded = dataset.with_format(None).select_columns([column])
    encoded = encoded.cast_column(column, replace(feature, decode=False))
    return EncodedImages(DatasetColumn(encoded, column))


def _image_column(X: Any) -> str:
    """Return the name of the only column of images."""
    kinds = {name: type(feature).__name__ for name, feature in X.features.items()}
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
        f"X is a {type(X).__name__} without a column of images: it has {kinds}. Cast the column that "
        f"holds them, for example X.cast_column('image', datasets.Image())."
    )


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
            X = X.to_numpy() if X.dtype == object else X.array
    elif type(X).__module__.startswith("polars.series"):
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
    if values == lists.type or str(values).rstrip("0123456789") not in (
        "uint",
        "int",
        "float",
        "double",
        "bool",
    ):
        return ArrowColumn(column)
    dtype = values.to_pandas_dtype()
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
