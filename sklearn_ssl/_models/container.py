"""Files of tensors and plain values: safetensors, with a checksum; written whole, read without code."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sklearn_ssl._filesystem import check_regular, replace_file
from sklearn_ssl._hardware.devices import is_out_of_memory
from sklearn_ssl._models.schema import FormError, check_form, printable

# Of the file's layout. A reader takes every version up to its own.
FORMAT = 1
# Words that stand for what JSON has not; a dict that has one of them as a key is written as pairs.
TENSOR, TUPLE, PAIRS = "$tensor", "$tuple", "$pairs"


class ArchiveError(ValueError):
    """A file that is not what was asked for, or no longer what was written."""


def write_archive(
    path: str | os.PathLike, kind: str, content: Any, unless: Callable[[], bool] = lambda: False
) -> None:
    """Write a file in place of the one there was, in one go: a reader sees the old one or the new one.

    Parameters
    ----------
    path : path-like
        Its folder exists.
    kind : str
        What the file is; `read_archive` asks for it.
    content : dict, list, tuple, Tensor, str, int, float, bool or None, nested
        Tensors may be anywhere in it, on any device.
    unless : callable, optional
        As for `replace_file`.

    Raises
    ------
    TypeError
        There is something else in it.
    OSError
        The folder cannot be written to, or the disk is full; the file is then as before.
    """
    tensors: dict[str, Tensor] = {}
    head = json.dumps({"format": FORMAT, "kind": kind, "content": _encode(content, "", tensors)})
    metadata = {"sklearn_ssl": head, "sha256": _checksum(head, tensors)}
    own = _each_its_own(tensors)
    try:
        # safetensors writes a file of its own beside this one, and renames it: `path` is alone in its folder.
        replace_file(path, lambda new: save_file(own, new, metadata), unless)
    except SafetensorError as error:  # "I/O error: No space left on device"
        raise OSError(errno.EIO, f"{path} cannot be written: {error}") from error


def read_archive(path: str | os.PathLike, kind: str, form: Any = object, *, tensors: bool = True) -> Any:
    """What `write_archive` was given, with tensors on the CPU; nothing in the file is executed.

    Parameters
    ----------
    path : path-like
    kind : str
    form : type, dict, list, tuple or callable, optional
        Of the content; see `check_form`.
    tensors : bool, default=True
        False: a quick look, with None for each tensor, at a file whose checksum is not looked at.

    Raises
    ------
    ArchiveError
        The file is of another kind, of a later format, or damaged, or its content has another form.
    OSError
        There is no such file, or it cannot be read.
    """
    check_regular(path)
    with open(path, "rb"):  # the system's own words for a missing file
        pass
    try:
        head, read = _read(path, tensors)
        content = _decode(_of_this_format(json.loads(head), kind)["content"], read)
        check_form(content, form, "content")
        return content
    except FormError as error:
        raise ArchiveError(f"{path} is not a file of sklearn_ssl, or it is damaged: {error}.") from None
    except ArchiveError as error:
        raise ArchiveError(f"{path} {error}") from None
    except (MemoryError, OSError):  # no fault of the file's
        raise
    except Exception as error:  # whatever safetensors and json say to bytes that are none of ours
        if is_out_of_memory(error):
            raise
        raise ArchiveError(f"{path} is not a file of sklearn_ssl, or it is damaged: {error}") from error


def plain_items(row: Mapping[str, Any]) -> dict[str, Any]:
    """Those that `write_archive` takes."""
    return {name: value for name, value in row.items() if is_plain(value)}


def is_plain(content: Any) -> bool:
    """Whether `write_archive` takes it."""
    try:
        _encode(content, "", {})
    except TypeError:
        return False
    return True


def _read(path: str | os.PathLike, with_tensors: bool) -> tuple[str, Mapping[str, Tensor | None]]:
    with safe_open(path, framework="pt", device="cpu") as file:
        metadata = file.metadata() or {}
        if not with_tensors:
            return metadata["sklearn_ssl"], defaultdict(lambda: None)
        # Copies: the file is mapped into memory, and may be replaced.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    head = metadata["sklearn_ssl"]
    if metadata["sha256"] != _checksum(head, tensors):
        raise ArchiveError("is damaged: its contents are not those that were written (SHA-256).")
    return head, tensors


def _of_this_format(head: dict, kind: str) -> dict:
    check_form(head, {"format": int, "kind": str, "content": object}, "head")
    if head["format"] > FORMAT:
        raise ArchiveError(
            f"has format {head['format']}, of a later version of sklearn_ssl than this one, which reads "
            f"formats up to {FORMAT}: pip install -U sklearn-ssl."
        )
    if head["kind"] != kind:
        raise ArchiveError(f"is a {printable(head['kind'])}, not a {kind}.")
    return head


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return the value as JSON has it; tensors go into the dict.

    A tensor is named by its key, as in the state dict that it is from, so that other tools find it under the
    name that they expect; by its whole place where two have the same key.
    """
    if isinstance(value, Tensor):
        key = name.rpartition("/")[2]
        key = name if key in tensors else key
        while key in tensors:  # {"a/b": x, "a": {"b": y}}
            key += "'"
        tensors[key] = value.detach().cpu().contiguous()
        return {TENSOR: key}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, tuple):
        return {TUPLE: _encode(list(value), name, tensors)}
    if isinstance(value, list):
        return [_encode(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        raise TypeError(f"A {type(value).__name__} ({name or 'content'}) cannot be written to a file.")
    items = {key: _encode(item, f"{name}/{key}", tensors) for key, item in value.items()}
    if all(type(key) is str for key in items) and not items.keys() & {TENSOR, TUPLE, PAIRS}:
        return items
    return {PAIRS: [[key, item] for key, item in items.items()]}


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if TENSOR in value:
        return tensors[value[TENSOR]]
    if TUPLE in value:
        return tuple(_decode(value[TUPLE], tensors))
    if PAIRS in value:
        return {key: _decode(item, tensors) for key, item in value[PAIRS]}
    return {key: _decode(item, tensors) for key, item in value.items()}


def _checksum(head: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(head.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _each_its_own(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of those that share memory, which they could not do in a file."""
    places = Counter(tensor.untyped_storage().data_ptr() for tensor in tensors.values())
    return {
        name: tensor.clone() if places[tensor.untyped_storage().data_ptr()] > 1 else tensor
        for name, tensor in tensors.items()
    }
