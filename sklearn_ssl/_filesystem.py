"""Atomic writes under an advisory lock, and validation of paths."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


# Maximum time to wait for another writer of the same file, in seconds.
LOCK_TIMEOUT = 60.0
# Age in seconds after which a partial file is considered abandoned, on file systems without locks.
STALE_AFTER = 3600.0
# Names of the folders that hold partial files. Nothing with another name is ever removed.
PARTIAL_FOLDER = re.compile(r"\.[0-9a-f]{16}(-[0-9a-f]{8})?\.partial")
# Error numbers of file systems without locks, among them some network file systems.
NO_LOCK_ERRNOS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


# ---------------------------------------------------------------------------- paths


def given_path(parameter: str, value: Any) -> Path:
    """Return the path that a user gave as a parameter, with "~" expanded.

    Raises
    ------
    ValueError
        If the value is not a path.
    """
    if not isinstance(value, str | os.PathLike) or not os.fspath(value) or "\0" in os.fsdecode(value):
        raise ValueError(f"{parameter}={value!r} is not a path. Give a str or a pathlib.Path.")
    return Path(os.path.expanduser(os.fsdecode(value)))


@contextmanager
def naming(parameter: str, path: Path) -> Iterator[None]:
    """Context manager that adds the name of the parameter to errors of the file system."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise OSError(error.errno or errno.EIO, f"{parameter}={str(path)!r}: {why}") from error


def check_regular(path: str | os.PathLike) -> None:
    """Check that a path is that of a regular file or of no file.

    Pipes and devices are rejected, as reading or writing would block on or replace them.

    Raises
    ------
    OSError
        If the path is that of a folder, a pipe or a device.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, f"{path} is a folder; give the path of a file")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"{path} is a pipe or a device; give the path of a file")


# ---------------------------------------------------------------------------- files


def replace_file(
    path: str | os.PathLike,
    write: Callable[[Path], None],
    unless: Callable[[], bool] = lambda: False,
) -> None:
    """Write a file atomically: replace the old one by a complete new one, with the same permissions.

    For a symbolic link, the file that it points to is replaced. Writers of the same file wait for one another
    (advisory lock), and remove the partial files of writers that were killed.

    Parameters
    ----------
    path : path-like
        Path of the file, in an existing folder.
    write : callable
        Function that writes the new file to the path that it is called with, in a separate folder.
    unless : callable, default=lambda: False
        Function called under the lock; if it returns True, the old file is kept.

    Raises
    ------
    OSError
        If the folder cannot be written to or the disk is full; the old file is then unchanged.
    """
    target = Path(os.path.realpath(path))
    check_regular(target)
    with _exclusive_folder(target) as folder:
        if unless():
            return
        new = folder / "new"
        new.touch()
        mode = (target if target.exists() else new).stat().st_mode
        write(new)
        new.chmod(stat.S_IMODE(mode))  # safetensors creates files that only their owner can read
        _to_disk(new)
        os.replace(new, target)
        # The rename itself survives a loss of power only if the folder is synchronized, too.
        with contextlib.suppress(OSError):  # not supported by every system
            _to_disk(target.parent, os.O_RDONLY)


def remove_abandoned(folder: str | os.PathLike[str]) -> None:
    """Remove the partial files of killed writers from a folder; those of running writers are kept."""
    with contextlib.suppress(OSError):  # there is no folder, or it cannot be written to
        for entry in list(os.scandir(folder)):
            if PARTIAL_FOLDER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                _remove_if_abandoned(Path(entry))


def _remove_if_abandoned(folder: Path) -> None:
    with contextlib.suppress(OSError):  # its writer is running, or has just removed it
        if "-" not in folder.name:
            _remove(folder, _lock(folder, timeout=0.0))
        elif time.time() - folder.stat().st_mtime > STALE_AFTER:
            shutil.rmtree(folder)


@contextmanager
def _exclusive_folder(target: Path) -> Iterator[Path]:
    """Lock an empty folder for the only writer of a file; without locks, create one for each writer."""
    # A digest of fixed length: the name of the file with a suffix might exceed the maximum length of a name.
    digits = hashlib.blake2b(os.fsencode(target.name), digest_size=8).hexdigest()
    folder, handle = target.with_name(f".{digits}.partial"), None
    try:
        handle = _lock(folder, LOCK_TIMEOUT)
    except OSError as error:
        if error.errno not in NO_LOCK_ERRNOS:
            raise
        _remove(folder, None)
        folder = target.with_name(f".{digits}-{uuid.uuid4().hex[:8]}.partial")
        folder.mkdir()
    try:
        _empty(folder)
        yield folder
    finally:
        _remove(folder, handle)


def _lock(folder: Path, timeout: float) -> int:
    """Create a folder and lock it by a file in it.

    The system releases the lock when the process ends, even if it is killed.

    Returns
    -------
    int
        Descriptor of the lock file, which `_remove` closes.

    Raises
    ------
    TimeoutError
        If another writer holds the lock until the timeout.
    """
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(FileExistsError):  # that of another writer
            folder.mkdir()
        with contextlib.suppress(BlockingIOError, FileNotFoundError):  # held or removed by another
            return _try_to_lock(folder / "lock")
        if time.monotonic() >= deadline:
            raise TimeoutError(errno.ETIMEDOUT, f"another process has been writing it for {timeout:.0f} s")
        time.sleep(0.01)


def _try_to_lock(path: Path) -> int:
    if fcntl is None:
        raise OSError(errno.ENOSYS, "no locks")
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(handle), os.stat(path)):
            # Between open and flock its last holder removed the file: the lock protects nothing any more.
            raise FileNotFoundError
    except OSError:
        os.close(handle)
        raise
    return handle


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != "lock":
            path.unlink()


def _remove(folder: Path, handle: int | None) -> None:
    """Remove a folder and release its lock."""
    _empty(folder)
    with contextlib.suppress(OSError):  # the next writer is already in it
        # Remove the lock file last: anything that appears in the folder afterward belongs to another writer.
        (folder / "lock").unlink(missing_ok=True)
        folder.rmdir()
    if handle is not None:
        os.close(handle)


def _to_disk(path: str | os.PathLike, access: int = os.O_RDWR) -> None:
    """Flush a file or folder to disk, so that it survives a loss of power."""
    handle = os.open(path, access)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
