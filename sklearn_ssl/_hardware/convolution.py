"""Convolutions on feature maps of a few pixels as matrix products, on a CPU several times faster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Pair = tuple[int, int]  # (vertical, horizontal)
# Maximum number of output pixels for which the product is faster (`benchmarks/layers.py`), by dtype; larger
# maps are left to oneDNN's kernels. In bf16 at 8x8 pixels only the gradient of the weights is faster: without
# one, the lower limit applies.
LARGEST_MAP = {torch.bfloat16: 64, torch.float32: 16}
# Maximum number of output pixels if no gradient of the weights is computed.
LARGEST_MAP_FORWARD = 16
# Minimum number of input and output channels for which the product is faster.
MIN_CHANNELS = 64
# Cost of building the dense matrix, in images multiplied by it.
DENSE_BUILD_COST = 192


def is_small(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> bool:
    """Return whether `conv2d_as_product` supports this convolution and is faster."""
    return (
        x.device.type == "cpu"
        and x.ndim == 4
        and min(weight.shape[:2]) >= MIN_CHANNELS
        and isinstance(stride, tuple)
        and isinstance(padding, tuple)
        and dilation in (1, (1, 1))
        and groups == 1
        and math.prod(map_size(x, weight, stride, padding)) <= largest_map(x, weight)
    )


def largest_map(x: Tensor, weight: Tensor) -> int:
    """Return the maximum number of output pixels for which the product is faster."""
    limit = LARGEST_MAP.get(computing_dtype(x), 0)
    return limit if torch.is_grad_enabled() and weight.requires_grad else min(limit, LARGEST_MAP_FORWARD)


def map_size(x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Pair:
    """Return (height, width) of the output of a convolution."""
    sides = zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)
    height, width = ((side + 2 * pad - kernel) // step + 1 for side, kernel, step, pad in sides)
    return height, width


def computing_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which a convolution of x is computed: that of autocast if it is enabled."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def conv2d_as_product(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
    """Compute `torch.conv2d`, with the result in channels-last memory format.

    Parameters
    ----------
    x : Tensor of shape (n, c, h, w)
        Input maps.
    weight : Tensor of shape (d, c, kh, kw)
        Filters.
    bias : Tensor of shape (d,) or None
        Bias of each output channel.
    stride, padding : tuple of two ints
        Vertical and horizontal stride and padding.

    Returns
    -------
    Tensor of shape (n, d, oh, ow)
        Output maps.
    """
    n, _, h, w = x.shape
    kh, kw = weight.shape[2:]
    pixels = x.permute(0, 2, 3, 1)  # (n, h, w, c)
    filters = weight.permute(0, 2, 3, 1)  # (d, kh, kw, c)
    # Compare the multiplications per output pixel and channel pair: the dense matrix multiplies all h * w
    # inputs, zeros included, the other form the kh * kw inputs of each neighborhood.
    if h * w * (n + DENSE_BUILD_COST) < kh * kw * n:
        out = dense_product(pixels, filters, stride, padding)
    else:
        out = NeighborhoodProduct.apply(pixels, filters, stride, padding)
    return (out if bias is None else out + bias.to(out.dtype)).permute(0, 3, 1, 2)


# --- Product of the neighborhood of each output pixel (im2col) with the filters ----------------------------


class NeighborhoodProduct(torch.autograd.Function):
    """Convolution of pixels (n, h, w, c) with filters (d, kh, kw, c) -> (n, oh, ow, d).

    `backward` gathers the neighborhoods again: saved, they would take up to kh * kw times the memory of the
    pixels.
    """

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, filters: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(pixels, filters)
        ctx.stride, ctx.padding = stride, padding
        rows = neighborhoods(pixels, filters.shape[1:3], stride, padding)  # (n, oh, ow, kh, kw, c)
        return rows.flatten(3) @ filters.flatten(1).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pixels, filters = ctx.saved_tensors
        to_pixels, to_filters = ctx.needs_input_grad[:2]
        return (
            pixels_gradient(gradient, pixels, filters, ctx.stride, ctx.padding) if to_pixels else None,
            filters_gradient(gradient, pixels, filters, ctx.stride, ctx.padding) if to_filters else None,
            None,
            None,
        )


def neighborhoods(pixels: Tensor, kernel: Sequence[int], stride: Pair, padding: Pair) -> Tensor:
    """Gather the receptive field of each output pixel: (n, h, w, c) -> (n, oh, ow, kh, kw, c), a copy."""
    padded = F.pad(pixels, (0, 0, padding[1], padding[1], padding[0], padding[0]))
    windows = padded.unfold(1, kernel[0], stride[0]).unfold(2, kernel[1], stride[1])  # (n, oh, ow, c, kh, kw)
    return windows.permute(0, 1, 2, 4, 5, 3).contiguous()


def filters_gradient(
    gradient: Tensor, pixels: Tensor, filters: Tensor, stride: Pair, padding: Pair
) -> Tensor:
    """Return the gradient by the filters, (d, kh, kw, c), from that by the output, (n, oh, ow, d)."""
    rows = neighborhoods(pixels, filters.shape[1:3], stride, padding).flatten(3).flatten(0, 2)
    return (gradient.flatten(0, 2).T @ rows).view(filters.shape)


def pixels_gradient(gradient: Tensor, pixels: Tensor, filters: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Return the gradient by the pixels, (n, h, w, c), from that by the output, (n, oh, ow, d)."""
    if stride == (1, 1):  # itself a convolution, with the filters rotated by 180 degrees
        kernel = filters.shape[1:3]
        rows = neighborhoods(
            gradient, kernel, stride, (kernel[0] - 1 - padding[0], kernel[1] - 1 - padding[1])
        )
        turned = filters.flip(1, 2).permute(1, 2, 0, 3).flatten(0, 2)  # (kh * kw * d, c)
        return rows.flatten(3) @ turned
    return scatter_neighborhoods(gradient @ filters.flatten(1), pixels, filters.shape[1:3], stride, padding)


