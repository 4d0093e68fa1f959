"""Images on disk as they are trained on, for several processes at once."""

from __future__ import annotations

import contextlib
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
# Nothing with another name is ever touched.
OURS = re.compile(r"\.?[0-9a-f]{32}(\.[0-9a-f]{32}\.partial)?")


class DiskCache:
    """A file for each image: nothing but its pixels, written whole or not at all.

    Parameters
    ----------
    folder : path-like
        Made when it is first needed.
    limit : int
        Bytes; each process may exceed it by a tenth.
    """

    def __init__(self, folder: str | os.PathLike, limit: int):
        self.folder = Path(folder)
        self.limit = limit
        self._room = -1.0  # nobody has looked yet
        self._lock = threading.Lock()

    def get(self, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
        """The image that was put there; None if there is none."""
        try:
            data = self._path(key).read_bytes()
        except OSError:
            return None
        if len(data) != math.prod(shape) * dtype.itemsize:
            return None
        return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)

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
        path = self._path(key)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(image.contiguous().view(torch.uint8).numpy().tobytes())
            os.replace(partial, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            if not path.exists():  # where another process reads the same file, some systems refuse
                raise OSError(
                    f"reader__cache={str(self.folder)!r} cannot be written to: {error}. Make room, or give "
                    f"another folder, or None."
                ) from error
        with self._lock:
            self._room -= image.nbytes
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
        for below in os.scandir(self.folder):
            if not (re.fullmatch("[0-9a-f]{2}", below.name) and below.is_dir()):
                continue
            for entry in os.scandir(below):
                if OURS.fullmatch(entry.name):
                    with contextlib.suppress(OSError):  # another process has just removed it
                        stat = entry.stat()
                        found.append((stat.st_mtime_ns, stat.st_size, entry.path))
        return found

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key
