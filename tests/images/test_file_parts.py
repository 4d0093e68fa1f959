"""Slices of volumes and other parts of files, as images."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from sklearn_ssl import FilePart, list_parts


@pytest.fixture
def volumes(tmp_path):
    """Write three volumes of 4, 5 and 3 slices, and return their paths."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{name}.npy" for name in "abc"]
    for path, n in zip(paths, (4, 5, 3), strict=True):
        np.save(path, rng.integers(0, 255, (n, 8, 8), dtype=np.uint8))
    return paths


def slices(paths):
    return list_parts(paths, lambda path: range(len(np.load(path))))


def read(item):
    return np.load(item.path, mmap_mode="r")[item.part]


def every(source):
    return source.batch(torch.arange(len(source)))


def test_parts_are_listed_file_by_file(volumes):
    listed = slices(volumes)
    assert listed.shape == (12,)
    assert [item.path.stem for item in listed] == list("aaaabbbbbccc")
    assert [item.part for item in listed] == [0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1, 2]
    assert str(listed[5]) == f"Part 1 of {volumes[1]}"
    assert FilePart(str(volumes[0]), 3) == pickle.loads(pickle.dumps(listed[3]))


@pytest.mark.parametrize("form", [list, np.asarray, pd.Series, lambda rows: pd.DataFrame({"slice": rows})])
def test_parts_are_the_images_of_the_whole(form, volumes, opened):
    expected = np.concatenate([np.load(path) for path in volumes])
    source, images = opened(form(slices(volumes)), reader__read=read)
    assert torch.equal(every(source)[:, 0], torch.from_numpy(expected))
    assert images.shape == (8, 8, 1)


def test_parts_are_told_apart_in_checkpoints_and_caches(volumes, opened, tmp_path):
    source, _ = opened(slices(volumes), reader__read=read, reader__cache=tmp_path / "cache")
    pixels = every(source)
    _, identities = source.identity()
    assert len(set(identities)) == 12
    again, _ = opened(slices(volumes)[::-1], reader__read=read, reader__cache=tmp_path / "cache")
    assert torch.equal(every(again).flip(0), pixels)


def test_groups_of_files_stay_together_in_cross_validation(volumes, embedder):
    X = slices(volumes)
    y = np.arange(12) % 2
    pipe = make_pipeline(embedder(reader__read=read), LogisticRegression())
    scores = cross_val_score(pipe, X, y, groups=[item.path.stem for item in X], cv=GroupKFold(3))
    assert len(scores) == 3
    assert np.isfinite(scores).all()


def test_an_unreadable_part_is_named_or_left_out(volumes, embedder):
    X = slices(volumes)
    X[4] = FilePart(volumes[1], 99)
    with pytest.raises(ValueError, match=r"Part 99 of .*b\.npy \(position 4\) cannot be read"):
        embedder(reader__read=read).fit(X)
    with pytest.warns(UserWarning, match="Part 99 of"):
        fitted = embedder(reader__read=read, reader__on_error="skip").fit(X)
    assert list(fitted.skipped_) == [4]


def test_missing_rows_are_left_out_also_with_a_cache(volumes, opened, tmp_path):
    rows = [None, *slices(volumes)[:3], None, volumes[0]]
    params = {"reader__read": read, "reader__on_error": "skip", "reader__cache": tmp_path / "cache"}
    source, _ = opened(rows, **params)
    every(source)
    assert sorted(source.bad) == [0, 4, 5]
    assert len(source.identity()[1]) == 6


def test_a_missing_file_is_found_before_the_training(volumes, embedder):
    X = slices(volumes)
    volumes[2].unlink()
    with pytest.raises(FileNotFoundError, match=r"There is no file .*c\.npy"):
        embedder(reader__read=read).fit(X)


def test_a_table_with_several_columns_names_that_of_the_parts(volumes, embedder):
    table = pd.DataFrame({"age": range(12), "slice": slices(volumes)})
    with pytest.raises(ValueError, match="give the column of images, for example X\\['slice'\\]"):
        embedder(reader__read=read).fit(table)


def test_numbers_of_numpy_are_those_of_python(volumes):
    assert FilePart(volumes[0], np.int64(3)) == FilePart(volumes[0], 3)
    assert type(FilePart(volumes[0], np.int64(3)).part) is int


def test_parts_need_a_function_that_reads_them(volumes, embedder):
    with pytest.raises(ValueError, match="set reader__read to a function that maps a FilePart"):
        embedder().fit(slices(volumes))


def test_files_without_parts_and_missing_files_are_rejected(volumes, tmp_path):
    with pytest.raises(ValueError, match="3 files have no part"):
        list_parts(volumes, lambda path: [])
    with pytest.raises(FileNotFoundError, match=r"none\.npy"):
        list_parts([tmp_path / "none.npy"], lambda path: [0])
    with pytest.raises(TypeError, match="is a single path: give a list"):
        list_parts(str(volumes[0]), lambda path: [0])
