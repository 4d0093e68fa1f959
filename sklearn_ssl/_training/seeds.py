"""Seeds, each a function of (seed, purpose, step or epoch)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from sklearn_ssl._hardware.ambient import lent_generators

# Sources of randomness, each a function of (seed, its number, step or epoch) and nothing else.
MODULES, SHUFFLE, VIEWS, LOSS_STEP, LOSS_EPOCH, LAYERS = range(6)


def derive_seed(seed: int, *path: int) -> int:
    """A seed of its own for each path of numbers, far from every other's."""
    return int(np.random.SeedSequence((seed, *path)).generate_state(1)[0])


@contextmanager
def seeded_modules(seed: int) -> Iterator[torch.Generator]:
    """Initialise the layers that are made inside by `seed`, and lend a generator of its own."""
    with lent_generators(derive_seed(seed, MODULES), torch.device("cpu")):
        yield torch.Generator().manual_seed(derive_seed(seed, MODULES, 1))
