"""Options of the test run; fixtures for small images, a small backbone and quick estimators."""

import contextlib
import faulthandler
import functools
import itertools
import os
import signal
import subprocess
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from sklearn_ssl import Batch, Spec, SSLImageEmbedder
from sklearn_ssl._hardware.devices import resolve_compile

try:
    import cloudpickle
except ImportError:  # joblib before 1.6 has its own
    from joblib.externals import cloudpickle


# Seconds before its deadline in which a test may still fail by itself, once its child processes are gone.
LAST_SECONDS = 30


def pytest_addoption(parser):
    parser.addoption(
        "--bf16",
        choices=["present", "absent"],
        help="run as if the CPU had, or did not have, instructions for bf16",
    )


def pytest_configure(config):
    # One thread is fastest for small images. OMP_NUM_THREADS overrides it, also in child processes.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    # Shells may let commands that they run in the background ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Child processes write the stacks of their threads when they are aborted; joblib's workers do so anyway.
    os.environ.setdefault("PYTHONFAULTHANDLER", "1")
    bf16 = config.getoption("bf16")
    if bf16 is not None:
        torch.cpu._is_amx_tile_supported = lambda: bf16 == "present"
        torch.cpu._is_avx512_bf16_supported = lambda: bf16 == "present"


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item, settings):
    item.last_seconds = threading.Timer(max(settings.timeout - LAST_SECONDS, 1), show_stacks)
    item.last_seconds.daemon = True
    item.last_seconds.start()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_timeout_cancel_timer(item):
    if hasattr(item, "last_seconds"):  # not of a module that failed to import
        item.last_seconds.cancel()
    return (yield)


def show_stacks():
    """Write the stacks of all processes to what pytest shows of the test; child processes end with it."""
    faulthandler.dump_traceback(file=2)
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if not any("resource_tracker" in word for word in child.cmdline()):
                child.send_signal(signal.SIGABRT)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except subprocess.CalledProcessError as error:
        error.add_note(str(error.stderr))
        raise


# Worker processes cannot import this file: the backbones of their estimators must be in an installed package.
CONVOLUTION = functools.partial(nn.Conv2d, out_channels=8, kernel_size=3, padding=1)


class Tiny(nn.Module):
    """One convolution, BatchNorm and ReLU; the features are the means of the channels."""

    def __init__(self, in_channels, width=8):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        return self.norm(self.conv(x)).relu().mean((2, 3))  # (n, width)


def make_images(n, shape=(8, 8, 3), seed=0):
    """Return uint8 images, each of one color with noise."""
    rng = np.random.default_rng(seed)
    color = rng.integers(0, 200, (n, *[1] * (len(shape) - 1), shape[-1]))
    return (color + rng.integers(0, 56, (n, *shape))).astype(np.uint8)


@pytest.fixture
def clock(monkeypatch):
    """Replace `time.monotonic` by a clock that advances by 10 ms at each call, on a machine of any speed."""
    monkeypatch.setattr(time, "monotonic", itertools.count(0, 0.01).__next__)


@pytest.fixture
def compiler():
    """Skip the test where torch.compile does not work: without a compiler, or in a folder with a space."""
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        if not resolve_compile(True, torch.device("cpu")):
            pytest.skip("torch.compile does not work here")


@pytest.fixture(scope="module")
def sent_by_value(request):
    """Let functions and classes of a test module go to worker processes, which cannot import it."""
    if not torch.distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    cloudpickle.register_pickle_by_value(request.module)
    yield
    cloudpickle.unregister_pickle_by_value(request.module)


@pytest.fixture
def tiny():
    return Tiny


def narrow_resnet(in_channels):
    """Return a ResNet of four blocks, whose stem and maps are those that methods may ask for."""
    net = ResNet(BasicBlock, [1, 1, 1, 1])
    net.inplanes = 16
    net.conv1, net.bn1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
    net.maxpool = net.fc = nn.Identity()
    for i, width in enumerate((16, 16, 32, 32)):
        setattr(net, f"layer{i + 1}", net._make_layer(BasicBlock, width, 1, stride=1 + (i > 0)))
    return net


@pytest.fixture
def small_resnet():
    return narrow_resnet


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
    """Make an estimator with the tiny backbone, which fits in 0.1 seconds; keywords replace settings."""

    def make(loss="ntxent", **params):
        small = {"backbone": Tiny, "projector": (8, 8), "max_epochs": 1, "batch_size": 8, "random_state": 0}
        return SSLImageEmbedder(loss, **{**small, **params})

    return make


@pytest.fixture
def save_images(tmp_path):
    """Write PIL images or arrays to files in a temporary folder, and return their paths."""

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
    """Build a loss for projections of a given width and a backbone with 16 features."""

    def build(loss, dim=8, n_samples=64, batch_size=8, image_size=(8, 8), backbone=None):
        backbone = Tiny(3, width=16) if backbone is None else backbone
        generator = torch.Generator().manual_seed(0)
        loss.build(Spec(16, dim, n_samples, batch_size, 3, image_size, backbone, generator))
        return loss

    return build


@pytest.fixture
def stepped():
    """Call `step` of a loss on projections, with a student that returns its input."""

    def step(loss, *z, index=None, epoch=9, progress=0.0, seed=0):
        index = torch.arange(len(z[0])) if index is None else index
        generator = torch.Generator().manual_seed(seed)
        return loss.step(Batch(list(z), index, None, epoch, progress, generator), lambda views: views, None)

    return step


@pytest.fixture
def projections():
    """Return two views of 12 samples in 6 dimensions, made of sines instead of random numbers."""
    i = torch.arange(12, dtype=torch.float64)[:, None]
    j = torch.arange(6, dtype=torch.float64)
    common = torch.sin(1 + i * 1.7 + j * 2.3 + i * j)
    return common + 0.3 * torch.cos(i + 3 * j), common + 0.3 * torch.cos(2 * i + j)
