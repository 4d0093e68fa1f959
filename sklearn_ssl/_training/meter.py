"""Means of the loss and its terms over an epoch."""

from __future__ import annotations

import functools
import math
import operator
import time
from typing import Any

import torch
from torch import Tensor

# The loss is read from the device, and looked at, once in so many steps: reading waits for the device.
READ_EVERY = 16
# Where numbers have become too large.
REMEDY = "Try a lower lr, optimizer__clip_norm=1.0, a longer warmup, or precision='float32'."


class Meter:
    """Means of the loss and its terms over an epoch; values stay on the device until they are read."""

    def __init__(self, loss_name: str):
        self.loss_name = loss_name
        self.started = time.monotonic()
        self.steps = 0
        self._unread: list[dict[str, Tensor]] = []
        self._where: list[tuple[int, float]] = []
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, terms: dict[str, Tensor], step: int, rate: float) -> None:
        self.steps += 1
        values = {name: torch.as_tensor(value).detach().reshape(()) for name, value in terms.items()}
        self._unread.append(values)
        self._where.append((step, rate))
        if len(self._unread) == READ_EVERY:
            self.read()

    def read(self) -> None:
        """Fetch what is still on the device.

        Raises
        ------
        FloatingPointError
            The loss is no longer a number.
        """
        unread, self._unread, where, self._where = self._unread, [], self._where, []
        for name in {name: None for terms in unread for name in terms}:  # in their order
            values = torch.stack(
                [terms[name].to(torch.float64) for terms in unread if name in terms]
            ).tolist()
            if name == "loss":
                self._check_finite(values, where)
            # One after the other, whenever they are read: a training that goes on adds the same way.
            self._sums[name] = functools.reduce(operator.add, values, self._sums.get(name, 0.0))
            self._counts[name] = self._counts.get(name, 0) + len(values)

    def mean(self, name: str) -> float:
        """Mean over the steps in which it was reported; nan before the first."""
        self.read()
        return self._sums[name] / self._counts[name] if name in self._counts else math.nan

    def terms(self) -> list[str]:
        self.read()
        return [name for name in self._sums if name != "loss"]

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def seconds_per_step(self) -> float:
        return self.seconds() / max(1, self.steps)

    def state(self) -> dict[str, Any]:
        """What was counted so far, as plain numbers."""
        self.read()
        counted = {"sums": dict(self._sums), "counts": dict(self._counts)}
        return {"steps": self.steps, "seconds": self.seconds(), **counted}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on counting where `state` was taken."""
        self.steps, self.started = state["steps"], time.monotonic() - state["seconds"]
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])

    def _check_finite(self, values: list[float], where: list[tuple[int, float]]) -> None:
        for value, (step, rate) in zip(values, where, strict=True):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"The loss {self.loss_name!r} became {value} in step {step}, at lr {rate:.3g}. {REMEDY}"
                )
