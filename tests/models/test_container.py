"""The container format: files of tensors and plain values."""

import contextlib
import errno
import json
import math

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sklearn_ssl._models import container as archive
from sklearn_ssl._models.container import ArchiveError, read_archive, write_archive

CONTENT = {
    "weights": {"conv": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)},
    "types": [torch.tensor(3), torch.tensor([True, False]), torch.ones(3, dtype=torch.bfloat16)],
    "empty": torch.zeros(0, 5),
    "part": torch.arange(6.0)[1::2],
    "plain": [1, -0.1, 1e-300, math.inf, "a", None, True],
    "betas": (0.9, (0.99, [1])),
    "by number": {0: {"step": torch.tensor(1.0)}, 1: {}},
    "odd": {"$tensor": 1, "$tuple": 2, "$pairs": 3},
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.safetensors"


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_what_is_read_is_what_was_written(path):
    write_archive(path, "thing", CONTENT)
    assert same(read_archive(path, "thing"), CONTENT)


def test_a_tensor_that_is_there_twice_is_read_twice(path):
    weight = torch.arange(3.0)
    write_archive(path, "thing", {"a": weight, "b": weight, "c": weight[:2]})
    assert same(read_archive(path, "thing"), {"a": weight, "b": weight, "c": weight[:2]})


def test_it_is_a_safetensors_file_whose_head_is_json(path):
    write_archive(path, "thing", {"weight": torch.ones(2), "lr": 0.1})
    with safe_open(path, "np") as file:
        np.testing.assert_array_equal(file.get_tensor("weight"), [1, 1])
        head = json.loads(file.metadata()["sklearn_ssl"])
    assert head == {"format": 1, "kind": "thing", "content": {"weight": {"$tensor": "weight"}, "lr": 0.1}}


@pytest.mark.parametrize("value", [object(), np.arange(3), {1}, 1j, torch.nn.Linear(1, 1)])
def test_anything_else_is_refused_with_its_place(path, value):
    with pytest.raises(TypeError, match=rf"A {type(value).__name__} \(/a/0\) cannot be written to a file"):
        write_archive(path, "thing", {"a": [value]})
    assert not path.exists()


def test_files_are_as_readable_as_others(path):
    write_archive(path, "thing", 1)
    other = path.with_name("other")
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


# ------------------------------------------------------------------ what goes wrong


def test_a_missing_file_is_the_systems_error(path):
    with pytest.raises(FileNotFoundError):
        read_archive(path, "thing")


def test_another_kind_is_refused(path):
    write_archive(path, "thing", 1)
    with pytest.raises(ArchiveError, match=r"some\.safetensors is a thing, not a model\."):
        read_archive(path, "model")


def test_a_later_format_is_refused(path, monkeypatch):
    monkeypatch.setattr(archive, "FORMAT_VERSION", 2)
    write_archive(path, "thing", 1)
    monkeypatch.setattr(archive, "FORMAT_VERSION", 1)
    with pytest.raises(ArchiveError, match=r"has format 2, of a later version .* reads formats up to 1"):
        read_archive(path, "thing")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"\xff" * 100, bytes(1000)])
def test_other_files_are_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="is not a file of sklearn_ssl, or it is damaged"):
        read_archive(path, "thing")


def test_safetensors_of_others_are_refused(path):
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(ArchiveError, match="is not a file of sklearn_ssl"):
        read_archive(path, "thing")


def test_no_changed_byte_goes_unnoticed(path):
    content = {"weights": torch.arange(8.0), "lr": 0.1, "name": "a"}
    write_archive(path, "thing", content)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= rng.integers(1, 256)
        path.write_bytes(changed)
        with contextlib.suppress(ArchiveError):
            assert same(read_archive(path, "thing"), content)  # a space of the head became another


def test_no_lost_end_goes_unnoticed(path):
    write_archive(path, "thing", {"weights": torch.arange(8.0)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ArchiveError):
            read_archive(path, "thing")


@pytest.mark.parametrize("head", ["[]", "{}", '{"format": 1}', "[" * 100_000])
def test_a_head_that_makes_no_sense_is_refused_though_its_checksum_is_right(path, head):
    save_file({}, path, {"sklearn_ssl": head, "sha256": archive._checksum(head, {})})
    with pytest.raises(ArchiveError, match="is not a file of sklearn_ssl"):
        read_archive(path, "thing")


@pytest.mark.parametrize(
    "error", [SafetensorError("I/O error: No space left"), OSError(errno.ENOSPC, "full")]
)
def test_a_file_that_cannot_be_written_leaves_the_old_one(path, monkeypatch, error):
    write_archive(path, "thing", 1)

    def half(tensors, file, metadata):
        file.write_bytes(b"half")
        raise error

    monkeypatch.setattr(archive, "save_file", half)
    with pytest.raises(OSError, match=r"No space left|full"):
        write_archive(path, "thing", 2)
    assert read_archive(path, "thing") == 1
    assert list(path.parent.iterdir()) == [path]
