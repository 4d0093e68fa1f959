"""Image sources: images by index, all of one size, channel count and dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor


class Source(Protocol):
    """Images by number, all of one size, channel count and dtype."""

    size: tuple[int, int]  # (H, W)
    channels: int
    dtype: torch.dtype  # uint8 or float32
    device: torch.device  # of the batches
    lazy: bool  # whether a batch is read when it is asked for
    bad: dict[int, str]  # what could not be read so far, where that is no error, and why

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> Tensor:
        """Images of shape (len(index), channels, *size)."""
        ...

    def stand_ins(self, index: Tensor) -> Tensor:
        """The numbers of the images that `batch` gave: others in place of bad ones."""
        ...

    def identity(self) -> Any:
        """What differs where the images do, for a fingerprint."""
        ...


@dataclass
class ArraySource:
    """Images in memory: one tensor of shape (n, channels, H, W)."""

    images: Tensor
    lazy: ClassVar[bool] = False
    bad: ClassVar[dict[int, str]] = {}

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

    def stand_ins(self, index: Tensor) -> Tensor:
        return index

    def identity(self) -> Tensor:
        return self.images


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

    def stand_ins(self, index: Tensor) -> Tensor:
        from_first, others = index < len(self.first), index.clone()
        others[from_first] = self.first.stand_ins(index[from_first])
        others[~from_first] = self.second.stand_ins(index[~from_first] - len(self.first)) + len(self.first)
        return others

    @property
    def bad(self) -> dict[int, str]:
        second = dict(self.second.bad)  # a copy: a thread that reads may add to it meanwhile
        return {**self.first.bad, **{p + len(self.first): why for p, why in second.items()}}

    def identity(self) -> tuple:
        return self.first.identity(), self.second.identity()


def to_device(source: Source, device: torch.device) -> Source:
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
