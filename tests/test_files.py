"""What users really have: folders, columns of paths, mixed sizes, datasets, arrays on disk, broken files."""

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
from sklearn_ssl.images import inference_source, training_source

N = 12


@pytest.fixture
def opened(embedder):
    def open_(X, **params):
        estimator = embedder(**params)
        return training_source(estimator, X), estimator

    return open_


@pytest.fixture
def folder(tmp_path, images):
    """a/0.png, a/1.JPG, ..., and what is no image."""
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
    """(image, label), and a note of what was read."""

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
        with pytest.raises(PermissionError, match=r"The folder .*a cannot be read: Permission denied"):
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
    # More threads may read, though for so few images one may be quick enough.
    source, _ = opened(Pairs(images), reader__workers=3)
    assert source._threads._max_workers == 3


def test_an_image_of_a_dataset_is_read_once_for_all_epochs(embedder, images):
    pairs = Pairs(images)
    embedder(max_epochs=3).fit(pairs)
    counts = np.bincount([i for i, _ in pairs.read], minlength=N)
    assert counts.max() <= 2  # at first for its size, then for its pixels


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

    with pytest.raises(ValueError, match="a dataset without numbers: give one with __len__ and __getitem__"):
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
    assert source._kept is None
    assert not opened(mapped, image_shape=small["image_shape"])[0].lazy  # small enough
    fitted, usual = embedder(**small).fit(mapped), embedder(image_shape=small["image_shape"]).fit(X)
    np.testing.assert_array_equal(fitted.transform(mapped), usual.transform(X))
    np.testing.assert_array_equal(fitted.transform(X), usual.transform(X))
    assert fitted.n_features_in_ == 192
    assert fitted.image_shape_ == (8, 8, 3)
    with pytest.raises(ValueError, match=r"fitted on|expecting 192 features"):
        fitted.transform(X[:, :-1])


def test_not_a_number_in_an_array_on_disk_is_told_where(embedder, images, tmp_path):
    X = images.astype(np.float32)
    X[7, 0, 0, 0] = np.nan
    np.save(tmp_path / "images.npy", X)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    with pytest.raises(
        ValueError, match=r"The image \(position 7\) cannot be .*: it has NaN or infinity among its pixels"
    ):
        embedder(reader__memory_limit=100).fit(mapped)


# ------------------------------------------------------------------ what is kept


def test_images_that_do_not_fit_in_memory_are_decoded_again(opened, images, save_images):
    paths = save_images(images)
    source, _ = opened(paths, reader__memory_limit=N * 192 - 1)
    before = every(source)
    paths[3].unlink()
    with pytest.raises(ValueError, match=r"3\.png \(position 3\)"):
        every(source)
    kept, _ = opened(paths[:3], reader__memory_limit=N * 192)
    assert torch.equal(every(kept), before[:3])


def test_what_is_embedded_once_is_not_kept(embedder, images, save_images):
    fitted = embedder().fit(images)
    assert inference_source(fitted, save_images(images))._kept is None


@pytest.mark.parametrize("deep", [False, True])
def test_a_cache_serves_later_fits_until_a_file_changes(
    opened, embedder, images, save_images, tmp_path, deep
):
    images = images[..., 0].astype(np.uint16) * 200 if deep else images
    paths, cache = save_images(images), tmp_path / "some" / "cache"
    params = {"reader__cache": cache, "reader__memory_limit": 1}
    first = every(opened(paths, **params)[0])
    assert len([path for path in cache.rglob("*") if path.is_file()]) == N
    for path in paths:  # the same length and time, other bytes: nobody looks into them again
        stat = path.stat()
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2].ljust(stat.st_size, b"\0"))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    source, _ = opened(paths, **params, image_size=8)
    assert torch.equal(every(source), first)

    Image.fromarray(images[::-1][0]).save(paths[0])
    again = opened(paths, **params, image_size=8)[0].batch(torch.arange(1))[0]
    assert torch.equal(again, first[-1])


def test_two_resolutions_do_not_share_a_cached_image(opened, draw_images, save_images, tmp_path):
    paths = save_images(draw_images(3, (16, 16, 3)))
    for size in (8, 16, 8):
        source, _ = opened(paths, image_size=size, reader__cache=tmp_path / "cache")
        assert every(source).shape == (3, 3, size, size)


# ------------------------------------------------------------------ bad files


@pytest.fixture
def some_bad(images, save_images, tmp_path):
    """Twelve paths; 2 is no image, 7 is damaged, 9 is not there."""
    paths = save_images(images)
    paths[2].write_text("not an image")
    paths[7].write_bytes(paths[7].read_bytes()[:-30])
    paths[9].unlink()
    return paths


