"""Images on disk, for several processes at once."""

import multiprocessing
import os

import pytest
import torch

from sklearn_ssl.disk_cache import DiskCache

SHAPE, BYTES = (3, 4, 4), 48


def image(i, dtype=torch.uint8):
    return torch.full(SHAPE, i, dtype=dtype)


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_what_was_put_there_is_there(tmp_path, dtype):
    DiskCache(tmp_path / "a" / "b", 10**6).put("ab12", image(7, dtype))
    again = DiskCache(tmp_path / "a" / "b", 10**6)
    assert torch.equal(again.get("ab12", SHAPE, dtype), image(7, dtype))
    assert again.get("ab13", SHAPE, dtype) is None


def test_an_image_of_another_length_is_none(tmp_path):
    cache = DiskCache(tmp_path, 10**6)
    cache.put("ab12", image(7))
    [path] = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    assert cache.get("ab12", SHAPE, torch.uint8) is None


def test_the_oldest_go_when_there_are_too_many(tmp_path):
    cache = DiskCache(tmp_path, 10 * BYTES)
    for i in range(11):
        cache.put(f"{i:04}", image(i))
        os.utime(tmp_path / f"{i:04}"[:2] / f"{i:04}", (i, i))
    left = [i for i in range(11) if cache.get(f"{i:04}", SHAPE, torch.uint8) is not None]
    # More than ten are too many; nine tenths of ten stay, of which the newest had the least time.
    assert len(left) == 9
    assert left[-1] == 10


def test_what_others_have_put_there_counts(tmp_path):
    for i in range(8):
        DiskCache(tmp_path, 10 * BYTES).put(f"{i:04}", image(i))
    cache = DiskCache(tmp_path, 10 * BYTES)
    for i in range(8, 11):
        cache.put(f"{i:04}", image(i))
    assert len(files(tmp_path)) == 9


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"reader__cache='.*cache' cannot be made"):
        DiskCache(tmp_path / "file" / "cache", 10**6)


def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path, 10**6)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"reader__cache: .* cannot be written: .*No space.* or give None"):
        cache.put("ab12", image(7))
    assert files(tmp_path) == []


def put_all(folder):
    cache = DiskCache(folder, 10**6)
    for i in range(200):
        key = f"{i:04}"
        found = cache.get(key, SHAPE, torch.uint8)
        assert found is None or torch.equal(found, image(i % 256))
        cache.put(key, image(i % 256))


def test_two_processes_may_share_it(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=put_all, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(files(tmp_path)) == 200
