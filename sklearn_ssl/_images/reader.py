"""How images are read: the settings `reader__...`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageColor

from sklearn_ssl._checks import check_choice, check_number


@dataclass(frozen=True)
class Reader:
    """How images are read; `reader__<name>` of `SSLImageEmbedder`.

    Parameters
    ----------
    on_error : {"raise", "skip"}, default="raise"
        What happens to an image that cannot be read. "skip": `fit` does without it, with a warning, and
        lists it in `skipped_`; `transform` gives it a row of NaN.
    read : callable, optional
        Reads a file in your own way, whatever it is: path -> array of shape (height, width[, channels]).
        None: BMP, GIF, JPEG, JPEG 2000, PNG, PPM, TIFF, WebP and .npy.
    background : str, default="white"
        Colour behind transparent pixels, in any of Pillow's words.
    max_pixels : int, default=89_478_485
        Larger images are refused before they are decoded: a small file can be one of many gigabytes. The
        default is Pillow's.
    memory_limit : int, default=2**31
        Bytes. Images that take no more, as they are trained on, are kept in memory once they were read.
    cache : path, optional
        A folder in which images of files are kept as they are trained on: later epochs, fits and processes
        need not decode them again. A file that has changed, or whose copy in the folder is damaged, is read
        anew; where what `read` calls has changed, give another folder.
    cache_limit : int, default=20 * 2**30
        Bytes; of what is in the folder, the oldest goes when it becomes more.
    workers : int or "auto", default="auto"
        Threads that read, each with an image of full size in hand. "auto": as many as torch uses; one for PIL
        images and datasets, of which not all can be used by several.
    """

    on_error: str = "raise"
    read: Callable[[Path], Any] | None = None
    background: str = "white"
    max_pixels: int = 89_478_485
    memory_limit: int = 2**31
    cache: str | os.PathLike | None = None
    cache_limit: int = 20 * 2**30
    workers: int | str = "auto"

    def __post_init__(self) -> None:
        check_choice("reader__on_error", self.on_error, ("raise", "skip"))
        if self.read is not None and not callable(self.read):
            raise ValueError(f"reader__read={self.read!r}: give a function from a path to an array, or None.")
        if not isinstance(self.cache, str | os.PathLike | None):
            raise ValueError(f"reader__cache={self.cache!r}: give the path of a folder, or None.")
        for name in ("max_pixels", "memory_limit", "cache_limit"):
            check_number(f"reader__{name}", getattr(self, name), whole=True, at_least=1)
        check_number("reader__workers", self.workers, whole=True, at_least=1, instead=("auto",))
        if Image.MAX_IMAGE_PIXELS is not None and self.max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
            raise ValueError(
                f"reader__max_pixels={self.max_pixels}: Pillow itself refuses more than "
                f"{2 * Image.MAX_IMAGE_PIXELS}. If you trust your files, set PIL.Image.MAX_IMAGE_PIXELS too."
            )
        try:
            ImageColor.getrgb(self.background)
        except (ValueError, AttributeError, TypeError):
            raise ValueError(
                f"reader__background={self.background!r}: give a colour, such as 'white' or '#204080'."
            ) from None


def make_reader(reader: Reader | None, params: dict[str, Any]) -> Reader:
    """Return the settings given as `reader=`, with those of `reader_params` in their place."""
    target = resolve_reader(reader)
    return replace(target, **params) if isinstance(target, Reader) else target(**params)


def resolve_reader(reader: Any) -> Reader | type[Reader]:
    """Return the settings, or the class whose defaults hold where none are given.

    Raises
    ------
    ValueError
    """
    if reader is None:
        return Reader
    if isinstance(reader, Reader):
        return reader
    raise ValueError(
        f"reader={reader!r}: give a sklearn_ssl.Reader, or None. A function of your own that reads a file is "
        f"reader__read=function."
    )
