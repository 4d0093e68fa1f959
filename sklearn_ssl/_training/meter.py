"""Means of the loss and its terms over an epoch."""

from __future__ import annotations

import functools
import math
import operator
from typing import Any

import torch
from torch import Tensor

from sklearn_ssl._training.clock import Clock

# Number of steps between two transfers of the loss from the device, each of which waits for the device. The
# loss is checked for infinity and NaN at the same time.
READ_EVERY = 16
# Advice for a training that has diverged.
REMEDY = "Try a lower lr, optimizer__clip_norm=1.0, a longer warmup, or precision='float32'."


class Meter:
    """Running means of the loss and its terms over an epoch; values remain on the device until they are read.

    Parameters
    ----------
    loss_name : str
        Name of the loss, for messages.
    clock : Clock
        Clock of the training.
    """

    def __init__(self, loss_name: str, clock: Clock):
        self.loss_name = loss_name
        self.clock = clock
        self.started = clock.now()
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
        """Transfer the values that are still on the device, and add them to the sums.

        Raises
        ------
        FloatingPointError
            If the loss is infinite or NaN.
        """
        unread, self._unread, where, self._where = self._unread, [], self._where, []
        for name in {name: None for terms in unread for name in terms}:  # a dict preserves their order
            values = torch.stack(
                [terms[name].to(torch.float64) for terms in unread if name in terms]
            ).tolist()
            if name == "loss":
                self._check_finite(values, where)
            # Added one at a time: the rounded sum does not depend on when values are read, so that a resumed
            # training reports the same means.
            self._sums[name] = functools.reduce(operator.add, values, self._sums.get(name, 0.0))
            self._counts[name] = self._counts.get(name, 0) + len(values)

    def mean(self, name: str) -> float:
        """Return the mean of a term over the steps that reported it; NaN if none has."""
        self.read()
        return self._sums[name] / self._counts[name] if name in self._counts else math.nan

    def terms(self) -> list[str]:
        """Return the names of all terms except the loss itself."""
        self.read()
        return [name for name in self._sums if name != "loss"]

    def seconds(self) -> float:
        return self.clock.now() - self.started

    def seconds_per_step(self) -> float:
        return self.seconds() / max(1, self.steps)

    def state(self) -> dict[str, Any]:
        """Return sums, counts and elapsed time as plain numbers."""
        self.read()
        counted = {"sums": dict(self._sums), "counts": dict(self._counts)}
        return {"steps": self.steps, "seconds": self.seconds(), **counted}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from the sums, counts and elapsed time of `state`."""
        self.steps, self.started = state["steps"], self.clock.now() - state["seconds"]
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])

    def _check_finite(self, values: list[float], where: list[tuple[int, float]]) -> None:
        for value, (step, rate) in zip(values, where, strict=True):
            if math.isfinite(value):
                continue
            if step == 0:
                raise FloatingPointError(
                    f"The loss {self.loss_name!r} is {value} in the first step, before any weight changes: "
                    f"the cause is not the learning rate. Check the parameters of the loss (loss__...), and "
                    f"try precision='float32'."
                )
            raise FloatingPointError(
                f"The loss {self.loss_name!r} became {value} in step {step}, at lr {rate:.3g}. {REMEDY}"
            )
