"""Disk cache of decoded and resized images, shared by several processes."""

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

# Fraction of the limit that remains after an eviction; below 1, so that not every write causes another one.
EVICT_TO = 0.9
# Fraction of the limit that a process writes before it scans the folder again for files of other processes.
RESCAN_AFTER = 0.1
# Size in bytes of the checksum that precedes the pixels in a file.
CHECKSUM_BYTES = 16
# Names of the cache's files, partial ones included. A file with another name is never removed.
CACHE_FILE_NAME = re.compile(r"\.?[0-9a-f]{32}(\.[0-9a-f]{32}\.partial)?")


class DiskCache:
    """Cache with one file per image, which holds a checksum and the pixels and is written atomically.

    The checksum covers the pixels and the key, so that a file that a loss of power has left full of zeros, or
    that was renamed, is not mistaken for the image.

    Parameters
    ----------
    folder : path-like
        Folder of the cache; created when it is needed, again if it was removed.
    limit : int
        Maximum size in bytes. Each process may exceed it by a tenth.
    """

    def __init__(self, folder: str | os.PathLike, limit: int):
        self.folder = Path(folder).expanduser()
        self.limit = limit
        self._until_scan = -1.0  # bytes to write before the next scan; negative: the first write scans
        self._lock = threading.Lock()

    def get(self, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
        """Return a cached image, or None if it is not cached or its file is damaged."""
        try:
            data = self._path(key).read_bytes()
        except OSError:
            return None
        checksum, pixels = data[:CHECKSUM_BYTES], data[CHECKSUM_BYTES:]
        if len(pixels) != math.prod(shape) * dtype.itemsize or checksum != _checksum(key, pixels):
            return None
        # bytearray: a tensor that shares memory with immutable bytes causes a warning.
        return torch.frombuffer(bytearray(pixels), dtype=dtype).reshape(shape)

    def put(self, key: str, image: Tensor) -> None:
        """Write an image to the cache.

        Parameters
        ----------
        key : str
            Identifier of the image: 32 hexadecimal digits.
        image : Tensor
            Decoded image.

        Raises
        ------
        OSError
            If the folder cannot be written to.
        """
        path, pixels = self._path(key), image.contiguous().view(torch.uint8).numpy().tobytes()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, _checksum(key, pixels) + pixels)
        except OSError as error:
            # Windows refuses to replace a file that another process reads; it holds the same image already.
            if not path.exists():
                raise OSError(
                    f"reader__cache={str(self.folder)!r} cannot be written to: {error}. Free disk space, or "
                    f"give another folder or None."
                ) from error
        with self._lock:
            self._until_scan -= CHECKSUM_BYTES + len(pixels)
            if self._until_scan < 0:
                self._until_scan = self._evict()

    def _evict(self) -> float:
        """Remove the oldest files above the limit; return the bytes to write until the next scan."""
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        if total > self.limit:
            for _, size, path in files:
                if total <= EVICT_TO * self.limit:
                    break
                with contextlib.suppress(OSError):  # another process removes or reads it
                    os.unlink(path)
                    total -= size
        return min(self.limit - total, RESCAN_AFTER * self.limit)

    def _files(self) -> list[tuple[int, int, str]]:
        """Return (modification time, bytes, path) of each file of the cache, whichever process wrote it."""
        found = []
        for subfolder in _entries(self.folder):
            if not (re.fullmatch("[0-9a-f]{2}", subfolder.name) and subfolder.is_dir()):
                continue
            for entry in _entries(subfolder):
                if CACHE_FILE_NAME.fullmatch(entry.name):
                    with contextlib.suppress(OSError):  # another process has just removed it
                        stat = entry.stat()
                        found.append((stat.st_mtime_ns, stat.st_size, entry.path))
        return found

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key  # subfolders: large folders are slow on some file systems


def _checksum(key: str, pixels: bytes) -> bytes:
    return hashlib.blake2b(pixels, digest_size=CHECKSUM_BYTES, key=key.encode()).digest()


def _write(path: Path, data: bytes) -> None:
    """Write a file atomically; do nothing if the folder or the partial file is removed meanwhile.

    Without the lock and fsync of `_filesystem.replace_file`: two writers of a key write the same bytes, and a
    damaged file fails its checksum.
    """
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


def _entries(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, none if it was removed."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
