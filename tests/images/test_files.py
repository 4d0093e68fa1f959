"""Input from folders, columns of paths, images of mixed sizes, datasets and arrays on disk."""

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from PIL import Image
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from skorch.helper import SliceDataset
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from sklearn_ssl import list_images

N = 12


@pytest.fixture
def folder(tmp_path, images):
    """Create a folder with a/00.BMP, b/01.png, ..., and files that are not images."""
    root = tmp_path / "photos"
    for i, image in enumerate(images):
        path = root / "ab"[i % 2] / f"{i:02}{'.png' if i % 3 else '.BMP'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.png").write_text("no image either")
    (root / ".git").mkdir()
    (root / ".git" / "0.png").write_text("nor this")
    return root


def every(source):
    return source.batch(torch.arange(len(source)))


class Pairs(Dataset):
    """Dataset of (image, label) that records which images are read in which thread."""

    def __init__(self, images):
        self.images, self.read = images, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        self.read.append((i, threading.current_thread().name))
        return Image.fromarray(self.images[i]), i % 2


# ------------------------------------------------------------------ folders


def test_a_folder_is_its_image_files_sorted(folder):
    paths = list_images(folder)
    assert [path.relative_to(folder).as_posix() for path in paths] == [
        "a/00.BMP", "a/02.png", "a/04.png", "a/06.BMP", "a/08.png", "a/10.png",
        "b/01.png", "b/03.BMP", "b/05.png", "b/07.png", "b/09.BMP", "b/11.png",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_is_as_good_as_the_list_of_its_files(embedder, folder, kind):
    from_list, from_folder = embedder().fit(list_images(folder)), embedder().fit(kind(folder))
    expected = from_list.transform(list_images(folder))
    np.testing.assert_array_equal(from_folder.transform(kind(folder)), expected)


def test_links_to_folders_are_followed(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    Image.new("L", (8, 8)).save(outside / "far.png")
    (folder / "link").symlink_to(outside)
    assert list_images(folder)[-1] == folder / "link" / "far.png"


def test_links_that_lead_back_are_told(folder):
    (folder / "a" / "again").symlink_to(folder)
    with pytest.raises(ValueError, match=r"a/again is a link that leads back to .*photos: remove it"):
        list_images(folder)


def test_folders_may_be_nested_deeper_than_calls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(1200):
        os.mkdir("a")
        os.chdir("a")
    try:
        Image.new("L", (8, 8)).save("0.png")
        assert list_images(tmp_path) == [tmp_path.joinpath(*["a"] * 1200, "0.png")]
    finally:  # shutil.rmtree calls itself for each of them
        os.remove("0.png")
        for _ in range(1200):
            os.chdir("..")
            os.rmdir("a")


def test_links_that_lead_back_through_each_other_are_told(tmp_path):
    for a, b in ("ab", "ba"):
        (tmp_path / a).mkdir()
        (tmp_path / a / "other").symlink_to(tmp_path / b)
    with pytest.raises(ValueError, match="is a link that leads back to"):
        list_images(tmp_path)


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_told(folder):
    (folder / "a").chmod(0)
    try:
        words = f"The folder .*a cannot be read: {os.strerror(errno.EACCES)}"
        with pytest.raises(PermissionError, match=words):
            list_images(folder)
    finally:
        (folder / "a").chmod(0o755)


def test_a_folder_that_the_system_will_not_list_is_told(folder, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(PermissionError, match=r"The folder .*photos cannot be read: Permission denied"):
        list_images(folder)


def test_no_folder_and_no_images_are_told(embedder, tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere"):
        embedder().fit(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no file whose name ends in \.bmp, .* in the folder .*empty"):
        embedder().fit(str(tmp_path / "empty"))
    with pytest.raises(NotADirectoryError, match=r"notes\.txt is a file: give a list of paths, or a folder"):
        embedder().fit(folder / "notes.txt")


# ------------------------------------------------------------------ columns of paths


def columns(paths):
    strings = [str(path) for path in paths]
    return {
        "polars Series": pl.Series(strings),
        "pandas strings": pd.Series(strings, dtype="string"),
        "pandas frame of one column": pd.DataFrame({"path": strings}),
        "polars frame of one column": pl.DataFrame({"path": strings}),
        "array of one column": np.array(strings, dtype=object)[:, None],
    }


@pytest.mark.parametrize("form", columns([]))
def test_paths_in_every_kind_of_column(form, embedder, images, save_images):
    X = columns(save_images(images))[form]
    fitted = embedder().fit(X)
    np.testing.assert_array_equal(fitted.transform(X), embedder().fit(images).transform(images))


@pytest.mark.parametrize("column", ["path", ["path"]])
def test_in_a_column_transformer_next_to_tabular_columns(column, embedder, images, labels, save_images):
    frame = pd.DataFrame({"path": [str(p) for p in save_images(images)], "age": np.arange(12.0)})
    both = ColumnTransformer([("img", embedder(), column), ("rest", "passthrough", ["age"])])
    out = make_pipeline(both, LogisticRegression()).fit(frame, labels)[0].transform(frame)
    assert out.shape == (12, 8 + 1)
    np.testing.assert_array_equal(out[:, 8], frame["age"])
    np.testing.assert_allclose(out[:, :8], embedder().fit(images).transform(images))
    assert both.fit(frame).get_feature_names_out()[-1] == "rest__age"


def test_searches_on_paths(embedder, images, labels, save_images):
    paths = save_images(images)
    pipe = make_pipeline(embedder(), LogisticRegression())
    assert cross_val_score(pipe, paths, labels, cv=2, error_score="raise").shape == (2,)
    grid = {"sslimageembedder__loss__temperature": [0.1, 0.5]}
    search = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(pd.Series(map(str, paths)), labels)
    assert search.best_score_ >= 0


# ------------------------------------------------------------------ PIL images, datasets, arrays on disk


def test_pil_images_of_several_sizes_are_as_good_as_their_files(embedder, draw_images, save_images):
    pil = [Image.fromarray(draw_images(1, (8 + i, 10, 3), seed=i)[0]) for i in range(6)]
    paths = save_images(pil)
    fitted = embedder(batch_size=6).fit(pil)
    assert fitted.image_size_ == (10, 10)
    np.testing.assert_array_equal(fitted.transform(pil), embedder(batch_size=6).fit(paths).transform(paths))


def test_gray_and_colored_pil_images_of_one_size_are_as_good_as_of_several(embedder, images):
    mixed = [Image.fromarray(image if i % 2 else image[..., 0]) for i, image in enumerate(images)]
    in_three_channels = [image.convert("RGB") for image in mixed]
    fitted = embedder().fit(mixed)
    assert fitted.image_shape_ == (8, 8, 3)
    expected = embedder().fit(in_three_channels).transform(in_three_channels)
    np.testing.assert_array_equal(fitted.transform(mixed), expected)


def test_a_dataset_that_changes_its_length_is_as_long_as_it_was_at_first(embedder, images):
    class Grows(Pairs):
        def __len__(self):
            self.asked = getattr(self, "asked", -1) + 1
            return len(self.images) + self.asked

        def __getitem__(self, i):
            return super().__getitem__(i % N)

    assert np.isfinite(embedder().fit(Grows(images)).transform(images)).all()
    assert 12 <= len(embedder().fit(images).transform(Grows(images))) <= 20


@pytest.mark.parametrize("form", ["pairs", "tensors", "slice"])
def test_a_dataset_is_as_good_as_its_images(form, embedder, images):
    tensors = torch.from_numpy(images).movedim(-1, 1)
    X = {"pairs": Pairs(images), "tensors": TensorDataset(tensors), "slice": SliceDataset(Pairs(images))}[
        form
    ]
    fitted = embedder().fit(X)
    np.testing.assert_array_equal(fitted.transform(X), embedder().fit(images).transform(images))
    np.testing.assert_array_equal(fitted.transform(images), fitted.transform(X))


def test_a_dataset_is_read_by_one_thread_unless_it_is_told(opened, images):
    one = Pairs(images)
    every(opened(one)[0])
    assert len({thread for _, thread in one.read if thread != "MainThread"}) == 1
    together = threading.Barrier(3)

    class Awaiting(Pairs):
        def __getitem__(self, i):
            if threading.current_thread().name != "MainThread":
                together.wait(60)  # until three threads read at the same time
            return super().__getitem__(i)

    three = Awaiting(images)
    every(opened(three, reader__workers=3)[0])
    assert len({thread for _, thread in three.read if thread != "MainThread"}) == 3


def test_an_image_of_a_dataset_is_read_once_for_all_epochs(embedder, images):
    pairs = Pairs(images)
    embedder(max_epochs=3).fit(pairs)
    counts = np.bincount([i for i, _ in pairs.read], minlength=N)
    # At first for its size, then for its pixels; four of them twice more, to see whether they change.
    assert sorted(counts) == [2] * 8 + [4] * 4


def test_a_lazy_dataset_is_split_without_being_read(images):
    pairs = Pairs(images)
    train, test = train_test_split(SliceDataset(pairs), test_size=3, random_state=0)
    assert (len(train), len(test)) == (9, 3)
    assert pairs.read == []


def test_a_split_of_a_lazy_dataset_is_learned_from(embedder, images):
    train, test = train_test_split(SliceDataset(Pairs(images)), test_size=3, random_state=0)
    expected = train_test_split(images, test_size=3, random_state=0)
    fitted = embedder().fit(train)
    np.testing.assert_array_equal(fitted.transform(test), embedder().fit(expected[0]).transform(expected[1]))


def test_a_dataset_without_numbers_is_refused(embedder):
    class Stream(IterableDataset):
        def __iter__(self):
            yield 1

    with pytest.raises(ValueError, match=r"an iterable-style dataset\. Give a map-style dataset, with "):
        embedder().fit(Stream())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
@pytest.mark.parametrize("rows", [False, True])
def test_an_array_on_disk_that_is_larger_than_memory_is_read_as_it_is_needed(
    embedder, opened, images, tmp_path, dtype, rows
):
    X = images.astype(dtype)
    X = X.reshape(N, -1) if rows else X
    np.save(tmp_path / "images.npy", X)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    small = {"reader__memory_limit": 100, "image_shape": (8, 8, 3) if rows else None}
    source, _ = opened(mapped, **small)
    assert source.lazy
    assert not opened(mapped, image_shape=small["image_shape"])[0].lazy  # small enough
    fitted, usual = embedder(**small).fit(mapped), embedder(image_shape=small["image_shape"]).fit(X)
    np.testing.assert_array_equal(fitted.transform(mapped), usual.transform(X))
    np.testing.assert_array_equal(fitted.transform(X), usual.transform(X))
    assert fitted.n_features_in_ == 192
    assert fitted.image_shape_ == (8, 8, 3)
    with pytest.raises(ValueError, match=r"fitted on|expecting 192 features"):
        fitted.transform(X[:, :-1])
    assert every(source)[0].any()
    np.load(tmp_path / "images.npy", mmap_mode="r+")[0] = 0
    assert not every(source)[0].any()  # no copy was kept


def test_not_a_number_in_an_array_on_disk_is_told_where(embedder, images, tmp_path):
    X = images.astype(np.float32)
    X[7, 0, 0, 0] = np.nan
    np.save(tmp_path / "images.npy", X)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    with pytest.raises(
        ValueError, match=r"The image \(position 7\) cannot be .*: it contains NaN or infinity"
    ):
        embedder(reader__memory_limit=100).fit(mapped)
