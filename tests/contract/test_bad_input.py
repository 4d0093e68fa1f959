"""Error messages: they state the given value, the possible ones and the next step; nothing else changes."""

import copy
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from skorch.callbacks import EarlyStopping
from torch import nn
from torch.utils.data import TensorDataset

from sklearn_ssl import SSLLoss


class WithLabels(SSLLoss):
    """Loss that pulls images of one class together and records the labels that it is given."""

    uses_labels = True
    seen = None

    def forward(self, z1, z2, y):
        type(self).seen = sorted(set(y.tolist()))
        return (z1[y >= 0] - z2[y >= 0]).square().sum() + z1.square().mean()


class Constant(nn.Module):
    """Backbone with the same features for every image."""

    def __init__(self, value=1.0):
        super().__init__()
        self.features = nn.Parameter(torch.full((1, 4), value))

    def forward(self, x):
        return self.features + 0 * x.mean((1, 2, 3)).unsqueeze(1)


def message_of(kind, call):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


# ------------------------------------------------------------------ images


def test_rows_need_an_image_shape(embedder, images):
    message = message_of(ValueError, lambda: embedder().fit(images.reshape(12, -1)))
    assert message == (
        "X has the shape (12, 192): flat rows. Set the shape of an image, for example "
        "image_shape=(28, 28) or (32, 32, 3); or give images of shape (n, height, width[, channels])."
    )


@pytest.mark.parametrize("image_shape", [(8, 8), (7, -1, 3), (-1, -1, 3)])
def test_rows_need_an_image_shape_that_fits(image_shape, embedder, images):
    message = message_of(ValueError, lambda: embedder(image_shape=image_shape).fit(images.reshape(12, -1)))
    assert message == (
        f"image_shape={image_shape} does not fit rows of 192 values. It is (height, width) or "
        f"(height, width, channels), whose product is the length of a row; one of them may be -1."
    )


@pytest.mark.parametrize("image_shape", [64, (64,), (1, 8, 8, 3), "8x8"])
def test_an_image_shape_has_two_or_three_numbers(image_shape, embedder, images):
    words = r"image_shape=.*: give \(height, width\) or \(height, width, channels\) of one image"
    with pytest.raises(ValueError, match=words):
        embedder(image_shape=image_shape).fit(images.reshape(12, -1))


def test_images_that_contradict_image_shape_are_refused(embedder, images):
    with pytest.raises(
        ValueError, match=r"image_shape=\(4, 16, 3\), but the images have the shape \(8, 8, 3\)"
    ):
        embedder(image_shape=(4, 16, 3)).fit(images)


def test_channels_in_the_second_axis_are_noticed(embedder, images):
    message = message_of(ValueError, lambda: embedder().fit(images.transpose(0, 3, 1, 2)))
    assert message == (
        "X has the shape (12, 3, 8, 8): axis 1, of length 3, looks like channels. numpy images are "
        "(n, height, width, channels): X.transpose(0, 2, 3, 1). Or say how to read it: "
        "reader__channels='last' for 3 x 8 pixels with 8 channels, reader__channels='first' for 8 x 8 pixels "
        "with 3."
    )


def test_channels_in_the_last_axis_of_a_tensor_are_noticed(embedder, images):
    assert message_of(ValueError, lambda: embedder().fit(torch.from_numpy(images))) == (
        "X has the shape (12, 8, 8, 3): axis 3, of length 3, looks like channels. A torch tensor of images "
        "is (n, channels, height, width): X.permute(0, 3, 1, 2). Or say how to read it: "
        "reader__channels='last' for 8 x 8 pixels with 3 channels, reader__channels='first' for 8 x 3 pixels "
        "with 8."
    )


@pytest.mark.parametrize("shape", [(12,), (2, 2, 8, 8, 3)])
def test_arrays_have_three_or_four_axes(shape, embedder):
    message = message_of(ValueError, lambda: embedder().fit(np.zeros(shape)))
    assert message == (
        f"Images are (n, height, width) or (n, height, width, channels); got the shape {shape}."
    )


def test_tensors_have_four_axes(embedder):
    with pytest.raises(ValueError, match=r"is \(n, C, H, W\); got the shape \(12, 8, 8\)"):
        embedder().fit(torch.zeros(12, 8, 8))


def test_what_is_no_collection_is_refused(embedder, images, tmp_path):
    path = tmp_path / "0.png"
    Image.fromarray(images[0]).save(path)
    with pytest.raises(NotADirectoryError, match=r"0\.png is a file: give a list of paths, or a folder"):
        embedder().fit(path)
    with pytest.raises(ValueError, match=r"X is a single image, <PIL.* give a list of them"):
        embedder().fit(Image.fromarray(images[0]))
    with pytest.raises(ValueError, match=r"X is a dict with the entries \['images'\]: .* X\['images'\]"):
        embedder().fit({"images": images})
    for nothing in (None, 3):
        assert message_of(ValueError, lambda nothing=nothing: embedder().fit(nothing)) == (
            f"X is a {type(nothing).__name__}, not images. Give an array, or a list of images or of paths."
        )


