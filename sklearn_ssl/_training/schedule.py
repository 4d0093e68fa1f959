"""Schedules of the learning rate and of the teacher's momentum."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sklearn_ssl.losses._base import SSLLoss


@dataclass(frozen=True)
class Schedule:
    """How long to train, and at what rate.

    Attributes
    ----------
    max_epochs : int or None
        None: until `max_time`.
    max_time : float or None
        Seconds; with both, the first that is reached.
    lr : float
        Peak learning rate.
    warmup : float
        Share of the training in which the rate rises linearly; then it falls as half a cosine to 0.
    """

    max_epochs: int | None
    max_time: float | None
    lr: float
    warmup: float

    def progress(self, epochs: float, seconds: float) -> float:
        """Share of the training that is done, from 0 to 1."""
        shares = [0.0]
        if self.max_epochs is not None:
            shares.append(epochs / self.max_epochs)
        if self.max_time is not None:
            shares.append(seconds / self.max_time)
        return min(1.0, max(shares))

    def rate(self, progress: float) -> float:
        """Learning rate at this progress."""
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        after = (progress - self.warmup) / (1 - self.warmup) if self.warmup < 1 else 1.0
        return self.lr * (1 + math.cos(math.pi * after)) / 2


def momentum_at(loss: SSLLoss, progress: float) -> float:
    """How much of itself the teacher of a loss keeps in a step, at this share of the training."""
    momentum = loss.teacher_momentum(progress) if callable(loss.teacher_momentum) else loss.teacher_momentum
    if not 0 <= momentum <= 1:
        raise ValueError(
            f"{type(loss).__name__}: the momentum of the teacher is {momentum:.4g}. The share of itself that "
            "it keeps in a step is from 0 (it copies the student) to 1 (it never moves); 0.99 is usual."
        )
    return momentum
