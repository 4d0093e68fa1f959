"""The order of the axes of an image: known, told, or asked for, at every door."""

import numpy as np
import pytest
import torch

from sklearn_ssl._images.axes import channels_come_first, is_one_image
from tests.images.doors import DOORS, TENSOR_DOORS

# (channels, height, width) as instruments give them, and volumes: never silently (height, width, channels).
CHANNELS_FIRST = [
    *((channels, 32, 32) for channels in (1, 2, 3, 4, 5, 7, 10, 13, 16)),
    *((channels, 24, 40) for channels in (2, 3, 5, 8, 13)),
    *((channels, 40, 24) for channels in (2, 5, 13)),
    *[(20, 64, 64), (28, 28, 28), (40, 48, 56), (8, 8, 8)],
]
CHANNELS_LAST = [(32, 32, c) for c in (1, 2, 3, 4, 5, 13, 16)] + [
    (24, 40, 3),
    (40, 24, 13),
    (9, 9, 200),
    (4, 4, 4),
]


@pytest.mark.parametrize("shape", CHANNELS_FIRST)
def test_channels_in_the_first_axis_are_never_taken_for_rows(shape):
    channels, height, width = shape
    with pytest.raises(ValueError, match=f"reader__channels='first' for {height} x {width} pixels") as error:
        channels_come_first(shape, "auto")
    assert f"reader__channels='last' for {channels} x {height} pixels with {width} channels" in str(
        error.value
    )
    with pytest.raises(ValueError, match=r"X has the shape \(50, .*\)"):
        channels_come_first((50, *shape), "auto", batch="X")


@pytest.mark.parametrize("shape", CHANNELS_LAST)
def test_channels_in_the_last_axis_are_usual_in_arrays(shape):
    assert not channels_come_first(shape, "auto")
    assert channels_come_first(shape[::-1], "auto", is_tensor=True)


@pytest.mark.parametrize("shape", [(32, 32, 13), (32, 32, 3), (24, 40, 5), (28, 28, 28)])
def test_channels_in_the_last_axis_of_a_tensor_are_asked_for(shape):
    with pytest.raises(ValueError, match="reader__channels='last' for"):
        channels_come_first(shape, "auto", is_tensor=True)


@pytest.mark.parametrize("shape", [*CHANNELS_FIRST, *CHANNELS_LAST])
def test_what_the_user_says_counts(shape):
    for is_tensor in (False, True):
        assert channels_come_first(shape, "first", is_tensor=is_tensor)
        assert not channels_come_first(shape, "last", is_tensor=is_tensor)


@pytest.mark.parametrize("door", DOORS)
def test_every_door_asks_for_the_order_and_takes_it(door, embedder, draw_images, tmp_path):
    images = draw_images(12, (16, 16, 5))
    expected = embedder().fit(images).transform(images)
    make, params = DOORS[door]
    X = make(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), tmp_path)
    with pytest.raises(
        ValueError, match=r"looks like channels.*reader__channels='first' for 16 x 16 pixels with 5"
    ):
        embedder(**params).fit(X)
    told = embedder(reader__channels="first", **params).fit(X)
    assert told.image_shape_ == (16, 16, 5)
    np.testing.assert_allclose(told.transform(X), expected, rtol=1e-5, atol=1e-5)
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=r"looks like channels|was fitted on"):
        embedder(**params).fit(make(images, tmp_path / "other")).transform(X)


@pytest.mark.parametrize("door", TENSOR_DOORS)
def test_tensors_have_their_channels_first_at_every_door(door, embedder, draw_images):
    images = draw_images(12, (16, 16, 13)).astype(np.float32)
    X = TENSOR_DOORS[door](torch.from_numpy(images).movedim(-1, 1))
    fitted = embedder().fit(X)
    assert fitted.image_shape_ == (16, 16, 13)
    expected = embedder().fit(images).transform(images)
    np.testing.assert_allclose(fitted.transform(X), expected, rtol=1e-5, atol=1e-5)  # whole numbers below 256
    turned = TENSOR_DOORS[door](torch.from_numpy(images))
    with pytest.raises(ValueError, match=r"looks like channels.*permute"):
        embedder().fit(turned)
    assert embedder(reader__channels="last").fit(turned).image_shape_ == (16, 16, 13)


def test_the_rows_of_cifars_files_have_their_channels_first(embedder, draw_images):
    images = draw_images(12, (8, 8, 3))
    rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(12, -1)
    with pytest.raises(
        ValueError, match=r"image_shape=\(3, 8, 8\).*reader__channels='first' for 8 x 8 pixels"
    ):
        embedder(image_shape=(3, 8, 8)).fit(rows)
    told = embedder(image_shape=(3, 8, 8), reader__channels="first").fit(rows)
    np.testing.assert_array_equal(told.transform(rows), embedder().fit(images).transform(images))


@pytest.mark.parametrize("shape", [(64, 48, 3), (48, 64, 1), (64, 64, 13), (100, 80, 4)])
def test_one_image_is_no_set_of_gray_ones(shape, embedder):
    assert is_one_image(shape)
    with pytest.raises(ValueError, match=r"rather one image of .* which would be X\[None\]"):
        embedder().fit(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("shape", [(12, 8, 8), (100, 28, 28), (12, 4, 4), (30, 30, 30), (64, 64, 64)])
def test_gray_images_are_many(shape):
    assert not is_one_image(shape)