def test_a_list_of_different_channel_counts_is_refused(embedder, images):
    with pytest.raises(ValueError, match=r"different numbers of channels: 2 \(.*\), 3 \(.*\)"):
        embedder().fit([images[0], images[1][..., :2]])


def test_a_list_after_a_fit_on_an_array_has_its_size(embedder, images):
    fitted = embedder().fit(images)
    assert message_of(ValueError, lambda: fitted.transform([images[0], images[2][:7]])) == (
        "Image 1 has 7 x 8 pixels, image 0 has 8 x 8: resize them to one size."
    )


def test_images_and_paths_in_one_list_are_refused(embedder, images):
    for X in ([images[0], "a.png"], ["a.png", images[0]]):
        with pytest.raises(
            ValueError, match=r"X is 'a\.png', which is not an image\. Give images only, .* or paths only"
        ):
            embedder().fit(X)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", ["array", "tensor", "list"])
def test_pixels_are_finite(form, bad, embedder, images):
    X = images / 255
    X[3, 2, 1, 0] = bad
    X = {"array": X, "tensor": torch.tensor(X).movedim(-1, 1), "list": list(X)}[form]
    kind = "NaN" if np.isnan(bad) else "infinity, or a value too large for float32,"
    assert message_of(ValueError, lambda: embedder().fit(X)) == (
        f"Input X contains {kind} in image 3; affected images: 1 of 12. Remove them, or replace the values, "
        f"for example with np.nan_to_num(X)."
    )


def test_large_values_whose_sum_is_none_of_float32_are_no_infinity(embedder, images):
    X = images * np.float32(1e36)  # the sum of 2304 such numbers is beyond 3.4e38
    assert np.isfinite(embedder(precision="float32").fit(X).transform(X)).all()


@pytest.mark.parametrize("dtype", ["<U3", "S3", "datetime64[s]", "timedelta64[s]", "V2"])
@pytest.mark.parametrize("form", ["array", "list", "rows"])
def test_pixel_values_are_numbers(dtype, form, embedder, images):
    X = images.view("V1").astype("V2") if dtype == "V2" else images.astype(dtype)
    params = {"image_shape": (8, 8, 3)} if form == "rows" else {}
    X = {"array": X, "list": list(X), "rows": X.reshape(12, -1)}[form]
    message = message_of(ValueError, lambda: embedder(**params).fit(X))
    assert message.startswith("X holds values of type ")
    assert message.endswith(", which are not pixel values: give integers, floats or booleans.")


def test_objects_are_pixel_values_where_they_are_numbers(embedder, images):
    numbers, strings = images.astype(object), images.astype(str).astype(object)
    np.testing.assert_array_equal(
        embedder().fit(numbers).transform(numbers), embedder().fit(images.astype(int)).transform(images)
    )
    with pytest.raises(ValueError, match="X holds values of type <U3, which are not pixel values"):
        embedder().fit(strings)


@pytest.mark.parametrize("form", ["array", "tensor"])
def test_complex_numbers_are_refused(form, embedder, images):
    X = images * (1 + 1j)
    X = torch.from_numpy(X).movedim(-1, 1) if form == "tensor" else X
    message = message_of(ValueError, lambda: embedder().fit(X))
    assert message == (
        "Complex data not supported: X holds complex128 values. Give their absolute values, or real and "
        "imaginary part as two channels."
    )


@pytest.mark.parametrize("form", ["array", "list"])
def test_masked_values_are_refused_and_a_mask_of_none_is_no_matter(form, embedder, images):
    X = np.ma.masked_array(images, images == images[0, 0, 0, 0])
    words = r"Some values of X are masked: give them values, for example X\.filled\(0\)\."
    with pytest.raises(ValueError, match=words):
        embedder().fit(X if form == "array" else list(X))
    embedder().fit(np.ma.masked_array(images))


def test_one_image_is_too_few_to_learn_from(embedder, images, save_images):
    for X in (images[:1], list(images[:1]), torch.zeros(1, 3, 8, 8), save_images(images[:1])):
        with pytest.raises(ValueError, match=r"Found .*1 .*minimum of 2 is required by SSLImageEmbedder"):
            embedder().fit(X)


def test_no_image_at_all_is_too_few(embedder, images):
    for X in ([], (), images[:0], torch.zeros(0, 3, 8, 8)):
        with pytest.raises(
            ValueError, match=r"Found (array with )?0 (sample|image)\(s\).*minimum of 2 is required"
        ):
            embedder().fit(X)
    with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\) .*minimum of 1 is required"):
        embedder().fit(images).transform(images[:0])


