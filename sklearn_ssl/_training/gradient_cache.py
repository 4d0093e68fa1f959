"""A large batch in little memory: its projections first, then its gradient part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn

from sklearn_ssl._hardware.ambient import rng_state, set_rng_state


class InParts:
    """A network that takes a batch in several parts, one after the other, without gradient.

    Parameters
    ----------
    network : Student or Teacher
    parts : int
        As many parts, of nearly equal size. BatchNorm sees a part at a time.
    """

    def __init__(self, network: nn.Module, parts: int):
        self.network = network
        self.parts = parts

    @torch.no_grad()
    def __call__(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Projections [z, ...], one tensor of shape (n, dim) for each view."""
        return self._joined([self.network(part) for part in self._split(views)])

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"with micro_batches={self.parts} a loss has student(views) and teacher(views) only, but this "
            f"one uses `.{name}`. Set micro_batches=1, and a smaller batch_size if memory is short"
        )

    def _split(self, views: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """The views, a part of the images at a time."""
        return list(zip(*(view.tensor_split(self.parts) for view in views), strict=True))

    def _joined(self, z: list[list[Tensor]]) -> list[Tensor]:
        return [torch.cat(parts) for parts in zip(*z, strict=True)]


class GradientCache(InParts):
    """A student for a loss on large batches; only one part's activations are in memory at a time.

    The loss gets projections that are leaves of the graph. After `loss.backward()` they hold its gradient,
    and `backward` takes each part through the network once more to carry it on to the weights. The sum over
    the parts is the large batch's gradient, exactly, with BatchNorm's statistics taken over each part.

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
        """Add the gradient to the network's weights; after `loss.backward()`."""
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        for call in self.calls:
            self._backward_of(call)
        # BatchNorm's running statistics have seen the batch already.
        for buffer, before in zip(self.network.buffers(), buffers, strict=True):
            buffer.copy_(before)

    def _backward_of(self, call: _Call) -> None:
        # Dropout and the like must fall as they did the first time.
        set_rng_state(call.rng_state, call.views[0].device)
        gradients = [torch.zeros_like(z) if z.grad is None else z.grad for z in call.z]
        for part, gradient in zip(self._split(call.views), self._split(gradients), strict=True):
            torch.autograd.backward(self.network(part), list(gradient))


@dataclass
class _Call:
    """What a loss asked the network for, and what it got."""

    views: Sequence[Tensor]
    z: list[Tensor]
    rng_state: tuple[Tensor, ...]
