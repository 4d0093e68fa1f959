"""Small images, a small backbone, and estimators that fit in a moment."""

import functools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from sklearn_ssl import SSLImageEmbedder
from sklearn_ssl.images import training_source

# In worker processes this folder is no module: there, backbones must come from an installed package.
CONVOLUTION = functools.partial(nn.Conv2d, out_channels=8, kernel_size=3, padding=1)


class Tiny(nn.Module):
    """One convolution, BatchNorm, ReLU; features are the channels' means."""

    def __init__(self, in_channels, width=8):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        return self.norm(self.conv(x)).relu().mean((2, 3))  # (n, width)


def make_images(n, shape=(8, 8, 3), seed=0):
    """uint8 images of a colour each, with noise on top."""
    rng = np.random.default_rng(seed)
    colour = rng.integers(0, 200, (n, *[1] * (len(shape) - 1), shape[-1]))
    return (colour + rng.integers(0, 56, (n, *shape))).astype(np.uint8)


@pytest.fixture
def tiny():
    return Tiny


@pytest.fixture
def convolution():
    return CONVOLUTION


@pytest.fixture
def draw_images():
    return make_images


@pytest.fixture
def images():
    return make_images(12)


@pytest.fixture
def labels():
    return np.arange(12) % 3


@pytest.fixture
def embedder():
    """An estimator on the tiny backbone that fits in a tenth of a second; keywords replace its settings."""

    def make(loss="ntxent", **params):
        small = {"backbone": Tiny, "projector": (8, 8), "max_epochs": 1, "batch_size": 8, "random_state": 0}
        return SSLImageEmbedder(loss, **{**small, **params})

    return make


@pytest.fixture
def save_images(tmp_path):
    """Writes PIL images or arrays as files into a folder of the test's own, and lists their paths."""

    def save(images, suffix=".png") -> list[Path]:
        paths = [tmp_path / f"{i}{suffix}" for i in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path)
        return paths

    return save


@pytest.fixture
def opened(embedder):
    """The source that `fit` would learn from, and the estimator that opened it."""

    def open_(X, X_unlabeled=None, **params):
        estimator = embedder(**params)
        return training_source(estimator, X, X_unlabeled), estimator

    return open_
