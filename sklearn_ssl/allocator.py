"""Keep freed memory for the next step, instead of asking the kernel for it anew."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# glibc's mallopt numbers, and its defaults for both: 128 KiB.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
GLIBC_DEFAULT = 128 * 1024
KEEP = 2**30

_lock = threading.Lock()
_users = 0


@contextmanager
def kept_memory() -> Iterator[None]:
    """While open, glibc hands large freed blocks out again rather than back to the kernel.

    A training step on the CPU otherwise takes a page fault for each 4 KiB of every large tensor, which can
    cost more than its arithmetic (`benchmarks/step.py` counts them). The setting holds for the whole process
    while any fit or transform runs; afterwards the memory is given back. SKLEARN_SSL_KEEP_MEMORY=0 in the
    environment switches it off; it does nothing where there is no glibc.
    """
    global _users
    libc = _glibc()
    if libc is None:
        yield
        return
    with _lock:
        _users += 1
        _set_thresholds(libc, KEEP)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _set_thresholds(libc, GLIBC_DEFAULT)
                libc.malloc_trim(0)


def _set_thresholds(libc: ctypes.CDLL, size: int) -> None:
    libc.mallopt(M_MMAP_THRESHOLD, size)
    libc.mallopt(M_TRIM_THRESHOLD, size)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux") or os.environ.get("SKLEARN_SSL_KEEP_MEMORY") == "0":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt") else None
