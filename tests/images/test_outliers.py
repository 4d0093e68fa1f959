"""Hot pixels, values for no data, constant channels; and images that have none of these."""

import warnings

import dask.array as da
import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.images.doors import Duck, Items, npy_files

RNG = np.random.default_rng(0)
YY, XX = np.mgrid[:32, :32]


def blobs(n=40, spots=6):
    """Return images (n, 32, 32) of smooth spots on a noisy ground, from about 90 to 600."""
    centers = RNG.integers(0, 32, (n, spots, 2, 1, 1))
    distances = (YY - centers[:, :, 0]) ** 2 + (XX - centers[:, :, 1]) ** 2
    return 100 + 100 * np.exp(-distances / 12).sum(1) + RNG.normal(0, 3, (n, 32, 32))


CLEAN = blobs()


def std_of(embedder, X):
    return embedder(max_epochs=0).fit(X).encoder_[0].std.flatten().tolist()


@pytest.mark.parametrize(
    "value", [65535, 5000, lambda: RNG.integers(3000, 65535)], ids=["full", "bright", "any"]
)
def test_hot_pixels_do_not_turn_the_contrast(value, embedder):
    hot = CLEAN.copy()
    for image in hot:
        image[RNG.integers(32), RNG.integers(32)] = value() if callable(value) else value
    [clean], [spread] = std_of(embedder, CLEAN), std_of(embedder, hot)
    assert spread == pytest.approx(clean, rel=0.1)
    fitted = embedder(max_epochs=0).fit(hot)
    ours, without = fitted.transform(hot), fitted.transform(CLEAN)
    assert np.abs(ours - without).max() < 0.2 * np.abs(without).max()


NO_DATA = [-9999, -32768, -3.4028235e38, 1e20, 9.96921e36, 65535, -99999]


@pytest.mark.parametrize("value", NO_DATA)
@pytest.mark.parametrize("share", [2, 8])
def test_values_for_no_data_are_told_and_do_not_turn_the_contrast(value, share, embedder, tmp_path):
    X = CLEAN.astype(np.float32)
    X[::3, :, :share] = value
    with pytest.warns(UserWarning, match=r"values for no data, or saturation: .* of the pixels"):
        fitted = embedder(max_epochs=0).fit(X)
    assert fitted.encoder_[0].std.item() == pytest.approx(
        CLEAN.std(), rel=1
    )  # not thousands of times as much
    complete = fitted.transform(X)[np.arange(len(X)) % 3 > 0]
    assert complete.std(0).mean() > 1e-3 * np.abs(complete).mean()
    fitted.save(tmp_path / "model.safetensors")


def test_the_zeros_of_a_border_are_told_if_they_are_far_from_all_values(embedder):
    X = (CLEAN + 20_000).astype(np.uint16)
    X[:, :4] = 0
    with pytest.warns(UserWarning, match=r"no data, or saturation: 0 \(0\.12 of the pixels\)"):
        embedder(max_epochs=0).fit(X)


@pytest.mark.parametrize("shape", [(1024, 16), (512, 24), (513, 16)])
@pytest.mark.parametrize("n", [63, 64])
def test_statistics_are_not_those_of_one_column(shape, n, embedder, monkeypatch):
    X = np.zeros((n, *shape), np.uint16)
    X[:, :, 2:] = RNG.integers(1000, 4000, (n, shape[0], shape[1] - 2))
    import torch

    from sklearn_ssl._images.pixel_scale import PixelScale
    from sklearn_ssl._images.sources import ArraySource

    source = ArraySource(torch.from_numpy(X.astype(np.float32))[:, None])
    scale = PixelScale.of(source, n_values=n * shape[0])  # one pixel of each row, as in 1,024 images
    assert (scale.low + scale.mean * scale.span).item() == pytest.approx(X.mean(), rel=0.05)


