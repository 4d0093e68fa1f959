"""Units of pixel values: the same picture in two forms has one embedding, or there is an error."""

import numpy as np
import pytest
from PIL import Image

import sklearn_ssl
from sklearn_ssl._images.units import check_precision
from tests.images.doors import npy_files

N = 12
# Forms of one picture of 8 bits.
UNITS = {
    "uint8": lambda x: x,
    "floats to 255": lambda x: x.astype(np.float32),
    "integers": lambda x: x.astype(np.int32),
    "0 to 1": lambda x: (x / 255).astype(np.float32),
    "-1 to 1": lambda x: (x / 127.5 - 1).astype(np.float32),
    "normalized": lambda x: ((x / 255 - 0.45) / 0.225).astype(np.float32),
    "10 bits": lambda x: x.astype(np.uint16) * 4,
    "12 bits": lambda x: x.astype(np.uint16) * 16,
    "16 bits": lambda x: x.astype(np.uint16) * 257,
}
SAME = ("uint8", "floats to 255", "integers")
# Both have negative values of one size: their range does not tell them apart. 10 bits are four times 8 bits.
NOT_TOLD = {("-1 to 1", "normalized"), ("normalized", "-1 to 1")}
NOT_TOLD |= {
    (a, b)
    for a in (*SAME, "10 bits", "12 bits")
    for b in (*SAME, "10 bits", "12 bits")
    if "10 bits" in (a, b)
}
NOT_TOLD -= {("uint8", "10 bits")}


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return (rng.integers(0, 120, (N, 1, 1, 3)) + rng.integers(0, 136, (N, 8, 8, 3))).astype(np.uint8)


@pytest.mark.parametrize("given", UNITS)
@pytest.mark.parametrize("fitted_as", UNITS)
def test_one_picture_has_one_embedding_or_there_is_an_error(fitted_as, given, embedder, pictures):
    if (fitted_as, given) in NOT_TOLD:
        pytest.skip("as likely brighter or darker pictures")
    fitted = embedder().fit(UNITS[fitted_as](pictures))
    X = UNITS[given](pictures)
    is_same = (
        fitted_as == given or {fitted_as, given} <= set(SAME) or (fitted_as, given) == ("16 bits", "uint8")
    )
    if is_same:
        expected = fitted.transform(UNITS[fitted_as](pictures))
        np.testing.assert_array_equal(fitted.transform(X), expected)
        np.testing.assert_array_equal(fitted.transform(X[:1]), expected[:1])
        return
    for use in (fitted.transform, fitted.score):
        with pytest.raises(
            ValueError, match=r"8-bit images|have different units\. Convert them, for example"
        ):
            use(X)
    if given != "uint8":
        with pytest.warns(UserWarning, match="have different units"):
            fitted.transform(X[:1])


@pytest.mark.parametrize("given", ["0 to 1", "-1 to 1", "16 bits"])
def test_images_to_evaluate_and_unlabeled_ones_are_held_against_it(given, embedder, pictures, tmp_path):
    X = UNITS[given](pictures)
    with pytest.raises(ValueError, match=r"eval_set: These images .* different units"):
        embedder().fit(pictures, eval_set=X)
    floats = pictures.astype(np.float32)
    with pytest.raises(ValueError, match=r"X_unlabeled: These images .* different units"):
        embedder().fit(floats, X_unlabeled=X)
    fitted = embedder(warm_start=True).fit(floats)
    with pytest.raises(ValueError, match="different units"):
        fitted.set_params(max_epochs=2).fit(X)
    fitted.save(tmp_path / "model.safetensors")
    loaded = sklearn_ssl.load(tmp_path / "model.safetensors", backbone=fitted.backbone)
    with pytest.raises(ValueError, match="different units"):
        loaded.transform(X)


@pytest.mark.parametrize("given", ["0 to 1", "-1 to 1", "10 bits", "12 bits", "16 bits"])
def test_files_of_more_than_8_bits_after_8_bits(given, embedder, pictures, tmp_path):
    fitted = embedder().fit(pictures)
    with pytest.raises(
        ValueError, match=r"more than 8 bits per channel .* those of the fit have 8 \(0 to 255\)"
    ):
        fitted.transform(npy_files(UNITS[given](pictures), tmp_path))


@pytest.mark.parametrize("given", SAME)
def test_files_of_8_bits_in_any_type(given, embedder, pictures, tmp_path):
    fitted = embedder().fit(pictures)
    np.testing.assert_array_equal(
        fitted.transform(npy_files(UNITS[given](pictures), tmp_path)), fitted.transform(pictures)
    )


@pytest.mark.parametrize("fitted_as", ["16 bits", "floats to 255", "integers"])
def test_8_bits_as_array_file_and_picture_after_a_fit_on_other_types(fitted_as, embedder, pictures, tmp_path):
    fitted = embedder().fit(npy_files(UNITS[fitted_as](pictures), tmp_path))
    expected = fitted.transform(UNITS[fitted_as](pictures))
    paths = [tmp_path / f"{i}.png" for i in range(N)]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    for X in (pictures, paths, [Image.fromarray(picture) for picture in pictures]):
        np.testing.assert_array_equal(fitted.transform(X), expected)


@pytest.mark.parametrize("others", ["0 to 1", "-1 to 1", "10 bits", "12 bits"])
def test_a_mixture_of_8_bits_and_other_units_is_refused(others, embedder, pictures, tmp_path):
    other = UNITS[others](pictures)
    images = [other[i] if i % 2 else pictures[i] for i in range(N)]
    with pytest.raises(
        ValueError, match=r"different units: .*000\.npy \(position 0\) is an 8-bit image, .*001\.npy"
    ):
        embedder().fit(npy_files(images, tmp_path))


@pytest.mark.parametrize("others", ["floats to 255", "integers", "16 bits"])
def test_a_mixture_that_can_be_brought_to_one_is_read_as_one(others, embedder, pictures, tmp_path):
    other = UNITS[others](pictures)
    fitted = embedder().fit(npy_files([other[i] if i % 2 else pictures[i] for i in range(N)], tmp_path))
    np.testing.assert_allclose(
        fitted.transform(other), fitted.transform(npy_files(pictures, tmp_path)), rtol=1e-5
    )


def test_floats_of_two_units_in_one_array_are_refused(embedder, pictures):
    mixed = pictures.astype(np.float32)
    mixed[::2] /= 255
    with pytest.raises(
        ValueError, match="different units: 6 of 12 that were looked at lie between 0 and 1, 6 reach"
    ):
        embedder().fit(mixed)


def test_12_among_16_bits_are_told(embedder, pictures):
    mixed = UNITS["16 bits"](pictures)
    mixed[::2] //= 16
    with pytest.warns(UserWarning, match="two kinds: 6 of 12 .* such as 12 and 16 bits"):
        embedder().fit(mixed)


@pytest.mark.parametrize("offset", [10**9, -(10**9)])
def test_an_offset_that_float32_cannot_hold_is_told(offset, embedder, pictures, tmp_path):
    X = pictures.astype(np.int64) + offset
    for given in (X, X.astype(np.float64), npy_files(X, tmp_path)):
        with pytest.raises(ValueError, match=r"differ too little for float32.* X - X\.min\(\)"):
            embedder().fit(given)


def test_values_that_float32_can_hold_are_fine(pictures):
    for X in (
        pictures + 1e5,
        pictures / 255,
        pictures.astype(np.int64),
        np.full((2, 2), 1e9),
        pictures[0] * 1e30,
    ):
        check_precision(X)
