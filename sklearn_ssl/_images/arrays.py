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
from sklearn_ssl._images.decode import are_channels_first, header_of_image, pixels_of_image


def as_rows(
    X: Any, image_shape: tuple[int, ...] | None, background: str
) -> tuple[Any, tuple[int, ...], bool]:
    """Return rows (n, H*W*C), the shape of one image, and whether that shape is (C, H, W)."""
    if isinstance(X, torch.Tensor):
        _check_tensor_axes(X)
        X = X.detach().cpu()
        X = X if X.dtype == torch.uint8 or X.is_complex() else X.to(torch.float32)
        check_values(X.numpy())
        return X.flatten(1).numpy(), tuple(X.shape[1:]), True
    if image_shape is not None and not _holds_images(X):
        check_values(X)
        return X, checked_image_shape(image_shape), False
    if is_list_of_images(X):
        X = _stack(list(X), background)
    array = X if hasattr(X, "shape") else np.asarray(X)
    if len(array.shape) == 0:
        given = type(array.item()).__name__
        raise ValueError(f"X is a {given}, not images. Give an array, or a list of images or of paths.")
    check_image_axes(tuple(array.shape))
    check_values(array)
    array = np.asarray(array)
    return array.reshape(len(array), math.prod(array.shape[1:])), array.shape[1:], False


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


def check_agrees(image_shape: tuple[int, ...] | None, shape: tuple[int, int, int]) -> None:
    """Check that images, which have a shape of their own, do not contradict `image_shape`."""
    if image_shape is not None and full_shape(checked_image_shape(image_shape), math.prod(shape)) != shape:
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


def _check_tensor_axes(X: Tensor) -> None:
    """Raise ValueError if a tensor is not (n, C, H, W), or looks like (n, H, W, C)."""
    shape = tuple(X.shape)
    if len(shape) != 4:
        raise ValueError(f"A torch tensor of images is (n, C, H, W); got the shape {shape}.")
    if are_channels_first(shape[:0:-1]):  # (C, W, H) if the tensor is (n, H, W, C)
        raise ValueError(
            f"X has the shape {shape}: axis 3, of length {shape[3]}, looks like channels. A torch tensor of "
            f"images is (n, C, H, W): X.permute(0, 3, 1, 2); or give X.numpy()."
        )


def check_image_axes(shape: tuple[int, ...]) -> None:
    """Raise ValueError if the shape of an array is not (n, H, W[, C]), or looks like (n, C, H, W)."""
    if len(shape) == 2:
        raise ValueError(
            f"X has the shape {shape}: flat rows. Set the shape of an image, for example "
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


def is_list_of_images(X: Any) -> bool:
    """Return whether X is a list, a tuple, or an array or column of objects."""
    return isinstance(X, list | tuple) or getattr(X, "dtype", None) is np.dtype(object)


def _holds_images(X: Any) -> bool:
    """Return whether the items of X have at least two axes, instead of being flat rows."""
    if is_list_of_images(X):
        first: Any = next(iter(X), None)
        return isinstance(first, Image.Image) or np.ndim(first) > 1
    return getattr(X, "ndim", 2) > 2


def _stack(images: list, background: str) -> np.ndarray:
    """Stack PIL images or arrays of equal shape."""
    arrays = [_array_of(image, i, background) for i, image in enumerate(images)]
    if all(array.ndim < 2 and (array.ndim or array.dtype.kind in "buif") for array in arrays):
        return np.asarray(images) if arrays else np.empty((0, 1, 1))  # nested lists of numbers
    for i, array in enumerate(arrays):
        if array.ndim not in (2, 3):
            raise ValueError(
                f"Item {i} of X is {reprlib.repr(images[i])}, which is not an image. Give images only, as "
                f"arrays or PIL images, or paths only."
            )
    for i, array in enumerate(arrays):
        if _n_channels(array) != _n_channels(arrays[0]):
            raise ValueError(
                f"Image {i} has {_n_channels(array)} channel(s), image 0 has {_n_channels(arrays[0])}: "
                f"convert them to the same kind, for example image.convert('RGB') with Pillow."
            )
        if array.shape[:2] != arrays[0].shape[:2]:
            raise ValueError(
                f"Image {i} has {array.shape[0]} x {array.shape[1]} pixels, image 0 has "
                f"{arrays[0].shape[0]} x {arrays[0].shape[1]}: resize them to one size, or give "
                f"the paths of their files."
            )
    return np.stack([array.reshape(arrays[0].shape) for array in arrays])


def _array_of(image: Any, position: int, background: str) -> np.ndarray:
    """Convert a PIL image as its file would be converted, or anything that numpy can convert."""
    if not isinstance(image, Image.Image):
        check_values(image)
        array = np.asarray(image)
        # The dtype of an array of objects is inferred from its Python values: numbers, strings, ...
        return np.asarray(array.tolist()) if array.dtype == object and array.ndim > 1 else array
    try:  # palette, transparency and orientation are handled as in files
        return pixels_of_image(image, None, header_of_image(image).channels, background)
    except Exception as error:  # Pillow decodes lazily: the file of an opened image may turn out damaged
        raise ValueError(f"The image at position {position} cannot be read: {error}") from error


def _n_channels(array: np.ndarray) -> int:
    return array.shape[2] if array.ndim == 3 else 1


def writeable(rows: np.ndarray) -> np.ndarray:
    """Return contiguous rows in writeable memory, copied if necessary.

    joblib passes read-only memory maps to its workers; torch has no read-only tensors, and warns about them.
    """
    rows = np.ascontiguousarray(rows)
    return rows if rows.flags.writeable else rows.copy()
