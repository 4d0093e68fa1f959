"""Keep freed memory for the next step, instead of asking the kernel for it anew."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Numbers of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


KEEP = 2**30


# glibc raises both thresholds itself as a process frees large blocks, up to these values (malloc.c,
# DEFAULT_MMAP_THRESHOLD_MAX), but no longer once mallopt has set one of them: a program that was left at the
# initial 128 KiB would pay page faults for each of its larger arrays.
ADJUSTED = {M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**26}


# Settings of the user's own, which nothing here can read back and put back.
OWN_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")


_lock = threading.Lock()


_users = 0


@contextmanager
def retain_freed_memory() -> Iterator[None]:
    """While open, glibc hands large freed blocks out again rather than back to the kernel.

    A training step on the CPU otherwise takes a page fault for each 4 KiB of every large tensor, which can
    cost more than its arithmetic (`benchmarks/step.py` counts them). The setting holds for the whole process
    while any fit or transform runs. Afterwards the memory is given back, and the thresholds are left where
    glibc's own adjustment ends, so that other arrays cost what they did before (`benchmarks/host.py`).

    It does nothing where there is no glibc, where the environment sets glibc's thresholds, and where it says
    SKLEARN_SSL_KEEP_MEMORY=0.
    """
    global _users
    libc = _glibc()
    if libc is None:
        yield
        return
    with _lock:
        _users += 1
        _set_thresholds(libc, dict.fromkeys(ADJUSTED, KEEP))
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _set_thresholds(libc, ADJUSTED)
                libc.malloc_trim(0)


def _set_thresholds(libc: ctypes.CDLL, sizes: dict[int, int]) -> None:
    for threshold, size in sizes.items():
        libc.mallopt(threshold, size) or libc.mallopt(threshold, ADJUSTED[threshold])  # before glibc 2.35


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux") or os.environ.get("SKLEARN_SSL_KEEP_MEMORY") == "0":
        return None
    if any(name in os.environ for name in OWN_SETTINGS) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt") else None
