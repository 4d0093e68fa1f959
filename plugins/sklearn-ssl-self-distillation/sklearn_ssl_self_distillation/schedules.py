"""Schedules over the training: picklable functions of progress, from 0 to 1."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CosineToOne:
    r"""A teacher's momentum: :math:`1 - (1 - \tau) (\cos(\pi k) + 1) / 2` at progress k.

    It rises from :math:`\tau`, a teacher that learns quickly, to 1, one that stands still (BYOL,
    arXiv:2006.07733, section 3.3).

    Parameters
    ----------
    start : float
        :math:`\tau`, from 0 to 1.
    """

    start: float

    def __call__(self, progress: float) -> float:
        return 1 - (1 - self.start) * (math.cos(math.pi * progress) + 1) / 2


@dataclass(frozen=True)
class LinearWarmup:
    """From `start` to `end` in a straight line over the first `share` of the training, then `end`."""

    start: float
    end: float
    share: float

    def __call__(self, progress: float) -> float:
        done = min(1.0, progress / self.share) if self.share else 1.0
        return self.start + (self.end - self.start) * done
