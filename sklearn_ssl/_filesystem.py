"""Files that are written whole or not at all, by one writer at a time; and paths as users give them."""

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
    fcntl = None


# Seconds to wait for another writer of the same file.
PATIENCE = 60.0


# Seconds after which a half-written file has no writer any more, where no lock can tell.
ABANDONED = 3600.0


# Folders of half-written files. Nothing with another name is ever removed.
OURS = re.compile(r"\.[0-9a-f]{16}(-[0-9a-f]{8})?\.partial")


# What systems without locks say, some network file systems among them.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


# ---------------------------------------------------------------------------- paths


def given_path(parameter: str, value: Any) -> Path:
    """A path that a user gave as a parameter, with the home folder in place of "~".

    Raises
    ------
    ValueError
        It is no path.
    """
    if not isinstance(value, str | os.PathLike) or not os.fspath(value) or "\0" in os.fsdecode(value):
        raise ValueError(f"{parameter}={value!r} is no path. Give one as a str or a pathlib.Path.")
    return Path(os.path.expanduser(os.fsdecode(value)))


@contextmanager
def naming(parameter: str, path: Path) -> Iterator[None]:
    """An error of the file system names the parameter that led there."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise OSError(error.errno or errno.EIO, f"{parameter}={str(path)!r}: {why}") from error


def check_regular(path: str | os.PathLike) -> None:
    """Refuse a folder, and pipes and devices, which block or are replaced; nothing there is fine.

    Raises
    ------
    OSError
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
    """Put a new file in the place of the old one, in one go, with the same permissions.

    A link stays, and the file that it leads to is replaced. Writers of one file wait for one another, and
    remove what a killed one has left.

    Parameters
    ----------
    path : path-like
        Its folder exists.
    write : callable
        Writes the new file to the path that it is given, in a folder of its own.
    unless : callable, optional
        Asked while no other writer is at work: whether to leave the old file.

    Raises
    ------
    OSError
        The folder cannot be written to, or the disk is full; the file is then as before.
    """
    target = Path(os.path.realpath(path))
    check_regular(target)
    with _alone(target) as folder:
        if unless():
            return
        new = folder / "new"
        new.touch()
        mode = (target if target.exists() else new).stat().st_mode
        write(new)
        new.chmod(stat.S_IMODE(mode))  # safetensors lets nobody else read its files
        _to_disk(new)
        os.replace(new, target)
        with contextlib.suppress(OSError):  # not every system can
            _to_disk(target.parent, os.O_RDONLY)


def remove_abandoned(folder: str | os.PathLike) -> None:
    """Remove what killed writers have left in a folder; what a living one has in hand stays."""
    with contextlib.suppress(OSError):  # there is no folder, or it cannot be written to
        for entry in list(os.scandir(folder)):
            if OURS.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                _remove_if_abandoned(Path(entry))


def _remove_if_abandoned(folder: Path) -> None:
    with contextlib.suppress(OSError):  # its writer is alive, or has just removed it
        if "-" not in folder.name:
            _remove(folder, _lock(folder, patience=0.0))
        elif time.time() - folder.stat().st_mtime > ABANDONED:
            shutil.rmtree(folder)


@contextmanager
def _alone(target: Path) -> Iterator[Path]:
    """An empty folder for the only writer of a file; where there are no locks, for each of its writers."""
    # Of one length: with something added to it, a long name would become too long.
    digits = hashlib.blake2b(os.fsencode(target.name), digest_size=8).hexdigest()
    folder, handle = target.with_name(f".{digits}.partial"), None
    try:
        handle = _lock(folder, PATIENCE)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        _remove(folder, None)
        folder = target.with_name(f".{digits}-{uuid.uuid4().hex[:8]}.partial")
        folder.mkdir()
    try:
        _empty(folder)
        yield folder
    finally:
        _remove(folder, handle)


def _lock(folder: Path, patience: float) -> int:
    """Lock a folder, which is made, by a file in it: the end of a process unlocks it, however it comes.

    Returns
    -------
    int
        A descriptor of the file, which `_remove` closes.

    Raises
    ------
    TimeoutError
        Another writer had it all the time.
    """
    deadline = time.monotonic() + patience
    while True:
        with contextlib.suppress(FileExistsError):  # another's
            folder.mkdir()
        with contextlib.suppress(BlockingIOError, FileNotFoundError):  # another has it, or has removed it
            return _try_to_lock(folder / "lock")
        if time.monotonic() >= deadline:
            raise TimeoutError(errno.ETIMEDOUT, f"another process has been writing it for {patience:.0f} s")
        time.sleep(0.01)


def _try_to_lock(path: Path) -> int:
    if fcntl is None:
        raise OSError(errno.ENOSYS, "no locks")
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(handle), os.stat(path)):
            raise FileNotFoundError  # this was the lock of a writer that has just ended
    except OSError:
        os.close(handle)
        raise
    return handle


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != "lock":
            path.unlink()


def _remove(folder: Path, handle: int | None) -> None:
    """Remove a folder and unlock it."""
    _empty(folder)
    with contextlib.suppress(OSError):  # the next writer is already in it
        # The lock goes last: what appears in the folder after that is another's.
        (folder / "lock").unlink(missing_ok=True)
        folder.rmdir()
    if handle is not None:
        os.close(handle)


def _to_disk(path: str | os.PathLike, access: int = os.O_RDWR) -> None:
    """Make what was written survive a loss of power."""
    handle = os.open(path, access)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
