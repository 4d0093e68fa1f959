"""Checkpoints: a training that goes on after its process has ended."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path
from typing import Any

from skorch.callbacks import Callback

from sklearn_ssl.archive import ArchiveError, plain_items, read_archive, write_archive
from sklearn_ssl.images import Source
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
    source : Source
        Its images, of which some may be bad.
    """

    def __init__(self, folder: str | os.PathLike, name: str, source: Source):
        name = re.sub(r"[^\w.-]", "-", name)  # a loss may be named "package:loss" or "<lambda>"
        self.path = Path(folder) / f"{name}.safetensors"
        self.source = source

    def read(self) -> dict | None:
        """What was written; None if nothing was.

        {"training": state, "history": rows, "bad": images that could not be read, "finished": what ended it
        as planned, "schedule" or "callback", or None}.

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
            raise ValueError(f"{error} To train from the start, delete it.") from error

    # ------------------------------------------------------------------ while it trains

    def on_train_begin(self, net: SSLNet, **kwargs: Any) -> None:
        self._make_room()
        self._write(net)

    def on_batch_end(self, net: SSLNet, **kwargs: Any) -> None:
        if net.in_mid_epoch() and self._is_due(INTERVAL):
            self._write_or_stop(net)

    def on_epoch_end(self, net: SSLNet, **kwargs: Any) -> None:
        if self._is_due(0.0):
            self._write_or_stop(net)

    def on_train_end(self, net: SSLNet, **kwargs: Any) -> None:
        if net.failure is None and not net.in_step and (net.finished or net.interrupted):
            self._try_to_write(net)

    def _is_due(self, interval: float) -> bool:
        return time.monotonic() - self.written > max(interval, self.seconds / SHARE)

    def _write_or_stop(self, net: SSLNet) -> None:
        """A failure ends the training, whose result is kept."""
        self._try_to_write(net)
        if net.failure:
            raise StopTraining

    def _try_to_write(self, net: SSLNet) -> None:
        try:
            self._write(net)
        except OSError as error:
            net.failure = error

    def _write(self, net: SSLNet) -> None:
        began = time.monotonic()
        # What callbacks note, and a file cannot hold, stays out.
        rows = [plain_items({**row, "batches": []}) for row in net.history if "train_loss" in row]
        content = {"training": net.training_state(), "history": rows, "finished": net.finished}
        content["bad"] = {**net.bad_before, **self.source.bad}
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
            with contextlib.suppress(FileNotFoundError):  # its process has just finished it
                if time.time() - partial.stat().st_mtime > ABANDONED:
                    partial.unlink()