def test_bad_files_are_left_out_with_one_warning(embedder, images, some_bad):
    words = r"3 of 12 images were left out: .*2\.png \(position 2\) cannot.*7\.png \(.*9\.png \(position 9\)"
    with pytest.warns(UserWarning, match=words) as caught:
        fitted = embedder(reader__on_error="skip", max_epochs=2).fit(some_bad)
    assert len(caught) == 1
    assert list(fitted.skipped_) == [2, 7, 9]
    assert "not there" not in fitted.skipped_[2]
    assert np.isfinite(fitted.transform(images)).all()
    assert embedder().fit(images).skipped_ == {}


def test_it_learns_what_it_would_have_learned_with_others_in_their_place(embedder, images, some_bad):
    with pytest.warns(UserWarning, match="3 of 12"):
        fitted = embedder(reader__on_error="skip").fit(some_bad)
    substitutes = images.copy()
    substitutes[[2, 7, 9]] = images[[3, 8, 10]]
    expected = embedder().fit(substitutes)
    np.testing.assert_array_equal(fitted.transform(images), expected.transform(images))


def test_batches_without_a_bad_kind_of_image(embedder, draw_images, some_bad):
    # 60 arrays and 12 paths, 2 in a step: most steps see no path.
    with pytest.warns(UserWarning, match="3 of 72 images were left out"):
        embedder(reader__on_error="skip", batch_size=2, max_epochs=3).fit(
            draw_images(60), X_unlabeled=some_bad
        )


def test_skipped_images_are_known_after_a_restart(embedder, some_bad, tmp_path):
    tolerant = {"reader__on_error": "skip", "checkpoint": tmp_path / "runs", "max_epochs": 2}
    with pytest.warns(UserWarning, match="3 of 12"):
        first = embedder(**tolerant).fit(some_bad)
    with pytest.warns(UserWarning, match="is taken from|3 of 12"):
        again = embedder(**tolerant).fit(some_bad)
    assert list(again.skipped_) == list(first.skipped_) == [2, 7, 9]


def test_pil_images_that_happen_to_have_one_size_are_embedded_as_well(embedder, draw_images):
    pil = [Image.fromarray(draw_images(1, (8 + i, 10, 3), seed=i)[0]) for i in range(6)]
    fitted = embedder(batch_size=6).fit(pil)
    np.testing.assert_array_equal(fitted.transform(pil[:1]), fitted.transform(pil)[:1])


