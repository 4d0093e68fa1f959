"""Whatever the user has -> one image source; every error about input images is raised here."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data
from torch import Tensor

from sklearn_ssl.views import resize_and_center

# Larger images are trained at this short side unless the user says otherwise: ImageNet's resolution.
LARGEST_AUTO_SIZE = 224
# Decoded files are kept for the next epoch up to this many bytes in all.
KEPT_BYTES = 2**31


class Source(Protocol):
    """Images by number, all of one size, channel count and dtype."""

    size: tuple[int, int]  # (H, W)
    channels: int
    dtype: torch.dtype  # uint8 or float32
    device: torch.device  # of the batches
    lazy: bool  # whether a batch is decoded when it is asked for

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> Tensor:
        """Images of shape (len(index), channels, *size)."""
        ...

    def identity(self) -> Any:
        """What differs where the images do, for a fingerprint."""
        ...


@dataclass
class ArraySource:
    """Images in memory: one tensor of shape (n, channels, H, W)."""

    images: Tensor
    lazy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.channels, *size = self.images.shape[1:]
        self.size = tuple(size)
        self.dtype = self.images.dtype

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        return self.images.device

    def batch(self, index: Tensor) -> Tensor:
        return self.images[index.to(self.images.device)]

    def identity(self) -> Tensor:
        return self.images


class FileSource:
    """Image files, decoded when they are needed, by threads; kept while there is room.

    Parameters
    ----------
    paths : list of path-like
    size : tuple of two ints
        Every image is resized (antialiased, short side) and centre-cropped to this (H, W).
    channels : {1, 3}
    dtype : torch.dtype
        uint8, or float32 for files of more than 8 bits, whose levels are kept.
    """

    device = torch.device("cpu")
    lazy = True

    def __init__(self, paths: Sequence, size: tuple[int, int], channels: int, dtype: torch.dtype):
        self.paths = paths
        self.size = size
        self.channels = channels
        self.dtype = dtype
        image_bytes = channels * size[0] * size[1] * dtype.itemsize
        self._kept: dict[int, Tensor] | None = {} if image_bytes * len(paths) <= KEPT_BYTES else None

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, index: Tensor) -> Tensor:
        images = torch.empty(len(index), self.channels, *self.size, dtype=self.dtype)
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for i, image in enumerate(threads.map(self._image, index.tolist())):
                images[i] = image
        return images

    def identity(self) -> tuple:
        """Of each file its place, length and time of change; and what is made of it."""
        files = [(str(path.absolute()), path.stat()) for path in self.paths]
        return self.size, self.channels, [(path, stat.st_size, stat.st_mtime_ns) for path, stat in files]

    def _image(self, position: int) -> Tensor:
        if self._kept is None:
            return self._decode(position)
        if position not in self._kept:
            self._kept[position] = self._decode(position)
        return self._kept[position]

    def _decode(self, position: int) -> Tensor:
        pixels = _read(self.paths[position], position, self.channels)
        if pixels.dtype != np.uint8 and self.dtype == torch.uint8:
            raise ValueError(
                f"{self.paths[position]} (position {position}) has more than 8 bits a channel, the files "
                f"looked at first have 8. Convert one kind, or give the deeper images first."
            )
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # (1, C, H, W)
        if image.dtype == torch.uint8 and self.dtype == torch.float32:
            image = image.to(torch.float32) * 257  # 255 -> 65535: the white of a 16-bit file
        return _resize(image, self.size)[0]


@dataclass
class ConcatSource:
    """One source after the other."""

    first: Source
    second: Source
    device: ClassVar[torch.device] = torch.device("cpu")

    def __post_init__(self) -> None:
        self.lazy = self.first.lazy or self.second.lazy
        self.size, self.channels, self.dtype = self.first.size, self.first.channels, self.first.dtype

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def batch(self, index: Tensor) -> Tensor:
        from_first = index < len(self.first)
        images = torch.empty(len(index), self.channels, *self.size, dtype=self.dtype)
        images[from_first] = self.first.batch(index[from_first])
        images[~from_first] = self.second.batch(index[~from_first] - len(self.first))
        return images

    def identity(self) -> tuple:
        return self.first.identity(), self.second.identity()


def near(source: Source, device: torch.device) -> Source:
    """The images where `device` reads them fastest: on a GPU itself, if they are in memory and it has room.

    They may take a third of the memory that is free there; otherwise each batch is copied when it is needed.
    """
    parts = [source.first, source.second] if isinstance(source, ConcatSource) else [source]
    if device.type != "cuda" or any(part.lazy for part in parts):
        return source
    free, _ = torch.cuda.mem_get_info(device)
    if sum(part.images.nbytes for part in parts) > free / 3:
        return source
    return ArraySource(torch.cat([part.images.to(device) for part in parts]))


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
        As in `training_source`; also where size or channels are not the fitted ones.
    """
    return _open(estimator, X, reset=False)