def test_transform_wants_the_fitted_size_and_channels(embedder, images):
    fitted = embedder().fit(images)
    for X, shape in (
        (images[:, :6], r"\(6, 8, 3\)"),
        (images[..., 0], r"\(8, 8, 1\)"),
        (images[..., :2], r"\(8, 8, 2\)"),
        (torch.zeros(2, 3, 8, 9), r"\(8, 9, 3\)"),
        (images.reshape(12, 4, 16, 3), r"\(4, 16, 3\)"),  # as many numbers, but another image
    ):
        words = (
            rf"the shape {shape} .* SSLImageEmbedder was fitted on \(8, 8, 3\)\. Resize them, or fit again"
        )
        with pytest.raises(ValueError, match=words):
            fitted.transform(X)


def test_transform_wants_rows_of_the_fitted_length(embedder, images):
    rows = images.reshape(12, -1)
    fitted = embedder(image_shape=(8, -1, 3)).fit(rows)
    with pytest.raises(ValueError, match="X has 96 features, but SSLImageEmbedder is expecting 192 features"):
        fitted.transform(rows[:, :96])


def test_transform_comes_after_fit(embedder, images):
    with pytest.raises(NotFittedError, match="This SSLImageEmbedder instance is not fitted yet"):
        embedder().transform(images)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        embedder().get_feature_names_out()


# ------------------------------------------------------------------ units


UNITS = "their pixel values have different units. Convert them, for example"


@pytest.mark.parametrize("fitted_as", [np.uint8, np.float32, np.int64])
def test_images_of_0_to_1_after_a_fit_on_0_to_255_are_refused(fitted_as, embedder, images):
    fitted = embedder(precision="float32").fit(images.astype(fitted_as))
    message = message_of(ValueError, lambda: fitted.transform(images / 255))
    assert message.startswith(
        "These images lie between 0 and 1, but SSLImageEmbedder was fitted on values from "
    )
    assert message.endswith(f"{UNITS} X * 255; or X.round(), if they are really that dark.")
    assert "on values from 0 to 255:" in message or fitted_as is not np.uint8


def test_images_of_0_to_255_after_a_fit_on_0_to_1_are_refused(embedder, images):
    fitted = embedder().fit(images / 255)
    for given in (images, images.astype(np.int64), images.astype(np.float64)):
        assert message_of(ValueError, lambda given=given: fitted.transform(given)) == (
            f"These images reach {images.max()}, but SSLImageEmbedder was fitted on values from 0 to 1: "
            f"{UNITS} X / 255."
        )


def test_files_of_8_bits_after_a_fit_on_0_to_1_are_refused(embedder, images, save_images, tmp_path):
    for i, image in enumerate(images):
        np.save(tmp_path / f"{i}.npy", image / 255)
    fitted = embedder().fit([tmp_path / f"{i}.npy" for i in range(12)])
    with pytest.raises(
        ValueError, match="was fitted on values from 0 to 1: their pixel values have different"
    ):
        fitted.transform(save_images(images))


@pytest.mark.parametrize("given_as", [np.float32, np.float64, np.int16, np.int64])
def test_another_number_type_is_no_other_unit(given_as, embedder, images):
    fitted = embedder().fit(images)
    np.testing.assert_array_equal(fitted.transform(images.astype(given_as)), fitted.transform(images))
    fitted = embedder().fit(images / 255)
    np.testing.assert_array_equal(
        fitted.transform((images / 255).astype(np.float32)), fitted.transform(images / 255)
    )


def test_dark_images_and_masks_are_in_any_unit(embedder, images):
    dark = (images > 100).astype(np.float64)  # 0 and 1
    embedder().fit(images).transform(dark)
    embedder().fit(images).transform(np.zeros_like(dark))
    of_unit = embedder().fit(images / 255)
    of_unit.transform(dark)
    of_unit.transform(dark.astype(np.uint8))


def test_values_slightly_outside_of_0_to_1_are_no_other_unit(embedder, images):
    fitted = embedder().fit(images / 255)
    sharpened = images / 255
    sharpened[0, 0, 0] = [-0.1, 1.1, 3.0]
    assert np.isfinite(fitted.transform(sharpened)).all()


def test_a_single_image_may_be_as_dark_and_is_embedded_with_a_warning(embedder, images):
    fitted = embedder().fit(images)
    with pytest.warns(
        UserWarning, match="These images lie between 0 and 1, but .* different units"
    ) as caught:
        assert fitted.transform(images[:1] / 255).shape == (1, 8)
    assert caught[0].filename == __file__


# ------------------------------------------------------------------ rows and datasets


@pytest.mark.parametrize("odd", [None, np.nan, b"a.png", 3])
@pytest.mark.parametrize("column", [list, pd.Series, lambda x: pd.DataFrame({"path": x})])
def test_a_row_that_is_no_path_is_named(odd, column, embedder, images, save_images):
    paths = [str(path) for path in save_images(images)]
    paths[7] = odd
    X = column(paths)
    row = odd if column is list or odd is not None else X.squeeze()[7]
    assert message_of(ValueError, lambda: embedder().fit(X)) == (
        f"Row 7 of X is {row!r}, which is not a path; affected rows: 1 of 12. Remove them."
    )