def test_a_transposed_array_on_disk_is_not_copied(opened, images, tmp_path):
    np.save(tmp_path / "a.npy", np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r").transpose(0, 2, 3, 1)
    source, _ = opened(mapped, reader__memory_limit=100)
    assert np.shares_memory(source.items.things, mapped)
    assert torch.equal(every(source), torch.from_numpy(images).movedim(-1, 1))


def test_what_is_behind_pil_images_of_one_size(opened):
    clear = [Image.new("RGBA", (8, 8), (200, 0, 0, 0))] * 3
    source, _ = opened(clear, reader__background="black")
    assert every(source).max() == 0


def test_labels_and_numbers_are_those_of_the_others(opened, some_bad, images, draw_images):
    source, _ = opened(some_bad, reader__on_error="skip")
    index = torch.tensor([2, 3, 9, 0])
    assert torch.equal(source.stand_ins(index), index)  # nobody has looked yet
    batch = source.batch(index)
    assert source.stand_ins(index).tolist() == [3, 3, 10, 0]
    assert torch.equal(batch, torch.from_numpy(images[[3, 3, 10, 0]]).movedim(-1, 1))


def test_the_last_one_has_the_first_in_its_place(opened, images, save_images):
    paths = save_images(images)
    paths[-1].unlink()
    source, _ = opened(paths, reader__on_error="skip")
    source.batch(torch.tensor([N - 1]))
    assert source.stand_ins(torch.tensor([N - 1])).tolist() == [0]


def test_bad_files_among_unlabeled_ones_are_counted_behind_those_of_x(embedder, images, some_bad):
    with pytest.warns(UserWarning, match="3 of 24 images were left out"):
        fitted = embedder(reader__on_error="skip").fit(images, X_unlabeled=some_bad)
    assert list(fitted.skipped_) == [14, 19, 21]


def test_transform_gives_bad_files_rows_of_nan(embedder, images, some_bad):
    fitted = embedder(reader__on_error="skip").fit(images)
    with pytest.warns(UserWarning, match="3 of 12 images have rows of NaN: .*2.png"):
        embeddings = fitted.transform(some_bad)
    expected = fitted.transform(images)
    expected[[2, 7, 9]] = np.nan
    np.testing.assert_array_equal(embeddings, expected)
    with pytest.warns(UserWarning, match="3 of 12 images have rows of NaN"):
        batches = list(fitted.transform_batches(some_bad))
    np.testing.assert_array_equal(np.concatenate(batches), expected)


def test_a_warning_names_five(embedder, images, save_images):
    paths = save_images(images)
    for path in paths[:8]:
        path.write_text("not an image")
    with pytest.warns(
        UserWarning, match=r"8 of 12 images were left out: (.*\(position \d\)){5}.*; and 3 more\."
    ):
        embedder(reader__on_error="skip").fit(paths)


def test_no_good_file_at_all_is_an_error(embedder, images, save_images):
    paths = save_images(images)
    for path in paths:
        path.write_text("not an image")
    with pytest.raises(ValueError, match=r"None of the 12 images looked at first can be read.*0\.png"):
        embedder(reader__on_error="skip").fit(paths)


def test_a_file_that_vanishes_during_the_fit_is_told(embedder, images, save_images):
    paths = save_images(images)
    estimator = embedder(reader__memory_limit=1, max_epochs=50)

    class Vanishes(torch.nn.Module):
        def forward(self, z1, z2):
            paths[5].unlink(missing_ok=True)
            return (z1 - z2).square().mean()

    with pytest.raises(ValueError, match=r"5\.png \(position 5\) cannot be read as an image: .*No such file"):
        estimator.set_params(loss=Vanishes()).fit(paths)


# ------------------------------------------------------------------ settings


def test_a_reader_of_ones_own(embedder, images, tmp_path):
    paths = []
    for i, image in enumerate(images):
        paths.append(tmp_path / f"{i:02}.scan")
        paths[-1].write_bytes(image.tobytes())

    def read(path):
        return np.frombuffer(path.read_bytes(), np.uint8).reshape(8, 8, 3)

    fitted = embedder(reader__read=read).fit(paths)
    expected = embedder().fit(images).transform(images)
    np.testing.assert_array_equal(fitted.transform(paths), expected)
    np.testing.assert_array_equal(fitted.transform(tmp_path), expected)  # all files of a folder


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"on_error": "ignore"}, "reader__on_error='ignore': give 'raise' or 'skip'"),
        ({"read": "dicom"}, "reader__read='dicom': give a function from a path to an array"),
        ({"cache": 3}, "reader__cache=3: give the path of a folder, or None"),
        ({"memory_limit": 1.5}, "reader__memory_limit=1.5: give a whole number at least 1"),
        ({"max_pixels": 0}, "reader__max_pixels=0: give a whole number at least 1"),
        ({"workers": "many"}, "reader__workers='many': give a whole number at least 1"),
        ({"workers": True}, "reader__workers=True: give a whole number at least 1"),
        ({"background": "whitish"}, "reader__background='whitish': give a colour"),
        ({"bacground": "white"}, "reader__bacground.* Did you mean 'reader__background'"),
    ],
)
def test_a_setting_that_cannot_be_is_told_what_can(embedder, images, params, words):
    with pytest.raises(ValueError, match=words):
        embedder(reader_params=params).fit(images)


def test_there_is_one_name_of_a_reader(embedder, images):
    with pytest.raises(ValueError, match=r"reader='dicom': leave it at 'files'.* reader__read=function"):
        embedder(reader="dicom").fit(images)


# ------------------------------------------------------------------ embeddings in pieces


@pytest.fixture
def many(embedder, images, draw_images):
    """A fitted estimator, more images than a chunk holds, and their embeddings."""
    fitted, X = embedder().fit(images), draw_images(600)
    return fitted, X, fitted.transform(X)


def test_batches_are_the_rows_of_transform(many):
    fitted, X, expected = many
    batches = list(fitted.transform_batches(X))
    assert len(batches) > 1
    np.testing.assert_array_equal(np.concatenate(batches), expected)


def test_batches_are_made_one_by_one(many):
    fitted, X, expected = many
    rows = fitted.transform_batches(Pairs(X))
    first = next(rows)
    np.testing.assert_array_equal(first, expected[: len(first)])
    rows.close()
    assert not torch.is_inference_mode_enabled()


def test_embeddings_may_go_to_an_array_on_disk(many, tmp_path):
    fitted, X, expected = many
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, expected.shape)
    assert fitted.transform(X, out=out) is out
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


@pytest.mark.parametrize(("shape", "dtype"), [((600, 7), np.float32), ((600, 8), np.float64)])
def test_an_array_that_does_not_fit_is_refused(many, shape, dtype):
    fitted, X, _ = many
    with pytest.raises(ValueError, match=r"give float32 of shape \(600, 8\)"):
        fitted.transform(X, out=np.empty(shape, dtype))


@pytest.mark.parametrize("form", ["arrays", "paths"])
def test_eight_threads_embed_as_one(form, many, save_images, tmp_path):
    fitted, X, expected = many
    if form == "paths":
        X = save_images(X)
        fitted.set_params(reader__cache=tmp_path / "cache", reader__workers=3)
    results = [None] * 8

    def embed(i):
        results[i] = fitted.transform(X)

    threads = [threading.Thread(target=embed, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        np.testing.assert_array_equal(result, expected)
