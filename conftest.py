"""Settings of the machine as the tests see it; small images, a small backbone, and quick estimators."""

import functools
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sklearn_ssl import Batch, Spec, SSLImageEmbedder


def pytest_addoption(parser):
    parser.addoption(
        "--bf16",
        choices=["present", "absent"],
        help="run as if the CPU had, or had not, instructions for bf16",
    )


def pytest_configure(config):
    # Small images are the fastest in one thread. OMP_NUM_THREADS says otherwise, also to child processes.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    # A shell that runs a command in the background may have it ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    bf16 = config.getoption("bf16")
    if bf16 is not None:
        torch.cpu._is_amx_tile_supported = lambda: bf16 == "present"
        torch.cpu._is_avx512_bf16_supported = lambda: bf16 == "present"


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
def many_images():
    return make_images(40, (16, 16, 3))


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
    """Open images as `fit` does; return their source and format."""

    def open_(X, X_unlabeled=None, **params):
        estimator = embedder(**params)
        source, images = estimator._parser().open_for_training(X, X_unlabeled)
        return source, images

    return open_


@pytest.fixture
def built():
    """Build a loss for projections of some width, from a backbone of 16 features."""

    def build(loss, dim=8, n_samples=64, batch_size=8, image_size=(8, 8), backbone=None):
        backbone = Tiny(3, width=16) if backbone is None else backbone
        generator = torch.Generator().manual_seed(0)
        loss.build(Spec(16, dim, n_samples, batch_size, 3, image_size, backbone, generator))
        return loss

    return build


@pytest.fixture
def stepped():
    """Call a loss's `step` on projections, with a student that hands on what it is given."""

    def step(loss, *z, index=None, epoch=9, progress=0.0, seed=0):
        index = torch.arange(len(z[0])) if index is None else index
        generator = torch.Generator().manual_seed(seed)
        return loss.step(Batch(list(z), index, None, epoch, progress, generator), lambda views: views, None)

    return step


@pytest.fixture
def projections():
    """Two views of 12 samples in 6 dimensions: sines, so that no generator is involved."""
    i = torch.arange(12, dtype=torch.float64)[:, None]
    j = torch.arange(6, dtype=torch.float64)
    common = torch.sin(1 + i * 1.7 + j * 2.3 + i * j)
    return common + 0.3 * torch.cos(i + 3 * j), common + 0.3 * torch.cos(2 * i + j)
