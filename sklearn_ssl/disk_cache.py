"""Images on disk as they are trained on, for several processes at once."""

from __future__ import annotations

import os
import threading
import uuid
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# Of the limit; as much stays when the oldest goes, so that it does not go one by one.
REST = 0.9


class DiskCache:
    """A file for each image: nothing but its pixels, written whole or not at all.

    Parameters
    ----------
    folder : path-like
        Made if it is not there.
    limit : int
        Bytes.
    """

    def __init__(self, folder: str | os.PathLike, limit: int):
        self.folder = Path(folder)
        self.limit = limit
        self._lock = threading.Lock()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"reader__cache={str(folder)!r} cannot be made: {error}") from error
        self._bytes = sum(size for _, size, _ in self._files())

    def get(self, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
        """The image that was put there; None if there is none."""
        try:
            data = self._path(key).read_bytes()
        except OSError:
            return None
        if len(data) != int(np.prod(shape)) * dtype.itemsize:
            return None
        return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)

    def put(self, key: str, image: Tensor) -> None:
        """Keep an image.

        Raises
        ------
        OSError
            The folder cannot be written to.
        """
        path = self._path(key)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        try:
            path.parent.mkdir(exist_ok=True)
            partial.write_bytes(image.contiguous().view(torch.uint8).numpy().tobytes())
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise OSError(
                f"reader__cache: {path} cannot be written: {error}. Make room, or give None."
            ) from error
        with self._lock:
            self._bytes += image.nbytes
            if self._bytes > self.limit:
                self._forget_the_oldest()

    def _forget_the_oldest(self) -> None:
        files = sorted(self._files())
        self._bytes = sum(size for _, size, _ in files)
        for _, size, path in files:
            if self._bytes <= REST * self.limit:
                return
            Path(path).unlink(missing_ok=True)
            self._bytes -= size

    def _files(self) -> list[tuple[int, int, str]]:
        """(time of change, bytes, path) of each file, other processes' as well."""
        found = []
        for below in os.scandir(self.folder):
            for entry in os.scandir(below) if below.is_dir() else ():
                try:
                    stat = entry.stat()
                except OSError:  # another process has just removed it
                    continue
                found.append((stat.st_mtime_ns, stat.st_size, entry.path))
        return found

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key
