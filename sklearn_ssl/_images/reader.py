"""Settings of reading images: the parameters `reader__<name>`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image, ImageColor

from sklearn_ssl._checks import check_choice, check_number
from sklearn_ssl._images.axes import ORDERS


@dataclass(frozen=True)
class Reader:
    """Settings of reading images: the parameters `reader__<name>` of `SSLImageEmbedder`.

    Parameters
    ----------
    on_error : {"raise", "skip"}, default="raise"
        Handling of unreadable images. "raise": raise an error. "skip": `fit` ignores them, with a warning,
        and lists them in `skipped_`; `transform` returns rows of NaN for them.
    read : callable, default=None
        Function that reads a file of any format: it maps a path, a `FilePart` where X holds parts of files,
        or a binary file object where X holds the content of files, to an array of shape (height, width[,
        channels]). None: read BMP, GIF, JPEG, JPEG 2000, PNG, PPM, TIFF, WebP and .npy.
    channels : {"auto", "first", "last"}, default="auto"
        Place of the channels among the axes of images in arrays, torch tensors, .npy files, and results of
        `read`. "auto": last in arrays, (height, width, channels), and first in tensors, with an error where
        the shape suggests another order or might be a volume. "first", "last": as told.
    background : str, default="white"
        Color behind transparent pixels, in any notation that Pillow accepts.
    max_pixels : int, default=89_478_485
        Maximum height * width. Larger images are rejected before they are decoded, as a small file may
        decompress to gigabytes. The default is that of Pillow.
    memory_limit : int, default=2**31
        Maximum size in bytes of the decoded and resized training images up to which they are kept in memory.
    cache : str or path-like, default=None
        Folder of a disk cache of decoded and resized image files, shared by epochs, fits and processes. Files
        that change, and damaged entries of the cache, are read again. Use another folder for the cache if
        functions that `read` calls change, or the contents of a folder with parts (`FilePart`), as this
        cannot be detected. None: no disk cache.
    cache_limit : int, default=20 * 2**30
        Maximum size of the disk cache in bytes; the oldest entries are removed.
    workers : int or "auto", default="auto"
        Number of threads that read images; each holds one image of full size in memory. "auto": the number of
        threads of torch, or the share of the processors of a process that `torchrun` has started; 1 for PIL
        images and datasets, as not all of them are thread-safe.

    See Also
    --------
    list_images : List the image files of a folder.
    list_parts : List the parts of files, such as slices and tiles.
    """

    on_error: str = "raise"
    read: Callable[[Any], Any] | None = None
    channels: str = "auto"
    background: str = "white"
    max_pixels: int = 89_478_485
    memory_limit: int = 2**31
    cache: str | os.PathLike | None = None
    cache_limit: int = 20 * 2**30
    workers: int | str = "auto"

    def __post_init__(self) -> None:
        check_choice("reader__on_error", self.on_error, ("raise", "skip"))
        check_choice("reader__channels", self.channels, ORDERS)
        if self.read is not None and not callable(self.read):
            raise ValueError(f"reader__read={self.read!r}: give a function from a path to an array, or None.")
        if not isinstance(self.cache, str | os.PathLike | None):
            raise ValueError(f"reader__cache={self.cache!r}: give the path of a folder, or None.")
        for name in ("max_pixels", "memory_limit", "cache_limit"):
            check_number(f"reader__{name}", getattr(self, name), whole=True, at_least=1)
        check_number("reader__workers", self.workers, whole=True, at_least=1, instead=("auto",))
        # Pillow warns above MAX_IMAGE_PIXELS and raises an error above twice that number.
        if Image.MAX_IMAGE_PIXELS is not None and self.max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
            raise ValueError(
                f"reader__max_pixels={self.max_pixels}: Pillow itself refuses more than "
                f"{2 * Image.MAX_IMAGE_PIXELS}. If you trust your files, set PIL.Image.MAX_IMAGE_PIXELS too."
            )
        try:
            ImageColor.getrgb(self.background)
        except (ValueError, AttributeError, TypeError):
            raise ValueError(
                f"reader__background={self.background!r}: give a color, such as 'white' or '#204080'."
            ) from None


def make_reader(reader: Reader | None, params: dict[str, Any]) -> Reader:
    """Return the settings given as `reader`, updated by those of `reader_params`."""
    target = resolve_reader(reader)
    return replace(target, **params) if isinstance(target, Reader) else target(**params)


def resolve_reader(reader: Any) -> Reader | type[Reader]:
    """Return the settings, or the class with the default settings if none are given.

    Raises
    ------
    ValueError
        If `reader` is neither a `Reader` nor None.
    """
    if reader is None:
        return Reader
    if isinstance(reader, Reader):
        return reader
    raise ValueError(
        f"reader={reader!r}: give a sklearn_ssl.Reader, or None. To read files by your own function, set "
        f"reader__read=function."
    )