@pytest.mark.parametrize("odd", [None, np.nan, b"\xff\xd8"])
@pytest.mark.parametrize("kind", [np.asarray, Image.fromarray])
def test_an_item_that_is_no_image_is_named(odd, kind, embedder, images):
    X = [kind(image) for image in images]
    X[7] = odd
    message = (
        f"Item 7 of X is {odd!r}, which is not an image. Give images only, as arrays or PIL images, or paths "
        f"only."
    )
    assert message_of(ValueError, lambda: embedder().fit(X)) == message
    column = pd.Series(X, index=range(100, 112))  # not numbered by position
    assert message_of(ValueError, lambda: embedder().fit(column)) == message


def test_bytes_that_are_no_image(embedder):
    message = message_of(ValueError, lambda: embedder().fit([b"\xff\xd8" * 1000] * 3))
    assert message.startswith("The image (position 0) cannot be read as an image: cannot identify image file")
    assert len(message) < 200


class OfDicts(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, i):
        return {"left": np.zeros((8, 8), np.uint8), "right": np.zeros((8, 8), np.uint8), "label": 0}


def test_a_dataset_of_dicts_with_two_images_is_told_what_to_return(embedder):
    assert message_of(ValueError, lambda: embedder().fit(OfDicts())) == (
        "The image (position 0) cannot be read as an image: it is a dict with the keys ['left', 'right', "
        "'label'], 2 of which hold an image: let the dataset return the image itself, or a tuple that begins "
        "with it"
    )


class Arrays(torch.utils.data.Dataset):
    def __init__(self, arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays)

    def __getitem__(self, i):
        return self.arrays[i]


def test_axes_in_the_wrong_order_are_noticed_in_datasets_and_readers(embedder, draw_images, save_images):
    images = draw_images(12, (32, 32, 3))
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    words = (
        r"the shape \(3, 32, 32\): axis 0, of length 3, looks like channels\. .* image\.transpose\(1, 2, 0\)"
    )
    with pytest.raises(ValueError, match=words):
        embedder().fit(Arrays(channels_first))
    with pytest.raises(ValueError, match=words):
        embedder(reader__read=lambda path: channels_first[0]).fit(save_images(images))
    with pytest.raises(
        ValueError, match=r"tensor that has the shape \(32, 32, 3\): axis 2, .* image\.permute\(2, 0, 1\)"
    ):
        embedder().fit(Arrays(torch.from_numpy(images)))
    embedder().fit(Arrays(torch.from_numpy(channels_first)))


def test_an_unknown_setting_of_the_reader_is_named_after_the_fit_too(embedder, images):
    fitted = embedder().fit(images)
    fitted.reader_params = {"on_eror": "skip"}
    assert message_of(ValueError, lambda: fitted.transform(images)).startswith(
        "Invalid parameter 'reader__on_eror' for SSLImageEmbedder(reader=None). Did you mean "
        "'reader__on_error'?"
    )


# ------------------------------------------------------------------ files


def test_a_missing_file_is_named_with_its_position(embedder, images, save_images, tmp_path):
    paths = [*save_images(images[:2]), tmp_path / "gone.png"]
    message = message_of(FileNotFoundError, lambda: embedder().fit(paths))
    assert message == f"There is no file {tmp_path / 'gone.png'} (position 2 of 3)."
    fitted = embedder().fit(paths[:2])
    assert message_of(FileNotFoundError, lambda: fitted.transform(paths)) == message


def test_a_folder_is_not_an_image(embedder, images, save_images, tmp_path):
    paths = [*save_images(images[:2]), tmp_path]
    message = message_of(IsADirectoryError, lambda: embedder().fit(paths))
    assert message == f"{tmp_path} (position 2 of 3) is a folder. Give the paths of the images in it."


def test_a_file_that_is_no_image_is_named_with_its_position(embedder, images, save_images, tmp_path):
    (tmp_path / "notes.png").write_text("not an image")
    paths = [*save_images(images[:2]), tmp_path / "notes.png"]
    message = message_of(ValueError, lambda: embedder().fit(paths))
    assert message.startswith(f"{tmp_path / 'notes.png'} (position 2) cannot be read as an image: ")


