"""Conversion of any accepted form of X to an image source and its format."""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from skorch.helper import SliceDataset
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from sklearn_ssl._checks import is_whole
from sklearn_ssl._images.arrays import (
    as_rows,
    check_agrees,
    check_finite,
    check_image_axes,
    check_values,
    checked_image_shape,
    full_shape,
    is_list_of_images,
    writeable,
)
from sklearn_ssl._images.collections import FilePartImages, ImageCollection, ImageFiles, IndexedImages
from sklearn_ssl._images.decode import SUFFIXES, header_of_image
from sklearn_ssl._images.file_parts import FilePart
from sklearn_ssl._images.files import NOT_REGULAR, files_below, is_special
from sklearn_ssl._images.lazy import LazySource, inspect_headers
from sklearn_ssl._images.pixel_scale import PixelScale, evenly_spaced
from sklearn_ssl._images.reader import Reader
from sklearn_ssl._images.resize import resized
from sklearn_ssl._images.shards import ImageShards, ShardImages
from sklearn_ssl._images.sources import ArraySource, ConcatSource, Source
from sklearn_ssl._images.stored import StoredImages, check_known_shape, is_stored
from sklearn_ssl._images.tables import (
    column_of,
    encoded_images,
    holds_parts,
    is_column,
    is_hugging_face,
    open_hugging_face,
)
from sklearn_ssl._warnings import warn

# Maximum short side of the training resolution "auto": the one that is common for ImageNet.
MAX_AUTO_SIZE = 224
# Number of images whose pixel values are compared with those of `fit`.
N_CHECKED_FOR_UNITS = 16
# Minimum range of the pixel values in `fit` for which values between 0 and 1 count as different units.
WIDE_RANGE = 100


@dataclass(frozen=True)
class ImageFormat:
    """Format of the images that an estimator was fitted on, required of later images.

    Parameters
    ----------
    shape : tuple of int
        (height, width, channels) of an image.
    size : tuple of int
        (height, width) of the training resolution.
    dtype : torch.dtype
        uint8, or float32 for everything else.
    is_array : bool
        Whether the images were given as an array. Later images then need the same shape and units.
    """

    shape: tuple[int, int, int]
    size: tuple[int, int]
    dtype: torch.dtype
    is_array: bool


