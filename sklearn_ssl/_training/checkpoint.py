"""Checkpoints: a training that goes on after its process has ended."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from skorch.callbacks import Callback

from sklearn_ssl._filesystem import naming, remove_abandoned
from sklearn_ssl._images.sources import Source
from sklearn_ssl._models.container import ArchiveError, plain_items, read_archive, write_archive
from sklearn_ssl._models.schema import is_count
from sklearn_ssl._training.net import SSLNet, StopTraining

KIND = "checkpoint"
# In the middle of an epoch, one in so many seconds.
INTERVAL = 300.0
# Of the time of a training that writing may take: it is done more seldom than told where it takes longer.
SHARE = 0.1
NUMBER = (int, float)
# How far a training has come, and which it is.
PLACE = {
    "training": {"steps_done": is_count, "seed": is_count},
    "finished": lambda value: value in (None, "schedule", "callback"),
    "fingerprint": str,
}
STATE = {
    **PLACE["training"],
    "student": {str: object},
    "teacher": ({str: object}, None),
    "loss": {str: object},
    "optimizer": {"state": {int: dict}, "param_groups": [{"params": [int], "lr": NUMBER}]},
    "seconds": NUMBER,
    "rate": NUMBER,
    "meter": ({"steps": is_count, "seconds": NUMBER, "sums": {str: NUMBER}, "counts": {str: int}}, None),
}
FORM = {
    **PLACE,
    "training": STATE,
    "history": [{"epoch": is_count, "train_loss": NUMBER}],
    "bad": {int: str},
}


class Checkpoint(Callback):
    """The file of one training, as a skorch callback that writes it.

    It is written before the first step, so that a folder that cannot be written to is known at once; after
    every epoch, in its middle every five minutes, and at the end; but so seldom that writing takes a tenth
    of the time at most.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    loss_name : str
    fingerprint : str
        The same for the same training.
    source : Source
        Its images, of which some may be bad.
    """

    def __init__(self, folder: Path, loss_name: str, fingerprint: str, source: Source):
        # A loss may be named "package:loss" or "<lambda>".
        name = re.sub(r"[^\w.-]", "-", f"{loss_name}-{fingerprint}")
        self.path = folder / f"{name}.safetensors"
        self.fingerprint = fingerprint
        self.source = source

    def read(self) -> dict | None:
        """What was written; None if nothing was.

        {"training": state, "history": rows, "bad": images that could not be read, "finished": what ended it
        as planned, "schedule" or "callback", or None}.

        Raises
        ------
        ValueError
            The file is damaged, or another training's.
        OSError
            The file cannot be read.
        """
        remove_abandoned(self.path.parent)
        try:
            with naming("checkpoint", self.path.parent):
                kept = read_archive(self.path, KIND, FORM)
        except FileNotFoundError:
            return None
        except ArchiveError as error:
            raise ValueError(f"{error} To train from the start, delete it.") from error
        if kept["fingerprint"] != self.fingerprint:
            raise ValueError(
                f"{self.path} is the checkpoint of another training, which was renamed or copied to this "
                f"name. To train from the start, delete it."
            )
        return kept

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
        try:
            if net.end in ("schedule", "callback", "interrupted") and not net.in_step:
                self._write_or_stop(net)
        finally:
            remove_abandoned(self.path.parent)

    def _is_due(self, interval: float) -> bool:
        return time.monotonic() - self.written > max(interval, self.seconds / SHARE)

    def _write_or_stop(self, net: SSLNet) -> None:
        """Write the file; end the training if that fails, so that its result is kept."""
        try:
            self._write(net)
        except OSError as error:
            raise StopTraining("failed", error) from error

    def _write(self, net: SSLNet) -> None:
        began = time.monotonic()
        # What callbacks note, and a file cannot hold, stays out.
        rows = [plain_items({**row, "batches": []}) for row in net.history if "train_loss" in row]
        content = {"training": net.training_state(), "history": rows, "finished": net.finished}
        content |= {"bad": net.skipped(self.source), "fingerprint": self.fingerprint}
        try:
            write_archive(self.path, KIND, content, lambda: self._is_further(content))
        except OSError as error:
            raise OSError(
                f"The checkpoint {self.path} cannot be written: {error}. Make room, or give another folder "
                f"as checkpoint=, or None."
            ) from error
        self.written = time.monotonic()
        self.seconds = self.written - began

    def _is_further(self, content: dict) -> bool:
        """Whether another process has come further with this very training, and has written that."""
        try:
            there = read_archive(self.path, KIND, PLACE, tensors=False)
        except (FileNotFoundError, ArchiveError):
            return False
        same = there["training"]["seed"] == content["training"]["seed"]
        return same and _progress(there) > _progress(content)

    def _make_room(self) -> None:
        with naming("checkpoint", self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)


def _progress(content: dict) -> tuple[bool, int, bool]:
    """Larger for a training that has come further; one that a callback has ended can go on."""
    finished = content["finished"]
    return finished == "schedule", content["training"]["steps_done"], finished is not None