def test_constant_channels_are_told_and_not_amplified(embedder):
    X = RNG.integers(0, 4000, (12, 16, 16, 4)).astype(np.uint16)
    X[..., 3] = 100 + RNG.integers(-2, 3, X.shape[:3])  # a stain that was not recorded
    with pytest.warns(
        UserWarning, match=r"tells nothing .*: channel 3 \(values from 98 to 102\).*X\[\.\.\., \[0, 1, 2\]\]"
    ):
        *others, stain = std_of(embedder, X)
    assert stain >= max(others) / 4096
    alpha = RNG.integers(0, 255, (12, 16, 16, 4)).astype(np.uint8)
    alpha[..., 3] = 255
    alpha[0, 0, 0, 3] = 254
    with pytest.warns(UserWarning, match=r"channel 3 \(values from 255 to 255\)"):
        assert std_of(embedder, alpha)[3] > 50


MASKED = {
    "array": lambda x, folder: x,
    "list": lambda x, folder: list(x),
    "dataset": lambda x, folder: Items(x),
    "duck": lambda x, folder: Duck(x),
    "dask": lambda x, folder: da.from_array(x, chunks=(4, 32, 32)),
    "dask, masked by itself": lambda x, folder: da.ma.masked_less(
        da.from_array(x.data, chunks=(4, 32, 32)), 105
    ),
}


@pytest.mark.parametrize("form", MASKED)
@pytest.mark.parametrize("lazily", [True, False])
def test_masks_are_never_dropped(form, lazily, embedder, tmp_path):
    X = MASKED[form](np.ma.masked_less(CLEAN, 105), tmp_path)
    params = {"reader__memory_limit": 100} if lazily else {}
    fitted = embedder(max_epochs=0, **params).fit(CLEAN)
    for use in (embedder(**params).fit, fitted.transform, fitted.score):
        with pytest.raises(ValueError, match=r"masked: give them values"):
            use(X)


def test_the_mask_of_a_reader_is_not_dropped(embedder, tmp_path):
    def read(path):
        return np.ma.masked_less(np.load(path), 105)

    with pytest.raises(ValueError, match=r"masked: give them values"):
        embedder(reader__read=read).fit(npy_files(CLEAN, tmp_path))


def _spots_in_the_dark():
    images = RNG.normal(100, 5, (40, 32, 32))
    for image in images:
        for _ in range(RNG.integers(1, 5)):
            y, x = RNG.random(2) * 32
            image += RNG.exponential(1500) * np.exp(-((YY - y) ** 2 + (XX - x) ** 2) / 3)
    return images.clip(0).astype(np.uint16)


def _bordered():
    images = RNG.normal(2000, 500, (40, 32, 32)).clip(300)
    images[:, :4] = images[:, :, -5:] = 0
    return images.astype(np.uint16)


def _night():
    images = RNG.exponential(300, (40, 32, 32))
    images[:5] += 40_000 * np.exp(-((YY - 12) ** 2 + (XX - 12) ** 2) / 8)  # a lamp
    return images.astype(np.uint16)


ORDINARY = {
    "digits": load_digits().images[:200],
    "digits of 0 to 1": load_digits().images[:200] / 16,
    "digits of 8 bits": (load_digits().images[:200] * 15).astype(np.uint8),
    "masks": CLEAN > 150,
    "masks of 8 bits": (CLEAN > 150).astype(np.uint8),
    "masks of 0 and 255": (CLEAN > 150) * np.uint8(255),
    "masks of 16 bits": (CLEAN > 150) * np.uint16(65535),
    "masks in floats": (CLEAN > 150).astype(float),
    "dark field": _spots_in_the_dark(),
    "dark field without ground": np.where((dark := _spots_in_the_dark()) > 120, dark, 0).astype(np.float32),
    "X-rays with a border": _bordered(),
    "night": _night(),
    "photons": RNG.poisson(0.02, (40, 32, 32)).astype(np.uint16),
    "heights and an index": np.stack([CLEAN * 5, RNG.uniform(-1, 1, CLEAN.shape)], -1),
    "no blue": np.stack([CLEAN / 3, CLEAN / 3, 0 * CLEAN], -1).clip(0, 255).astype(np.uint8),
    "colors": RNG.integers(0, 255, (40, 32, 32, 3)).astype(np.uint8),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_images_are_neither_told_of_nor_clipped(name, embedder):
    X = ORDINARY[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = embedder(max_epochs=0).fit(X)
        fitted.transform(X[:2])
        fitted.transform(X[len(X) // 2 :])
    assert fitted._pixels.clip is None
