"""Paths of image files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sklearn_ssl._images.decode import SUFFIXES

# Opening one may wait for ever.
SPECIAL = "no regular file, but a named pipe, a socket or a device"


def is_special(path: Path) -> bool:
    """Whether a path leads to something that is neither a file nor a folder: a pipe, a socket, a device."""
    return path.exists() and not (path.is_file() or path.is_dir())


def list_images(folder: str | os.PathLike) -> list[Path]:
    """The image files in a folder and in those below it, sorted: the rows of ``fit(folder)``.

    Parameters
    ----------
    folder : path-like
        Links to folders are followed. Names that begin with a dot are left out.

    Returns
    -------
    list of Path
        Those whose names end as images' do, in any case: .bmp, .gif, .jp2, .jpg, .jpeg, .npy, .pgm, .png,
        .pnm, .ppm, .tif, .tiff, .webp. Nothing is opened: `fit` refuses named pipes and devices among them.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, PermissionError
        There is no such folder, or one of those below cannot be listed.
    ValueError
        There is no image in it, or a link in it leads back to where it is.
    """
    return files_below(folder, SUFFIXES)


def files_below(folder: str | os.PathLike, suffixes: tuple[str, ...] | None) -> list[Path]:
    """Those with one of these suffixes, or all; see `list_images`."""
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"There is no folder {folder}.")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: give a list of paths, or a folder.")
    found = [path for path in _walk(folder) if suffixes is None or path.suffix.lower() in suffixes]
    if not found:
        kinds = "" if suffixes is None else f" whose name ends in {', '.join(suffixes)}"
        raise ValueError(f"There is no file{kinds} in the folder {folder}, or below it.")
    return sorted(found)


def _walk(folder: Path) -> Iterator[Path]:
    """What is no folder, in any order; without recursion, for folders may be nested deeper than calls."""
    pending: list[tuple[Path, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while pending:
        folder, above = pending.pop()
        stat = folder.stat()
        itself = stat.st_dev, stat.st_ino
        if itself in above:
            real = folder.resolve()
            raise ValueError(
                f"{folder} is a link that leads back to {real}: remove it, or give a list of paths."
            )
        for entry in _visible(folder):
            if entry.is_dir():
                pending.append((entry, above | {itself}))
            else:
                yield entry


def _visible(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise PermissionError(f"The folder {folder} cannot be read: {error.strerror}.") from error