@dataclass(frozen=True)
class InputParser:
    """Converter from X to an image source.

    Parameters
    ----------
    owner : str
        Name of the estimator's class, for messages.
    reader : Reader
        Settings of reading images.
    image_shape : tuple of int, optional
        Shape of an image, for X with flat rows.
    image_size : int, (height, width), "auto" or callable
        Training resolution; see `training_size`.
    validate : callable
        scikit-learn's `validate_data`, bound to the estimator. It checks rows (n_images, n_features) and,
        with ``reset=True``, stores the number and the names of the features in the estimator.
    """

    owner: str
    reader: Reader
    image_shape: tuple[int, ...] | None
    image_size: Any
    validate: Callable[..., np.ndarray]

    # ------------------------------------------------------------------ interface

    def open_for_training(self, X: Any, X_unlabeled: Any = None) -> tuple[Source, ImageFormat]:
        """Open the training images: X, followed by X_unlabeled.

        Raises
        ------
        ValueError
            If X is not a set of images, or X_unlabeled is not of the same kind as X.
        FileNotFoundError
            If a path does not exist.
        """
        source, images = self._open(X, None)
        if X_unlabeled is None:
            return _shrunk(source, images.size), images
        further, _ = self._open(X_unlabeled, images)
        _check_same_kind(source, further)
        sources = [_shrunk(each, images.size) for each in (source, further)]
        # Smaller images keep their size, which may differ between X and X_unlabeled.
        if sources[0].size != sources[1].size:
            sources = [_resized(each, images.size) for each in sources]
        return ConcatSource(*sources), images

    def open_for_inference(self, X: Any, fitted: ImageFormat, pixels: PixelScale) -> Source:
        """Open the images of `transform`, which need the format and the units of the fit.

        Raises
        ------
        ValueError, FileNotFoundError
            As `open_for_training`; also if size, channels or units differ from those of the fit.
        """
        source, _ = self._open(X, fitted)
        self._check_units(source, fitted, pixels)
        return source

    # ------------------------------------------------------------------ any form

    def _open(self, X: Any, fitted: ImageFormat | None) -> tuple[Source, ImageFormat]:
        """Open images, which define the format if `fitted` is None, and have to match it otherwise."""
        if is_stored(X):
            check_known_shape(X)
            if math.prod(X.shape) * X.dtype.itemsize > self.reader.memory_limit:
                return self._open_stored(X, fitted)
            X = np.asarray(X)
        collection = self._collection(X, fitted)
        if collection is not None:
            return self._open_collection(collection, fitted)
        images = self._tensor(X, fitted)  # (n, C, H, W)
        _, channels, height, width = images.shape
        return ArraySource(images), fitted or self._format_of_array((height, width, channels), images.dtype)

    def _format_of_array(self, shape: tuple[int, int, int], dtype: torch.dtype) -> ImageFormat:
        check_agrees(self.image_shape, shape)
        return ImageFormat(shape, training_size(self.image_size, shape[:2]), dtype, is_array=True)

    def _tensor(self, X: Any, fitted: ImageFormat | None) -> Tensor:
        """Convert X in memory to images (n, C, H, W), uint8 or float32."""
        rows, shape, channels_first = as_rows(X, self.image_shape, self.reader.background)
        if fitted:
            self._check_shape(shape, channels_first, fitted)
        dtype = np.uint8 if getattr(rows, "dtype", None) == np.uint8 else np.float32
        checks = {"dtype": dtype, "ensure_min_samples": 1 if fitted else 2, "ensure_all_finite": False}
        rows = self.validate(rows, reset=fitted is None, **checks)
        check_finite(rows)
        images = torch.from_numpy(writeable(rows)).reshape(len(rows), *full_shape(shape, rows.shape[1]))
        if channels_first:
            return images
        return images.movedim(-1, 1)  # a view in channels-last memory format, which suits convolutions

    def _open_stored(self, X: Any, fitted: ImageFormat | None) -> tuple[Source, ImageFormat]:
        """Open an array that is not in memory and above the limit; its images are read when needed."""
        shape = tuple(X.shape[1:])
        if len(shape) == 1 and self.image_shape is not None:
            shape = full_shape(checked_image_shape(self.image_shape), shape[0])
        check_image_axes((X.shape[0], *shape))
        check_values(X)
        height, width, channels = (*shape, 1)[:3]
        if fitted:
            self._check_shape((height, width, channels), False, fitted)
        is_uint8 = X.dtype == np.uint8
        # scikit-learn validates two images only, to store the number of features. The others would have to be
        # read for that; they are checked when they are read.
        first = np.asarray(X[:2])
        first = first.reshape(len(first), -1)
        self.validate(first, reset=fitted is None, dtype=np.uint8 if is_uint8 else np.float32)
        dtype = torch.uint8 if is_uint8 else torch.float32
        images = fitted or self._format_of_array((height, width, channels), dtype)
        stored = StoredImages(X, single_threaded=False, shape=shape)
        source = LazySource(stored, images.size, channels, dtype, self.reader, training=fitted is None)
        return source, images

    # ------------------------------------------------------------------ collections

    def _collection(self, X: Any, fitted: ImageFormat | None) -> ImageCollection | None:
        """Return files, datasets, encoded and PIL images as a collection, None for other images."""
        if isinstance(X, str | os.PathLike):
            return ImageFiles(files_below(X, SUFFIXES if self.reader.read is None else None))
        if isinstance(X, Image.Image):
            raise ValueError(f"X is a single image, {X!r}: give a list of them.")
        if is_hugging_face(X):
            return open_hugging_face(X)
        if hasattr(X, "__dask_graph__") and not is_stored(X):
            raise ValueError(
                f"X is a {type(X).__name__} of dask, whose rows have no index: give a column of paths as "
                f"X.compute(), or a dask.array of images."
            )
        if isinstance(X, IterableDataset):
            raise ValueError(
                f"X is {X!r}, an iterable-style dataset. Give a map-style dataset, with __len__ and "
                f"__getitem__, whose images can be shuffled; shards of webdataset as ImageShards(paths)."
            )
        if isinstance(X, ImageShards):
            return ShardImages(X)
        if isinstance(X, Dataset | SliceDataset) or hasattr(X, "__getitems__"):
            return IndexedImages(X, single_threaded=True)
        column = column_of(X)
        encoded = encoded_images(column)
        if encoded is not None:
            return encoded
        if holds_parts(column):
            return FilePartImages(list(column))
        paths = _paths(column)
        if paths is not None:
            return ImageFiles(paths)
        if is_list_of_images(X) and len(X) > 0 and all(isinstance(x, Image.Image) for x in X):
            any_size = not fitted.is_array if fitted else len({header_of_image(x) for x in X}) > 1
            return IndexedImages(list(X), single_threaded=True) if any_size else None
        return None

    def _open_collection(
        self, collection: ImageCollection, fitted: ImageFormat | None
    ) -> tuple[Source, ImageFormat]:
        if isinstance(collection, ImageFiles) and self.reader.on_error == "raise":
            _check_files(collection.paths)
        if isinstance(collection, FilePartImages) and self.reader.on_error == "raise":
            _check_parts(collection.images)
        if fitted is None:
            if len(collection) < 2:
                raise ValueError(
                    f"Found {len(collection)} image, while a minimum of 2 is required by {self.owner}."
                )
            images = self._format_of_collection(collection)
        else:
            self._check_suits(collection, fitted)
            images = fitted
        channels = images.shape[2]
        training = fitted is None
        return LazySource(collection, images.size, channels, images.dtype, self.reader, training), images

    def _format_of_collection(self, collection: ImageCollection) -> ImageFormat:
        """Derive the format from the headers of some of the images."""
        headers = inspect_headers(collection, self.reader)
        typical = int(np.median([min(header.height, header.width) for header in headers.values()]))
        kinds = {header.channels: collection.name(position) for position, header in headers.items()}
        if len(kinds) > 1 and set(kinds) != {1, 3}:  # grayscale images among color images get three channels
            examples = ", ".join(f"{channels} ({name})" for channels, name in sorted(kinds.items()))
            raise ValueError(
                f"The images have different numbers of channels: {examples}. Give images of one kind."
            )
        size = training_size(self.image_size, (typical, typical))
        deep = any(header.deep for header in headers.values())
        dtype = torch.float32 if deep else torch.uint8
        return ImageFormat((*size, max(kinds)), size, dtype, is_array=False)

    # ------------------------------------------------------------------ checks against the fit

    def _check_shape(self, shape: tuple[int, ...], channels_first: bool, fitted: ImageFormat) -> None:
        if -1 in shape:
            return  # flat rows: scikit-learn checks their length
        height, width, channels = (*shape[1:], shape[0]) if channels_first else (*shape, 1)[:3]
        if fitted.shape != (height, width, channels):
            raise ValueError(
                f"These images have the shape {(height, width, channels)} (height, width, channels), but "
                f"{self.owner} was fitted on {fitted.shape}. Resize them, or fit again."
            )

    def _check_suits(self, collection: ImageCollection, fitted: ImageFormat) -> None:
        """Check files or a dataset given to an estimator that was fitted on an array."""
        if not fitted.is_array or len(collection) == 0:
            return
        channels = fitted.shape[2]
        headers = inspect_headers(collection, self.reader).values()
        other = max(header.channels for header in headers)
        # Gray images can be repeated to three channels, and three channels reduced to one if they are equal,
        # which is checked when an image is read.
        if other != channels and (other, channels) not in ((1, 3), (3, 1)):
            raise ValueError(f"{self.owner} was fitted on {channels} channels; these images have {other}.")
        if fitted.dtype == torch.float32 and not all(header.deep for header in headers):
            raise ValueError(
                f"These images have 8 bits per channel (0 to 255), but {self.owner} was fitted on an array "
                f"of another dtype than uint8, whose units may differ. Load them into an array of that dtype."
            )

    def _check_units(self, source: Source, fitted: ImageFormat, pixels: PixelScale) -> None:
        """Reject pixel values from 0 to 1 if those of `fit` were from 0 to 255 or more, and the reverse.

        Values are compared, not dtypes: floats from 0 to 255 are valid after a fit on uint8. A single image
        causes a warning only, as it may be that dark or bright in the right units.
        """
        if len(source) == 0 or source.dtype == fitted.dtype == torch.uint8:
            return
        images = source.batch(evenly_spaced(len(source), N_CHECKED_FOR_UNITS)).to(torch.float32)
        given, example = _other_units(pixels, images, source.dtype)
        if not given:
            return
        low, high = pixels.low, pixels.low + pixels.span
        message = (
            f"These images {given}, but {self.owner} was fitted on values from {low.min():g} to "
            f"{high.max():g}: their pixel values have different units. Convert them, for example {example}."
        )
        if len(source) > 1:
            raise ValueError(message)
        warn(message)


