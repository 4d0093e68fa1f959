"""Whatever the user has -> one image source; every error about input images is raised here."""

from __future__ import annotations

import math
import os
import reprlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data
from skorch.helper import SliceDataset
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from sklearn_ssl._checks import is_whole
from sklearn_ssl._images.collections import ImageCollection, ImageFiles, IndexedImages
from sklearn_ssl._images.decode import SUFFIXES, are_channels_first, header_of_image, pixels_of_image
from sklearn_ssl._images.files import SPECIAL, files_below, is_special
from sklearn_ssl._images.lazy import LazySource, look_at_some
from sklearn_ssl._images.pixel_scale import PixelScale, evenly_spaced
from sklearn_ssl._images.reader import Reader, make_reader
from sklearn_ssl._images.resize import resized
from sklearn_ssl._images.sources import ArraySource, ConcatSource, Source

# Larger images are trained at this short side unless the user says otherwise: ImageNet's resolution.
LARGEST_AUTO_SIZE = 224


# Images whose values tell in which units they are.
SOME = 16


# Of a range of pixel values as wide as that, 0 to 1 is next to nothing.
WIDE = 100


# ---------------------------------------------------------------------------- what the estimator calls


def training_source(estimator: BaseEstimator, X: Any, X_unlabeled: Any = None) -> Source:
    """The images that `fit` learns from: X, then X_unlabeled; what they are is set on the estimator.

    Parameters
    ----------
    estimator : SSLImageEmbedder
        Its `image_shape` and `image_size` say how X is to be read; `image_shape_`, `image_size_` and,
        for arrays, `n_features_in_` are set.
    X, X_unlabeled : any accepted form of images

    Returns
    -------
    Source

    Raises
    ------
    ValueError
        X is no set of images, or X_unlabeled is not of X's kind.
    FileNotFoundError
        A path leads nowhere.
    """
    source = _open(estimator, X, reset=True)
    estimator._pixel_dtype = source.dtype
    if X_unlabeled is None:
        return _shrunk(source, estimator.image_size_)
    further = _open(estimator, X_unlabeled, reset=False)
    _check_same_kind(source, further)
    sources = [_shrunk(each, estimator.image_size_) for each in (source, further)]
    if sources[0].size != sources[1].size:
        sources = [_resized(each, estimator.image_size_) for each in sources]
    return ConcatSource(*sources)


def inference_source(estimator: BaseEstimator, X: Any) -> Source:
    """The images of `transform`, held to what `fit` has seen.

    Raises
    ------
    ValueError, FileNotFoundError
        As in `training_source`; also where size, channels or units are not the fitted ones.
    """
    source = _open(estimator, X, reset=False)
    _check_units(estimator, source)
    return source


def training_size(image_size: Any, given: tuple[int, int]) -> tuple[int, int]:
    """The training resolution (H, W): as asked; "auto": the images' own, at most 224 on the short side."""
    if isinstance(image_size, str) and image_size == "auto":
        shrink = min(1.0, LARGEST_AUTO_SIZE / min(given))
        return round(given[0] * shrink), round(given[1] * shrink)
    sides = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    if len(sides) != 2 or not all(is_whole(side) and side >= 1 for side in sides):
        raise ValueError(f"image_size={image_size!r}: give 'auto', a number of pixels, or (height, width).")
    return int(sides[0]), int(sides[1])


# ---------------------------------------------------------------------------- units


def _check_units(estimator: BaseEstimator, source: Source) -> None:
    """Refuse pixel values of 0 to 1 where those of `fit` were 0 to 255 or more, and the reverse.

    The values tell, not their type: floats of 0 to 255 are right after a fit on uint8. A single image may be
    as dark, or as bright, in the right units: it is embedded, with a warning.
    """
    if len(source) == 0 or source.dtype == estimator._pixel_dtype == torch.uint8:
        return
    images = source.batch(evenly_spaced(len(source), SOME)).to(torch.float32)
    given, example = _other_units(estimator._pixels, images, source.dtype)
    if not given:
        return
    low, high = estimator._pixels.low, estimator._pixels.low + estimator._pixels.span
    message = (
        f"These images {given}, but {type(estimator).__name__} was fitted on values from {low.min():g} to "
        f"{high.max():g}: their pixel values have different units. Convert them, for example {example}."
    )
    if len(source) > 1:
        raise ValueError(message)
    warnings.warn(message, stacklevel=5)  # the caller of `transform`, which scikit-learn wraps


