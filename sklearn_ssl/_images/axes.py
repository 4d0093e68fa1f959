"""What an image is: the order of its axes, decided here for arrays, tensors, files and items of any kind."""

from __future__ import annotations

import numpy as np
from torch import Tensor

# Values of `reader__channels`.
ORDERS = ("auto", "first", "last")
# Numbers of channels up to which the last axis holds channels, whatever the others are (gray, RGB, RGBA).
MAX_USUAL_CHANNELS = 4
# Maximum number of bands of tiny square patches such as (3, 3, 13), which might also be (channels, 3, 13).
MAX_BANDS = 16
# Maximum number of channels of an image that is not square; hyperspectral ones have to be told.
MAX_CHANNELS = 32


def channels_come_first(
    shape: tuple[int, ...], order: str, *, is_tensor: bool = False, batch: str = ""
) -> bool:
    """Return whether an image, or a batch of them, is (channels, height, width).

    Parameters
    ----------
    shape : tuple of int
        Shape of an image, or of a batch.
    order : {"auto", "first", "last"}
        What the user says of it. "auto": as is usual for arrays (last) or tensors (first).
    is_tensor : bool, default=False
        Whether it is a torch tensor.
    batch : str, default=""
        Name of the batch in messages, whose first axis counts its images; "": a single image.

    Raises
    ------
    ValueError
        If "auto" is in doubt: the other order is likelier, or both are possible.
    """
    first, middle, last = shape[-3:]
    if order != "auto" or 0 in shape:
        return order == "first" or (order == "auto" and is_tensor)
    if not (_is_clear(last, middle, first) if is_tensor else _is_clear(first, middle, last)):
        raise ValueError(_both_readings(shape, is_tensor, batch))
    return is_tensor


def channels_last(image: np.ndarray | Tensor, order: str) -> np.ndarray:
    """Return an image as an array (height, width[, channels]); see `channels_come_first`."""
    array = array_of_tensor(image) if isinstance(image, Tensor) else image
    check_n_axes(array.shape)
    is_first = array.ndim == 3 and channels_come_first(
        array.shape, order, is_tensor=isinstance(image, Tensor)
    )
    return np.moveaxis(array, 0, -1) if is_first else array


def shape_channels_last(shape: tuple[int, ...], order: str) -> tuple[int, ...]:
    """Return the shape of an array (height, width[, channels]), given as `order` says."""
    check_n_axes(shape)
    is_first = len(shape) == 3 and channels_come_first(shape, order)
    return (*shape[1:], shape[0]) if is_first else shape


def array_of_tensor(image: Tensor) -> np.ndarray:
    """Convert a tensor to an array of the same shape; numpy has no bfloat16."""
    image = image.detach().cpu()
    return image.float().numpy() if str(image.dtype) == "torch.bfloat16" else image.numpy()


def check_n_axes(shape: tuple[int, ...]) -> None:
    """Raise ValueError unless an image has two or three axes."""
    if len(shape) not in (2, 3):
        raise ValueError(f"an image is (height, width) or (height, width, channels), but this one is {shape}")


def is_one_image(shape: tuple[int, ...]) -> bool:
    """Return whether an array (a, b, c) is rather one image (height, width, channels) than a gray images."""
    height, width, channels = shape
    if channels <= MAX_USUAL_CHANNELS:
        return min(height, width) > MAX_USUAL_CHANNELS
    return height == width > MAX_BANDS >= channels


def _is_clear(height: int, width: int, channels: int) -> bool:
    """Return whether (height, width, channels) is the only sensible order of these sides."""
    if channels <= MAX_USUAL_CHANNELS:
        return True
    if height == width:  # a cube may be a volume
        return channels != height and (height > MAX_USUAL_CHANNELS or channels <= MAX_BANDS)
    return channels <= MAX_CHANNELS and channels < height and channels != width


def _both_readings(shape: tuple[int, ...], is_tensor: bool, batch: str) -> str:
    """Return a message with both readings of a shape, and code for each."""
    a, b, c = shape[-3:]
    n = "n, " if batch else ""
    usual, other = (f"({n}{axes})" for axes in ("height, width, channels", "channels, height, width"))
    start = len(shape) - 3
    name = batch or "image"
    axes = (*range(start), start + 1, start + 2, start)  # from channels first to channels last
    code = f"{name}.transpose{axes}"
    suspect, number, kind = start, a, "numpy images are"
    if is_tensor:
        usual, other, suspect, number = other, usual, start + 2, c
        axes = (*range(start), start + 2, start, start + 1)
        code, kind = f"{name}.permute{axes}", "A torch tensor of images is" if batch else "A tensor is"
    whose = f"{batch} has" if batch else "it has" if not is_tensor else "it is a torch tensor that has"
    text = f"{whose} the shape {shape}: "
    if a == b == c:
        slices = f", which are the images of a volume ({name}.reshape(-1, {b}, {c}))" if batch else ""
        text += (
            f"a volume, or an image with as many channels as rows? {kind} {usual}, or slices (n, height, "
            f"width){slices}"
        )
    else:
        text += f"axis {suspect}, of length {number}, looks like channels. {kind} {usual}: {code}"
    return (
        f"{text}. Or say how to read it: reader__channels='last' for {a} x {b} pixels with {c} channels, "
        f"reader__channels='first' for {b} x {c} pixels with {a}"
    ) + ("." if batch else "")
