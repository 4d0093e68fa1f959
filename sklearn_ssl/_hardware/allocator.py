"""Reuse of freed memory by the C allocator, instead of returning it to the kernel after each step."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Parameter numbers of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# Both thresholds during a fit or transform, in bytes.
RETAINED_BYTES = 2**30
# Thresholds after a fit or transform, in bytes. glibc itself raises both as a process frees large blocks, up
# to these values (malloc.c, DEFAULT_MMAP_THRESHOLD_MAX), but stops doing so once mallopt has set one of them:
# a program left at the initial 128 KiB would pay page faults for each of its larger arrays.
FINAL_THRESHOLDS = {M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**26}
# Environment variables by which users set the thresholds. mallopt cannot read such values, so that they could
# not be restored.
USER_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")
_lock = threading.Lock()
# Number of fits and transforms that are running; the last one to end restores the thresholds.
_users = 0


@contextmanager
def retain_freed_memory() -> Iterator[None]:
    """Context manager in which glibc reuses large freed blocks instead of returning them to the kernel.

    A training step on the CPU otherwise takes a page fault for each 4 KiB of every large tensor, which can
    cost more than its arithmetic (`benchmarks/step.py` counts them). The setting applies to the whole process
    while any fit or transform runs. Afterwards the memory is returned, and the thresholds are left at the
    maximum of glibc's own adjustment, so that other arrays cost the same as before (`benchmarks/host.py`).

    It has no effect without glibc, if the environment sets glibc's thresholds, or if
    SKLEARN_SSL_KEEP_MEMORY=0.
    """
    global _users
    libc = _glibc()
    if libc is None:
        yield
        return
    with _lock:
        _users += 1
        _set_thresholds(libc, dict.fromkeys(FINAL_THRESHOLDS, RETAINED_BYTES))
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _set_thresholds(libc, FINAL_THRESHOLDS)
                libc.malloc_trim(0)


def _set_thresholds(libc: ctypes.CDLL, sizes: dict[int, int]) -> None:
    for threshold, size in sizes.items():
        # glibc before 2.35 rejects an mmap threshold above the maximum of its adjustment, and returns 0.
        libc.mallopt(threshold, size) or libc.mallopt(threshold, FINAL_THRESHOLDS[threshold])


def _glibc() -> ctypes.CDLL | None:
    """Return the C library if it is glibc and its thresholds may be changed, else None."""
    if not sys.platform.startswith("linux") or os.environ.get("SKLEARN_SSL_KEEP_MEMORY") == "0":
        return None
    if any(name in os.environ for name in USER_VARIABLES) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt") else None
