"""Where torch's operations are slow on a CPU, ours in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from sklearn_ssl.attention import attention_as_products, is_short
from sklearn_ssl.convolution import computing_dtype, conv2d_as_product, is_small


class FasterOperations(TorchFunctionMode):
    """While open, `conv2d` to small maps and the attention of few tokens are computed as matrix products.

    The last layers of a ResNet make 8x8 to 1x1 pixels of small images, where oneDNN's kernels, that of the
    weights' gradient above all, reach between a half and a few percent of what its matrix product does. The
    gradient of torch's attention in bf16 takes half the time of a training step of a vision transformer.
    All else is as it was.
    """

    def __torch_function__(
        self, function: Callable, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.conv2d and not kwargs and is_small(*args):
            x, weight, *rest = args
            dtype = computing_dtype(x)
            return conv2d_as_product(x.to(dtype), weight.to(dtype), *rest[:3])
        if function is F.scaled_dot_product_attention and not kwargs and is_short(*args):
            return attention_as_products(*args[:3])
        return function(*args, **kwargs)