def _other_units(fitted: PixelScale, images: Tensor, dtype: torch.dtype) -> tuple[str, str]:
    """What is odd about the values, and what would mend it; empty strings if they suit."""
    low, high = (each.item() for each in images.aminmax())
    # Whole numbers of 0 and 1 are a dark image, or a mask.
    if fitted.span.min() >= WIDE and low >= 0 and high <= 1 and (images != images.round()).any():
        return "lie between 0 and 1", "X * 255; or X.round(), if they are as dark as that"
    of_unit = fitted.bounded and fitted.span.max() == 1
    # Floats may have been fitted on with a few values above 1 that were not looked at, uint8 cannot.
    if of_unit and (images.mean() > 1 or (dtype == torch.uint8 and high > 1)):
        return f"reach {high:g}", "X / 255"
    return "", ""


# ---------------------------------------------------------------------------- any form


def _open(estimator: BaseEstimator, X: Any, *, reset: bool) -> Source:
    reader = _reader(estimator)
    if _is_mapped(X) and X.nbytes > reader.memory_limit:
        return _open_mapped(estimator, X, reader, reset=reset)
    items = _items(estimator, X, reader, reset=reset)
    if items is not None:
        return _open_items(estimator, items, reader, reset=reset)
    images = _validated_tensor(estimator, X, reader, reset=reset)  # (n, C, H, W)
    _, channels, height, width = images.shape
    if reset:
        _set_sizes(estimator, (height, width, channels))
    return ArraySource(images)


def _reader(estimator: BaseEstimator) -> Reader:
    params = estimator.reader_params or {}
    estimator._check_names("reader", params, estimator._chosen())  # set since `fit`, perhaps
    return make_reader(estimator.reader, params)


def _set_sizes(estimator: BaseEstimator, shape: tuple[int, int, int]) -> None:
    """What arrays say of an image."""
    _check_agrees(estimator.image_shape, shape)
    estimator.image_shape_ = shape
    estimator.image_size_ = training_size(estimator.image_size, shape[:2])


def _check_same_kind(first: Source, second: Source) -> None:
    if first.dtype != second.dtype:
        raise ValueError(
            f"X holds {_name(first.dtype)} images and X_unlabeled {_name(second.dtype)}: their pixel values "
            f"have different units. Convert one, for example X_unlabeled.astype(X.dtype)."
        )


def _shrunk(source: Source, size: tuple[int, int]) -> Source:
    """Reduced once, before training; smaller images stay: views enlarge them as they crop."""
    return _resized(source, size) if min(source.size) > min(size) else source


def _resized(source: Source, size: tuple[int, int]) -> Source:
    if source.size == size:
        return source
    index = torch.arange(len(source))
    return ArraySource(torch.cat([resized(source.batch(part), size) for part in index.split(256)]))


# ---------------------------------------------------------------------------- arrays


def _validated_tensor(estimator: BaseEstimator, X: Any, reader: Reader, *, reset: bool) -> Tensor:
    """(n, C, H, W), uint8 or float32, of anything that is held in memory."""
    rows, shape, channels_first = _as_rows(X, estimator.image_shape, reader.background)
    if not reset:
        _check_fitted_shape(estimator, shape, channels_first)
    dtype = np.uint8 if getattr(rows, "dtype", None) == np.uint8 else np.float32
    checks = {"dtype": dtype, "ensure_min_samples": 2 if reset else 1, "ensure_all_finite": False}
    rows = validate_data(estimator, rows, reset=reset, **checks)
    _check_finite(rows)
    images = torch.from_numpy(_writeable(rows)).reshape(len(rows), *_image_shape(shape, rows.shape[1]))
    if channels_first:
        return images
    return images.movedim(-1, 1)  # a view: channels-last memory, as convolutions like it


def _as_rows(
    X: Any, image_shape: tuple[int, ...] | None, background: str
) -> tuple[Any, tuple[int, ...], bool]:
    """(rows of shape (n, H*W*C), shape of one image, whether that shape is (C, H, W))."""
    if isinstance(X, torch.Tensor):
        _check_tensor_axes(X)
        X = X.detach().cpu()
        X = X if X.dtype == torch.uint8 or X.is_complex() else X.to(torch.float32)
        _check_values(X.numpy())
        return X.flatten(1).numpy(), tuple(X.shape[1:]), True
    if image_shape is not None and not _holds_images(X):
        _check_values(X)
        return X, _checked_image_shape(image_shape), False
    if _is_list_of_images(X):
        X = _stacked(list(X), background)
    array = X if hasattr(X, "shape") else np.asarray(X)
    _check_image_axes(array)
    _check_values(array)
    array = np.asarray(array)
    return array.reshape(len(array), math.prod(array.shape[1:])), array.shape[1:], False