def test_a_damaged_file_is_named_with_its_position(embedder, draw_images, save_images):
    paths = save_images(draw_images(3, (32, 32, 3)))
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[: len(whole) // 2])
    message = message_of(ValueError, lambda: embedder().fit(paths))
    assert message.startswith(f"{paths[1]} (position 1) cannot be read as an image: ")
    assert "truncated" in message


def test_deep_files_that_come_late_are_named(embedder, save_images):
    paths = save_images([np.zeros((8, 8), np.uint8)] * 200)
    # Up to 64 files are inspected first; of 200, the second is not among them.
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(paths[1])
    message = message_of(ValueError, lambda: embedder().fit(paths))
    assert message == (
        f"{paths[1]} (position 1) cannot be read as an image: it has more than 8 bits per channel (dtype "
        f"uint16, values from 40000 to 40000), while the images inspected first have 8 (0 to 255). Convert "
        f"them to the same kind, or put an image with more bits first"
    )


def test_colors_that_come_late_are_named(embedder, save_images, images):
    paths = save_images([image[..., 0] for image in images] * 17)  # 204, of which 64 are inspected first
    Image.fromarray(images[0]).save(paths[1])
    message = message_of(ValueError, lambda: embedder().fit(paths))
    assert message == (
        f"{paths[1]} (position 1) cannot be read as an image: it is a color image, while the images "
        f"inspected first are grayscale. Convert them to the same kind, or put a color image first: all "
        f"images then have three channels"
    )
    with pytest.warns(UserWarning, match="1 of 204 images were left out: .*it is a color image"):
        assert list(embedder(reader__on_error="skip").fit(paths).skipped_) == [1]
    assert embedder().fit([paths[1], *paths]).image_shape_ == (8, 8, 3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_refused_rather_than_waited_for(embedder, images, save_images):
    paths = save_images(images)
    paths[7].unlink()
    os.mkfifo(paths[7])
    special = "not a regular file but a named pipe, a socket or a device"
    for X in (paths, paths[0].parent):
        at = 7 if X is paths else sorted(paths).index(paths[7])
        assert message_of(ValueError, lambda X=X: embedder().fit(X)) == (
            f"{paths[7]} (position {at} of 12) is {special}."
        )
        with pytest.warns(UserWarning, match=rf"1 of 12 images were left out: .*7\.png .* it is {special}"):
            assert list(embedder(reader__on_error="skip").fit(X).skipped_) == [at]
    with pytest.warns(UserWarning, match=special):  # a reader of one's own does not wait either
        embedder(reader__on_error="skip", reader__read=lambda path: np.asarray(Image.open(path))).fit(paths)


def test_a_link_to_a_file_is_a_file(embedder, images, save_images, tmp_path):
    paths = save_images(images)
    links = [tmp_path / f"link{i}.png" for i in range(12)]
    for link, path in zip(links, paths, strict=True):
        link.symlink_to(path)
    np.testing.assert_array_equal(
        embedder().fit(links).transform(links), embedder().fit(paths).transform(paths)
    )


# ------------------------------------------------------------------ parameters


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"batch_size": 1}, "batch_size=1: give an integer of at least 2, or 'auto'."),
        ({"batch_size": None}, "batch_size=None: give an integer of at least 2, or 'auto'."),
        ({"batch_size": "many"}, "batch_size='many': give an integer of at least 2, or 'auto'."),
        ({"batch_size": 8.0}, "batch_size=8.0: give an integer of at least 2, or 'auto'."),
        ({"max_epochs": -1}, "max_epochs=-1: give an integer of at least 0, or 'auto'."),
        ({"max_epochs": 2.5}, "max_epochs=2.5: give an integer of at least 0, or 'auto'."),
        ({"max_epochs": True}, "max_epochs=True: give an integer of at least 0, or 'auto'."),
        # None might mean "for ever", which nobody wants without a word.
        ({"max_epochs": None}, "max_epochs=None: give an integer of at least 0, or 'auto'."),
        ({"max_time": 0}, "max_time=0: give a finite number above 0, or None."),
        ({"max_time": "auto"}, "max_time='auto': give a finite number above 0, or None."),
        ({"max_time": np.inf}, "max_time=inf: give a finite number above 0, or None."),
        ({"lr": -0.1}, "lr=-0.1: give a finite number above 0 and at most 1000000, or 'auto'."),
        ({"lr": np.nan}, "lr=nan: give a finite number above 0 and at most 1000000, or 'auto'."),
        ({"lr": None}, "lr=None: give a finite number above 0 and at most 1000000, or 'auto'."),
        ({"lr": True}, "lr=True: give a finite number above 0 and at most 1000000, or 'auto'."),
        (
            {"lr": np.ones(2)},
            "lr=array([1., 1.]): give a finite number above 0 and at most 1000000, or 'auto'.",
        ),
        ({"lr": 1e300}, "lr=1e+300: give a finite number above 0 and at most 1000000, or 'auto'."),
        (
            {"lr": 10**400},
            f"lr=1{'0' * 96}...: give a finite number above 0 and at most 1000000, or 'auto'.",
        ),
        (
            {"weight_decay": -1},
            "weight_decay=-1: give a finite number of at least 0 and at most 1000000, or 'auto'.",
        ),
        ({"warmup": 2}, "warmup=2: give a finite number of at least 0 and at most 1, or 'auto'."),
        ({"frozen_fraction": 1}, "frozen_fraction=1: give a finite number of at least 0 and below 1."),
        ({"compile": "no"}, "compile='no': give True or False."),
        ({"warm_start": 1}, "warm_start=1: give True or False."),
        ({"verbose": "x"}, "verbose='x': give an integer of at least 0, or True, or False."),
        ({"precision": 5}, "precision=5: give 'auto', 'bf16' or 'float32'."),
        (
            {"image_size": len},
            "image_size=<built-in function len>: give 'auto', a number of pixels, or (height, width).",
        ),
        ({"image_size": True}, "image_size=True: give 'auto', a number of pixels, or (height, width)."),
        (
            {"image_shape": (8, True)},
            "image_shape=(8, True): give (height, width) or (height, width, channels) of one image.",
        ),
        ({"precision": "fp16"}, "precision='fp16': give 'auto', 'bf16' or 'float32'."),
    ],
)
def test_a_number_out_of_range_is_told_the_range(params, message, embedder, images):
    assert message_of(ValueError, lambda: embedder(**params).fit(images)) == message


