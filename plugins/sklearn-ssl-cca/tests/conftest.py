"""What the tests share: estimators that fit in a moment, and losses that are given projections."""

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_ssl import Batch, Spec, SSLImageEmbedder


class Tiny(nn.Module):
    """One convolution, BatchNorm, ReLU; features are the channels' means."""

    def __init__(self, in_channels):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x):
        return self.norm(self.conv(x)).relu().mean((2, 3))  # (n, 16)


@pytest.fixture
def images():
    """Of a colour each, with noise on top."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 200, size=(40, 1, 1, 3))
    return (colour + rng.integers(0, 56, size=(40, 16, 16, 3))).astype(np.uint8)


@pytest.fixture
def embedder():
    """An estimator on the tiny backbone; keywords replace its settings."""

    def make(loss, **params):
        small = {"backbone": Tiny, "projector": (16, 8), "max_epochs": 2, "batch_size": 8, "random_state": 0}
        return SSLImageEmbedder(loss, **small | params)

    return make


@pytest.fixture
def built():
    """A loss that is ready for projections of this width."""

    def build(loss, dim=8, n_samples=64, batch_size=8, image_size=(8, 8), backbone=None):
        backbone = Tiny(3) if backbone is None else backbone
        generator = torch.Generator().manual_seed(0)
        loss.build(Spec(16, dim, n_samples, batch_size, 3, image_size, backbone, generator))
        return loss

    return build


@pytest.fixture
def stepped():
    """The loss of projections: `step` with a student that hands on what it is given."""

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
