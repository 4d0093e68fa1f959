"""All forms of input, and the scaling of their pixels."""

import errno
import os

import numpy as np
import pytest
import torch
from PIL import Image

from sklearn_ssl._images.inputs import training_size
from sklearn_ssl._images.pixel_scale import PixelScale, Standardize, evenly_spaced

N = 12
FIRST = torch.arange(1)


def sources_of_paths(paths):
    import pandas as pd

    strings = [str(path) for path in paths]
    return {
        "pathlib": paths,
        "str": strings,
        "array of str": np.array(strings),
        "array of objects": np.array(strings, dtype=object),
        "pandas Series": pd.Series(strings, index=range(100, 100 + len(paths))),
    }


def forms(images):
    """Return the same images in every form that is held in memory."""
    height, width, channels = images.shape[1:]
    rows = images.reshape(len(images), -1)
    in_shape = {"image_shape": (height, width, channels)}
    return {
        "rows": (rows, in_shape),
        "rows, and an axis left open": (rows, {"image_shape": (height, -1, channels)}),
        "images, and image_shape as well": (images, in_shape),
        "tensor": (torch.from_numpy(images).movedim(-1, 1), {}),
        "contiguous tensor": (torch.from_numpy(images).movedim(-1, 1).contiguous(), {}),
        "list of arrays": (list(images), {}),
        "tuple of arrays": (tuple(images), {}),
        "array of objects": (as_objects(images), {}),
        "list of PIL images": ([Image.fromarray(image) for image in images], {}),
        "nested lists": (images.tolist(), {}),
    }


def as_objects(images):
    objects = np.empty(len(images), dtype=object)
    objects[:] = list(images)
    return objects


def embeddings(embedder, X, **params):
    return embedder(**params).fit(X).transform(X)


# ------------------------------------------------------------------ one set of images, many forms


@pytest.mark.parametrize(
    "form", [name for name in forms(np.zeros((2, 2, 2, 3), np.uint8)) if name != "nested lists"]
)
def test_every_form_gives_the_same_embeddings(form, embedder, images):
    X, params = forms(images)[form]
    np.testing.assert_array_equal(embeddings(embedder, X, **params), embeddings(embedder, images))


def test_nested_lists_are_images_of_whole_numbers(opened, images):
    X, _ = forms(images)["nested lists"]
    source, _ = opened(X)
    assert (source.dtype, source.size, source.channels) == (torch.float32, (8, 8), 3)
    np.testing.assert_array_equal(source.batch(torch.arange(N)).movedim(1, -1).numpy(), images)


@pytest.mark.parametrize("form", sources_of_paths([]))
def test_paths_give_the_same_embeddings_as_the_images_in_the_files(form, embedder, images, save_images):
    paths = sources_of_paths(save_images(images))[form]
    np.testing.assert_array_equal(embeddings(embedder, paths), embeddings(embedder, images))


def test_what_was_fitted_in_one_form_embeds_any_other(embedder, images, save_images):
    fitted = embedder().fit(images)
    expected = fitted.transform(images)
    for X in (save_images(images), list(images), torch.from_numpy(images).movedim(-1, 1)):
        np.testing.assert_array_equal(fitted.transform(X), expected)


def test_what_was_fitted_on_rows_embeds_images_and_back(embedder, images):
    rows = images.reshape(N, -1)
    fitted = embedder(image_shape=(8, 8, 3)).fit(rows)
    np.testing.assert_array_equal(fitted.transform(images), fitted.transform(rows))
    assert fitted.n_features_in_ == embedder().fit(images).n_features_in_ == 8 * 8 * 3


def test_gray_images_need_no_channel_axis(embedder, images):
    gray = images[..., 0]
    expected = embeddings(embedder, gray)
    np.testing.assert_array_equal(embeddings(embedder, gray[..., None]), expected)
    np.testing.assert_array_equal(embeddings(embedder, [Image.fromarray(image) for image in gray]), expected)
    np.testing.assert_array_equal(embeddings(embedder, gray.reshape(N, -1), image_shape=(8, 8)), expected)
    assert embedder().fit(gray).image_shape_ == (8, 8, 1)


