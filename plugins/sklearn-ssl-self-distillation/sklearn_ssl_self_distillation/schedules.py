"""Schedules: picklable functions of the progress of the training, from 0 to 1."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CosineToOne:
    r"""Cosine schedule from an initial value to 1, of a teacher's momentum [1]_ or of weight decay.

    At progress k the momentum is :math:`1 - (1 - \tau) (\cos(\pi k) + 1) / 2`. It rises from :math:`\tau`,
    with which the teacher follows the student quickly, to 1, with which the teacher is constant.

    Parameters
    ----------
    start : float
        Initial value :math:`\tau`, from 0 to 1.

    References
    ----------
    .. [1] Grill et al., "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning", NeurIPS
       2020, arXiv:2006.07733, section 3.3.
    """

    start: float

    def __call__(self, progress: float) -> float:
        return 1 - (1 - self.start) * (math.cos(math.pi * progress) + 1) / 2


@dataclass(frozen=True)
class LinearWarmup:
    """Linear warm-up from one value to another, constant afterward.

    Parameters
    ----------
    start : float
        Initial value.
    end : float
        Value at the end of the warm-up and afterward.
    share : float
        Duration of the warm-up, as a fraction of the training.
    """

    start: float
    end: float
    share: float

    def __call__(self, progress: float) -> float:
        done = min(1.0, progress / self.share) if self.share else 1.0
        return self.start + (self.end - self.start) * done
