"""Warnings that point to the user's own code."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType

import joblib
import sklearn
import skorch

PACKAGE_FOLDER = str(Path(__file__).parent) + os.sep
# Folders of libraries that call this package on behalf of the user, for example in a grid search.
CALLING_LIBRARIES = tuple(
    str(Path(package.__file__).parent) + os.sep for package in (joblib, sklearn, skorch)
)

_muted: ContextVar[bool] = ContextVar("muted", default=False)


@contextmanager
def muted(mute: bool) -> Iterator[None]:
    """Context manager in which `warn` does nothing, in this thread: another process warns of the same."""
    token = _muted.set(mute)
    try:
        yield
    finally:
        _muted.reset(token)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning that points to the user's line that called this package.

    Calls through a library (joblib, scikit-learn, skorch) are attributed to the code that called the library.
    The outermost call into this package counts: a plugin's loss, which the package itself calls, is never
    named as the origin.
    """
    if _muted.get():
        return
    frames: list[FrameType] = [sys._getframe(1)]
    while frames[-1].f_back is not None:
        frames.append(frames[-1].f_back)
    files = [frame.f_code.co_filename for frame in frames]
    level = 1 + max(i for i, file in enumerate(files) if file.startswith(PACKAGE_FOLDER))
    while level < len(files) - 1 and files[level].startswith(CALLING_LIBRARIES):
        level += 1
    # `files` starts at the caller of this function, which is stacklevel 2.
    warnings.warn(message, category, stacklevel=level + 2)
