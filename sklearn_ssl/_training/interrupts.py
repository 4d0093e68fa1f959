"""Ctrl-C between two steps, so that none is left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Interrupt:
    """Ctrl-C during a piece of work.

    Attributes
    ----------
    asked_for : bool
        It was pressed, and waits for the end of the step in hand.
    raised : bool
        It was raised as a KeyboardInterrupt.
    """

    asked_for: bool = False
    raised: bool = False

    def is_the_users(self) -> bool:
        """Whether a KeyboardInterrupt that was caught is the user's, in contrast to one that code raised."""
        return self.asked_for or self.raised


NO_INTERRUPT = Interrupt()


@contextmanager
def interrupt_held_back() -> Iterator[Interrupt]:
    """Hold back the first Ctrl-C, which is only noted; a second one is raised.

    A program's own way with Ctrl-C stays as it is, and is only watched. In other threads than the main one,
    which never see Ctrl-C, and where it is ignored, nothing is done.
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
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, usual)
