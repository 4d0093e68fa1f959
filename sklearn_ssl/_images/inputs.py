"""Conversion of any accepted form of X to an image source and its format."""

from __future__ import annotations

import contextlib
import math
import os
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skorch.helper import SliceDataset
from torch import Tensor
from torch.utils.data import Dataset

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
from sklearn_ssl._images.axes import shape_channels_last
from sklearn_ssl._images.collections import FilePartImages, ImageCollection, ImageFiles, IndexedImages
from sklearn_ssl._images.decode import SUFFIXES
from sklearn_ssl._images.file_parts import FilePart
from sklearn_ssl._images.files import NOT_REGULAR, files_below, is_special
from sklearn_ssl._images.forms import check_form, is_dataset, rows_of_pairs, single_image
from sklearn_ssl._images.items import header_of_item, is_decoded
from sklearn_ssl._images.lazy import LazySource, inspect_headers
from sklearn_ssl._images.pixel_scale import PixelScale
from sklearn_ssl._images.reader import Reader
from sklearn_ssl._images.resize import resized
from sklearn_ssl._images.shards import ImageShards, ShardImages
from sklearn_ssl._images.sources import ArraySource, ConcatSource, Source, evenly_spaced
from sklearn_ssl._images.stored import StoredImages, check_known_shape, in_memory, is_stored
from sklearn_ssl._images.tables import (
    column_of,
    encoded_images,
    holds_parts,
    is_column,
    is_hugging_face,
    open_hugging_face,
)
from sklearn_ssl._images.units import Units, check_precision, factor_of_8_bits, other_units
from sklearn_ssl._warnings import warn