@pytest.mark.parametrize("projector", ["wide", 128, (), (64, 0), (64, 1.5), (64, True), None])
def test_a_projector_is_widths_or_a_module(projector, embedder, images):
    words = r": give the widths of its layers, for example \(512, 128\), an nn\.Module from features"
    with pytest.raises(ValueError, match=words) as caught:
        embedder(projector=projector).fit(images)
    assert str(caught.value).startswith(f"projector={projector!r}: ")


@pytest.mark.parametrize("random_state", ["x", -1, True, 2**32, np.random.default_rng(0)])
def test_a_random_state_is_a_seed_or_sklearns(random_state, embedder, images):
    message = message_of(ValueError, lambda: embedder(random_state=random_state).fit(images))
    assert message == (
        f"random_state={random_state!r}: give an integer from 0 to 4294967295, a "
        f"numpy.random.RandomState, or None."
    )


@pytest.mark.parametrize(
    ("projector", "reason"),
    [
        (nn.Linear(3, 4), "mat1 and mat2 shapes cannot be multiplied"),
        (nn.LSTM(8, 4), "'tuple' object has no"),
    ],
)
def test_a_projector_that_cannot_take_the_features_is_named(projector, reason, embedder, images):
    message = message_of(ValueError, lambda: embedder(projector=projector).fit(images))
    assert message.startswith(
        f"projector={projector} cannot map the backbone's 8 features to projections of shape (n, "
        f"width): {reason}"
    )


@pytest.mark.parametrize("callbacks", [5, "abc", [1], 0, EarlyStopping(), [("name",)]])
def test_callbacks_are_a_list_of_skorchs(callbacks, embedder, images):
    message = message_of(ValueError, lambda: embedder(callbacks=callbacks).fit(images))
    assert message == (
        f"callbacks={callbacks!r}: give a list of skorch callbacks, for example "
        f"callbacks=[skorch.callbacks.EarlyStopping()], or None."
    )


@pytest.mark.parametrize("params", [5, 0, "", [], {1: 2}, [("a", 1)]])
@pytest.mark.parametrize("slot", ["loss", "backbone", "augment", "optimizer", "reader"])
def test_nested_parameters_are_a_dict_of_names(slot, params, embedder, images):
    message = message_of(ValueError, lambda: embedder(**{f"{slot}_params": params}).fit(images))
    assert message == (
        f"{slot}_params={params!r}: give a dict of names and values, for example {{'name': 0.5}}, or None."
    )


@pytest.mark.parametrize("device", ["nonsense", "cuda:77", 77, None, "meta"])
def test_a_device_that_is_not_there_is_told_those_that_are(device, embedder, images):
    message = message_of(ValueError, lambda: embedder(device=device).fit(images))
    assert message.startswith(f"device={device!r} is not there: ")
    assert "This machine has ['cpu'" in message
    assert message.endswith("device='auto' takes the best of them.")


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (
            {"loss": "ntxnt"},
            r"Unknown loss 'ntxnt'\. Did you mean 'ntxent'\? Available: .*dcl, .*ntxent, .*vicreg",
        ),
        ({"backbone": "resnet81"}, r"Unknown backbone 'resnet81'\. Did you mean 'resnet18'\?"),
        (
            {"augment": "foto"},
            r"Unknown augment 'foto'\. Did you mean 'photo'\? Give 'auto', one of photo, symb",
        ),
        (
            {"optimizer": "adma"},
            r"Unknown optimizer 'adma'\. Did you mean 'adamw'\? Give 'auto', one of sgd,",
        ),
    ],
)
def test_an_unknown_name_is_told_the_nearest(params, words, embedder, images):
    with pytest.raises(ValueError, match=words):
        embedder(**params).fit(images)


@pytest.mark.parametrize(
    ("slot", "wrong", "right", "chosen"),
    [
        ("loss", "temprature", "temperature", "loss='ntxent'"),
        ("backbone", "widht", "width", "backbone=Tiny"),
        ("augment", "crup", "crop", "augment='auto'"),
        ("optimizer", "beta", "betas", "optimizer='auto'"),
    ],
)
def test_an_unknown_nested_parameter_is_told_the_nearest_by_every_way_in(
    slot, wrong, right, chosen, embedder, images
):
    ways = (
        lambda: embedder(**{f"{slot}_params": {wrong: 1}}).fit(images),
        lambda: embedder(**{f"{slot}__{wrong}": 1}).fit(images),
        lambda: embedder().set_params(**{f"{slot}__{wrong}": 1}),
    )
    for way in ways:
        assert message_of(ValueError, way).startswith(
            f"Invalid parameter '{slot}__{wrong}' for SSLImageEmbedder({chosen}). "
            f"Did you mean '{slot}__{right}'? "
        )


