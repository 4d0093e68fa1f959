"""Images on disk as they are trained on, for several processes at once."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import threading
import uuid
from pathlib import Path

import torch
from torch import Tensor

# Of the limit; as much stays when the oldest goes, so that it does not go one by one.
REST = 0.9
# Of the limit; after so much of its own, a process looks at what others have put there.
LOOK_AGAIN = 0.1
# Bytes before the pixels, by which they are known to be those that were put there.
CHECKSUM = 16
# Nothing with another name is ever touched.
OURS = re.compile(r"\.?[0-9a-f]{32}(\.[0-9a-f]{32}\.partial)?")


class DiskCache:
    """A file for each image: a checksum and its pixels, written whole or not at all.

    The checksum covers the pixels and the key: a file that a power cut has left full of zeros, or that has
    another image's name, is not taken for the image.

    Parameters
    ----------
    folder : path-like
        Made when it is needed, anew where somebody has removed it.
    limit : int
        Bytes; each process may exceed it by a tenth.
    """

    def __init__(self, folder: str | os.PathLike, limit: int):
        self.folder = Path(folder).expanduser()
        self.limit = limit
        self._room = -1.0  # nobody has looked yet
        self._lock = threading.Lock()

    def get(self, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
        """The image that was put there; None if there is none, or a damaged one."""
        try:
            data = self._path(key).read_bytes()
        except OSError:
            return None
        checksum, pixels = data[:CHECKSUM], data[CHECKSUM:]
        if len(pixels) != math.prod(shape) * dtype.itemsize or checksum != _checksum(key, pixels):
            return None
        return torch.frombuffer(bytearray(pixels), dtype=dtype).reshape(shape)

    def put(self, key: str, image: Tensor) -> None:
        """Keep an image.

        Parameters
        ----------
        key : str
            32 hexadecimal digits.
        image : Tensor

        Raises
        ------
        OSError
            The folder cannot be written to.
        """
        path, pixels = self._path(key), image.contiguous().view(torch.uint8).numpy().tobytes()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, _checksum(key, pixels) + pixels)
        except OSError as error:
            if not path.exists():  # where another process reads the same file, some systems refuse
                raise OSError(
                    f"reader__cache={str(self.folder)!r} cannot be written to: {error}. Make room, or give "
                    f"another folder, or None."
                ) from error
        with self._lock:
            self._room -= CHECKSUM + len(pixels)
            if self._room < 0:
                self._room = self._made_room()

    def _made_room(self) -> float:
        """Bytes until it has to be looked at again; where there is too much, the oldest goes."""
        files = sorted(self._files())
        there = sum(size for _, size, _ in files)
        if there > self.limit:
            for _, size, path in files:
                if there <= REST * self.limit:
                    break
                with contextlib.suppress(OSError):  # another process removes it, or reads it
                    os.unlink(path)
                    there -= size
        return min(self.limit - there, LOOK_AGAIN * self.limit)

    def _files(self) -> list[tuple[int, int, str]]:
        """(time of change, bytes, path) of each file of ours, other processes' as well."""
        found = []
        for below in _entries(self.folder):
            if not (re.fullmatch("[0-9a-f]{2}", below.name) and below.is_dir()):
                continue
            for entry in _entries(below):
                if OURS.fullmatch(entry.name):
                    with contextlib.suppress(OSError):  # another process has just removed it
                        stat = entry.stat()
                        found.append((stat.st_mtime_ns, stat.st_size, entry.path))
        return found

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key


def _checksum(key: str, pixels: bytes) -> bytes:
    return hashlib.blake2b(pixels, digest_size=CHECKSUM, key=key.encode()).digest()


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; no error where the folder or the part is removed meanwhile."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except FileNotFoundError:
        pass
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def _entries(folder: str | os.PathLike) -> list[os.DirEntry]:
    """What is in a folder; nothing where it has just been removed."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