def training_size(image_size: Any, given: tuple[int, int]) -> tuple[int, int]:
    """Return the training resolution (height, width).

    Parameters
    ----------
    image_size : int, (height, width), "auto" or callable
        "auto": the size of the images, reduced to at most 224 pixels on the short side. A function of that
        size returns another.
    given : (height, width)
        Size of the images.

    Raises
    ------
    ValueError
        If `image_size` is none of these.
    """
    if callable(image_size):
        return training_size(image_size(training_size("auto", given)), given)
    if isinstance(image_size, str) and image_size == "auto":
        shrink = min(1.0, MAX_AUTO_SIZE / min(given))
        return round(given[0] * shrink), round(given[1] * shrink)
    sides = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    if len(sides) != 2 or not all(is_whole(side) and side >= 1 for side in sides):
        raise ValueError(f"image_size={image_size!r}: give 'auto', a number of pixels, or (height, width).")
    return int(sides[0]), int(sides[1])


def _check_same_kind(first: Source, second: Source) -> None:
    if first.dtype != second.dtype:
        names = [str(source.dtype).removeprefix("torch.") for source in (first, second)]
        raise ValueError(
            f"X holds {names[0]} images and X_unlabeled {names[1]}: their pixel values have different units. "
            f"Convert one, for example X_unlabeled.astype(X.dtype)."
        )


