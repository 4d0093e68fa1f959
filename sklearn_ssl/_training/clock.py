"""Time that all processes of a training agree on."""

from __future__ import annotations

import time

from sklearn_ssl._distributed.team import Team


class Clock:
    """Clock of process 0, read by all processes at the same steps: they decide the same by it.

    Parameters
    ----------
    team : Team
        Processes of the training. A process alone always reads its own clock.
    """

    def __init__(self, team: Team):
        self.team = team
        self.agree()

    def now(self) -> float:
        """Return `time.monotonic()`, with several processes that of process 0 when they last agreed."""
        return time.monotonic() if self.team.size == 1 else self._agreed

    def agree(
        self, interrupted: bool = False, failed: bool = False, stopped: bool = False
    ) -> tuple[bool, bool, bool]:
        """Agree on the time; return whether any process was interrupted, has failed, or was stopped."""
        if self.team.size == 1:
            return interrupted, failed, stopped
        own = time.monotonic() if self.team.leads else 0.0
        self._agreed, *flags = self.team.sums(own, interrupted, failed, stopped)
        interrupted, failed, stopped = (flag > 0 for flag in flags)
        return interrupted, failed, stopped
