"""Warnings that point at the user's own line."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from types import FrameType

import joblib
import sklearn
import skorch

OWN_FOLDER = str(Path(__file__).parent) + os.sep
# Folders of code that calls ours on the user's behalf.
LIBRARIES = tuple(str(Path(package.__file__).parent) + os.sep for package in (joblib, sklearn, skorch))


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line that called this package, or the library that did so for the user.

    Code that this package calls itself, such as the loss of a plugin, is not blamed.
    """
    frames: list[FrameType] = [sys._getframe(1)]
    while frames[-1].f_back is not None:
        frames.append(frames[-1].f_back)
    files = [frame.f_code.co_filename for frame in frames]
    level = 1 + max(i for i, file in enumerate(files) if file.startswith(OWN_FOLDER))
    while level < len(files) - 1 and files[level].startswith(LIBRARIES):
        level += 1
    warnings.warn(message, category, stacklevel=level + 2)
