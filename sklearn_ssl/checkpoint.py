"""Checkpoints: a training that goes on after its process has ended."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
from skorch.callbacks import Callback

from sklearn_ssl.archive import ArchiveError, read_archive, write_archive
from sklearn_ssl.training import SSLNet, StopTraining

KIND = "checkpoint"
# In the middle of an epoch, one in so many seconds.
INTERVAL = 300.0
# Of the time of a training that writing may take: it is done more seldom than told where it takes longer.
SHARE = 0.1
# Seconds after which what a process left half written is nobody's any more.
ABANDONED = 3600.0


class Checkpoint(Callback):
    """The file of one training, as a skorch callback that writes it.

    It is written before the first step, so that a folder that cannot be written to is known at once; after
    every epoch, in its middle every five minutes, and at the end; but so seldom that writing takes a tenth
    of the time at most.

    Parameters
    ----------
    folder : path-like
        Made if it is not there.
    name : str
        The same for the same training.
    """

    def __init__(self, folder: str | os.PathLike, name: str):
        name = re.sub(r"[^\w.-]", "-", name)  # a loss may be named "package:loss" or "<lambda>"
        self.path = Path(folder) / f"{name}.safetensors"

    def read(self) -> dict | None:
        """What was written: {"training": state, "history": rows, "finished": bool}; None if nothing was.

        Raises
        ------
        ValueError
            The file is damaged.
        """
        if not self.path.exists():
            return None
        try:
            return read_archive(self.path, KIND)
        except ArchiveError as error:
            raise ValueError(f"{error} Delete it to train from the start.") from error

    # ------------------------------------------------------------------ while it trains

    def on_train_begin(self, net: SSLNet, **kwargs: Any) -> None:
        self._make_room()
        self._write(net)

    def on_batch_end(self, net: SSLNet, **kwargs: Any) -> None:
        if net.in_mid_epoch() and self._is_due(INTERVAL):
            self._try_to_write(net)

    def on_epoch_end(self, net: SSLNet, **kwargs: Any) -> None:
        if self._is_due(0.0):
            self._try_to_write(net)

    def on_train_end(self, net: SSLNet, **kwargs: Any) -> None:
        if net.failure is None and not net.in_step and (net.finished or net.interrupted):
            try:
                self._write(net)
            except OSError as error:
                net.failure = error

    def _is_due(self, interval: float) -> bool:
        return time.monotonic() - self.written > max(interval, self.seconds / SHARE)

    def _try_to_write(self, net: SSLNet) -> None:
        """A failure ends the training, whose result is kept."""
        try:
            self._write(net)
        except OSError as error:
            net.failure = error
            raise StopTraining from error

    def _write(self, net: SSLNet) -> None:
        began = time.monotonic()
        rows = [_plain(row) for row in net.history if "train_loss" in row]
        content = {"training": net.training_state(), "history": rows, "finished": net.finished}
        try:
            write_archive(self.path, KIND, content)
        except OSError as error:
            raise OSError(
                f"The checkpoint {self.path} cannot be written: {error}. Make room, or give another folder "
                f"as checkpoint=, or None."
            ) from error
        self.written = time.monotonic()
        self.seconds = self.written - began

    def _make_room(self) -> None:
        """The folder; without what a process that was killed while it wrote has left there."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"checkpoint={str(self.path.parent)!r} cannot be made: {error}") from error
        for partial in self.path.parent.glob(f".{self.path.name}.*.partial"):
            if time.time() - partial.stat().st_mtime > ABANDONED:
                partial.unlink(missing_ok=True)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the history as a file has it: numbers and words; other things that callbacks note stay out."""
    values = {key: value.item() if isinstance(value, np.generic) else value for key, value in row.items()}
    return {key: value for key, value in values.items() if isinstance(value, Number | str | None)}
