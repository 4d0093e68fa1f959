"""A training step on a GPU, with fake tensors on any machine: tensors left on the CPU raise an error."""

import copy
import functools

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sklearn_ssl import get_loss
from sklearn_ssl._images.pixel_scale import PixelScale
from sklearn_ssl._images.sources import ArraySource, ConcatSource, to_device
from sklearn_ssl._images.units import Units
from sklearn_ssl._networks.backbones import build_backbone
from sklearn_ssl._networks.student import Student, Teacher
from sklearn_ssl._training.gradient_cache import GradientCache
from sklearn_ssl._training.optimizers import OPTIMIZERS, decay_groups
from sklearn_ssl._views.augmentation import make_augment
from sklearn_ssl._views.photometry import cutout, gaussian_blur, sobel
from sklearn_ssl._views.random_views import RandomViews
from sklearn_ssl.losses import ViewSpec, mlp
from sklearn_ssl.testing import to_fake_cuda

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
CUDA = torch.device("cuda")


def student(precision="bf16"):
    backbone, width = build_backbone("resnet18", {}, in_channels=3, image_size=(32, 32))
    return Student(backbone, mlp(width, 32, 16), precision)


@pytest.fixture
def fake():
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def pixels(low=0.0, span=255.0):
    """Return pixel statistics on the CPU."""
    units = Units(0, 1, 0.5, 0, whole=False, bits8=False)
    return PixelScale(
        *(torch.full((3,), value) for value in (low, span, 0.5, 0.2)), bounded=True, units=units
    )


@pytest.mark.parametrize("preset", ["photo", "symbols"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_views_are_drawn_on_the_gpu(preset, dtype, fake):
    images = torch.zeros(8, 3, 32, 32, dtype=dtype, device=CUDA)
    scale = pixels()
    draw = RandomViews(make_augment(preset, {}), (32, 32), scale.mean, scale.std)
    views = draw(scale.to_unit(images), ViewSpec(n=2, local=2), seed=0)
    assert [tuple(view.shape[2:]) for view in views] == [(32, 32)] * 2 + [(16, 16)] * 2
    assert all(view.device.type == "cuda" and view.dtype == torch.float32 for view in views)


def test_operations_on_chosen_images_stay_on_the_gpu(fake):
    images = torch.zeros(8, 3, 32, 32, device=CUDA)
    box = torch.zeros(8, 4, dtype=torch.int64, device=CUDA)
    for view in (gaussian_blur(images, torch.ones(8, device=CUDA)), sobel(images), cutout(images, box)):
        assert view.device.type == "cuda"


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize("loss", ["ntxent", "dcl", "vicreg"])
def test_a_step_stays_on_the_gpu(loss, optimizer, monkeypatch):
    monkeypatch.setattr(
        "sklearn_ssl._training.muon.is_fast_in_bf16", lambda device: True
    )  # it would ask the driver
    network = student("float32")  # torch has no autocast on a pretended GPU
    teacher = Teacher(network)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in (network, teacher):
            to_fake_cuda(module)
        z = network([torch.zeros(8, 3, 32, 32, device=CUDA) for _ in range(2)])
        out = get_loss(loss)()(*z)
        assert (out["loss"] if isinstance(out, dict) else out).device.type == "cuda"
        # torch's own backward needs a GPU's queues; what comes after it does not
        for parameter in network.parameters():
            parameter.grad = torch.empty_like(parameter)
        OPTIMIZERS[optimizer](decay_groups(network.parameters(), 0.01), 0.1).step()
        teacher.follow(network, 0.99)


# ------------------------------------------------------------------ on a GPU


@needs_cuda
def test_images_in_memory_move_to_the_gpu_as_one_uint8_tensor():
    first, second = (ArraySource(torch.randint(0, 255, (n, 3, 8, 8), dtype=torch.uint8)) for n in (5, 4))
    moved = to_device(ConcatSource(first, second), CUDA)
    index = torch.tensor([7, 0, 5])
    assert moved.device.type == "cuda"
    assert torch.equal(moved.batch(index).cpu(), ConcatSource(first, second).batch(index))


def test_on_the_cpu_images_stay_where_they_are():
    source = ArraySource(torch.zeros(5, 3, 8, 8, dtype=torch.uint8))
    assert to_device(source, torch.device("cpu")) is source


@needs_cuda
@pytest.mark.parametrize("settings", [{}, {"micro_batches": 2}, {"compile": True}, {"precision": "float32"}])
def test_a_fit_on_the_gpu_learns(settings, embedder, images):
    fitted = embedder(device="cuda", max_epochs=3, **settings).fit(images)
    assert fitted.encoder_.backbone.conv.weight.device.type == "cuda"
    assert np.isfinite(fitted.transform(images)).all()


@needs_cuda
def test_a_batch_too_large_for_the_gpu_names_batch_size_and_accumulate(embedder):
    total = torch.cuda.get_device_properties(0).total_memory
    images = np.zeros((256, 64, 64, 3), dtype=np.uint8)
    width = total // (256 * 64 * 64 * 4)  # one feature map of the whole batch takes all the memory
    wide = functools.partial(torch.nn.Conv2d, out_channels=int(width), kernel_size=3, padding=1)
    with pytest.raises(MemoryError, match=r"batch_size=256 images, micro_batches=1.*Set micro_batches=2"):
        embedder(backbone=wide, batch_size=256, device="cuda").fit(images)


@needs_cuda
def test_gradients_in_parts_are_the_whole_batchs_on_the_gpu():
    whole = student("float32").to(CUDA).eval()
    parts = copy.deepcopy(whole)
    views = [torch.rand(8, 3, 32, 32, device=CUDA) for _ in range(2)]
    loss = get_loss("ntxent")()
    loss(*whole(views)).backward()
    cache = GradientCache(parts, 2)
    loss(*cache(views)).backward()
    cache.backward()
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-2, atol=1e-5)
