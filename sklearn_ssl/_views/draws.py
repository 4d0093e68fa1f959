"""Random numbers of the images of a batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """Rows of a batch that some images have.

    Parameters
    ----------
    n : int
        Number of images in the whole batch.
    taken : slice, default=slice(None)
        Rows of the images at hand.
    """

    n: int
    taken: slice = slice(None)


class Draws:
    """Generator of random numbers per image, which depend on the image's row in the whole batch.

    Numbers are drawn for the whole batch, a few per image, and those of some rows returned: processes that
    share out a batch draw the same views as one process.

    Parameters
    ----------
    seed : int
        Seed of the numbers.
    rows : Rows
        Rows of the images at hand.
    """

    def __init__(self, seed: int, rows: Rows):
        self._generator = torch.Generator().manual_seed(seed)
        self._rows = rows

    def uniform(self, k: int) -> Tensor:
        """Draw k numbers per image, uniformly from [0, 1): (k, n)."""
        return torch.rand(k, self._rows.n, generator=self._generator)[:, self._rows.taken]

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal numbers, (n, *shape)."""
        return torch.randn(self._rows.n, *shape, generator=self._generator)[self._rows.taken]