# Maximum short side of the training resolution "auto": the one that is common for ImageNet.
MAX_AUTO_SIZE = 224
# Number of images whose pixel values are compared with those of `fit`.
N_CHECKED_FOR_UNITS = 16
# The same, of files of each kind in a mixture of 8 and more bits.
N_CHECKED_IN_MIXTURE = 8
# Maximum ratio of the aspect ratios of images of one shape.
SAME_SHAPE = 1.05
# Share of a typical image below which cropping it causes a warning.
LEAST_KEPT = 0.5


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
            If X is not a set of images, or X_unlabeled is not of the same kind and units as X.
        FileNotFoundError
            If a path does not exist.
        """
        source, images = self._open(X, None)
        if X_unlabeled is None:
            return _shrunk(source, images.size), images
        units = units_of(source)
        try:
            further, _ = self._open(X_unlabeled, images, units, training=True)
        except ValueError as error:
            raise ValueError(f"X_unlabeled: {error}") from error
        _check_same_kind(source, further)
        try:
            self._check_units(further, units, "X holds")
        except ValueError as error:
            raise ValueError(f"X_unlabeled: {error}") from error
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
        source, _ = self._open(X, fitted, pixels.units)
        self.check_units(source, pixels)
        return source

    def check_units(self, source: Source, pixels: PixelScale) -> None:
        """Raise ValueError if images have other units than those of an earlier fit."""
        self._check_units(source, pixels.units, f"{self.owner} was fitted on", pixels.clipped)

    # ------------------------------------------------------------------ any form

    def _open(
        self, X: Any, fitted: ImageFormat | None, units: Units | None = None, training: bool = False
    ) -> tuple[Source, ImageFormat]:
        """Open images, which define the format if `fitted` is None, and have to match it otherwise."""
        one = single_image(X, fitted.shape) if fitted and not training and self.image_shape is None else None
        X = X if one is None else one
        if is_stored(X):
            check_known_shape(X)
            if math.prod(X.shape) * X.dtype.itemsize > self.reader.memory_limit:
                return self._open_stored(X, fitted, units, training)
            X = in_memory(X)
        X = X if is_hugging_face(X) else self._column(X)
        if is_column(X) and not is_hugging_face(X):
            self._check_number(len(X), fitted)
        collection = self._collection(X, fitted)
        if collection is not None:
            return self._open_collection(collection, fitted, units, training)
        images = self._tensor(X, fitted)  # (n, C, H, W)
        if fitted and units and images.dtype == torch.uint8 != fitted.dtype:
            images = self._from_8_bits(images, units)
        _, channels, height, width = images.shape
        return ArraySource(images), fitted or self._format_of_array((height, width, channels), images.dtype)

    def _from_8_bits(self, images: Tensor, units: Units) -> Tensor:
        """Bring 8-bit images (n, C, H, W) to the units of images of another type, as 8-bit files are."""
        factor = factor_of_8_bits(units)
        if factor is None:
            raise ValueError(
                f"These are 8-bit images (0 to 255), but {self.owner} was fitted on {units}: their pixel "
                f"values have different units. Convert them to those."
            )
        return images.to(torch.float32) * factor

    def _column(self, X: Any) -> Any:
        """Return X, or the images in it where it is a table, or a list of tuples that begin with them."""
        check_form(X)
        return rows_of_pairs(column_of(X))

    def _check_number(self, n_images: int, fitted: ImageFormat | None) -> None:
        """Raise ValueError if there are too few images to fit, or none to embed."""
        least = 1 if fitted else 2
        if n_images < least:
            raise ValueError(
                f"Found {n_images} image(s), while a minimum of {least} is required by {self.owner}."
            )

    def _format_of_array(self, shape: tuple[int, int, int], dtype: torch.dtype) -> ImageFormat:
        check_agrees(self.image_shape, shape, self.reader.channels)
        size = training_size(self.image_size, shape[:2])
        warn_of_crops([shape[:2]], size, self.image_size)
        return ImageFormat(shape, size, dtype, is_array=True)

    def _tensor(self, X: Any, fitted: ImageFormat | None) -> Tensor:
        """Convert X in memory to images (n, C, H, W), uint8 or float32."""
        rows, shape, channels_first = as_rows(X, self.image_shape, self.reader)
        if fitted:
            self._check_shape(shape, channels_first, fitted)
        dtype = np.uint8 if getattr(rows, "dtype", None) == np.uint8 else np.float32
        checks = {"dtype": dtype, "ensure_min_samples": 1 if fitted else 2, "ensure_all_finite": False}
        try:
            check_precision(rows)
        except ValueError as error:
            raise ValueError(f"X: {error}.") from None
        rows = self.validate(rows, reset=fitted is None, **checks)
        check_finite(rows)
        images = torch.from_numpy(writeable(rows)).reshape(len(rows), *full_shape(shape, rows.shape[1]))
        if channels_first:
            return images
        return images.movedim(-1, 1)  # a view in channels-last memory format, which suits convolutions

    def _open_stored(
        self, X: Any, fitted: ImageFormat | None, units: Units | None, training: bool
    ) -> tuple[Source, ImageFormat]:
        """Open an array that is not in memory and above the limit; its images are read when needed."""
        shape = tuple(X.shape[1:])
        if len(shape) == 1 and self.image_shape is not None:
            shape = full_shape(checked_image_shape(self.image_shape), shape[0])
        order = "first" if check_image_axes((X.shape[0], *shape), self.reader.channels) else "last"
        check_values(X)
        height, width, channels = (*shape_channels_last(shape, order), 1)[:3]
        if fitted:
            self._check_shape((height, width, channels), False, fitted)
        is_uint8 = X.dtype == np.uint8
        # scikit-learn validates two images only, to store the number of features. The others would have to be
        # read for that; they are checked when they are read.
        first = in_memory(X[:2])
        first = first.reshape(len(first), -1)
        self.validate(first, reset=fitted is None, dtype=np.uint8 if is_uint8 else np.float32)
        dtype = torch.uint8 if is_uint8 and (fitted is None or fitted.dtype == torch.uint8) else torch.float32
        images = fitted or self._format_of_array((height, width, channels), dtype)
        stored = StoredImages(X, single_threaded=False, shape=shape, order=order)
        training |= fitted is None
        return LazySource(stored, images.size, channels, dtype, self.reader, units, training), images

    # ------------------------------------------------------------------ collections

    def _collection(self, X: Any, fitted: ImageFormat | None) -> ImageCollection | None:
        """Return files, datasets, encoded images and those of different sizes; None for other images."""
        if isinstance(X, str | os.PathLike):
            return ImageFiles(files_below(X, SUFFIXES if self.reader.read is None else None))
        if is_hugging_face(X):
            return open_hugging_face(X)
        if isinstance(X, ImageShards):
            return ShardImages(X)
        if isinstance(X, Dataset | SliceDataset) or hasattr(X, "__getitems__") or is_dataset(X):
            return IndexedImages(X, single_threaded=True)
        encoded = encoded_images(X)
        if encoded is not None:
            return encoded
        if holds_parts(X):
            return FilePartImages(list(X))
        paths = _paths(X)
        if paths is not None:
            return ImageFiles(paths)
        if is_list_of_images(X) and len(X) > 0 and all(map(is_decoded, X)):
            any_size = not fitted.is_array if fitted else self._differ(list(X))
            return IndexedImages(list(X), single_threaded=True) if any_size else None
        return None

    def _differ(self, images: list) -> bool:
        """Return whether images in memory differ in size or number of channels."""
        kinds = set()
        for position, image in enumerate(images):
            try:
                header = header_of_item(image, self.reader)
            except ValueError as error:
                raise ValueError(f"Image {position} of X cannot be read: {error}") from None
            kinds.add((header.height, header.width, header.channels))
        return len(kinds) > 1

    def _open_collection(
        self, collection: ImageCollection, fitted: ImageFormat | None, units: Units | None, training: bool
    ) -> tuple[Source, ImageFormat]:
        if isinstance(collection, ImageFiles) and self.reader.on_error == "raise":
            _check_files(collection.paths)
        if isinstance(collection, FilePartImages) and self.reader.on_error == "raise":
            _check_parts(collection.images)
        self._check_number(len(collection), fitted)
        if fitted is None:
            images, units = self._format_of_collection(collection)
        else:
            self._check_channels(collection, fitted)
            images = fitted
        training |= fitted is None
        channels, dtype = images.shape[2], images.dtype
        return LazySource(collection, images.size, channels, dtype, self.reader, units, training), images

    def _format_of_collection(self, collection: ImageCollection) -> tuple[ImageFormat, Units | None]:
        """Derive the format from the headers of some of the images; and the units of those of many bits."""
        headers = inspect_headers(collection, self.reader)
        kinds = {header.channels: collection.name(position) for position, header in headers.items()}
        if len(kinds) > 1 and set(kinds) != {1, 3}:  # grayscale images among color images get three channels
            examples = ", ".join(f"{channels} ({name})" for channels, name in sorted(kinds.items()))
            raise ValueError(
                f"The images have different numbers of channels: {examples}. Give images of one kind."
            )
        given = [(header.height, header.width) for header in headers.values()]
        size = training_size(self.image_size, typical_size(given))
        warn_of_crops(given, size, self.image_size)
        deep = [position for position, header in headers.items() if header.deep]
        shape = (*size, max(kinds))
        shallow = [position for position in headers if position not in deep]
        units = self._units_of_mixture(collection, deep, shallow, shape[2]) if deep and shallow else None
        is_deep = len(deep) > 0 and (units is not None or not shallow)
        return ImageFormat(shape, size, torch.float32 if is_deep else torch.uint8, is_array=False), units

    def _units_of_mixture(
        self, collection: ImageCollection, deep: list[int], shallow: list[int], channels: int
    ) -> Units | None:
        """Return the units of images of many bits, to which 8-bit ones are brought; None if unreadable."""
        units = units_of_some(collection, deep, channels, self.reader)
        of_8_bits = units_of_some(collection, shallow, channels, self.reader)
        if units is None or of_8_bits is None:
            return units
        factor = factor_of_8_bits(units)
        of_one_kind = replace(of_8_bits, bits8=False)
        if factor is None or (factor == 1 and (units.high <= 1 or other_units(of_one_kind, units))):
            raise ValueError(
                f"The images have different units: {collection.name(shallow[0])} (position {shallow[0]}) is "
                f"an 8-bit image, {collection.name(deep[0])} (position {deep[0]}) is not, and images such as "
                f"this have {units}. Convert them to one kind."
            )
        return units

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

    def _check_channels(self, collection: ImageCollection, fitted: ImageFormat) -> None:
        """Check files or a dataset given to an estimator that was fitted on an array."""
        if not fitted.is_array:
            return
        channels = fitted.shape[2]
        other = max(header.channels for header in inspect_headers(collection, self.reader).values())
        # Gray images can be repeated to three channels, and three channels reduced to one if they are equal,
        # which is checked when an image is read.
        if other != channels and (other, channels) not in ((1, 3), (3, 1)):
            raise ValueError(f"{self.owner} was fitted on {channels} channels; these images have {other}.")

    def _check_units(
        self, source: Source, fitted: Units, whose: str, clipped: Callable[[Tensor], Tensor] = lambda x: x
    ) -> None:
        """Reject pixel values in other units than those of other images; see `other_units`.

        Values are compared, not dtypes: floats from 0 to 255 are valid after a fit on uint8. A single image
        causes a warning only, as it may be that dark or bright in the right units.
        """
        if len(source) == 0 or (fitted.bits8 and source.dtype == torch.uint8 and source.lazy):
            return
        given = units_of(source, clipped)
        difference = other_units(fitted, given)
        if difference is None:
            return
        what, example = difference
        message = (
            f"These images {what}, but {whose} {fitted}: their pixel values have different units. Convert "
            f"them, for example {example}."
        )
        if len(source) > 1:
            raise ValueError(message)
        warn(message)


def units_of(source: Source, clipped: Callable[[Tensor], Tensor] = lambda x: x) -> Units:
    """Return the units of some of the images, clipped as those of the fit."""
    return Units.of(clipped(source.batch(evenly_spaced(len(source), N_CHECKED_FOR_UNITS))))


def units_of_some(
    collection: ImageCollection, positions: Sequence[int], channels: int, reader: Reader
) -> Units | None:
    """Return the units of a few of the images at these positions; None if none of them can be read."""
    pixels = []
    for i in evenly_spaced(len(positions), N_CHECKED_IN_MIXTURE).tolist():
        with contextlib.suppress(Exception):  # it is reported when the image is used
            image = collection.pixels(positions[i], None, channels, reader)
            pixels.append(torch.from_numpy(np.array(image, _plain_dtype(image), order="C")).flatten())
    return Units.of(torch.cat(pixels)) if pixels else None


def _plain_dtype(image: np.ndarray) -> type:
    return np.uint8 if image.dtype == np.uint8 else np.float32


def typical_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the median (height, width) of images of one shape, else a square of the median short side."""
    heights, widths = np.array(sizes).T
    ratios = heights / widths
    if ratios.max() <= SAME_SHAPE * ratios.min():
        return int(np.median(heights)), int(np.median(widths))
    short = int(np.median(np.minimum(heights, widths)))
    return short, short


def warn_of_crops(sizes: Sequence[tuple[int, int]], wanted: tuple[int, int], image_size: Any) -> None:
    """Warn if most of a typical image is cut off, unless the user has given (height, width)."""
    if isinstance(image_size, Sequence) and not isinstance(image_size, str):
        return
    kept = [min(h / w * wanted[1] / wanted[0], w / h * wanted[0] / wanted[1]) for h, w in sizes]
    typical = float(np.median(kept))
    if typical < LEAST_KEPT:
        height, width = sizes[int(np.argsort(kept)[len(kept) // 2])]
        warn(
            f"Images are cropped to {wanted[0]} x {wanted[1]} pixels (height x width), which keeps "
            f"{typical:.0%} of a typical one, of {height} x {width}. To keep more, give "
            f"image_size=(height, width)."
        )


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
