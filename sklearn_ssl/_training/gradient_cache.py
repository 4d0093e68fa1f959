"""Gradient cache: exact gradients of a loss on a large batch, computed one micro-batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn

from sklearn_ssl._hardware.ambient import rng_state, set_rng_state


class InParts:
    """Wrapper that applies a network to a batch in several parts, without gradient.

    Parameters
    ----------
    network : Student or Teacher
        Network to apply.
    parts : int
        Number of parts, of nearly equal size. BatchNorm normalizes each part separately.
    """

    def __init__(self, network: nn.Module, parts: int):
        self.network = network
        self.parts = parts

    @torch.no_grad()
    def __call__(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Return the projections [z, ...], one tensor of shape (n, dim) for each view."""
        return self._joined([self.network(part) for part in self._split(views)])

    @property
    def heads(self) -> nn.ModuleDict:
        """The averages of the loss's modules, of a teacher; they take projections, not images."""
        return self.network.heads  # type: ignore[return-value]  # Teacher's

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"with micro_batches={self.parts} a loss can only call student(views) and teacher(views), but "
            f"this one uses `.{name}`. Set micro_batches=1, and a smaller batch_size if memory is short"
        )

    def _split(self, views: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """Return all views of the first part of the images, then of the second, and so on."""
        return list(zip(*(view.tensor_split(self.parts) for view in views), strict=True))

    def _joined(self, z: list[list[Tensor]]) -> list[Tensor]:
        return [torch.cat(parts) for parts in zip(*z, strict=True)]


class GradientCache(InParts):
    """Student for large batches; holds the activations of only one part in memory at a time.

    The loss receives projections that are leaves of the autograd graph. `loss.backward()` stores the gradient
    of the loss in them. `backward` then runs each part through the network again, and propagates this
    gradient to the weights. The sum over the parts is exactly the gradient of the large batch, except that
    BatchNorm uses the statistics of each part.

    References
    ----------
    Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP 2021,
    arXiv:2101.06983.
    """

    def __init__(self, network: nn.Module, parts: int):
        super().__init__(network, parts)
        self.calls: list[_Call] = []

    def __call__(self, views: Sequence[Tensor]) -> list[Tensor]:
        before = rng_state(views[0].device)
        z = [each.requires_grad_() for each in super().__call__(views)]
        self.calls.append(_Call(views, z, before))
        return z

    def backward(self) -> None:
        """Propagate the gradient to the network's weights; call it after `loss.backward()`."""
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        for call in self.calls:
            self._backward_of(call)
        # The first pass has updated BatchNorm's running statistics; the second must not update them again.
        for buffer, before in zip(self.network.buffers(), buffers, strict=True):
            buffer.copy_(before)

    def _backward_of(self, call: _Call) -> None:
        # Dropout must draw the same masks as in the first pass.
        set_rng_state(call.rng_state, call.views[0].device)
        gradients = [torch.zeros_like(z) if z.grad is None else z.grad for z in call.z]
        for part, gradient in zip(self._split(call.views), self._split(gradients), strict=True):
            torch.autograd.backward(self.network(part), list(gradient))


@dataclass
class _Call:
    """Inputs, outputs and random state of one call of the network by the loss."""

    views: Sequence[Tensor]
    z: list[Tensor]
    rng_state: tuple[Tensor, ...]
