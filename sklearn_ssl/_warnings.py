"""Warnings that point at the user's own line."""

from __future__ import annotations

import contextlib
import sys
import warnings
from pathlib import Path

import sklearn
import skorch

# Folders of code between the user's line and ours.
LIBRARIES = tuple(str(Path(file).parent) for file in (__file__, sklearn.__file__, skorch.__file__))


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line outside of this package, scikit-learn and skorch."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_between(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _is_between(file: str) -> bool:
    return file.startswith(LIBRARIES) or file == contextlib.__file__
