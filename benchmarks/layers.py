"""Milliseconds of convolutions and attention on a CPU, by library kernels and as matrix products.

    python benchmarks/layers.py

For 256 views of 32 pixels in a ResNet-18 with the 3x3 stem: forward, gradient of the input and gradient of
the weights, by oneDNN's convolution and by `conv2d_as_product`; medians of --repeats, interleaved.
`LARGEST_MAP` in `sklearn_ssl._hardware.convolution` is set from this table. Between two measurements, 160 MB
are written, so that the caches are in the same state as during a training step.

Then the attention of a vision transformer (three heads of width 64), forward, and forward and backward, by
torch's `scaled_dot_product_attention` and by `sklearn_ssl._hardware.cpu_kernels`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from side_by_side import machine, seconds

from sklearn_ssl._hardware.allocator import retain_freed_memory
from sklearn_ssl._hardware.convolution import NeighborhoodProduct, filters_gradient, pixels_gradient
from sklearn_ssl._hardware.cpu_kernels import attention_as_products

LAYERS = [  # channels in, channels out, side of the map in pixels, stride
    (64, 64, 32, 1),
    (64, 128, 32, 2),
    (128, 128, 16, 1),
    (128, 256, 16, 2),
    (256, 256, 8, 1),
    (256, 512, 8, 2),
    (512, 512, 4, 1),
]
PADDING = (1, 1)
TOKENS = (17, 65, 197)  # the class token, and 4 x 4, 8 x 8 or 14 x 14 patches
DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--views", type=int, default=256)
    parser.add_argument("--precisions", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print(machine())
    parts = ("forward", "input", "weights")
    print(f"\n{'':28}" + "".join(f"{part:>20}" for part in parts) + "   (ms: oneDNN, product)")
    for precision in args.precisions:
        for layer in LAYERS:
            row = measure(*layer, args.views, DTYPES[precision], args.repeats)
            cells = "".join(f"{row[part]:10.1f}{row[part + ' as product']:10.1f}" for part in parts)
            c, d, side, stride = layer
            print(f"{precision:8}{c:4} ->{d:4}, {side:2} px, /{stride}  {cells}", flush=True)
    print(f"\n{'':28}{'forward':>20}{'and backward':>20}   (ms: torch, products)")
    for precision in args.precisions:
        for tokens in TOKENS:
            row = measure_attention(tokens, args.views, DTYPES[precision], args.repeats)
            cells = "".join(f"{one:10.1f}{other:10.1f}" for one, other in row)
            print(f"{precision:8}{tokens:4} tokens{'':9}{cells}", flush=True)


def measure_attention(tokens: int, n: int, dtype: torch.dtype, repeats: int) -> list[tuple[float, float]]:
    """Return median milliseconds of both implementations, forward only, and forward and backward."""
    draw = (torch.randn(n, 3, tokens, 64).to(dtype) for _ in range(3))
    qkv = [each.requires_grad_() for each in draw]
    ways = (F.scaled_dot_product_attention, attention_as_products)

    def forward(way: Callable) -> None:
        with torch.no_grad():
            way(*qkv)

    def backward(way: Callable) -> None:
        out = way(*qkv)
        torch.autograd.grad(out, qkv, torch.ones_like(out))

    rows = []
    with retain_freed_memory():
        for part in (forward, backward):
            times: list[list[float]] = [[], []]
            for _ in range(repeats + 1):  # the first is not counted
                for taken, way in zip(times, ways, strict=True):
                    taken.append(seconds(lambda part=part, way=way: part(way)))
            rows.append(tuple(1000 * float(np.median(taken[1:])) for taken in times))
    return rows


def measure(
    c: int, d: int, side: int, stride: int, n: int, dtype: torch.dtype, repeats: int
) -> dict[str, float]:
    """Return median milliseconds of each part by both implementations."""
    x = torch.randn(n, c, side, side).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(d, c, 3, 3).to(dtype).contiguous(memory_format=torch.channels_last)
    strides = (stride, stride)
    gradient = torch.randn_like(torch.conv2d(x, weight, None, strides, PADDING))
    last = [each.permute(0, 2, 3, 1) for each in (gradient, x, weight)]  # channels last in shape, too

    def backward(*wanted: bool) -> Callable[[], object]:
        backward = torch.ops.aten.convolution_backward
        sizes = ([*strides], [*PADDING], [1, 1], False, [0, 0], 1)
        return lambda: backward(gradient, x, weight, None, *sizes, [*wanted, False])

    cases: dict[str, Callable[[], object]] = {
        "forward": lambda: torch.conv2d(x, weight, None, strides, PADDING),
        "forward as product": lambda: NeighborhoodProduct.apply(last[1], last[2], strides, PADDING),
        "input": backward(True, False),
        "input as product": lambda: pixels_gradient(*last, strides, PADDING),
        "weights": backward(False, True),
        "weights as product": lambda: filters_gradient(*last, strides, PADDING),
    }
    elsewhere = torch.zeros(40 * 2**20)
    times: dict[str, list[float]] = {name: [] for name in cases}
    with retain_freed_memory():
        for repeat in range(repeats + 1):
            for name, case in cases.items():
                elsewhere.add_(1)
                took = seconds(case)
                if repeat:  # the first is a warm-up
                    times[name].append(1000 * took)
    return {name: float(np.median(each)) for name, each in times.items()}


if __name__ == "__main__":
    main()
