"""Warning in processes that were forked from one that had computed on several threads."""

from __future__ import annotations

import os

import torch

from sklearn_ssl._warnings import warn

# Whether a fit or transform has run on several threads in this process or, before the fork, in its parent.
_has_computed = False
# Whether this process was forked after that.
_is_forked = False


def warn_if_forked() -> None:
    """Warn if torch may deadlock in this process, waiting for threads that a fork has not copied.

    This is detected only if a fit or transform has run in the parent process on several threads.
    """
    global _has_computed
    _has_computed = _has_computed or torch.get_num_threads() > 1
    if _is_forked and torch.get_num_threads() > 1:
        warn(
            "This process was forked from one that had computed on several threads, which a fork does not "
            "copy: torch may wait for them for ever. Call torch.set_num_threads(1) here first, or start "
            "processes by 'spawn' or 'forkserver', or with joblib.",
            RuntimeWarning,
        )


def _note_fork() -> None:
    global _is_forked
    _is_forked = _has_computed


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_note_fork)
