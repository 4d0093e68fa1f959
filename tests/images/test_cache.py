"""The cache of images on disk, used by several processes at once."""

import multiprocessing
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from sklearn_ssl._images.cache import DiskCache

SHAPE, BYTES = (3, 4, 4), 16 + 48  # a checksum and the pixels


def image(i, dtype=torch.uint8):
    return torch.full(SHAPE, i, dtype=dtype)


def key(i):
    return f"{i:032x}"


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_what_was_put_there_is_there(tmp_path, dtype):
    DiskCache(tmp_path / "a" / "b", 10**6).put("ab" * 16, image(7, dtype))
    again = DiskCache(tmp_path / "a" / "b", 10**6)
    assert torch.equal(again.get("ab" * 16, SHAPE, dtype), image(7, dtype))
    assert again.get("cd" * 16, SHAPE, dtype) is None


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    DiskCache("~/cache", 10**6).put(key(1), image(1))
    assert len(files(tmp_path / "cache")) == 1


def test_an_image_of_another_length_is_none(tmp_path):
    cache = DiskCache(tmp_path, 10**6)
    cache.put("ab" * 16, image(7))
    [path] = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    assert cache.get("ab" * 16, SHAPE, torch.uint8) is None


def zeros(data):
    return bytes(len(data))


def one_bit_flipped(data):
    return data[:30] + bytes([data[30] ^ 1]) + data[31:]


@pytest.mark.parametrize("damaged", [zeros, one_bit_flipped])
def test_a_file_of_the_right_length_whose_bytes_have_changed_is_none(tmp_path, damaged):
    cache = DiskCache(tmp_path, 10**6)
    cache.put(key(1), image(7))
    [path] = files(tmp_path)
    path.write_bytes(damaged(path.read_bytes()))
    assert cache.get(key(1), SHAPE, torch.uint8) is None
    cache.put(key(1), image(7))
    assert torch.equal(cache.get(key(1), SHAPE, torch.uint8), image(7))


def test_the_file_of_one_image_is_not_taken_for_another(tmp_path):
    cache = DiskCache(tmp_path, 10**6)
    cache.put(key(1), image(1))
    [path] = files(tmp_path)
    assert key(1)[:2] == key(2)[:2]
    shutil.copy(path, path.with_name(key(2)))
    assert cache.get(key(2), SHAPE, torch.uint8) is None


def test_a_folder_that_was_removed_is_made_anew(tmp_path):
    cache = DiskCache(tmp_path / "cache", 3 * BYTES)
    cache.put(key(1), image(1))
    shutil.rmtree(tmp_path / "cache")
    assert cache.get(key(1), SHAPE, torch.uint8) is None
    cache.put(key(2), image(2))
    assert torch.equal(cache.get(key(2), SHAPE, torch.uint8), image(2))


@pytest.mark.parametrize("called", ["write_bytes", "mkdir"])
def test_a_folder_that_is_removed_while_an_image_is_written_is_no_error(tmp_path, monkeypatch, called):
    original = getattr(Path, called)

    def removed_afterwards(self, *args, **kwargs):
        original(self, *args, **kwargs)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)

    cache = DiskCache(tmp_path / "cache", 10**6)
    cache.put(key(0), image(0))
    with monkeypatch.context() as patched:
        patched.setattr(Path, called, removed_afterwards)
        cache.put(key(1), image(1))
    assert cache.get(key(1), SHAPE, torch.uint8) is None
    cache.put(key(1), image(1))
    assert torch.equal(cache.get(key(1), SHAPE, torch.uint8), image(1))


def test_a_limit_below_what_several_threads_write_at_a_time_is_no_error(tmp_path):
    cache = DiskCache(tmp_path, 1)

    def put_and_get(i):
        cache.put(key(i), image(i % 256))
        return cache.get(key(i), SHAPE, torch.uint8)

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(put_and_get, range(400)))
    assert all(each is None or torch.equal(each, image(i % 256)) for i, each in enumerate(found))


def test_the_oldest_go_when_there_are_too_many(tmp_path):
    cache = DiskCache(tmp_path, 10 * BYTES)
    for i in range(11):
        cache.put(key(i), image(i))
        os.utime(tmp_path / key(i)[:2] / key(i), (i, i))
    left = [i for i in range(11) if cache.get(key(i), SHAPE, torch.uint8) is not None]
    # More than ten are too many; nine tenths of ten stay, of which the newest had the least time.
    assert len(left) == 9
    assert left[-1] == 10


def test_what_others_have_put_there_counts(tmp_path):
    for i in range(8):
        DiskCache(tmp_path, 10 * BYTES).put(key(i), image(i))
    cache = DiskCache(tmp_path, 10 * BYTES)
    for i in range(8, 11):
        cache.put(key(i), image(i))
    assert len(files(tmp_path)) == 9


def test_files_of_others_are_neither_counted_nor_removed(tmp_path):
    for name in ("ab/photo.jpg", "cats/0.jpg", "ab/nested/0.jpg", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100 * BYTES))
    cache = DiskCache(tmp_path, 3 * BYTES)
    for i in range(5):
        cache.put(key(i), image(i))
    kept = {path.relative_to(tmp_path).as_posix() for path in files(tmp_path)}
    assert {"ab/photo.jpg", "cats/0.jpg", "ab/nested/0.jpg", "notes.txt"} < kept
    assert len(kept) == 4 + 3


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"reader__cache='.*cache' cannot be written to"):
        DiskCache(tmp_path / "file" / "cache", 10**6).put(key(1), image(1))


def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path, 10**6)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"reader__cache=.* cannot be written to: .*No space.* or None"):
        cache.put("ab" * 16, image(7))
    assert files(tmp_path) == []


def put_all(folder, limit):
    cache = DiskCache(folder, limit)
    for i in range(200):
        found = cache.get(key(i), SHAPE, torch.uint8)
        assert found is None or torch.equal(found, image(i % 256))
        cache.put(key(i), image(i % 256))


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("limit", [10**6, 50 * BYTES])
def test_two_processes_may_share_it(tmp_path, limit):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=put_all, args=(tmp_path, limit)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(files(tmp_path)) == (200 if limit == 10**6 else pytest.approx(50, abs=15))