def _other_units(fitted: PixelScale, images: Tensor, dtype: torch.dtype) -> tuple[str, str]:
    """Describe values in other units, and code that converts them; empty strings if the units match."""
    low, high = (each.item() for each in images.aminmax())
    # Images with no values except 0 and 1 may be dark images, or masks, in the right units.
    if fitted.span.min() >= WIDE_RANGE and low >= 0 and high <= 1 and (images != images.round()).any():
        return "lie between 0 and 1", "X * 255; or X.round(), if they are really that dark"
    of_unit = fitted.bounded and fitted.span.max() == 1
    # `fit` samples pixels and may have missed a few float values above 1: the mean decides, except for uint8.
    if of_unit and (images.mean() > 1 or (dtype == torch.uint8 and high > 1)):
        return f"reach {high:g}", "X / 255"
    return "", ""


def _shrunk(source: Source, size: tuple[int, int]) -> Source:
    """Downsample images once, before training; smaller images are left to the views, which enlarge crops."""
    return _resized(source, size) if min(source.size) > min(size) else source


def _resized(source: Source, size: tuple[int, int]) -> Source:
    """Return the images in memory, resized to `size`."""
    if source.size == size:
        return source
    index = torch.arange(len(source))
    return ArraySource(torch.cat([resized(source.batch(part), size) for part in index.split(256)]))


def _paths(X: Any) -> list[Path] | None:
    """Return the paths in a list, an array or a column; None if X contains something else.

    Raises ValueError if some rows are paths and the others are neither paths nor images.
    """
    if not is_column(X) or len(X) == 0:
        return None
    rows = list(X)
    others = [i for i, x in enumerate(rows) if not isinstance(x, str | os.PathLike)]
    if others and len(others) < len(rows) and np.ndim(rows[others[0]]) == 0:
        raise ValueError(
            f"Row {others[0]} of X is {reprlib.repr(rows[others[0]])}, which is not a path; affected rows: "
            f"{len(others)} of {len(rows)}. Remove them."
        )
    return None if others else [Path(x) for x in rows]


def _check_files(paths: Sequence[Path]) -> None:
    """Check that all paths are those of regular files; errors name the first that is not."""
    for position, path in enumerate(paths):
        where = f"{path} (position {position} of {len(paths)})"
        if path.is_dir():
            raise IsADirectoryError(f"{where} is a folder. Give the paths of the images in it.")
        if is_special(path):
            raise ValueError(f"{where} is {NOT_REGULAR}.")
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {where}.")


def _check_parts(parts: Sequence[Any]) -> None:
    """Check that the files of all parts exist; the error names the first that does not."""
    for path in dict.fromkeys(part.path for part in parts if isinstance(part, FilePart)):
        if not path.exists():
            raise FileNotFoundError(f"There is no file {path}.")
