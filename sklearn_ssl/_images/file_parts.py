"""Parts of files as images, such as slices of volumes, tiles of slides and frames of videos."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class FilePart:
    """Image that is part of a file, such as a slice of a volume or a tile of a slide.

    `fit` and `transform` accept lists, arrays and columns of them, and read each image by the function
    `reader__read`, which maps a `FilePart` to an array of shape (height, width[, channels]). Several threads
    call it at once, unless `reader__workers` is 1.

    Parameters
    ----------
    path : path-like
        Path of the file, or of a folder such as that of a zarr store.
    part : object
        What `reader__read` needs in order to find the image, such as the number of a slice, or the position
        of a tile as a tuple. Numbers of numpy become those of Python.

    See Also
    --------
    list_parts : List the parts of files.
    """

    path: Path
    part: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        if isinstance(self.part, np.generic):
            object.__setattr__(self, "part", self.part.item())

    def __str__(self) -> str:
        return f"Part {self.part} of {self.path}"


def list_parts(
    files: Iterable[str | os.PathLike], parts: Callable[[Path], Iterable[Any]]
) -> np.ndarray[Any, np.dtype[np.object_]]:
    """List the parts of files, such as the slices of volumes or the tiles of slides.

    Parameters
    ----------
    files : iterable of path-like
        Paths of the files, or of folders such as those of zarr stores.
    parts : callable
        Function that maps a path to its parts, such as ``range(number of slices)``.

    Returns
    -------
    ndarray of FilePart of shape (n_parts,)
        Parts of all files, in the order of the files. Any selection of them is an input of `fit` and
        `transform`, together with `reader__read`.

    Raises
    ------
    TypeError
        If `files` is a single path.
    FileNotFoundError
        If a file does not exist.
    ValueError
        If there is no part.

    See Also
    --------
    FilePart : A part of a file.
    list_images : List the image files of a folder.

    Examples
    --------
    >>> from sklearn_ssl import SSLImageEmbedder, list_parts
    >>> slices = list_parts(["a.npy", "b.npy"], lambda path: range(len(np.load(path))))  # doctest: +SKIP
    >>> def read(item):
    ...     return np.load(item.path, mmap_mode="r")[item.part]
    >>> embedder = SSLImageEmbedder(reader__read=read).fit(slices)  # doctest: +SKIP
    >>> patients = [item.path.stem for item in slices]  # doctest: +SKIP
    """
    if isinstance(files, str | os.PathLike):
        raise TypeError(f"files={str(files)!r} is a single path: give a list of paths, [{str(files)!r}].")
    paths = [Path(path) for path in files]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"There is no file {path}.")
    found = [FilePart(path, part) for path in paths for part in parts(path)]
    if not found:
        raise ValueError(f"{len(paths)} files have no part: `parts` returned nothing for each of them.")
    array = np.empty(len(found), dtype=object)
    array[:] = found
    return array
