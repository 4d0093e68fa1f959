"""Choice of the augmentation by the tones of the images."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from sklearn_ssl._images.sources import ArraySource
from sklearn_ssl._views.two_tones import _separability, share_of_two_tones


def loop(pixels):
    """Otsu's eta: try every threshold."""
    best = 0.0
    for threshold in np.unique(pixels)[1:]:
        low, high = pixels[pixels < threshold], pixels[pixels >= threshold]
        between = (
            len(low) * (low.mean() - pixels.mean()) ** 2 + len(high) * (high.mean() - pixels.mean()) ** 2
        )
        best = max(best, between / len(pixels) / pixels.var())
    return best


def test_the_share_is_that_of_the_best_threshold():
    pixels = np.random.default_rng(0).gamma(2.0, size=50)
    assert _separability(pixels) == pytest.approx(loop(pixels))
    repeated = np.array([1.0, 1, 1, 5, 5, 2, 2, 9])
    assert _separability(repeated) == pytest.approx(loop(repeated))


def test_shares_worked_out_by_hand():
    assert _separability(np.array([0.0, 0, 1, 1, 1])) == pytest.approx(1)  # two tones
    # Between 0 and {1, 2}, whose mean is 1.5: (1 / 3)(2 / 3)(1.5)^2 = 1 / 2, of a variance of 2 / 3.
    assert _separability(np.array([0.0, 1, 2])) == pytest.approx(0.75)
    # All tones alike often: 1 / 16 between the halves, of 1 / 12.
    assert _separability(np.linspace(0, 1, 10_000)) == pytest.approx(0.75, abs=1e-3)
    assert _separability(np.full(9, 3.0)) == 0


def test_the_median_of_the_images_counts_not_their_units():
    two = np.zeros((3, 4, 4), np.float32)
    two[:, :2] = 7.0
    noise = np.random.default_rng(0).random((2, 4, 4), np.float32)
    source = ArraySource(torch.from_numpy(np.concatenate([two, noise]))[:, None] - 100)
    assert share_of_two_tones(source) == pytest.approx(1)


def test_symbols_are_told_from_photographs(embedder, draw_images, capsys):
    digits = (load_digits().images[:40] * 15).astype(np.uint8)
    assert embedder(verbose=1).fit(digits).augment_ == "symbols"
    assert "augment='auto' is 'symbols': two tones explain 8" in capsys.readouterr().err
    assert embedder().fit(np.stack([digits] * 3, axis=3)).augment_ == "symbols"  # gray, saved as color
    gray = draw_images(12, (8, 8, 1))
    assert embedder().fit(gray).augment_ == "photo"  # any number of channels
    assert embedder().fit(draw_images(12, (8, 8, 5))).augment_ == "photo"
    assert embedder(augment="overhead").fit(gray).augment_ == "overhead"
    assert capsys.readouterr().err == ""
