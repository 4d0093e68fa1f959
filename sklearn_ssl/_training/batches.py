"""Batches of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sklearn_ssl._images.sources import Source
from sklearn_ssl._prefetch import prefetch
from sklearn_ssl._training.seeds import SHUFFLE, derive_seed


class TrainingSet(Dataset):
    """Images and, for a loss that wants them, labels."""

    def __init__(self, source: Source, y: Tensor | None = None):
        self.source = source
        self.y = y

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Tensor:
        return self.source.batch(torch.tensor([i]))[0]


class EpochBatches:
    """The batches of one epoch after another: (images, index, y), shuffled by (seed, epoch).

    Parameters
    ----------
    dataset : TrainingSet
    batch_size : int
    seed : int
    device : torch.device
        Device of the training, to which batches in memory are copied without waiting.
    steps_done : callable
        Return the number of steps of the whole training that are done: an epoch that was interrupted goes on
        after its last one.
    out_of_time : callable
        Return whether to end the epoch early.
    """

    def __init__(
        self,
        dataset: TrainingSet,
        batch_size: int,
        *,
        seed: int,
        device: torch.device,
        steps_done: Callable[[], int],
        out_of_time: Callable[[], bool],
    ):
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.steps_done = steps_done
        self.out_of_time = out_of_time

    def __len__(self) -> int:
        return max(1, len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        epoch, done = divmod(self.steps_done(), len(self))
        shuffle = torch.Generator().manual_seed(derive_seed(self.seed, SHUFFLE, epoch))
        order = torch.randperm(len(self.dataset), generator=shuffle)
        # A last incomplete batch is left out; another shuffle brings its images in.
        batches = order[: len(self) * self.batch_size].split(self.batch_size)
        with closing(self._all_read(batches[done:])) as read:
            for batch in read:
                if self.out_of_time():
                    return
                yield batch

    def _all_read(self, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        # Where reading takes time, a thread reads while the step before is computed.
        takes_time = self.dataset.source.lazy or self.dataset.source.device.type != self.device.type
        return prefetch(self._read, batches) if takes_time else (self._read(index) for index in batches)

    def _read(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        images = self.dataset.source.batch(index)
        index = self.dataset.source.stand_ins(index)
        if images.device.type == "cpu" and self.device.type == "cuda":
            images = images.pin_memory()  # so that the copy to the GPU waits for nothing
        return images, index, None if self.dataset.y is None else self.dataset.y[index]
