"""Callbacks of skorch that have no meaning in a self-supervised training, or need what is not computed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from skorch import callbacks as stock

_SCORES = "scores predictions of labels, which an embedder does not make: name scores in eval_metrics"
# Class -> what is wrong with it, and what to do instead.
REFUSED: dict[type, str] = {
    stock.BatchScoring: _SCORES,
    stock.EpochScoring: _SCORES,
    stock.PassthroughScoring: _SCORES,
    stock.InputShapeSetter: "sets the width of a network's input, which is built for the images by itself",
    stock.LRScheduler: "has no effect, as the learning rate is set in each step: give lr and warmup",
    stock.LoadInitState: "loads a state that does not fit the schedule: give checkpoint, or warm_start=True",
}
# What they read in each epoch, where it is not a parameter `monitor`.
READS: dict[type, str] = {stock.WandbLogger: "valid_loss_best"}


def check_stock_callbacks(
    callbacks: Iterable[Any], evaluated: Collection[str], scores: Iterable[str]
) -> None:
    """Check that each of skorch's own callbacks can work.

    Parameters
    ----------
    callbacks : iterable
        Callbacks, their classes, or pairs of a name and one of these.
    evaluated : collection of str
        Entries of the history that are computed on held-back images.
    scores : iterable of str
        Names that such entries can have.

    Raises
    ------
    ValueError
        If one has no meaning, or waits for an entry that the history does not get.
    """
    possible = {"valid_loss", *scores}
    for given in callbacks:
        callback = given[1] if isinstance(given, tuple) else given
        kind = callback if isinstance(callback, type) else type(callback)
        for refused, why in REFUSED.items():
            if issubclass(kind, refused):
                raise ValueError(f"callbacks: {kind.__name__} {why}.")
        monitor = _monitored(callback() if isinstance(callback, type) else callback)
        if monitor in possible and monitor not in evaluated:
            raise ValueError(
                f"callbacks: {kind.__name__} waits for {monitor!r} in the history, which is computed on "
                f"images that are not trained on: give validation_fraction=0.1, or fit(X, eval_set=images), "
                f"and name scores in eval_metrics. Or monitor 'train_loss'."
            )


def _monitored(callback: Any) -> str | None:
    """Return the entry of the history that a callback waits for, if it has a name."""
    named = [name for kind, name in READS.items() if isinstance(callback, kind)]
    name = named[0] if named else getattr(callback, "monitor", None)
    return name.removesuffix("_best") if isinstance(name, str) else None