def test_read_only_fortran_ordered_and_memory_mapped_arrays_are_as_good_and_stay_as_they_are(
    embedder, images, tmp_path
):
    np.save(tmp_path / "images.npy", images)
    read_only = images.copy()
    read_only.flags.writeable = False
    expected = embeddings(embedder, images)
    for X in (read_only, np.asfortranarray(images), np.load(tmp_path / "images.npy", mmap_mode="r")):
        np.testing.assert_array_equal(embeddings(embedder, X), expected)
        np.testing.assert_array_equal(X, images)


@pytest.mark.parametrize(
    "dtype", [bool, np.int8, np.uint16, np.int32, np.int64, np.float16, np.float32, np.float64]
)
def test_every_number_type_is_taken_as_float32_but_uint8_stays(dtype, embedder, opened, images):
    X = (images // (200 if dtype is bool else 2)).astype(dtype)
    source, _ = opened(X)
    assert source.dtype == torch.float32
    np.testing.assert_array_equal(source.batch(torch.arange(N)).movedim(1, -1).numpy(), X.astype(np.float32))
    assert np.isfinite(embeddings(embedder, X)).all()
    assert opened(images)[0].dtype == torch.uint8


def test_thirteen_channels_are_as_good_as_three(embedder, draw_images):
    images = draw_images(N, (8, 8, 13))
    fitted = embedder().fit(images)
    assert fitted.image_shape_ == (8, 8, 13)
    assert fitted.encoder_.backbone.conv.weight.shape[1] == 13
    assert fitted.augment_ == embedder().fit(images[..., :3]).augment_ == "photo"


# ------------------------------------------------------------------ what pixel values mean


def test_uint8_is_divided_by_255(opened):
    X = np.zeros((2, 4, 4, 1), np.uint8)
    X[1] = 255
    source, _ = opened(X)
    scale = PixelScale.of(source)
    assert (scale.low, scale.span, scale.bounded) == (0, 255, True)
    assert (scale.mean, scale.std) == (0.5, 0.5)  # half the pixels are black, half are white
    assert scale.to_unit(source.batch(torch.arange(2)))[:, 0, 0, 0].tolist() == [0, 1]


def test_numbers_between_0_and_1_stay_as_they_are(opened):
    X = np.linspace(0, 1, 32).reshape(2, 4, 4)
    source, _ = opened(X)
    scale = PixelScale.of(source)
    assert (scale.low, scale.span, scale.bounded) == (0, 1, True)


def test_other_numbers_are_scaled_by_the_outer_percentiles_of_each_channel(opened):
    # Each of 0 .. 4095 once: the 0.1 percentile is 0.001 * 4095 = 4.095, the other 4090.905.
    levels = np.arange(4096, dtype=np.uint16).reshape(64, 8, 8, 1)
    source, _ = opened(np.concatenate([levels, 10 * levels], axis=3))
    scale = PixelScale.of(source)
    torch.testing.assert_close(scale.low, torch.tensor([4.095, 40.95]))
    torch.testing.assert_close(scale.span, torch.tensor([4086.81, 40868.1]))
    assert not scale.bounded
    brightest = scale.to_unit(source.batch(torch.tensor([63])))[0, 0, -1, -1]
    assert brightest > 1  # (4095 - 4.095) / 4086.81 = 1.001: nothing is clipped


def test_three_channels_are_scaled_together_so_that_colors_stay(opened):
    levels = np.arange(4096, dtype=np.uint16).reshape(64, 8, 8, 1)
    source, _ = opened(np.concatenate([levels, levels, 10 * levels], axis=3))
    scale = PixelScale.of(source)
    assert scale.low.unique().numel() == scale.span.unique().numel() == 1


def test_pixels_that_are_all_one_number_are_no_division_by_zero(opened, embedder):
    source, _ = opened(np.full((4, 8, 8), 7.0))
    scale = PixelScale.of(source)
    assert (scale.low, scale.span) == (7, 1)
    assert torch.isfinite(Standardize(scale)(source.batch(torch.arange(4)))).all()


def test_the_encoder_standardizes_pixels_as_the_user_gives_them(opened):
    X = np.array([10.0, 30.0]).repeat(16).reshape(2, 4, 4)
    source, _ = opened(X)
    standardized = Standardize(PixelScale.of(source))(source.batch(torch.arange(2)))
    torch.testing.assert_close(standardized[:, 0, 0, 0], torch.tensor([-1.0, 1.0]))  # (10 - 20) / 10


def test_evenly_spaced_positions():
    assert evenly_spaced(10, 4).tolist() == [0, 3, 6, 9]
    assert evenly_spaced(11, 4).tolist() == [0, 3, 7, 10]  # 10 / 3 = 3.3 and 6.7
    assert evenly_spaced(3, 4).tolist() == [0, 1, 2]
    assert evenly_spaced(3, 1).tolist() == [0]
    assert evenly_spaced(0, 4).tolist() == []


@pytest.mark.parametrize("n", [2**24 + 1, 2**25, 2**40 + 1])
def test_evenly_spaced_positions_of_very_many_stay_within_them(n):
    positions = evenly_spaced(n, 256)  # float32 has integers up to 2^24 only
    assert positions.dtype == torch.int64
    assert (positions[0], positions[-1]) == (0, n - 1)
    assert positions.tolist() == [(2 * i * (n - 1) + 255) // (2 * 255) for i in range(256)]


def test_one_level_of_4096_makes_another_embedding(embedder):
    scans = np.random.default_rng(0).integers(0, 4096, (N, 8, 8), dtype=np.uint16)
    fitted = embedder(precision="float32").fit(scans)
    brighter = scans.copy()
    brighter[:, 4, 4] += 1
    assert (fitted.transform(scans) != fitted.transform(brighter)).any(axis=1).all()


# ------------------------------------------------------------------ files


def pixels_of(source):
    return source.batch(FIRST)[0].movedim(0, -1).squeeze().numpy()


def test_a_16_bit_file_keeps_its_levels(opened, save_images):
    levels = np.arange(64, dtype=np.uint16).reshape(8, 8) + 40_000  # 40000 / 257 = 155.6: one level of 8 bits
    source, format_ = opened(save_images([levels, levels]))
    assert source.dtype == torch.float32
    assert format_.shape == (8, 8, 1)
    np.testing.assert_array_equal(pixels_of(source), levels)


def test_8_bit_files_among_16_bit_files_have_the_same_white(opened, save_images):
    deep, white = np.full((8, 8), 65_535, np.uint16), np.full((8, 8), 255, np.uint8)
    source, _ = opened(save_images([deep, white]))
    assert source.batch(torch.arange(2)).unique().tolist() == [65_535]


def test_transparent_pixels_are_shown_on_white(opened, save_images):
    red = np.zeros((8, 8, 4), np.uint8)
    red[..., 0] = 200
    red[:4, :, 3] = 255  # the upper half is opaque
    for X in (save_images([red, red]), [Image.fromarray(red)] * 2):
        source, format_ = opened(X)
        assert format_.shape == (8, 8, 3)
        assert pixels_of(source)[0, 0].tolist() == [200, 0, 0]
        assert pixels_of(source)[7, 7].tolist() == [255, 255, 255]


def test_a_palette_stands_for_colors(opened, save_images):
    red = Image.new("RGB", (8, 8), (204, 0, 0)).convert("P")
    for X in (save_images([red, red]), [red, red]):
        assert pixels_of(opened(X)[0])[0, 0].tolist() == [204, 0, 0]


def test_a_photo_is_turned_as_its_exif_data_say(opened, save_images, tmp_path):
    left_is_white = np.zeros((8, 8, 3), np.uint8)
    left_is_white[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to view": left becomes top
    paths = [tmp_path / f"{i}.jpg" for i in range(2)]
    for path in paths:
        Image.fromarray(left_is_white).save(path, exif=exif, quality=95)
    turned = pixels_of(opened(paths)[0])
    assert turned[:3].min() > 200
    assert turned[5:].max() < 50


def test_gray_files_have_one_channel_and_mixed_ones_three(opened, save_images, images):
    assert opened(save_images(images[..., 0]))[0].channels == 1
    mixed, _ = opened(save_images([images[0], images[1][..., 0]]))
    assert mixed.channels == 3
    red, green, blue = mixed.batch(torch.tensor([1]))[0]
    assert torch.equal(red, green)
    assert torch.equal(red, blue)


def test_files_are_read_when_they_are_needed(opened, save_images, images):
    paths = save_images(images[:3])
    source, _ = opened(paths)
    paths[2].unlink()
    assert source.batch(torch.arange(2)).shape == (2, 3, 8, 8)
    words = rf"2\.png \(position 2\) cannot be read as an image: .*{os.strerror(errno.ENOENT)}"
    with pytest.raises(ValueError, match=words):
        source.batch(torch.tensor([2]))


def test_a_file_that_was_read_is_kept_for_the_next_epoch(opened, save_images, images):
    paths = save_images(images[:2])
    source, _ = opened(paths)
    before = source.batch(torch.arange(2))
    for path in paths:
        path.unlink()
    assert torch.equal(source.batch(torch.arange(2)), before)


def test_three_files_are_enough_to_fit(embedder, save_images, images):
    fitted = embedder().fit(save_images(images[:3]))
    assert fitted.batch_size_ == 3
    assert not hasattr(fitted, "n_features_in_")


def test_files_of_other_sizes_are_shrunk_and_centered(opened, save_images):
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 200  # the square in the middle
    with pytest.warns(UserWarning, match=r"cropped to 8 x 8 .* keeps 33% of a typical one, of 16 x 48"):
        source, format_ = opened(save_images([wide, wide]), image_size=8)
    assert format_.size == source.size == (8, 8)
    assert (pixels_of(source)[:, 1:-1] == 200).all()  # antialiasing mixes in the black at its borders


def test_files_without_a_wish_are_trained_at_their_median_short_side(opened, save_images):
    paths = save_images([np.zeros(shape, np.uint8) for shape in ((8, 20), (10, 10), (30, 12))])
    with pytest.warns(UserWarning, match="keeps 40% of a typical one, of (8 x 20|30 x 12)"):
        assert opened(paths)[1].size == (10, 10)


@pytest.mark.parametrize("shapes", [[(8, 64)] * 3, [(8, 64), (16, 128), (12, 98)]])
def test_files_of_one_shape_keep_it_as_arrays_do(shapes, opened, save_images):
    paths = save_images([np.zeros(shape, np.uint8) for shape in shapes])
    height, width = (int(side) for side in np.median(shapes, axis=0))
    assert opened(paths)[1].size == (height, width)


def test_a_fit_on_files_forgets_how_many_numbers_an_earlier_array_had(embedder, images, save_images):
    estimator = embedder().fit(images)
    assert estimator.n_features_in_ == 192
    assert not hasattr(estimator.fit(save_images(images)), "n_features_in_")


# ------------------------------------------------------------------ the training resolution


@pytest.mark.parametrize(
    ("image_size", "given", "expected"),
    [
        ("auto", (8, 8), (8, 8)),
        ("auto", (100, 300), (100, 300)),
        ("auto", (448, 896), (224, 448)),  # the short side halves, and so does the other
        ("auto", (300, 200), (300, 200)),
        (64, (300, 200), (64, 64)),
        ((32, 48), (8, 8), (32, 48)),
        (np.int64(32), (8, 8), (32, 32)),
        ([32, 48], (8, 8), (32, 48)),
    ],
)
def test_the_training_resolution(image_size, given, expected):
    assert training_size(image_size, given) == expected


@pytest.mark.parametrize("image_size", [0, -8, 8.5, None, "large", "ab", (8,), (8, 0), (8, 8, 3), (8.0, 8.0)])
def test_a_resolution_is_one_or_two_numbers_of_pixels(image_size):
    with pytest.raises(ValueError) as caught:
        training_size(image_size, (8, 8))
    assert str(caught.value) == (
        f"image_size={image_size!r}: give 'auto', a number of pixels, or (height, width)."
    )


def test_large_arrays_are_shrunk_once_before_training(opened, draw_images):
    large = draw_images(4, (16, 16, 3))
    source, format_ = opened(large, image_size=8)
    assert source.size == (8, 8)
    assert format_.shape == (16, 16, 3)
    means = large.reshape(4, 2, 8, 16, 3).mean(axis=(2, 3))  # upper and lower half
    shrunk = (
        source.batch(torch.arange(4)).movedim(1, -1).to(torch.float32).reshape(4, 2, 4, 8, 3).mean(dim=(2, 3))
    )
    np.testing.assert_allclose(shrunk.numpy(), means, atol=4)


@pytest.mark.parametrize("image_size", [4, 12, (8, 16)])
def test_other_resolutions_than_the_images_train_and_embed(image_size, embedder, images):
    fitted = embedder(image_size=image_size).fit(images)
    assert fitted.image_size_ == (image_size if isinstance(image_size, tuple) else (image_size, image_size))
    assert fitted.transform(images).shape == (N, 8)


# ------------------------------------------------------------------ images without labels


def test_unlabeled_images_are_learned_from(embedder, draw_images, images):
    more = draw_images(30, seed=1)
    alone, together = embedder().fit(images), embedder().fit(images, X_unlabeled=more)
    as_one = embedder().fit(np.concatenate([images, more]))
    assert not np.array_equal(alone.transform(images), together.transform(images))
    np.testing.assert_array_equal(together.transform(images), as_one.transform(images))


def test_unlabeled_images_may_have_another_form(embedder, draw_images, images, save_images):
    more = draw_images(30, seed=1)
    expected = embedder().fit(images, X_unlabeled=more).transform(images)
    paths = save_images(more)
    np.testing.assert_array_equal(embedder().fit(images, X_unlabeled=paths).transform(images), expected)
    on_rows = embedder(image_shape=(8, 8, 3)).fit(images.reshape(N, -1), X_unlabeled=paths)
    np.testing.assert_array_equal(on_rows.transform(images), expected)


def test_batches_without_any_file_are_no_problem(embedder, draw_images, images, save_images):
    # 2 files among 32 images, 2 in a step: most steps see no file.
    fitted = embedder(batch_size=2).fit(save_images(images[:2]), X_unlabeled=draw_images(30))
    assert np.isfinite(fitted.transform(images)).all()


def test_files_next_to_small_arrays_are_brought_to_the_training_resolution(
    opened, images, save_images, draw_images
):
    source, _ = opened(images, save_images(draw_images(3, (20, 24, 3))), image_size=16)
    assert source.batch(torch.arange(len(source))).shape == (N + 3, 3, 16, 16)


def test_unlabeled_images_of_another_dtype_are_refused(embedder, images):
    with pytest.raises(ValueError) as caught:
        embedder().fit(images, X_unlabeled=images / 255)
    assert str(caught.value) == (
        "X holds uint8 images and X_unlabeled float32: their pixel values have different units. Convert one, "
        "for example X_unlabeled.astype(X.dtype)."
    )


def test_unlabeled_images_of_another_shape_are_refused(embedder, images):
    words = r"the shape \(6, 8, 3\) .* was fitted on \(8, 8, 3\)"
    with pytest.raises(ValueError, match=words):
        embedder().fit(images, X_unlabeled=images[:, :6])


def test_8_bit_files_do_not_mix_with_arrays_of_other_units(embedder, images, save_images):
    paths, unit = save_images(images), images / 255
    with pytest.raises(
        ValueError, match=r"X_unlabeled: These images reach 249, but X holds values from 0 to 1"
    ):
        embedder().fit(unit, X_unlabeled=paths)
    with pytest.raises(ValueError, match=r"These images reach 249, but SSLImageEmbedder was fitted on"):
        embedder().fit(unit).transform(paths)


def test_files_do_not_have_thirteen_channels(embedder, draw_images, images, save_images):
    fitted = embedder().fit(draw_images(N, (8, 8, 13)))
    with pytest.raises(ValueError, match="fitted on 13 channels; these images have 3"):
        fitted.transform(save_images(images))


def test_inference_reads_files_at_the_fitted_size(embedder, images, save_images, draw_images):
    fitted = embedder().fit(images)
    assert fitted._open_for_inference(save_images(draw_images(2, (16, 20, 3)))).size == (8, 8)
