"""Replacements for torch operations that are slow on CPUs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sklearn_ssl._hardware.convolution import computing_dtype, conv2d_as_product, is_small

# Maximum number of tokens for which the matrix of all pairs is kept in memory; torch's kernels compute longer
# sequences.
MAX_TOKENS = 512


def is_short(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    *rest: Any,
) -> bool:
    """Return whether `attention_as_products` supports this attention and is faster."""
    needs_gradient = torch.is_grad_enabled() and any(each.requires_grad for each in (query, key, value))
    return (
        query.device.type == "cpu"
        and needs_gradient  # torch's forward kernels are as fast; their gradient in bf16 is not
        and attn_mask is None
        and dropout_p == 0.0
        and not any(rest)
        and max(query.shape[-2], key.shape[-2]) <= MAX_TOKENS
    )


def attention_as_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute `scaled_dot_product_attention` of tensors (..., tokens, width)."""
    similarity = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    weights = similarity.softmax(dim=-1, dtype=torch.promote_types(similarity.dtype, torch.float32))
    return weights.to(value.dtype) @ value


class FasterOperations(TorchFunctionMode):
    """Mode in which `conv2d` to small maps and attention of few tokens are computed as matrix products.

    The last layers of a ResNet reduce small images to 8x8 to 1x1 pixels, where oneDNN's kernels, above all
    that of the weights' gradient, reach between a half and a few percent of the throughput of its matrix
    product.
    The gradient of torch's attention in bf16 takes half the time of a training step of a vision transformer.
    All other operations are unchanged.
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
