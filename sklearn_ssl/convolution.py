"""Convolutions on maps of a few pixels, as matrix products: on a CPU several times faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Pixels of the largest map that is faster this way; larger ones are left to oneDNN's kernels. In float32
# only the dense form pays (maps smaller than the kernel): on 4x4 pixels both take the same time.
LARGEST_MAP = {torch.bfloat16: 16, torch.float32: 8}
FEWEST_CHANNELS = 64
# Building the dense form costs as much as putting this many images through it.
BUILDING = 192


class SmallMapConvolutions(TorchFunctionMode):
    """While open, `conv2d` on small maps is computed by `conv2d_as_product`; all else is as it was.

    The last layers of a ResNet see 4x4, 2x2 or 1x1 pixels of small images, where oneDNN's kernels reach a
    few percent of what its matrix product does.
    """

    def __torch_function__(
        self, function: Callable, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.conv2d and not kwargs and is_small(*args):
            x, weight, *rest = args
            dtype = computing_dtype(x)
            return conv2d_as_product(x.to(dtype), weight.to(dtype), *rest[:3])
        return function(*args, **kwargs)


def is_small(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    """Whether `conv2d_as_product` can, and should, do this convolution."""
    return (
        x.device.type == "cpu"
        and x.ndim == 4
        and x.shape[2] * x.shape[3] <= LARGEST_MAP.get(computing_dtype(x), 0)
        and min(weight.shape[:2]) >= FEWEST_CHANNELS
        and isinstance(stride, tuple)
        and isinstance(padding, tuple)
        and dilation in (1, (1, 1))
        and groups == 1
    )


def computing_dtype(x: Tensor) -> torch.dtype:
    """In what a convolution of x is computed: autocast's type where it is on."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def conv2d_as_product(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """What `torch.conv2d` returns, in channels-last memory.

    Parameters
    ----------
    x : Tensor of shape (n, c, h, w)
    weight : Tensor of shape (d, c, kh, kw)
    bias : Tensor of shape (d,) or None
    stride, padding : tuple of two ints

    Returns
    -------
    Tensor of shape (n, d, oh, ow)
    """
    n, c, h, w = x.shape
    d, _, kh, kw = weight.shape
    pixels = x.permute(0, 2, 3, 1)  # (n, h, w, c)
    taps = tap_between(h, kh, stride[0], padding[0]), tap_between(w, kw, stride[1], padding[1])
    oh, ow = taps[0].shape[1], taps[1].shape[1]
    if h * w * (n + BUILDING) < kh * kw * n:
        rows = pixels.reshape(n, h * w * c)
        out = rows @ dense_matrix(weight, *taps)  # (n, oh * ow * d)
    else:
        out = neighbourhoods(pixels, (kh, kw), stride, padding, (oh, ow)) @ flat_filters(weight)
    out = out.reshape(n, oh, ow, d)
    return (out if bias is None else out + bias).permute(0, 3, 1, 2)


def tap_between(length: int, kernel: int, stride: int, padding: int) -> Tensor:
    """(length, out): which tap of the kernel leads from each input to each output place; -1 for none."""
    out = (length + 2 * padding - kernel) // stride + 1
    tap = torch.arange(length)[:, None] - stride * torch.arange(out) + padding
    return tap.masked_fill((tap < 0) | (tap >= kernel), -1)


def dense_matrix(weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The convolution as one matrix, (h * w * c, oh * ow * d): cheap where the kernel covers the map."""
    d, c, kh, kw = weight.shape
    (h, oh), (w, ow) = rows.shape, columns.shape
    tap = rows[:, None, :, None] * kw + columns[:, None, :]  # (h, w, oh, ow)
    reached = (rows[:, None, :, None] >= 0) & (columns[:, None, :] >= 0)
    tap = tap.masked_fill(~reached, kh * kw)
    # One tap more, of zeros, for the places that do not see each other.
    filters = F.pad(weight.permute(2, 3, 1, 0).reshape(kh * kw, c, d), (0, 0, 0, 0, 0, 1))
    blocks = filters[tap.reshape(h * w, oh * ow)]  # (h * w, oh * ow, c, d)
    return blocks.permute(0, 2, 1, 3).reshape(h * w * c, oh * ow * d)


def neighbourhoods(
    pixels: Tensor, kernel: Sequence, stride: Sequence, padding: Sequence, out: Sequence
) -> Tensor:
    """What each output place sees: (n, h, w, c) -> (n * oh * ow, kh * kw * c)."""
    padded = F.pad(pixels, (0, 0, padding[1], padding[1], padding[0], padding[0]))
    (kh, kw), (sh, sw), (oh, ow) = kernel, stride, out
    shifted = [
        padded[:, i : i + sh * (oh - 1) + 1 : sh, j : j + sw * (ow - 1) + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]
    return torch.cat(shifted, dim=3).flatten(0, 2)


def flat_filters(weight: Tensor) -> Tensor:
    """(d, c, kh, kw) -> (kh * kw * c, d)."""
    return weight.permute(2, 3, 1, 0).flatten(0, 2)
