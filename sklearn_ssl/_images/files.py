"""Search for image files in folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sklearn_ssl._images.decode import SUFFIXES

# End of error messages about paths that are not opened, because opening or reading them could block forever.
NOT_REGULAR = "not a regular file but a named pipe, a socket or a device"


def is_special(path: Path) -> bool:
    """Return whether a path exists and is neither a file nor a folder: a pipe, a socket or a device."""
    return path.exists() and not (path.is_file() or path.is_dir())


def list_images(folder: str | os.PathLike) -> list[Path]:
    """List the image files in a folder and its subfolders, sorted: the rows of ``fit(folder)``.

    Parameters
    ----------
    folder : path-like
        Folder to search. Symbolic links to folders are followed; files and folders whose names begin with a
        dot are ignored.

    Returns
    -------
    list of Path
        Paths with one of the suffixes .bmp, .gif, .jp2, .jpg, .jpeg, .npy, .pgm, .png, .pnm, .ppm, .tif,
        .tiff and .webp, in lower or upper case. The files are not opened.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, PermissionError
        If the folder does not exist, is a file, or cannot be read.
    ValueError
        If there is no image file, or a symbolic link leads back to a folder that contains it.
    """
    return files_below(folder, SUFFIXES)


def files_below(folder: str | os.PathLike, suffixes: tuple[str, ...] | None) -> list[Path]:
    """List the files with one of the suffixes (None: all files); see `list_images`."""
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"There is no folder {folder}.")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: give a list of paths, or a folder.")
    found = [path for path in _walk(folder) if suffixes is None or path.suffix.lower() in suffixes]
    if not found:
        kinds = "" if suffixes is None else f" whose name ends in {', '.join(suffixes)}"
        raise ValueError(f"There is no file{kinds} in the folder {folder} or its subfolders.")
    return sorted(found)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files in a folder and its subfolders, in any order."""
    # Iterative, as folders may be nested deeper than the recursion limit. The set holds the ancestors of a
    # folder, by which cycles of symbolic links are detected.
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
    """Return the entries of a folder whose names do not begin with a dot."""
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise PermissionError(f"The folder {folder} cannot be read: {error.strerror}.") from error
