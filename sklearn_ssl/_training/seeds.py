"""Derived seeds, each a function of (seed, purpose, step or epoch) only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from sklearn_ssl._hardware.ambient import lent_generators

# Purposes of the derived seeds. Each source of randomness has a seed of its own, so that none depends on how
# many numbers another has drawn. A change of a number changes all results for a given `random_state`.
INITIALIZATION = 0  # initial weights, and the generator of `SSLLoss.build`
SHUFFLE = 1  # order of the images in an epoch
VIEWS = 2  # augmentation in a step
LOSS_STEP = 3  # `Batch.generator`
LOSS_EPOCH = 4  # generator of `SSLLoss.on_epoch_start`
GLOBAL_GENERATORS = 5  # global generators in a step, for example for dropout
HELD_BACK = 6  # views and loss of held-back images: the same in every epoch
BEFORE_EPOCH = 7  # views of a pass before an epoch


def derive_seed(seed: int, *path: int) -> int:
    """Derive a seed from a seed and a sequence of numbers; different sequences give independent seeds."""
    return int(np.random.SeedSequence((seed, *path)).generate_state(1)[0])


@contextmanager
def seeded_modules(seed: int) -> Iterator[torch.Generator]:
    """Seed the global generators, for layers that are created in the context; yield another generator."""
    with lent_generators(derive_seed(seed, INITIALIZATION), torch.device("cpu")):
        yield torch.Generator().manual_seed(derive_seed(seed, INITIALIZATION, 1))
