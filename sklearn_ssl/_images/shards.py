"""Images in tar files, such as the shards of webdataset, by index."""

from __future__ import annotations

import os
import tarfile
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from sklearn_ssl._images.collections import IndexedImages
from sklearn_ssl._images.decode import SUFFIXES

COMPRESSED_SUFFIXES = (".gz", ".tgz", ".bz2", ".xz", ".zst")


class ImageShards(Sequence[bytes]):
    """Encoded images in tar files, such as the shards of webdataset: an input of `fit` and `transform`.

    A shard holds samples: members whose paths agree up to the first dot of the file name, such as 00042.jpg
    and 00042.cls, one after the other. The headers of the shards are read once, which gives each image an
    index, so that images can be shuffled; each is read when it is needed.

    Parameters
    ----------
    shards : path-like or list of path-like
        Uncompressed tar files, or a folder: its .tar files, sorted.
    extension : str, default=None
        Extension of the images, such as "jpg" or "left.png", in lower case. None: the only one of the
        extensions that `list_images` accepts.

    Attributes
    ----------
    shards : list of Path
        Paths of the shards.
    extension : str or None
        Given extension.
    keys : list of str
        Key of each image's sample: the path of its members in the shard, up to the first dot of the name.

    Raises
    ------
    FileNotFoundError
        If there is no such shard.
    ValueError
        If a shard is compressed or damaged, has no image, or a sample has several.

    See Also
    --------
    list_images : List the image files of a folder.

    Examples
    --------
    >>> from sklearn_ssl import ImageShards, SSLImageEmbedder
    >>> shards = ImageShards("shards/")  # doctest: +SKIP
    >>> labels = [int(label) for label in shards.column("cls")]  # doctest: +SKIP
    >>> embeddings = SSLImageEmbedder().fit_transform(shards)  # doctest: +SKIP
    """

    def __init__(self, shards: str | os.PathLike | Sequence[str | os.PathLike], extension: str | None = None):
        self.shards = _paths_of(shards)
        self.extension = extension
        # For each extension, (sample, offset, size) of its members, one after the other.
        members: defaultdict[str, array] = defaultdict(lambda: array("q"))
        shard_of_sample, keys = array("q"), []
        for number, shard in enumerate(self.shards):
            previous = None
            for key, suffix, member in _members(shard):
                if key != previous:
                    shard_of_sample.append(number)
                    keys.append(key)
                    previous = key
                members[suffix].extend((len(keys) - 1, member.offset_data, member.size))
        self._members = {suffix: np.array(flat).reshape(-1, 3) for suffix, flat in members.items()}
        self._shard_of_sample = np.array(shard_of_sample)
        self._images = self._find_images()
        self.keys = [keys[sample] for sample in self._images[:, 0]]

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._read(self._images[index])

    def column(self, extension: str) -> list[bytes | None]:
        """Return the members with an extension, such as "cls" or "json", of the samples with an image.

        Parameters
        ----------
        extension : str
            Extension, in lower case.

        Returns
        -------
        list of bytes or None
            One entry per image, None where a sample has no such member.
        """
        if extension not in self._members:
            raise ValueError(f"No sample has the extension {extension!r}; there are {sorted(self._members)}.")
        by_sample = {member[0]: member for member in self._members[extension]}
        found = (by_sample.get(sample) for sample in self._images[:, 0])
        return [None if member is None else self._read(member) for member in found]

    def name(self, index: int) -> str:
        """Return the location of an image, for messages."""
        return f"{self.keys[index]} in {self._shard_of(self._images[index, 0])}"

    def identity(self, index: int) -> tuple:
        """Return values that change with an image, without reading it."""
        sample, offset, size = self._images[index].tolist()
        path = self._shard_of(sample)
        return str(path.absolute()), offset, size, path.stat().st_mtime_ns

    def _read(self, member: np.ndarray) -> bytes:
        sample, offset, size = member.tolist()
        with open(self._shard_of(sample), "rb") as file:
            file.seek(offset)
            return file.read(size)

    def _shard_of(self, sample: int) -> Path:
        return self.shards[self._shard_of_sample[sample]]

    def _find_images(self) -> np.ndarray:
        """Return (sample, offset, size) of the image of each sample that has one."""
        suffixes = [suffix for suffix in self._members if self._is_image(suffix)]
        if not suffixes:
            wanted = "image" if self.extension is None else f"member with the extension {self.extension!r}"
            raise ValueError(
                f"There is no {wanted} in {len(self.shards)} shards, such as {self.shards[0]}; their "
                f"extensions are {sorted(self._members)}."
            )
        images = np.concatenate([self._members[suffix] for suffix in suffixes])
        images = images[np.lexsort((images[:, 1], images[:, 0]))]
        if len(np.unique(images[:, 0])) < len(images):
            raise ValueError(
                f"Some samples have several images: choose one by its extension, for example "
                f"ImageShards(shards, extension={sorted(suffixes)[0]!r}); there are {sorted(suffixes)}."
            )
        return images

    def _is_image(self, suffix: str) -> bool:
        if self.extension is not None:
            return suffix == self.extension
        return f".{suffix.rpartition('.')[2]}" in SUFFIXES


@dataclass(frozen=True)
class ShardImages(IndexedImages):
    """Images of shards as a collection, with names and identities."""

    images: ImageShards
    single_threaded: bool = False

    def name(self, position: int) -> str:
        return self.images.name(position)

    def identity(self, position: int) -> tuple:
        return self.images.identity(position)


def _paths_of(shards: str | os.PathLike | Sequence[str | os.PathLike]) -> list[Path]:
    """Return the paths of the shards, all of which are files."""
    if isinstance(shards, str | os.PathLike):
        given = Path(shards)
        paths = sorted(given.glob("*.tar")) if given.is_dir() else [given]
    else:
        paths = [Path(path) for path in shards]
    if not paths:
        raise FileNotFoundError(f"There is no shard: {shards!r} has no .tar file.")
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}.")
    return paths


def _members(shard: Path) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Yield key and extension of each file in a shard, with its header; hidden files are left out."""
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # which it would collect
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if member.isreg() and stem and not stem.startswith("__"):
                    yield f"{folder}/{stem}".lstrip("/"), extension.lower(), member
            tar.fileobj.seek(tar.offset)
            if any(tar.fileobj.read(tarfile.BLOCKSIZE)):  # tarfile ignores an incomplete header at the end
                raise tarfile.ReadError("unexpected end of data")
    except tarfile.TarError as error:
        if shard.suffix in COMPRESSED_SUFFIXES:
            raise ValueError(
                f"{shard} is compressed: its images cannot be read one by one. Decompress it first."
            ) from error
        raise ValueError(f"{shard} cannot be read as a tar file: {error}") from error
