"""Images that are read on demand: memory, and bad images."""

import errno
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from sklearn_ssl._images.sources import ArraySource

N = 12


def every(source):
    return source.batch(torch.arange(len(source)))


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
    assert fitted._open_for_inference(save_images(images))._kept is None


@pytest.mark.parametrize("deep", [False, True])
def test_a_cache_serves_later_fits_until_a_file_changes(
    opened, embedder, images, save_images, tmp_path, deep
):
    images = images[..., 0].astype(np.uint16) * 200 if deep else images
    paths, cache = save_images(images), tmp_path / "some" / "cache"
    params = {"reader__cache": cache, "reader__memory_limit": 1}
    first = every(opened(paths, **params)[0])
    assert len([path for path in cache.rglob("*") if path.is_file()]) == N
    for path in paths:  # the same length and time, other bytes: files are not read again
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


def test_a_cache_folder_that_is_removed_during_a_fit_is_made_anew(embedder, images, save_images, tmp_path):
    cache = tmp_path / "cache"

    class Removes(torch.nn.Module):
        def forward(self, z1, z2):
            shutil.rmtree(cache, ignore_errors=True)
            return (z1 - z2).square().mean()

    paths = save_images(images)
    params = {"reader__cache": cache, "reader__memory_limit": 1, "batch_size": 4, "max_epochs": 4}
    fitted = embedder(Removes(), **params).fit(paths)
    np.testing.assert_array_equal(fitted.transform(paths), fitted.transform(images))
    assert cache.exists()


def test_a_cache_file_of_zeros_is_read_anew(opened, images, save_images, tmp_path):
    paths, params = save_images(images), {"reader__cache": tmp_path / "cache", "reader__memory_limit": 1}
    before = every(opened(paths, **params)[0])
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file():
            path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(every(opened(paths, **params)[0]), before)


def test_a_thin_image_of_16_bits_takes_no_more_than_a_few_views(opened, save_images, tmp_path):
    thin = np.full((1, 10**6), 40_000, np.uint16)  # scaled whole it would be 200 GB
    paths = save_images([thin, thin])
    np.save(tmp_path / "a.npy", thin)
    for X in (paths, [tmp_path / "a.npy"] * 2):
        source, _ = opened(X, image_size=(224, 224))
        assert source.batch(torch.arange(2)).unique().tolist() == [40_000]


# ------------------------------------------------------------------ bad files


@pytest.fixture
def some_bad(images, save_images, tmp_path):
    """Return twelve paths: 2 is not an image, 7 is damaged, 9 does not exist."""
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
    assert np.shares_memory(source.items.images, mapped)
    assert torch.equal(every(source), torch.from_numpy(images).movedim(-1, 1))


def test_what_is_behind_pil_images_of_one_size(opened):
    clear = [Image.new("RGBA", (8, 8), (200, 0, 0, 0))] * 3
    source, _ = opened(clear, reader__background="black")
    assert every(source).max() == 0


def test_labels_and_numbers_are_those_of_the_others(opened, some_bad, images, draw_images):
    source, _ = opened(some_bad, reader__on_error="skip")
    index = torch.tensor([2, 3, 9, 0])
    assert torch.equal(source.stand_ins(index), index)  # no image has been read yet
    batch = source.batch(index)
    assert source.stand_ins(index).tolist() == [3, 3, 10, 0]
    assert torch.equal(batch, torch.from_numpy(images[[3, 3, 10, 0]]).movedim(-1, 1))


def test_the_last_one_has_the_first_in_its_place(opened, images, save_images):
    paths = save_images(images)
    paths[-1].unlink()
    source, _ = opened(paths, reader__on_error="skip")
    source.batch(torch.tensor([N - 1]))
    assert source.stand_ins(torch.tensor([N - 1])).tolist() == [0]


def test_what_is_bad_can_be_asked_while_a_thread_adds_to_it(opened, images, save_images):
    source, _ = opened(images, save_images(images))
    source.second.bad = {0: "bad", 1: "bad"}

    class Meanwhile(ArraySource):
        """Replacement of X: when its length is read, another bad image is found."""

        def __len__(self):
            source.second.bad[len(source.second.bad)] = "bad"
            return N

    source.first = Meanwhile(source.first.images)
    assert {N, N + 1} <= set(source.bad)


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
    with pytest.raises(ValueError, match=r"None of the 12 images inspected first can be read.*0\.png"):
        embedder(reader__on_error="skip").fit(paths)


def test_a_file_that_vanishes_during_the_fit_is_told(embedder, images, save_images):
    paths = save_images(images)
    estimator = embedder(reader__memory_limit=1, max_epochs=50)

    class Vanishes(torch.nn.Module):
        def forward(self, z1, z2):
            paths[5].unlink(missing_ok=True)
            return (z1 - z2).square().mean()

    words = rf"5\.png \(position 5\) cannot be read as an image: .*{os.strerror(errno.ENOENT)}"
    with pytest.raises(ValueError, match=words):
        estimator.set_params(loss=Vanishes()).fit(paths)
