"""Validation and conversion of images in memory: arrays, flat rows, lists and tensors."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sklearn_ssl._checks import is_whole
from sklearn_ssl._images.axes import channels_come_first, channels_last, is_one_image
from sklearn_ssl._images.decode import header_of_image, pixels_of_image
from sklearn_ssl._images.reader import Reader


def as_rows(X: Any, image_shape: tuple[int, ...] | None, reader: Reader) -> tuple[Any, tuple[int, ...], bool]:
    """Return rows (n, H*W*C), the shape of one image, and whether that shape is (C, H, W)."""
    if isinstance(X, torch.Tensor):
        channels_first = _tensor_has_channels_first(X, reader.channels)
        X = X.detach().cpu()
        X = X if X.dtype == torch.uint8 or X.is_complex() else X.to(torch.float32)
        check_values(X.numpy())
        return X.flatten(1).numpy(), tuple(X.shape[1:]), channels_first
    if image_shape is not None and not _holds_images(X):
        X = np.stack(list(X)) if is_list_of_images(X) and np.ndim(next(iter(X), 0)) == 1 else X
        check_values(X)
        shape = checked_image_shape(image_shape)
        return X, shape, _has_channels_first(shape, reader.channels, "image_shape")
    is_list = is_list_of_images(X)
    if is_list:
        X = _stack(list(X), reader)
    array = X if hasattr(X, "shape") else np.asanyarray(X)
    if len(array.shape) == 0:
        given = type(array.item()).__name__
        raise ValueError(f"X is a {given}, not images. Give an array, or a list of images or of paths.")
    order = "last" if is_list else reader.channels  # each image of a list is turned already
    channels_first = check_image_axes(tuple(array.shape), order)
    array = np.asanyarray(array)
    check_values(array)
    array = np.asarray(array)
    return array.reshape(len(array), math.prod(array.shape[1:])), array.shape[1:], channels_first


def full_shape(shape: tuple[int, ...], n_features: int) -> tuple[int, ...]:
    """Return the shape of an image with a channel axis and with -1 resolved, as numpy does."""
    try:
        # bool: the smallest dtype; the array serves to apply the rules of numpy only
        shape = np.empty(n_features, dtype=bool).reshape(shape).shape
    except ValueError:
        raise ValueError(
            f"image_shape={shape} does not fit rows of {n_features} values. It is (height, width) or "
            f"(height, width, channels), whose product is the length of a row; one of them may be -1."
        ) from None
    return shape if len(shape) == 3 else (*shape, 1)


def checked_image_shape(image_shape: Any) -> tuple[int, ...]:
    """Validate the parameter `image_shape` and return it as a tuple."""
    numbers = isinstance(image_shape, Sequence) and all(is_whole(side) for side in image_shape)
    if not numbers or len(image_shape) not in (2, 3):
        raise ValueError(
            f"image_shape={image_shape!r}: give (height, width) or (height, width, channels) of one image."
        )
    return tuple(image_shape)


def check_agrees(image_shape: tuple[int, ...] | None, shape: tuple[int, int, int], order: str) -> None:
    """Check that images, which have a shape of their own, do not contradict `image_shape`."""
    if image_shape is None:
        return
    wanted = full_shape(checked_image_shape(image_shape), math.prod(shape))
    if len(image_shape) == 3 and order == "first":
        wanted = (*wanted[1:], wanted[0])
    if wanted != shape:
        raise ValueError(
            f"image_shape={image_shape}, but the images have the shape {shape}. Remove image_shape: only "
            f"flat rows need it."
        )


def check_values(array: Any) -> None:
    """Raise ValueError if an array holds anything but real numbers.

    Data frames have no dtype, and arrays of objects may hold numbers: scikit-learn converts and checks both.
    """
    dtype = getattr(array, "dtype", None)
    kind = getattr(dtype, "kind", "f")
    if kind == "c":
        raise ValueError(
            f"Complex data not supported: X holds {dtype} values. Give their absolute values, or real and "
            f"imaginary part as two channels."
        )
    if kind not in "buifO":
        raise ValueError(
            f"X holds values of type {dtype}, which are not pixel values: give integers, floats or booleans."
        )
    if np.ma.is_masked(array):
        raise ValueError("Some values of X are masked: give them values, for example X.filled(0).")


def check_finite(rows: np.ndarray) -> None:
    """Raise ValueError if rows contain NaN or infinity; the error names the first such image."""
    # One pass without a temporary array, as in scikit-learn. The sum of large finite values may overflow, so
    # that an infinite sum proves nothing: only then are the rows checked one by one.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(rows.sum()):
            return
    bad = [i for i, row in enumerate(rows) if not np.isfinite(row).all()]
    if bad:
        kind = "NaN" if np.isnan(rows[bad[0]]).any() else "infinity, or a value too large for float32,"
        raise ValueError(
            f"Input X contains {kind} in image {bad[0]}; affected images: {len(bad)} of {len(rows)}. Remove "
            f"them, or replace the values, for example with np.nan_to_num(X)."
        )


def _tensor_has_channels_first(X: Tensor, order: str) -> bool:
    """Return whether a tensor is (n, C, H, W) rather than (n, H, W, C); raise ValueError for other axes."""
    shape = tuple(X.shape)
    if len(shape) != 4:
        raise ValueError(f"A torch tensor of images is (n, C, H, W); got the shape {shape}.")
    return channels_come_first(shape, order, is_tensor=True, batch="X")


def check_image_axes(shape: tuple[int, ...], order: str) -> bool:
    """Return whether an array is (n, C, H, W) rather than (n, H, W[, C]).

    Raises
    ------
    ValueError
        If it is none of these, or rather a single image, or its order is in doubt.
    """
    if len(shape) == 2:
        raise ValueError(
            f"X has the shape {shape}: flat rows. Set the shape of an image, for example "
            f"image_shape=(28, 28) or (32, 32, 3); or give images of shape (n, height, width[, channels])."
        )
    if len(shape) not in (3, 4):
        raise ValueError(
            f"Images are (n, height, width) or (n, height, width, channels); got the shape {shape}."
        )
    if len(shape) == 3 and is_one_image(shape):
        raise ValueError(
            f"X has the shape {shape}: rather one image of {shape[0]} x {shape[1]} pixels with {shape[2]} "
            f"channels, which would be X[None], than {shape[0]} gray images of {shape[1]} x {shape[2]} "
            f"pixels. Give many images; or X[..., None] for those gray ones."
        )
    return len(shape) == 4 and channels_come_first(shape, order, batch="X")


def _has_channels_first(shape: tuple[int, ...], order: str, name: str) -> bool:
    """Return whether the shape that flat rows are given is (C, H, W); see `channels_come_first`."""
    if len(shape) < 3 or -1 in shape:
        return len(shape) == 3 and order == "first"
    try:
        return channels_come_first(shape, order)
    except ValueError:
        a, b, c = shape
        raise ValueError(
            f"{name}={shape}: is this (height, width, channels), as numpy images are? Say how to read the "
            f"rows: reader__channels='first' for {b} x {c} pixels with {a} channels (as in the files of "
            f"CIFAR-10), reader__channels='last' for {a} x {b} pixels with {c} channels."
        ) from None


def is_list_of_images(X: Any) -> bool:
    """Return whether X is a list, a tuple, or an array or column of objects."""
    return isinstance(X, list | tuple) or getattr(X, "dtype", None) is np.dtype(object)


def _holds_images(X: Any) -> bool:
    """Return whether the items of X have at least two axes, instead of being flat rows."""
    if is_list_of_images(X):
        first: Any = next(iter(X), None)
        return isinstance(first, Image.Image) or np.ndim(first) > 1
    return getattr(X, "ndim", 2) > 2


def _stack(images: list, reader: Reader) -> np.ndarray:
    """Stack PIL images, arrays or tensors of equal shape to (n, height, width[, channels])."""
    if all(np.ndim(image) < 2 and not isinstance(image, Image.Image) for image in images):
        return np.asarray(images) if images else np.empty((0, 1, 1))  # nested lists of numbers
    arrays = [array_of_image(image, i, reader) for i, image in enumerate(images)]
    for i, array in enumerate(arrays):
        if _n_channels(array) != _n_channels(arrays[0]):
            raise ValueError(
                f"Image {i} has {_n_channels(array)} channel(s), image 0 has {_n_channels(arrays[0])}: "
                f"convert them to the same kind, for example image.convert('RGB') with Pillow."
            )
        if array.shape[:2] != arrays[0].shape[:2]:
            raise ValueError(
                f"Image {i} has {array.shape[0]} x {array.shape[1]} pixels, image 0 has "
                f"{arrays[0].shape[0]} x {arrays[0].shape[1]}: resize them to one size."
            )
    return np.stack([array.reshape(arrays[0].shape) for array in arrays])


def array_of_image(image: Any, position: int, reader: Reader) -> np.ndarray:
    """Convert a PIL image, an array or a tensor to an array (height, width[, channels])."""
    if isinstance(image, Image.Image):
        try:  # palette, transparency and orientation are handled as in files
            return pixels_of_image(image, None, header_of_image(image).channels, reader.background)
        except Exception as error:  # Pillow decodes lazily: the file of an opened image may be damaged
            raise ValueError(f"The image at position {position} cannot be read: {error}") from error
    array = image if isinstance(image, Tensor) else array_of_rows(image)
    if array.ndim not in (2, 3):
        raise ValueError(
            f"Item {position} of X is {reprlib.repr(image)}, which is not an image. Give images only, as "
            f"arrays or PIL images, or paths only."
        )
    check_values(array)
    try:
        return channels_last(array, reader.channels)
    except ValueError as error:
        raise ValueError(f"Image {position} of X cannot be read: {error}") from None


def array_of_rows(image: Any) -> np.ndarray:
    """Convert anything that numpy can convert to an array, rows of arrays or of numbers among them."""
    array = np.asanyarray(image)
    if array.dtype != object:
        return array
    # The dtype of an array of objects is inferred from its Python values: numbers, strings, ...
    if array.ndim == 1 and len(array) and all(np.ndim(row) for row in array):
        return np.stack([array_of_rows(row) for row in array])
    return np.asarray(array.tolist()) if array.ndim > 1 else array


def _n_channels(array: np.ndarray) -> int:
    return array.shape[2] if array.ndim == 3 else 1


def writeable(rows: np.ndarray) -> np.ndarray:
    """Return contiguous rows in writeable memory, copied if necessary.

    joblib passes read-only memory maps to its workers; torch has no read-only tensors, and warns about them.
    """
    rows = np.ascontiguousarray(rows)
    return rows if rows.flags.writeable else rows.copy()
