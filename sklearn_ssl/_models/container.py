"""Files of tensors and plain values: safetensors with a JSON header and a checksum.

A file is replaced atomically, and reading it executes no code.
"""

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
from sklearn_ssl._models.schema import SchemaError, check_schema, printable

# Version of the file format; all versions up to this one can be read.
FORMAT_VERSION = 1
# Keys that mark types unknown to JSON: {"$tensor": name}, {"$tuple": [...]}, {"$pairs": [[key, value], ...]}.
# A dict that itself contains one of these keys, or keys other than strings, is written as pairs.
TENSOR_KEY, TUPLE_KEY, PAIRS_KEY = "$tensor", "$tuple", "$pairs"


class ArchiveError(ValueError):
    """Raised if a file is damaged, or is not of the requested kind."""


def write_archive(
    path: str | os.PathLike, kind: str, content: Any, unless: Callable[[], bool] = lambda: False
) -> None:
    """Write a file atomically: a reader sees either the old file or the new one.

    Parameters
    ----------
    path : path-like
        Path of the file, in an existing folder.
    kind : str
        Kind of the file, which `read_archive` checks.
    content : dict, list, tuple, Tensor, str, int, float, bool or None, nested
        Content of the file. Tensors may be on any device.
    unless : callable, optional
        See `replace_file`.

    Raises
    ------
    TypeError
        If the content contains a value of another type.
    OSError
        If the folder cannot be written to or the disk is full; the old file is then unchanged.
    """
    tensors: dict[str, Tensor] = {}
    head = json.dumps({"format": FORMAT_VERSION, "kind": kind, "content": _encode(content, "", tensors)})
    metadata = {"sklearn_ssl": head, "sha256": _checksum(head, tensors)}
    unshared = _unshared(tensors)
    try:
        # safetensors itself writes a temporary file beside `new` and renames it. `replace_file` gives `new` a
        # folder of its own, so that no such file is left beside `path`.
        replace_file(path, lambda new: save_file(unshared, new, metadata), unless)
    except SafetensorError as error:  # "I/O error: No space left on device"
        raise OSError(errno.EIO, f"{path} cannot be written: {error}") from error


def read_archive(path: str | os.PathLike, kind: str, schema: Any = object, *, tensors: bool = True) -> Any:
    """Return the content of a file, with tensors on the CPU; nothing in the file is executed.

    Parameters
    ----------
    path : path-like
        Path of a file that `write_archive` has written.
    kind : str
        Expected kind of the file.
    schema : type, dict, list, tuple or callable, optional
        Schema of the content; see `check_schema`.
    tensors : bool, default=True
        If False, read the plain values only: tensors are None, and the checksum is not verified.

    Returns
    -------
    dict, list, tuple, Tensor, str, int, float, bool or None, nested
        Content that `write_archive` was given.

    Raises
    ------
    ArchiveError
        If the file is damaged, of another kind or of a later format, or its content does not match `schema`.
    OSError
        If the file does not exist or cannot be read.
    """
    check_regular(path)
    with open(path, "rb"):  # raises the usual OSError for a missing or unreadable file
        pass
    try:
        head, read = _read(path, tensors)
        content = _decode(_checked_head(json.loads(head), kind)["content"], read)
        check_schema(content, schema, "content")
        return content
    except SchemaError as error:
        raise ArchiveError(f"{path} is not a file of sklearn_ssl, or it is damaged: {error}.") from None
    except ArchiveError as error:
        raise ArchiveError(f"{path} {error}") from None
    except (MemoryError, OSError):  # not the fault of the file
        raise
    except Exception as error:  # safetensors and json raise many types for damaged files
        if is_out_of_memory(error):
            raise
        raise ArchiveError(f"{path} is not a file of sklearn_ssl, or it is damaged: {error}") from error


def is_archive(path: Any) -> bool:
    """Return whether this is the path of a file that `write_archive` has written, of any kind."""
    if not isinstance(path, str | os.PathLike):
        return False
    try:
        check_regular(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            return "sklearn_ssl" in (file.metadata() or {})
    except (OSError, SafetensorError, ValueError):  # not a path, or not a file of this format
        return False


def plain_items(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the items whose values `write_archive` accepts."""
    return {name: value for name, value in row.items() if is_plain(value)}


def is_plain(content: Any) -> bool:
    """Return whether `write_archive` accepts a value."""
    try:
        _encode(content, "", {})
    except TypeError:
        return False
    return True


def _read(path: str | os.PathLike, with_tensors: bool) -> tuple[str, Mapping[str, Tensor | None]]:
    """Return the JSON header and the tensors by name; without tensors, every name maps to None."""
    with safe_open(path, framework="pt", device="cpu") as file:
        metadata = file.metadata() or {}
        if not with_tensors:
            return metadata["sklearn_ssl"], defaultdict(lambda: None)
        # Cloned because the file is memory-mapped, and may be replaced while the tensors are in use.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    head = metadata["sklearn_ssl"]
    if metadata["sha256"] != _checksum(head, tensors):
        raise ArchiveError("is damaged: its SHA-256 checksum does not match.")
    return head, tensors


def _checked_head(head: dict, kind: str) -> dict:
    """Return the header if its version and kind can be read."""
    check_schema(head, {"format": int, "kind": str, "content": object}, "head")
    if head["format"] > FORMAT_VERSION:
        raise ArchiveError(
            f"has format {head['format']}, of a later version of sklearn_ssl; this version reads formats up "
            f"to {FORMAT_VERSION}. Upgrade: pip install -U sklearn-ssl."
        )
    if head["kind"] != kind:
        raise ArchiveError(f"is a {printable(head['kind'])}, not a {kind}.")
    return head


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return a JSON representation of a value, and add its tensors to the dict.

    A tensor is stored under its own key, as in the state dict that contains it, so that other tools find it
    under the name that they expect. If this key is taken, its full path is used.
    """
    if isinstance(value, Tensor):
        key = name.rpartition("/")[2]
        key = name if key in tensors else key
        while key in tensors:  # paths can collide, too: {"a/b": x, "a": {"b": y}}
            key += "'"
        tensors[key] = value.detach().cpu().contiguous()
        return {TENSOR_KEY: key}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, tuple):
        return {TUPLE_KEY: _encode(list(value), name, tensors)}
    if isinstance(value, list):
        return [_encode(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        raise TypeError(f"A {type(value).__name__} ({name or 'content'}) cannot be written to a file.")
    items = {key: _encode(item, f"{name}/{key}", tensors) for key, item in value.items()}
    if all(type(key) is str for key in items) and not items.keys() & {TENSOR_KEY, TUPLE_KEY, PAIRS_KEY}:
        return items
    return {PAIRS_KEY: [[key, item] for key, item in items.items()]}


def _decode(value: Any, tensors: Mapping[str, Tensor | None]) -> Any:
    """Invert `_encode`."""
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if TENSOR_KEY in value:
        return tensors[value[TENSOR_KEY]]
    if TUPLE_KEY in value:
        return tuple(_decode(value[TUPLE_KEY], tensors))
    if PAIRS_KEY in value:
        return {key: _decode(item, tensors) for key, item in value[PAIRS_KEY]}
    return {key: _decode(item, tensors) for key, item in value.items()}


def _checksum(head: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(head.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)  # as bytes: numpy has no bfloat16
    return digest.hexdigest()


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share memory, which safetensors refuses to write."""
    uses = Counter(tensor.untyped_storage().data_ptr() for tensor in tensors.values())
    return {
        name: tensor.clone() if uses[tensor.untyped_storage().data_ptr()] > 1 else tensor
        for name, tensor in tensors.items()
    }
