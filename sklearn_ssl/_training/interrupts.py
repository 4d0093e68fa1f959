"""Deferral of Ctrl-C to the end of a training step, so that no step is left incomplete."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Interrupt:
    """State of Ctrl-C during a training.

    Attributes
    ----------
    asked_for : bool
        Whether the user has pressed Ctrl-C, and the training is to stop after the current step.
    raised : bool
        Whether Ctrl-C was raised as a KeyboardInterrupt.
    """

    asked_for: bool = False
    raised: bool = False

    def is_from_user(self) -> bool:
        """Return whether a caught KeyboardInterrupt is due to Ctrl-C, rather than raised by a callback."""
        return self.asked_for or self.raised


NO_INTERRUPT = Interrupt()


@contextmanager
def interrupt_held_back() -> Iterator[Interrupt]:
    """Record the first Ctrl-C instead of raising it; raise a second one.

    A signal handler of the user's program is called as usual, and only observed. Nothing is changed if
    signals are ignored, or outside of the main thread, where Python does not deliver them.
    """
    interrupt = Interrupt()
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield interrupt
        return

    def note(number: int, frame: FrameType | None) -> None:
        if usual is signal.default_int_handler and not interrupt.asked_for:
            interrupt.asked_for = True
            return
        try:
            usual(number, frame)
        except KeyboardInterrupt:
            interrupt.raised = True
            raise

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        if signal.getsignal(signal.SIGINT) is note:  # not if a callback has installed another handler
            signal.signal(signal.SIGINT, usual)