def _check_fitted_shape(estimator: BaseEstimator, shape: tuple[int, ...], channels_first: bool) -> None:
    if -1 in shape:
        return  # rows, whose length scikit-learn checks
    height, width, channels = (*shape[1:], shape[0]) if channels_first else (*shape, 1)[:3]
    if estimator.image_shape_ != (height, width, channels):
        raise ValueError(
            f"These images have the shape {(height, width, channels)} (height, width, channels), but "
            f"{type(estimator).__name__} was fitted on {estimator.image_shape_}. Resize them, or fit again."
        )


def _image_shape(shape: tuple[int, ...], n_features: int) -> tuple[int, ...]:
    """The shape of an image, with -1 filled in and a channel axis; numpy's rules."""
    try:
        shape = np.empty(n_features, dtype=bool).reshape(shape).shape
    except ValueError:
        raise ValueError(
            f"image_shape={shape} does not fit rows of {n_features} values. It is (height, width) or "
            f"(height, width, channels), whose product is the length of a row; one of them may be -1."
        ) from None
    return shape if len(shape) == 3 else (*shape, 1)


def _checked_image_shape(image_shape: Any) -> tuple[int, ...]:
    numbers = isinstance(image_shape, Sequence) and all(is_whole(side) for side in image_shape)
    if not numbers or len(image_shape) not in (2, 3):
        raise ValueError(
            f"image_shape={image_shape!r}: give (height, width) or (height, width, channels) of one image."
        )
    return tuple(image_shape)


def _check_agrees(image_shape: tuple[int, ...] | None, shape: tuple[int, int, int]) -> None:
    """Rows have the `image_shape` that is given; images have their own."""
    if image_shape is not None and _image_shape(_checked_image_shape(image_shape), math.prod(shape)) != shape:
        raise ValueError(
            f"image_shape={image_shape}, but the images have the shape {shape}. Leave image_shape out: only "
            f"flat rows need it."
        )


def _check_values(array: Any) -> None:
    """Raise ValueError for an array of anything but numbers; rows may be a data frame, or objects."""
    dtype = getattr(array, "dtype", None)
    kind = getattr(dtype, "kind", "f")
    if kind == "c":
        raise ValueError(
            f"Complex data not supported: X holds {dtype} values. Give their absolute values, or real and "
            f"imaginary part as two channels."
        )
    if kind not in "buifO":
        raise ValueError(
            f"X holds values of type {dtype}, which are no pixel values: give whole numbers, floats or "
            f"booleans."
        )
    if np.ma.is_masked(array):
        raise ValueError("Some values of X are masked: give them values, for example X.filled(0).")


def _check_finite(rows: np.ndarray) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(rows.sum()):
            return
    bad = [i for i, row in enumerate(rows) if not np.isfinite(row).all()]
    if bad:
        kind = "NaN" if np.isnan(rows[bad[0]]).any() else "infinity, or a value too large for float32,"
        raise ValueError(
            f"Input X contains {kind} in image {bad[0]}; such images: {len(bad)} of {len(rows)}. Leave them "
            f"out, or replace the values, for example with np.nan_to_num(X)."
        )


def _check_tensor_axes(X: Tensor) -> None:
    shape = tuple(X.shape)
    if len(shape) != 4:
        raise ValueError(f"A torch tensor of images is (n, C, H, W); got the shape {shape}.")
    if are_channels_first(shape[:0:-1]):
        raise ValueError(
            f"X has the shape {shape}: axis 3, of length {shape[3]}, looks like channels. A torch tensor of "
            f"images is (n, C, H, W): X.permute(0, 3, 1, 2); or give X.numpy()."
        )


