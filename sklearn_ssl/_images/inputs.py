"""Image inputs: any accepted form of X becomes one image source and its format."""

from __future__ import annotations

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
from sklearn_ssl._images.collections import ImageCollection, ImageFiles, IndexedImages
from sklearn_ssl._images.decode import SUFFIXES, header_of_image
from sklearn_ssl._images.files import SPECIAL, files_below, is_special
from sklearn_ssl._images.lazy import LazySource, look_at_some
from sklearn_ssl._images.pixel_scale import PixelScale, evenly_spaced
from sklearn_ssl._images.reader import Reader
from sklearn_ssl._images.resize import resized
from sklearn_ssl._images.sources import ArraySource, ConcatSource, Source
from sklearn_ssl._warnings import warn

# Maximum short side of the training resolution "auto": ImageNet's usual one.
MAX_AUTO_SIZE = 224
# Number of images whose values are compared with those of the fit.
UNIT_SAMPLE = 16
# A range of pixel values this wide makes values of 0 to 1 implausible.
WIDE_RANGE = 100


@dataclass(frozen=True)
class ImageFormat:
    """Format of the images of a fit, which later images have to have.

    Parameters
    ----------
    shape : tuple of int
        (height, width, channels) of an image.
    size : tuple of int
        (height, width) of the training resolution.
    dtype : torch.dtype
        uint8, or float32 for everything else.
    is_array : bool
        Whether the images came as an array, whose shape and units bind later images.
    """

    shape: tuple[int, int, int]
    size: tuple[int, int]
    dtype: torch.dtype
    is_array: bool


