"""Checkpoints, from which a training is resumed after its process has ended."""

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
from sklearn_ssl._training.net import SSLNet

KIND = "checkpoint"
# Seconds between two checkpoints within an epoch.
INTERVAL = 300.0
# Maximum fraction of the training time spent on writing: where a file takes long, it is written less often.
MAX_TIME_FRACTION = 0.1
NUMBER = (int, float)
# Form of the part of a file that tells its training and progress.
PROGRESS: dict[str, Any] = {
    "training": {"steps_done": is_count, "seed": is_count},
    "finished": lambda value: value in (None, "schedule", "callback"),
    "fingerprint": str,
}
STATE = {
    **PROGRESS["training"],
    "epoch_size?": lambda value: is_count(value) and value > 0,
    "student": {str: object},
    "teacher": ({str: object}, None),
    "loss": {str: object},
    "optimizer": {"state": {int: dict}, "param_groups": [{"params": [int], "lr": NUMBER}]},
    "seconds": NUMBER,
    "rate": NUMBER,
    "meter": ({"steps": is_count, "seconds": NUMBER, "sums": {str: NUMBER}, "counts": {str: int}}, None),
}
FORM = {
    **PROGRESS,
    "training": STATE,
    "history": [{"epoch": is_count, "train_loss": NUMBER}],
    "bad": {int: str},
}


class Checkpoint(Callback):
    """Skorch callback that writes the file of one training.

    The file is written before the first step, so that a folder without write permission is noticed at once;
    after every epoch, every five minutes within an epoch, and at the end. Writing takes at most a tenth of
    the time: if it takes longer, the file is written less often. Of several processes, the first writes it.

    Parameters
    ----------
    folder : Path
        Folder of the file; created if missing.
    loss_name : str
        Name of the loss, for the name of the file.
    fingerprint : str
        Content hash that identifies the training.
    source : Source
        Training images, some of which may turn out to be unreadable.
    """

    def __init__(self, folder: Path, loss_name: str, fingerprint: str, source: Source):
        # A loss may be named "package:loss" or "<lambda>".
        name = re.sub(r"[^\w.-]", "-", f"{loss_name}-{fingerprint}")
        self.path = folder / f"{name}.safetensors"
        self.fingerprint = fingerprint
        self.source = source

    def read(self) -> dict | None:
        """Return the content of the file, or None if there is no file.

        Returns
        -------
        dict or None
            "training": state of `SSLNet.training_state`; "history": rows; "bad": positions of unreadable
            images and why; "finished": "schedule" or "callback" if one of them has ended the training, else
            None.

        Raises
        ------
        ValueError
            If the file is damaged, or is that of another training.
        OSError
            If the file cannot be read.
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

    # ------------------------------------------------------------------ callbacks of skorch

    def on_train_begin(self, net: SSLNet, **kwargs: Any) -> None:
        net.team.from_first(lambda: self._begin(net))

    def _begin(self, net: SSLNet) -> None:
        self._make_folder()
        self._write(net)

    def on_batch_end(self, net: SSLNet, **kwargs: Any) -> None:
        if net.team.leads and net.in_mid_epoch() and self._is_due(INTERVAL):
            self._write_or_stop(net)

    def on_epoch_end(self, net: SSLNet, **kwargs: Any) -> None:
        if net.team.leads and self._is_due(0.0):
            self._write_or_stop(net)

    def on_train_end(self, net: SSLNet, **kwargs: Any) -> None:
        if not net.team.leads:
            return
        try:
            if net.end in ("schedule", "callback", "interrupted") and not net.in_step:
                self._write_or_stop(net)
        finally:
            remove_abandoned(self.path.parent)

    def _is_due(self, interval: float) -> bool:
        return time.monotonic() - self.written > max(interval, self.seconds / MAX_TIME_FRACTION)

    def _write_or_stop(self, net: SSLNet) -> None:
        """Write the file; on failure end the training, in such a way that the model is kept."""
        try:
            self._write(net)
        except OSError as error:
            net.fail(error)

    def _write(self, net: SSLNet) -> None:
        began = time.monotonic()
        # Without entries of callbacks that a file cannot hold.
        rows = [plain_items({**row, "batches": []}) for row in net.history if "train_loss" in row]
        content = {"training": net.training_state(), "history": rows, "finished": net.finished}
        content |= {"bad": net.skipped(self.source), "fingerprint": self.fingerprint}
        try:
            write_archive(self.path, KIND, content, lambda: self._is_further(content))
        except OSError as error:
            raise OSError(
                f"The checkpoint {self.path} cannot be written: {error}. Free disk space, or give another "
                f"folder as checkpoint=, or None."
            ) from error
        self.written = time.monotonic()
        self.seconds = self.written - began

    def _is_further(self, content: dict) -> bool:
        """Return whether the existing file, of another process, holds more of this very training."""
        try:
            there = read_archive(self.path, KIND, PROGRESS, tensors=False)
        except (FileNotFoundError, ArchiveError):
            return False
        same = there["training"]["seed"] == content["training"]["seed"]
        return same and _progress(there) > _progress(content)

    def _make_folder(self) -> None:
        with naming("checkpoint", self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)


def _progress(content: dict) -> tuple[bool, int, bool]:
    """Return a key that orders states of one training; one that a callback has ended can still go on."""
    finished = content["finished"]
    return finished == "schedule", content["training"]["steps_done"], finished is not None