def _check_image_axes(array: np.ndarray) -> None:
    shape = tuple(array.shape)
    if len(shape) == 0:
        given = type(array.item()).__name__
        raise ValueError(f"X is a {given}, not images. Give an array, or a list of images or of paths.")
    if len(shape) == 2:
        raise ValueError(
            f"X has the shape {shape}: rows of numbers. Say what image a row is, for example "
            f"image_shape=(28, 28) or (32, 32, 3); or give images of shape (n, height, width[, channels])."
        )
    if len(shape) not in (3, 4):
        raise ValueError(
            f"Images are (n, height, width) or (n, height, width, channels); got the shape {shape}."
        )
    if len(shape) == 4 and are_channels_first(shape[1:]):
        raise ValueError(
            f"X has the shape {shape}: axis 1, of length {shape[1]}, looks like channels. numpy images are "
            f"(n, height, width, channels): X.transpose(0, 2, 3, 1); a torch tensor may be (n, C, H, W)."
        )


def _is_list_of_images(X: Any) -> bool:
    return isinstance(X, list | tuple) or getattr(X, "dtype", None) is np.dtype(object)


def _holds_images(X: Any) -> bool:
    """Whether the items of X have two axes or more, rather than being rows of numbers."""
    if _is_list_of_images(X):
        first = next(iter(X), None)
        return isinstance(first, Image.Image) or np.ndim(first) > 1
    return getattr(X, "ndim", 2) > 2


def _stacked(images: list, background: str) -> np.ndarray:
    """One array of a list of PIL images or arrays, all of one shape."""
    arrays = [_array_of(image, i, background) for i, image in enumerate(images)]
    if all(array.ndim < 2 and (array.ndim or array.dtype.kind in "buif") for array in arrays):
        return np.asarray(images) if arrays else np.empty((0, 1, 1))  # nested lists of numbers
    for i, array in enumerate(arrays):
        if array.ndim not in (2, 3):
            raise ValueError(
                f"Item {i} of X is {reprlib.repr(images[i])}, no image. Give images alone, as arrays or PIL "
                f"images, or paths alone."
            )
    for i, array in enumerate(arrays):
        if _n_channels(array) != _n_channels(arrays[0]):
            raise ValueError(
                f"Image {i} has {_n_channels(array)} channel(s), image 0 has {_n_channels(arrays[0])}: "
                f"convert them to one kind first, for example image.convert('RGB') with Pillow."
            )
        if array.shape[:2] != arrays[0].shape[:2]:
            raise ValueError(
                f"Image {i} has {array.shape[0]} x {array.shape[1]} pixels, image 0 has "
                f"{arrays[0].shape[0]} x {arrays[0].shape[1]}: resize them to one size, or give "
                f"their files' paths."
            )
    return np.stack([array.reshape(arrays[0].shape) for array in arrays])


def _array_of(image: Any, position: int, background: str) -> np.ndarray:
    if not isinstance(image, Image.Image):
        _check_values(image)
        array = np.asarray(image)
        # Objects are what they are as Python's: numbers, strings, ...
        return np.asarray(array.tolist()) if array.dtype == object and array.ndim > 1 else array
    try:  # as its file would be read: palette, transparency, rotation
        return pixels_of_image(image, None, header_of_image(image).channels, background)
    except Exception as error:  # one that was opened, but not decoded yet
        raise ValueError(f"The image at position {position} cannot be read: {error}") from error


def _n_channels(array: np.ndarray) -> int:
    return array.shape[2] if array.ndim == 3 else 1


def _writeable(rows: np.ndarray) -> np.ndarray:
    """torch warns about read-only memory (joblib's memory maps), which it has no way to respect."""
    rows = np.ascontiguousarray(rows)
    return rows if rows.flags.writeable else rows.copy()


# ---------------------------------------------------------------------------- what is read when it is needed


def _items(estimator: BaseEstimator, X: Any, reader: Reader, *, reset: bool) -> ImageCollection | None:
    """ImageFiles, a dataset, or PIL images that need not have one size; None for anything in memory."""
    if isinstance(X, str | os.PathLike):
        return ImageFiles(files_below(X, SUFFIXES if reader.read is None else None))
    if isinstance(X, Image.Image):
        raise ValueError(f"X is a single image, {X!r}: give a list of them.")
    if isinstance(X, IterableDataset):
        raise ValueError(
            f"X is {X!r}, a dataset without numbers: give one with __len__ and __getitem__, whose images can "
            f"be shuffled."
        )
    if hasattr(X, "column_names") and hasattr(X, "features"):  # of the package datasets
        raise ValueError(
            f"X is a {type(X).__name__} with the columns {list(X.column_names)}: give its column of images, "
            f"for example X[{_image_column(X)!r}]."
        )
    if isinstance(X, Dataset | SliceDataset):
        return IndexedImages(X, one_by_one=True)
    paths = _paths(X)
    if paths is not None:
        return ImageFiles(paths)
    if _is_list_of_images(X) and len(X) > 0 and all(isinstance(x, Image.Image) for x in X):
        kinds = {header_of_image(x) for x in X}
        any_size = len(kinds) > 1 if reset else not hasattr(estimator, "n_features_in_")
        return IndexedImages(list(X), one_by_one=True) if any_size else None
    return None


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