@dataclass(frozen=True)
class InputParser:
    """Parameters under which X becomes an image source.

    Parameters
    ----------
    owner : str
        Name of the estimator's class, for messages.
    reader : Reader
    image_shape : tuple of int, optional
        Shape of an image where X has flat rows.
    image_size : int, (height, width) or "auto"
        Training resolution asked for.
    validate : callable
        scikit-learn's `validate_data` of the estimator: it checks rows (n_images, n_features) and, with
        ``reset=True``, remembers their number of features and its names.
    """

    owner: str
    reader: Reader
    image_shape: tuple[int, ...] | None
    image_size: Any
    validate: Callable[..., np.ndarray]

    # ------------------------------------------------------------------ interface

    def open_for_training(self, X: Any, X_unlabeled: Any = None) -> tuple[Source, ImageFormat]:
        """Open the images that `fit` learns from: X, then X_unlabeled.

        Raises
        ------
        ValueError
            X is no set of images, or X_unlabeled is not of X's kind.
        FileNotFoundError
            A path leads nowhere.
        """
        source, images = self._open(X, None)
        if X_unlabeled is None:
            return _shrunk(source, images.size), images
        further, _ = self._open(X_unlabeled, images)
        _check_same_kind(source, further)
        sources = [_shrunk(each, images.size) for each in (source, further)]
        if sources[0].size != sources[1].size:
            sources = [_resized(each, images.size) for each in sources]
        return ConcatSource(*sources), images

    def open_for_inference(self, X: Any, fitted: ImageFormat, pixels: PixelScale) -> Source:
        """Open the images of `transform`, which have the format and the units of the fit.

        Raises
        ------
        ValueError, FileNotFoundError
            As in `open_for_training`; also where size, channels or units are not the fitted ones.
        """
        source, _ = self._open(X, fitted)
        self._check_units(source, fitted, pixels)
        return source

    # ------------------------------------------------------------------ any form

    def _open(self, X: Any, fitted: ImageFormat | None) -> tuple[Source, ImageFormat]:
        """Open images that define the format (`fitted` is None), or have to fit it."""
        if _is_mapped(X) and X.nbytes > self.reader.memory_limit:
            return self._open_mapped(X, fitted)
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
        """(n, C, H, W), uint8 or float32, of anything that is held in memory."""
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
        return images.movedim(-1, 1)  # a view: channels-last memory, as convolutions like it

    def _open_mapped(self, X: np.ndarray, fitted: ImageFormat | None) -> tuple[Source, ImageFormat]:
        """Open an array that is too large for memory, whose images are read when they are needed."""
        if X.ndim == 2 and self.image_shape is not None:
            X = X.reshape(len(X), *full_shape(checked_image_shape(self.image_shape), X.shape[1]))
        check_image_axes(X)
        check_values(X)
        height, width, channels = (*X.shape[1:], 1)[:3]
        if fitted:
            self._check_shape((height, width, channels), False, fitted)
        is_uint8 = X.dtype == np.uint8
        # The others are checked as they are read.
        first = np.asarray(X[:2]).reshape(len(X[:2]), -1)
        self.validate(first, reset=fitted is None, dtype=np.uint8 if is_uint8 else np.float32)
        dtype = torch.uint8 if is_uint8 else torch.float32
        images = fitted or self._format_of_array((height, width, channels), dtype)
        indexed = IndexedImages(X, one_by_one=False)
        source = LazySource(indexed, images.size, channels, dtype, self.reader, training=fitted is None)
        return source, images

    # ------------------------------------------------------------------ collections

    def _collection(self, X: Any, fitted: ImageFormat | None) -> ImageCollection | None:
        """Files, a dataset, or PIL images of several sizes; None for anything in memory."""
        if isinstance(X, str | os.PathLike):
            return ImageFiles(files_below(X, SUFFIXES if self.reader.read is None else None))
        if isinstance(X, Image.Image):
            raise ValueError(f"X is a single image, {X!r}: give a list of them.")
        if isinstance(X, IterableDataset):
            raise ValueError(
                f"X is {X!r}, a dataset without numbers: give one with __len__ and __getitem__, whose images "
                f"can be shuffled."
            )
        if hasattr(X, "column_names") and hasattr(X, "features"):  # of the package datasets
            raise ValueError(
                f"X is a {type(X).__name__} with the columns {list(X.column_names)}: give its column of "
                f"images, for example X[{_image_column(X)!r}]."
            )
        if isinstance(X, Dataset | SliceDataset):
            return IndexedImages(X, one_by_one=True)
        paths = _paths(X)
        if paths is not None:
            return ImageFiles(paths)
        if is_list_of_images(X) and len(X) > 0 and all(isinstance(x, Image.Image) for x in X):
            any_size = not fitted.is_array if fitted else len({header_of_image(x) for x in X}) > 1
            return IndexedImages(list(X), one_by_one=True) if any_size else None
        return None

    def _open_collection(
        self, collection: ImageCollection, fitted: ImageFormat | None
    ) -> tuple[Source, ImageFormat]:
        if isinstance(collection, ImageFiles) and self.reader.on_error == "raise":
            _check_files(collection.paths)
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
        """Format of all images, decided by sizes and kinds of some."""
        headers = look_at_some(collection, self.reader)
        typical = int(np.median([min(header.height, header.width) for header in headers.values()]))
        kinds = {header.channels: collection.name(position) for position, header in headers.items()}
        if len(kinds) > 1 and set(kinds) != {1, 3}:
            examples = ", ".join(f"{channels} ({name})" for channels, name in sorted(kinds.items()))
            raise ValueError(
                f"The images have different numbers of channels: {examples}. Give those of one kind."
            )
        size = training_size(self.image_size, (typical, typical))
        deep = any(header.deep for header in headers.values())
        dtype = torch.float32 if deep else torch.uint8
        return ImageFormat((*size, max(kinds)), size, dtype, is_array=False)

    # ------------------------------------------------------------------ checks against the fit

    def _check_shape(self, shape: tuple[int, ...], channels_first: bool, fitted: ImageFormat) -> None:
        if -1 in shape:
            return  # rows, whose length scikit-learn checks
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
        headers = look_at_some(collection, self.reader).values()
        other = max(header.channels for header in headers)
        if other != channels and (other > 1 or channels != 3) and (other, channels) != (3, 1):
            raise ValueError(f"{self.owner} was fitted on {channels} channels; these images have {other}.")
        if fitted.dtype == torch.float32 and not all(header.deep for header in headers):
            raise ValueError(
                f"These images have 8 bits a channel (0 to 255), but {self.owner} was fitted on an array of "
                f"another dtype than uint8, whose units may be others. Read them into such an array first."
            )

    def _check_units(self, source: Source, fitted: ImageFormat, pixels: PixelScale) -> None:
        """Refuse pixel values of 0 to 1 where those of `fit` were 0 to 255 or more, and the reverse.

        The values tell, not their type: floats of 0 to 255 are right after a fit on uint8. A single image may
        be as dark, or as bright, in the right units: it is embedded, with a warning.
        """
        if len(source) == 0 or source.dtype == fitted.dtype == torch.uint8:
            return
        images = source.batch(evenly_spaced(len(source), UNIT_SAMPLE)).to(torch.float32)
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
        warn(message)  # the caller of `transform`, which scikit-learn wraps


