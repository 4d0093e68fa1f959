"""Schedules of the learning rate and of the teacher's momentum."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sklearn_ssl.losses._base import SSLLoss


@dataclass(frozen=True)
class Schedule:
    """Length of a training, and its learning rate: linear warm-up, then cosine decay to zero.

    Attributes
    ----------
    max_epochs : int or None
        Number of epochs, 0 for no training; None if only `max_time` limits the training.
    max_time : float or None
        Time limit in seconds. If both limits are set, the training ends at the first that is reached.
    lr : float
        Peak learning rate.
    warmup : float
        Fraction of the training used for linear warm-up.
    """

    max_epochs: int | None
    max_time: float | None
    lr: float
    warmup: float

    def progress(self, epochs: float, seconds: float) -> float:
        """Return the completed fraction of the training, from 0 to 1."""
        fractions = [0.0]
        if self.max_epochs is not None:
            fractions.append(epochs / self.max_epochs if self.max_epochs else 1.0)
        if self.max_time is not None:
            fractions.append(seconds / self.max_time)
        return min(1.0, max(fractions))

    def rate(self, progress: float) -> float:
        """Return the learning rate at a progress in [0, 1]."""
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        after = (progress - self.warmup) / (1 - self.warmup) if self.warmup < 1 else 1.0
        return self.lr * (1 + math.cos(math.pi * after)) / 2


def momentum_at(loss: SSLLoss, progress: float) -> float:
    """Return the momentum of the loss's teacher at a progress in [0, 1].

    Raises
    ------
    ValueError
        If the momentum is not in [0, 1].
    """
    momentum = loss.teacher_momentum(progress) if callable(loss.teacher_momentum) else loss.teacher_momentum
    assert momentum is not None  # else the loss has no teacher
    if not 0 <= momentum <= 1:
        raise ValueError(
            f"{type(loss).__name__}: the momentum of the teacher is {momentum:.4g}. It must be in [0, 1]: 0 "
            "copies the student, 1 keeps the teacher unchanged; 0.99 is typical."
        )
    return momentum