def _open_items(
    estimator: BaseEstimator, items: ImageCollection, reader: Reader, *, reset: bool
) -> LazySource:
    if isinstance(items, ImageFiles) and reader.on_error == "raise":
        _check_files(items.paths)
    if reset:
        if len(items) < 2:
            raise ValueError(
                f"Found {len(items)} image, while a minimum of 2 is required by {type(estimator).__name__}."
            )
        _look_at(estimator, items, reader)
    else:
        _check_suit(estimator, items, reader)
    dtype, channels = estimator._pixel_dtype, estimator.image_shape_[2]
    return LazySource(items, estimator.image_size_, channels, dtype, reader, training=reset)


def _look_at(estimator: BaseEstimator, items: ImageCollection, reader: Reader) -> None:
    """Sizes and kinds of some of them decide for all."""
    headers = look_at_some(items, reader)
    typical = int(np.median([min(header.height, header.width) for header in headers.values()]))
    kinds = {header.channels: items.name(position) for position, header in headers.items()}
    if len(kinds) > 1 and set(kinds) != {1, 3}:
        examples = ", ".join(f"{channels} ({name})" for channels, name in sorted(kinds.items()))
        raise ValueError(
            f"The images have different numbers of channels: {examples}. Give those of one kind."
        )
    estimator.image_size_ = training_size(estimator.image_size, (typical, typical))
    estimator.image_shape_ = (*estimator.image_size_, max(kinds))
    estimator._pixel_dtype = torch.float32 if any(header.deep for header in headers.values()) else torch.uint8
    for name in ("n_features_in_", "feature_names_in_"):  # of an earlier fit on arrays
        vars(estimator).pop(name, None)


def _check_suit(estimator: BaseEstimator, items: ImageCollection, reader: Reader) -> None:
    """Whether they can be what an estimator takes that knows arrays so far, if it does."""
    if not hasattr(estimator, "n_features_in_") or len(items) == 0:
        return
    name, channels = type(estimator).__name__, estimator.image_shape_[2]
    headers = look_at_some(items, reader).values()
    other = max(header.channels for header in headers)
    if other != channels and (other > 1 or channels != 3) and (other, channels) != (3, 1):
        raise ValueError(f"{name} was fitted on {channels} channels; these images have {other}.")
    if estimator._pixel_dtype == torch.float32 and not all(header.deep for header in headers):
        raise ValueError(
            f"These images have 8 bits a channel (0 to 255), but {name} was fitted on an array of another "
            f"dtype than uint8, whose units may be others. Read them into such an array first."
        )


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


def _open_mapped(estimator: BaseEstimator, X: np.ndarray, reader: Reader, *, reset: bool) -> LazySource:
    """An array that is too large for memory: its images are read when they are needed."""
    if X.ndim == 2 and estimator.image_shape is not None:
        shape = _image_shape(_checked_image_shape(estimator.image_shape), X.shape[1])
        X = X.reshape(len(X), *shape)
    _check_image_axes(X)
    _check_values(X)
    shape = (*X.shape[1:], 1)[:3]  # (height, width, channels)
    if not reset:
        _check_fitted_shape(estimator, shape, False)
    dtype = np.uint8 if X.dtype == np.uint8 else np.float32
    # The others are looked at as they are read.
    validate_data(estimator, np.asarray(X[:2]).reshape(len(X[:2]), -1), reset=reset, dtype=dtype)
    if reset:
        _set_sizes(estimator, shape)
    kept_as = torch.uint8 if dtype is np.uint8 else torch.float32
    things = IndexedImages(X, one_by_one=False)
    return LazySource(things, estimator.image_size_, shape[2], kept_as, reader, training=reset)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
