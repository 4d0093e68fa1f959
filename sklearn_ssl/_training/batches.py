"""Training set, and the shuffled batches of each epoch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sklearn_ssl._distributed.team import ALONE, Team
from sklearn_ssl._images.sources import Source
from sklearn_ssl._prefetch import prefetch
from sklearn_ssl._training.seeds import SHUFFLE, derive_seed


class TrainingSet(Dataset):
    """Images, and labels for a loss that uses them."""

    def __init__(self, source: Source, y: Tensor | None = None):
        self.source = source
        self.y = y

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Tensor:
        return self.source.batch(torch.tensor([i]))[0]


class EpochBatches:
    """Iterable over the batches (images, index, y) of the current epoch, shuffled by (seed, epoch).

    Parameters
    ----------
    dataset : TrainingSet
        Images and labels.
    batch_size : int
        Number of images in a batch.
    seed : int
        Seed of the training.
    device : torch.device
        Training device. Batches on the CPU are pinned for a CUDA device.
    steps_done : callable
        Function that returns the number of completed steps of the whole training. It determines the epoch,
        and the batch at which an interrupted epoch resumes.
    out_of_time : callable
        Function that returns whether to end the epoch early.
    team : Team
        Processes that share the images of each batch: `images` are this process's, `index` and `y` are those
        of the whole batch.
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
        team: Team = ALONE,
    ):
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.steps_done = steps_done
        self.out_of_time = out_of_time
        self.team = team

    def __len__(self) -> int:
        return max(1, len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        epoch, done = divmod(self.steps_done(), len(self))
        shuffle = torch.Generator().manual_seed(derive_seed(self.seed, SHUFFLE, epoch))
        order = torch.randperm(len(self.dataset), generator=shuffle)
        # The last incomplete batch is dropped; its images take part in other epochs.
        batches = order[: len(self) * self.batch_size].split(self.batch_size)
        # `closing` ends the reading thread if the loop is left early.
        with closing(self._all_read(batches[done:])) as read:
            for images, own, index in read:
                if self.out_of_time():
                    return
                if self.dataset.source.lazy:  # only the process that has read an image may have replaced it
                    index = self.team.gather_values(own.to(self.device), len(index)).cpu()
                yield images, index, None if self.dataset.y is None else self.dataset.y[index]

    def _all_read(self, batches: Sequence[Tensor]) -> Generator[tuple[Tensor, Tensor, Tensor], None, None]:
        # If reading is slow, a thread reads the next batch during the current step.
        takes_time = self.dataset.source.lazy or self.dataset.source.device.type != self.device.type
        return prefetch(self._read, batches) if takes_time else (self._read(index) for index in batches)

    def _read(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return this process's images, their positions, and those of the whole batch."""
        own = self.team.share(index)
        images = self.dataset.source.batch(own)
        own = self.dataset.source.stand_ins(own)
        if images.device.type == "cpu" and self.device.type == "cuda":
            images = images.pin_memory()  # allows an asynchronous copy to the GPU
        return images, own, index