def scatter_neighborhoods(
    rows: Tensor, pixels: Tensor, kernel: Sequence[int], stride: Pair, padding: Pair
) -> Tensor:
    """Add up neighborhoods, (n, oh, ow, kh * kw * c), at their positions (col2im): (n, h, w, c)."""
    n, h, w, c = pixels.shape
    oh, ow = rows.shape[1:3]
    rows = rows.unflatten(3, (*kernel, c))
    total = rows.new_zeros(n, h + 2 * padding[0], w + 2 * padding[1], c)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            total[:, i : i + stride[0] * oh : stride[0], j : j + stride[1] * ow : stride[1]] += rows[
                :, :, :, i, j
            ]
    return total[:, padding[0] : padding[0] + h, padding[1] : padding[1] + w]


# --- Product with one dense matrix, cheap if the kernel covers the map --------------------------------------


def dense_product(pixels: Tensor, filters: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Convolve pixels (n, h, w, c) with filters (d, kh, kw, c) -> (n, oh, ow, d)."""
    sides = zip(pixels.shape[1:3], filters.shape[1:3], stride, padding, strict=True)
    rows, columns = (tap_between(*side) for side in sides)
    out = pixels.flatten(1) @ dense_matrix(filters, rows, columns)  # (n, oh * ow * d)
    return out.view(len(pixels), rows.shape[1], columns.shape[1], len(filters))


def tap_between(length: int, kernel: int, stride: int, padding: int) -> Tensor:
    """Return the kernel's tap from each input to each output position, (length, out); -1 for none."""
    out = (length + 2 * padding - kernel) // stride + 1
    tap = torch.arange(length)[:, None] - stride * torch.arange(out) + padding
    return tap.masked_fill((tap < 0) | (tap >= kernel), -1)


def dense_matrix(filters: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the matrix (h * w * c, oh * ow * d) of a convolution."""
    d, kh, kw, c = filters.shape
    (h, oh), (w, ow) = rows.shape, columns.shape
    tap = rows[:, None, :, None] * kw + columns[:, None, :]  # (h, w, oh, ow)
    reached = (rows[:, None, :, None] >= 0) & (columns[:, None, :] >= 0)
    tap = tap.masked_fill(~reached, kh * kw)
    # An additional tap of zeros, for positions that the kernel does not connect.
    taps = F.pad(filters.permute(1, 2, 3, 0).reshape(kh * kw, c, d), (0, 0, 0, 0, 0, 1))
    # Not taps[tap]: on CPUs the gradient of indexing adds up in the order in which threads come.
    blocks = taps.index_select(0, tap.flatten()).view(h * w, oh * ow, c, d)
    return blocks.permute(0, 2, 1, 3).reshape(h * w * c, oh * ow * d)
