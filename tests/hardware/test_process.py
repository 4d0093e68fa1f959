"""Settings of the process: they do not affect a fit, and a fit leaves them unchanged."""

import contextlib
import os
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_ssl import SSLImageEmbedder, SSLLoss, load, sample_views
from sklearn_ssl._hardware.ambient import own_settings


class Dropping(nn.Module):
    """Small network with dropout, which draws from torch's global generator."""

    def __init__(self, in_channels):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)
        )

    def forward(self, x):
        return self.layers(x)


class Noisy(SSLLoss):
    """Backbone that draws from the global generators of torch, numpy and Python."""

    def forward(self, z1, z2):
        factor = 1 + torch.rand(()).item() + np.random.rand() + random.random()
        return factor * (z1 - z2).square().mean() - z1.std(0).mean()


def states():
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()


@pytest.mark.parametrize("params", [{"backbone": Dropping}, {"loss": Noisy}], ids=["dropout", "loss"])
def test_fits_in_threads_are_those_of_fits_alone_and_leave_the_generators_as_they_were(
    params, embedder, images
):
    def fitted(seed):
        return embedder(**params, max_epochs=5, random_state=seed).fit(images).transform(images)

    alone = [fitted(seed) for seed in range(4)]
    before = states()
    together = threading.Barrier(4)
    with ThreadPoolExecutor(4) as threads:
        others = list(threads.map(lambda seed: (together.wait(), fitted(seed))[1], range(4)))
    for one, other in zip(alone, others, strict=True):
        np.testing.assert_array_equal(one, other)
    assert states() == before


def test_a_fit_inside_a_backbone_factory_or_a_build_does_not_wait_for_itself(embedder, images):
    class FitsFirst(SSLLoss):
        def build(self, spec):
            self.inner = embedder().fit(images).n_iter_

        def forward(self, z1, z2):
            return (z1 - z2).square().mean() - z1.std(0).mean()

    def factory(in_channels):
        return embedder().fit(images).encoder_.backbone

    assert embedder(FitsFirst, backbone=factory).fit(images).n_iter_ == 1


# ------------------------------------------------------------------ torch's settings

SETTINGS = {
    "no gradient": torch.no_grad,
    "inference mode": torch.inference_mode,
    "another default device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS["float64"] = lambda: default_dtype(torch.float64)
SETTINGS["bfloat16"] = lambda: default_dtype(torch.bfloat16)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_torch_change_no_fit_and_no_embedding(name, embedder, images):
    expected = embedder().fit(images).transform(images)
    with SETTINGS[name]():
        fitted = embedder().fit(images)
        found = fitted.transform(images)
        in_batches = list(fitted.transform_batches(images))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.concatenate(in_batches), expected)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_torch_change_no_file_and_no_picture(name, images, tmp_path):
    embedder = SSLImageEmbedder(max_epochs=1, batch_size=6, random_state=0).fit(images)
    views = sample_views(embedder, images[:2], n_views=2)
    with SETTINGS[name]():
        embedder.save(tmp_path / "model.safetensors")
        same = load(tmp_path / "model.safetensors")
        np.testing.assert_array_equal(sample_views(embedder, images[:2], n_views=2), views)
    np.testing.assert_array_equal(same.transform(images), embedder.transform(images))


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_torch_are_put_back(name):
    with SETTINGS[name]():
        before = settings()
        with own_settings():
            assert settings() == (torch.float32, torch.device("cpu"), True, False, False)
        assert settings() == before


def settings():
    return (
        torch.get_default_dtype(),
        torch.zeros(()).device,
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
    )


# ------------------------------------------------------------------ forks

FORK = """
import os, sys, warnings
import numpy as np
import torch
from torch import nn
from sklearn_ssl import SSLImageEmbedder

torch.set_num_threads({threads})
images = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
fitted = SSLImageEmbedder(backbone=nn.Conv2d(1, 4, 3), max_epochs=1, random_state=0).fit(images)
if os.fork() == 0:
    warnings.simplefilter("error")
    try:
        fitted.transform(images)
    except RuntimeWarning as warning:
        print(warning, flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("threads", "words"), [(2, "torch.set_num_threads(1) here first"), (1, None)])
def test_a_forked_child_is_warned_where_its_parent_has_computed_on_threads(threads, words):
    command = [sys.executable, "-c", FORK.format(threads=threads)]
    child = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert words in child.stdout if words else child.stdout == ""


def test_another_process_is_not_warned(embedder, images):
    program = "import sklearn_ssl._hardware.forks as f; f._has_computed = True; f.warn_if_forked()"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
