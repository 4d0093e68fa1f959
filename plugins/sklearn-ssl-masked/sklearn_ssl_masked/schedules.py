"""Schedules: picklable functions of the progress of the training, from 0 to 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Fraction of the training used for linear warm-up, as of the embedder's own schedule.
WARMUP = 0.05


@dataclass(frozen=True)
class LateStart:
    """Learning rate of a network that is trained in a second stage, as a fraction of the peak rate.

    Linear warm-up from the start of the stage on, then cosine decay to zero. Before, the rate is the peak
    rate, for a training that begins with its second stage.

    Parameters
    ----------
    start : float
        Start of the stage, as a fraction of the training.
    """

    start: float

    def __call__(self, progress: float) -> float:
        if progress < self.start:
            return 1.0
        if progress < self.start + WARMUP:
            return (progress - self.start) / WARMUP
        done = (progress - self.start - WARMUP) / max(1e-9, 1 - self.start - WARMUP)
        return (1 + math.cos(math.pi * min(1.0, done))) / 2