def test_a_loss_that_is_no_loss_is_told_what_may_be_one(embedder, images):
    with pytest.raises(
        TypeError, match=r"loss=3 is not a loss\. Give a name \(see sklearn_ssl\.available_losses"
    ):
        embedder(loss=3).fit(images)


def test_a_keyword_that_is_no_parameter_is_refused(embedder):
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'max_epoch'"):
        embedder(max_epoch=3)


# ------------------------------------------------------------------ labels


def test_labels_are_missing_for_a_loss_that_learns_from_them(embedder, images):
    assert message_of(ValueError, lambda: embedder(WithLabels).fit(images)) == (
        "The loss 'WithLabels' learns from labels, but y is None: fit(X, y), with -1 where unlabeled."
    )


@pytest.mark.parametrize("n_labels", [0, 5, 11, 13])
def test_labels_are_as_many_as_images(n_labels, embedder, images, draw_images):
    for more in (None, draw_images(n_labels + 2)):
        message = message_of(
            ValueError,
            lambda more=more: embedder(WithLabels).fit(images, np.zeros(n_labels), X_unlabeled=more),
        )
        assert message == (
            f"There are 12 images in X and {n_labels} labels in y: give one label each. "
            "Pass images without labels by keyword: fit(X, X_unlabeled=images)."
        )


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(lambda images: images[:5], id="array"),
        pytest.param(lambda images: list(images), id="list of arrays"),
        pytest.param(lambda images: torch.from_numpy(images), id="tensor"),
        pytest.param(lambda images: [Image.fromarray(image) for image in images], id="PIL images"),
        pytest.param(lambda images: [Path(f"{i}.png") for i in range(12)], id="paths"),
        pytest.param(lambda images: "folder", id="folder"),
        pytest.param(lambda images: TensorDataset(torch.zeros(12, 3, 8, 8)), id="dataset"),
    ],
)
@pytest.mark.parametrize("loss", ["ntxent", WithLabels])
def test_images_are_no_labels(given, loss, embedder, images):
    assert message_of(ValueError, lambda: embedder(loss).fit(images, given(images))) == (
        "y holds images, rather than a label or target for each image of X. Pass images without labels by "
        "keyword: fit(X, X_unlabeled=images)."
    )


def test_targets_of_what_follows_in_a_pipeline_are_not_looked_at(embedder, images):
    for y in (["cat"] * 12, np.zeros((12, 3)), [[0, 1]] * 12, np.full(12, np.nan)):
        embedder().fit(images, y)


def test_labels_have_one_axis(embedder, images):
    with pytest.raises(ValueError, match=r"y has the shape \(12, 2\): give one class label"):
        embedder(WithLabels).fit(images, np.zeros((12, 2)))


@pytest.mark.parametrize(
    ("y", "seen"),
    [
        (["cat", "dog", "cat", "eel"] * 3, [0, 1, 2]),
        ([10, 20, 10, -1] * 3, [-1, 0, 1]),
        ([10, 20, 10, np.nan] * 3, [-1, 0, 1]),
        (np.array(["cat", "dog", None, "cat"] * 3, dtype=object), [-1, 0, 1]),
        (np.array(["cat", "dog", np.nan, -1] * 3, dtype=object), [-1, 0, 1]),
    ],
)
def test_a_loss_sees_classes_as_numbers_and_minus_one_where_unlabeled(y, seen, embedder, images):
    embedder(WithLabels, batch_size=12).fit(images, y)
    assert WithLabels.seen == seen


def test_a_loss_that_learns_from_labels_and_gets_none_says_so(embedder, images):
    words = r"The loss 'WithLabels' learns from labels, but every y is -1, unlabeled: .* \('ntxent'\)"
    with pytest.warns(UserWarning, match=words) as caught:
        embedder(WithLabels, batch_size=12).fit(images, [-1] * 12)
    assert WithLabels.seen == [-1]
    assert caught[0].filename == __file__


def test_further_images_are_unlabeled(embedder, images, draw_images):
    embedder(WithLabels, batch_size=20).fit(images, ["cat"] * 12, X_unlabeled=draw_images(8))
    assert WithLabels.seen == [-1, 0]


def test_other_losses_ignore_labels(embedder, images):
    without, with_nonsense = embedder().fit(images), embedder().fit(images, ["nonsense"] * 12)
    np.testing.assert_array_equal(without.transform(images), with_nonsense.transform(images))


# ------------------------------------------------------------------ collapse