def training_size(image_size: Any, given: tuple[int, int]) -> tuple[int, int]:
    """Return the training resolution (height, width).

    Parameters
    ----------
    image_size : int, (height, width) or "auto"
        "auto": the images' own, at most 224 pixels on the short side.
    given : (height, width)
        Size of the images.
    """
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
    """What is odd about the values, and what would mend it; empty strings if they suit."""
    low, high = (each.item() for each in images.aminmax())
    # Whole numbers of 0 and 1 are a dark image, or a mask.
    if fitted.span.min() >= WIDE_RANGE and low >= 0 and high <= 1 and (images != images.round()).any():
        return "lie between 0 and 1", "X * 255; or X.round(), if they are as dark as that"
    of_unit = fitted.bounded and fitted.span.max() == 1
    # Floats may have been fitted on with a few values above 1 that were not looked at, uint8 cannot.
    if of_unit and (images.mean() > 1 or (dtype == torch.uint8 and high > 1)):
        return f"reach {high:g}", "X / 255"
    return "", ""


def _shrunk(source: Source, size: tuple[int, int]) -> Source:
    """Reduced once, before training; smaller images stay: views enlarge them as they crop."""
    return _resized(source, size) if min(source.size) > min(size) else source


def _resized(source: Source, size: tuple[int, int]) -> Source:
    if source.size == size:
        return source
    index = torch.arange(len(source))
    return ArraySource(torch.cat([resized(source.batch(part), size) for part in index.split(256)]))


def _paths(X: Any) -> list[Path] | None:
    """Of a list, an array or a column of paths; a frame or an array of one column is one too.

    Raises ValueError where only some rows are paths, and the others no images either.
    """
    if hasattr(X, "columns") and X.shape[1] == 1:
        X = X[X.columns[0]]
    elif isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1] == 1:
        X = X[:, 0]
    if not (isinstance(X, list | tuple) or len(getattr(X, "shape", ())) == 1) or len(X) == 0:
        return None
    rows = list(X)
    others = [i for i, x in enumerate(rows) if not isinstance(x, str | os.PathLike)]
    if others and len(others) < len(rows) and np.ndim(rows[others[0]]) == 0:
        raise ValueError(
            f"Row {others[0]} of X is {reprlib.repr(rows[others[0]])}, no path; such rows: {len(others)} of "
            f"{len(rows)}. Leave them out."
        )
    return None if others else [Path(x) for x in rows]


def _image_column(X: Any) -> str:
    """The name of the column whose type is called Image, or of the first one."""
    names = [name for name in X.column_names if type(X.features[name]).__name__ == "Image"]
    return (names or list(X.column_names))[0]


def _check_files(paths: Sequence[Path]) -> None:
    for position, path in enumerate(paths):
        where = f"{path} (position {position} of {len(paths)})"
        if path.is_dir():
            raise IsADirectoryError(f"{where} is a folder. Give the paths of the images in it.")
        if is_special(path):
            raise ValueError(f"{where} is {SPECIAL}.")
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {where}.")


def _is_mapped(X: Any) -> bool:
    """Whether an array lies in a file, as ``np.load(path, mmap_mode="r")`` makes it."""
    return isinstance(X, np.memmap) or isinstance(getattr(X, "base", None), np.memmap)
