"""Image sources: images by index, all of the same size, number of channels and dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor


class Source(Protocol):
    """Interface of images by index, all of the same size, number of channels and dtype."""

    size: tuple[int, int]  # (H, W)
    channels: int
    dtype: torch.dtype  # uint8 or float32
    device: torch.device  # of the batches
    lazy: bool  # whether images are read when a batch is requested

    @property
    def bad(self) -> dict[int, str]:
        """Positions of the images found unreadable so far, and the reasons."""
        ...

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> Tensor:
        """Return images (len(index), channels, *size)."""
        ...

    def stand_ins(self, index: Tensor) -> Tensor:
        """Return the positions of the images that `batch` returns: others in place of unreadable ones."""
        ...

    def identity(self) -> Any:
        """Return values that change with the images, for a fingerprint."""
        ...


@dataclass
class ArraySource:
    """Images in memory, in a single tensor (n, channels, H, W)."""

    images: Tensor
    lazy = False
    bad: ClassVar[dict[int, str]] = {}

    def __post_init__(self) -> None:
        _, self.channels, height, width = self.images.shape
        self.size = (height, width)
        self.dtype, self.device = self.images.dtype, self.images.device

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor) -> Tensor:
        return self.images[index.to(self.images.device)]

    def stand_ins(self, index: Tensor) -> Tensor:
        return index

    def identity(self) -> Tensor:
        return self.images


@dataclass
class ConcatSource:
    """Concatenation of two sources."""

    first: Source
    second: Source
    device = torch.device("cpu")

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
        second = dict(self.second.bad)  # a copy, as a reading thread may add entries meanwhile
        return {**self.first.bad, **{p + len(self.first): why for p, why in second.items()}}

    def identity(self) -> tuple:
        return self.first.identity(), self.second.identity()


@dataclass
class SubsetSource:
    """Some images of a source.

    Parameters
    ----------
    whole : Source
        All images.
    rows : Tensor of shape (n,), int64
        Positions of the images, sorted.
    """

    whole: Source
    rows: Tensor

    def __post_init__(self) -> None:
        self.size, self.channels, self.dtype = self.whole.size, self.whole.channels, self.whole.dtype
        self.device, self.lazy = self.whole.device, self.whole.lazy

    @property
    def bad(self) -> dict[int, str]:
        where = {position: i for i, position in enumerate(self.rows.tolist())} if self.whole.bad else {}
        return {where[position]: why for position, why in list(self.whole.bad.items()) if position in where}

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, index: Tensor) -> Tensor:
        return self.whole.batch(self.rows[index])

    def stand_ins(self, index: Tensor) -> Tensor:
        if not self.whole.bad:
            return index
        others = torch.searchsorted(self.rows, self.whole.stand_ins(self.rows[index]))
        return others.clamp(max=len(self) - 1)  # a neighbor, if the one that stands in is not in the subset

    def identity(self) -> tuple:
        return self.whole.identity(), self.rows


def evenly_spaced(n: int, k: int) -> Tensor:
    """Return up to `k` evenly spaced positions among `n`, including the first and the last; int64."""
    # Integer arithmetic: torch.linspace computes in float32, and exceeds the last position from 2^24 on.
    gaps = max(1, min(k, n) - 1)
    return (torch.arange(min(k, n)) * (n - 1) + gaps // 2) // gaps


def whole_of(source: Source) -> Source:
    """Return the source that a subset was taken from, or the source itself."""
    return source.whole if isinstance(source, SubsetSource) else source


def to_device(source: Source, device: torch.device) -> Source:
    """Move images to a GPU if they are in memory and take at most a third of its free memory.

    Otherwise the source is returned unchanged, and each batch is copied to the device when it is needed.
    """
    if isinstance(source, SubsetSource):
        return SubsetSource(to_device(source.whole, device), source.rows)
    parts = [source.first, source.second] if isinstance(source, ConcatSource) else [source]
    in_memory = [part.images for part in parts if isinstance(part, ArraySource)]
    if device.type != "cuda" or len(in_memory) < len(parts):
        return source
    free, _ = torch.cuda.mem_get_info(device)
    if sum(images.nbytes for images in in_memory) > free / 3:
        return source
    return ArraySource(torch.cat([images.to(device) for images in in_memory]))