@pytest.mark.parametrize(("value", "share"), [(1.0, "0.0e+00"), (0.0, "0.0e+00")])
def test_a_collapse_is_warned_of(value, share, embedder, images):
    with pytest.warns(ConvergenceWarning) as warned:
        embedder(backbone=Constant, backbone__value=value).fit(images)
    assert str(warned[0].message) == (
        f"The embedding has collapsed: the images' embeddings differ by {share} of their size. "
        f"Try a lower lr, another loss, a larger batch_size, or a stronger augment."
    )
    assert warned[0].filename == __file__  # points to the line that called fit


def test_a_collapse_of_the_projections_alone_is_warned_of(embedder, images):
    # Nothing keeps images apart, and a projector of zeros is where this loss is smallest.
    with pytest.warns(
        ConvergenceWarning, match="^The projection has collapsed: the images' projections differ"
    ):
        embedder(lambda z1, z2: (z1 - z2).square().mean(), projector=Zeros()).fit(images)


# ------------------------------------------------------------------ numbers that grow


@pytest.mark.parametrize(
    "params",
    [
        {"lr": 1e6, "weight_decay": 1e6, "max_epochs": 5},  # weights grow by up to 1e12 in a step
        {"lr": 1e6, "weight_decay": 1e6, "max_epochs": 5, "optimizer": "sgd"},
    ],
)
def test_a_fit_does_not_end_with_weights_or_embeddings_that_are_not_numbers(params, embedder, images):
    fitted = embedder().fit(images)
    expected = fitted.transform(images)
    with pytest.raises(
        FloatingPointError, match=r"became .*, at .*lr .*Try a lower lr, optimizer__clip_norm="
    ):
        fitted.set_params(**params).fit(images)
    np.testing.assert_array_equal(fitted.transform(images), expected)


def test_embeddings_that_overflow_are_refused_though_all_weights_are_numbers(embedder, images):
    with pytest.raises(
        FloatingPointError, match=r"^The embeddings became infinite or not a number, at a peak lr"
    ):
        embedder(backbone=Huge).fit(images)


# ------------------------------------------------------------------ nothing changes


class Zeros(nn.Linear):
    """Projector that maps everything to zero."""

    def __init__(self):
        super().__init__(8, 4)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class Huge(nn.Module):
    """Backbone whose embeddings overflow in eval mode only."""

    def __init__(self, in_channels):
        super().__init__()
        self.linear = nn.Linear(in_channels, 8)

    def forward(self, x):
        h = self.linear(x.mean((2, 3)))
        return h if self.training or len(h) == 2 else h * 3e38 * 3e38  # two images: the dry run


class Fails(SSLLoss):
    def forward(self, z1, z2):
        raise ValueError("no such luck")


FAILURES = {
    "an error in training, on other images": lambda images: (images[:, :6], {"loss": Fails, "max_epochs": 2}),
    "a bad parameter": lambda images: (images, {"lr": -1}),
    "bad images": lambda images: (np.full((4, 8, 8, 3), np.nan), {}),
    "an unknown backbone": lambda images: (images, {"backbone": "resnet81"}),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("warm_start", [False, True])
def test_a_fit_that_fails_leaves_a_fitted_estimator_as_it_was(failure, warm_start, embedder, images):
    fitted = embedder(warm_start=warm_start).fit(images)
    expected = fitted.transform(images)
    X, params = FAILURES[failure](images)
    learned = {
        name: value for name, value in vars(fitted).items() if name.startswith("_") or name.endswith("_")
    }
    with pytest.raises((ValueError, RuntimeError)):
        fitted.set_params(**params).fit(X)
    assert {name: vars(fitted)[name] for name in learned} == learned  # the same objects
    assert len(vars(fitted)) == len(learned) + len(fitted.get_params(deep=False))
    np.testing.assert_array_equal(fitted.transform(images), expected)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_fit_that_fails_leaves_a_new_estimator_unfitted(failure, embedder, images):
    X, params = FAILURES[failure](images)
    estimator = embedder(**params)
    before = dict(vars(estimator))
    with pytest.raises((ValueError, RuntimeError)):
        estimator.fit(X)
    assert vars(estimator) == before


def test_a_warm_start_with_another_network_is_refused(embedder, images):
    fitted = embedder(warm_start=True).fit(images)
    for params in ({"backbone__width": 9}, {"projector": (8, 9)}):
        words = (
            r"warm_start=True continues with the network of the last fit, but .* or start again with warm_s"
        )
        with pytest.raises(ValueError, match=words):
            copy.deepcopy(fitted).set_params(max_epochs=2, **params).fit(images)


def test_a_loss_that_raises_in_training_is_named_with_the_shapes(embedder, images):
    with pytest.raises(RuntimeError) as caught:
        embedder(Fails).fit(images)
    assert str(caught.value) == (
        "The loss 'Fails' failed in step 0, on views of shapes [(8, 3, 8, 8), (8, 3, 8, 8)]: no such luck"
    )
    assert isinstance(caught.value.__cause__, ValueError)