def training_size(image_size: Any, given: tuple[int, int]) -> tuple[int, int]:
    """The training resolution (H, W): as asked; "auto": the images' own, at most 224 on the short side."""
    if isinstance(image_size, str) and image_size == "auto":
        shrink = min(1.0, LARGEST_AUTO_SIZE / min(given))
        return round(given[0] * shrink), round(given[1] * shrink)
    sides = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    if len(sides) != 2 or not all(isinstance(side, Integral) and side >= 1 for side in sides):
        raise ValueError(f"image_size={image_size!r}: give 'auto', a number of pixels, or (height, width).")
    return int(sides[0]), int(sides[1])


@dataclass
class PixelScale:
    """What pixel values mean, learned from the training images.

    Views are drawn in units in which black is about 0 and white about 1, then standardised:

    - uint8: the value divided by 255;
    - other types with all values in [0, 1]: as they are;
    - anything else: the 0.1 and 99.9 percentiles of the training images become 0 and 1 (for each
      channel; for three channels together, so that colours stay), and nothing is clipped.

    Attributes
    ----------
    low, span, mean, std : Tensor of shape (channels,)
        unit = (pixel - low) / span; standardised = (unit - mean) / std.
    bounded : bool
        Whether unit values lie in [0, 1] by their nature.
    """

    low: Tensor
    span: Tensor
    mean: Tensor
    std: Tensor
    bounded: bool

    @classmethod
    def of(cls, source: Source, n_images: int = 1024, n_values: int = 2**20) -> PixelScale:
        """Statistics of up to `n_images` evenly spaced images (`n_values` of their pixels)."""
        index = torch.linspace(0, len(source) - 1, min(n_images, len(source))).round().long()
        pixels = torch.cat(
            [_some_pixels(source.batch(part), n_values // len(index)) for part in index.split(64)]
        )
        low, span, bounded = _range(pixels, source.dtype)
        unit = (pixels - low) / span  # (n_values, C)
        return cls(low, span, unit.mean(0), unit.std(0, correction=0).clamp(min=1e-3), bounded)

    def to_unit(self, images: Tensor) -> Tensor:
        """(n, C, H, W) pixels as given -> float32 unit values."""
        low, span = (t.to(images.device)[:, None, None] for t in (self.low, self.span))
        return images.to(torch.float32).sub(low).div_(span)


class Standardize(torch.nn.Module):
    """Pixels as the user gives them -> what the backbone was trained on: the first part of an encoder."""

    def __init__(self, pixels: PixelScale):
        super().__init__()
        shape = (-1, 1, 1)
        self.register_buffer("mean", (pixels.low + pixels.mean * pixels.span).reshape(shape))
        self.register_buffer("std", (pixels.std * pixels.span).reshape(shape))

    def forward(self, images: Tensor) -> Tensor:
        return (images.to(torch.float32) - self.mean) / self.std


# ---------------------------------------------------------------------------- any form


def _open(estimator: BaseEstimator, X: Any, *, reset: bool) -> Source:
    if isinstance(X, str | os.PathLike | Image.Image):
        raise ValueError(
            f"X is a single {'image' if isinstance(X, Image.Image) else 'path'}, {X!r}: give a list of them. "
            f"The files of a folder: sorted(pathlib.Path(folder).glob('*.png'))."
        )
    if _is_list_of_paths(X):
        return _open_files(estimator, X, reset=reset)
    images = _validated_tensor(estimator, X, reset=reset)  # (n, C, H, W)
    _, channels, height, width = images.shape
    if reset:
        _check_agrees(estimator.image_shape, (height, width, channels))
        estimator.image_shape_ = (height, width, channels)
        estimator.image_size_ = training_size(estimator.image_size, (height, width))
    return ArraySource(images)


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
    return ArraySource(torch.cat([_resize(source.batch(part), size) for part in index.split(256)]))


# ---------------------------------------------------------------------------- arrays


def _validated_tensor(estimator: BaseEstimator, X: Any, *, reset: bool) -> Tensor:
    """(n, C, H, W), uint8 or float32, of anything that is held in memory."""
    rows, shape, channels_first = _as_rows(X, estimator.image_shape)
    if not reset:
        _check_fitted_shape(estimator, shape, channels_first)
    dtype = np.uint8 if getattr(rows, "dtype", None) == np.uint8 else np.float32
    rows = validate_data(estimator, rows, reset=reset, dtype=dtype, ensure_min_samples=2 if reset else 1)
    images = torch.from_numpy(_writeable(rows)).reshape(len(rows), *_image_shape(shape, rows.shape[1]))
    if channels_first:
        return images
    return images.movedim(-1, 1)  # a view: channels-last memory, as convolutions like it


def _as_rows(X: Any, image_shape: tuple[int, ...] | None) -> tuple[Any, tuple[int, ...], bool]:
    """(rows of shape (n, H*W*C), shape of one image, whether that shape is (C, H, W))."""
    if isinstance(X, torch.Tensor):
        if X.ndim != 4:
            raise ValueError(f"A torch tensor of images is (n, C, H, W); got the shape {tuple(X.shape)}.")
        X = X.detach().cpu()
        X = X if X.dtype == torch.uint8 else X.to(torch.float32)
        return X.flatten(1).numpy(), tuple(X.shape[1:]), True
    if image_shape is not None and not _holds_images(X):
        return X, _checked_image_shape(image_shape), False
    array = _stacked(X) if _is_list_of_images(X) else X if hasattr(X, "shape") else np.asarray(X)
    _check_image_axes(array)
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
    numbers = isinstance(image_shape, Sequence) and all(isinstance(side, Integral) for side in image_shape)
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
    if len(shape) == 4 and shape[1] in (1, 3, 4) and shape[3] > 4 and (shape[2] == shape[3] or shape[3] > 16):
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


def _stacked(images: Sequence) -> np.ndarray:
    """One array of a list of PIL images or arrays, all of one shape."""
    arrays = [_array_of(image) for image in images]
    if all(array.ndim < 2 for array in arrays):
        return np.asarray(images) if arrays else np.empty((0, 1, 1))  # nested lists of numbers
    for i, array in enumerate(arrays):
        if array.ndim not in (2, 3):
            raise ValueError(
                f"Item {i} of X is {images[i]!r}, no image. Give images alone, as arrays or PIL images, or "
                f"paths alone."
            )
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


def _array_of(image: Any) -> np.ndarray:
    if isinstance(image, Image.Image):  # as its file would be read: palette, transparency, rotation
        return _pixels_of(image, 1 if _is_grey(image) else 3)
    return np.asarray(image)


def _n_channels(array: np.ndarray) -> int:
    return array.shape[2] if array.ndim == 3 else 1


def _writeable(rows: np.ndarray) -> np.ndarray:
    """torch warns about read-only memory (joblib's memory maps), which it has no way to respect."""
    rows = np.ascontiguousarray(rows)
    return rows if rows.flags.writeable else rows.copy()


# ---------------------------------------------------------------------------- files


def _is_list_of_paths(X: Any) -> bool:
    if not (isinstance(X, list | tuple) or getattr(X, "ndim", None) == 1) or len(X) == 0:
        return False
    return all(isinstance(x, str | os.PathLike) for x in X)


def _open_files(estimator: BaseEstimator, X: Any, *, reset: bool) -> FileSource:
    paths = [Path(x) for x in X]
    _check_files(paths)
    if not reset:
        _check_files_suit(estimator, paths)
        return FileSource(paths, estimator.image_size_, estimator.image_shape_[2], estimator._pixel_dtype)
    if len(paths) < 2:
        raise ValueError(f"Found 1 image, while a minimum of 2 is required by {type(estimator).__name__}.")
    headers = _headers(paths)
    sizes = [min(header.size) for header in headers]
    typical = int(np.median(sizes))
    channels = 1 if all(_is_grey(header) for header in headers) else 3
    dtype = torch.float32 if any(_is_deep(header) for header in headers) else torch.uint8
    estimator.image_size_ = training_size(estimator.image_size, (typical, typical))
    estimator.image_shape_ = (*estimator.image_size_, channels)
    for name in ("n_features_in_", "feature_names_in_"):  # of an earlier fit on arrays
        vars(estimator).pop(name, None)
    return FileSource(paths, estimator.image_size_, channels, dtype)


def _check_files(paths: Sequence[Path]) -> None:
    for position, path in enumerate(paths):
        where = f"{path} (position {position} of {len(paths)})"
        if path.is_dir():
            raise IsADirectoryError(f"{where} is a folder. Give the paths of the images in it.")
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {where}.")


def _check_files_suit(estimator: BaseEstimator, paths: Sequence[Path]) -> None:
    """Whether files can be what an estimator takes that knows arrays so far, if it does."""
    if not hasattr(estimator, "n_features_in_"):
        return
    name, channels = type(estimator).__name__, estimator.image_shape_[2]
    if channels not in (1, 3):
        raise ValueError(f"{name} was fitted on {channels} channels; image files are read as 1 or 3.")
    if estimator._pixel_dtype == torch.float32 and not all(map(_is_deep, _headers(paths))):
        raise ValueError(
            f"These files have 8 bits a channel (0 to 255), but {name} was fitted on an array of another "
            f"dtype than uint8, whose units may be others. Read the files into such an array first."
        )


def _headers(paths: Sequence[Path]) -> list[Image.Image]:
    """Up to 64 files, closed again: their size and mode are known, their pixels are not."""
    headers = []
    for i in np.unique(np.linspace(0, len(paths) - 1, 64).astype(int)):
        with _opened(paths[i], i) as header:
            headers.append(header)
    return headers


def _opened(path: Path, position: int) -> Image.Image:
    try:
        return Image.open(path)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} (position {position}) cannot be read as an image: {error}") from error


def _read(path: Path, position: int, channels: int) -> np.ndarray:
    with _opened(path, position) as image:
        try:
            return _pixels_of(image, channels)
        except Exception as error:  # OSError, SyntaxError, struct.error, ...: every decoder has its own
            raise ValueError(f"{path} (position {position}) is damaged: {error}") from error


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def _pixels_of(image: Image.Image, channels: int) -> np.ndarray:
    """(H, W, channels), uint8, or float32 where the file has more than 8 bits."""
    image = ImageOps.exif_transpose(image)
    if _is_deep(image):
        # Not convert(): Pillow clips 16-bit values at 255.
        deep = np.asarray(image).astype(np.float32)[:, :, None]
        return np.repeat(deep, channels, axis=2)
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(page, image.convert("RGBA"))
    pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


# ---------------------------------------------------------------------------- pixels


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resized and centred, in the images' own dtype."""
    resized = resize_and_center(images.to(torch.float32), size)
    return resized.round().clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else resized


def _some_pixels(images: Tensor, per_image: int) -> Tensor:
    """Evenly spaced pixels of each image, float32, of shape (some, C)."""
    flat = images.flatten(2)  # (n, C, H*W)
    stride = max(1, flat.shape[2] // max(1, per_image))
    return flat[:, :, ::stride].movedim(1, 2).flatten(0, 1).to(torch.float32)


def _range(pixels: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, bool]:
    """(low, span, bounded) of pixels (n, C); see PixelScale."""
    zero, one = torch.zeros(pixels.shape[1]), torch.ones(pixels.shape[1])
    if dtype == torch.uint8:
        return zero, 255 * one, True
    if pixels.min() >= 0 and pixels.max() <= 1:
        return zero, one, True
    values = pixels.numpy().reshape(-1, 1) if pixels.shape[1] == 3 else pixels.numpy()
    low, high = torch.from_numpy(np.percentile(values, [0.1, 99.9], axis=0)).to(torch.float32)
    span = (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    return low.expand_as(zero), torch.where(high > low, span, 1.0).expand_as(one), False


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
