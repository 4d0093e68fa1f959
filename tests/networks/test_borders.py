"""Borders of images that no feature depends on."""

from __future__ import annotations

import ast
import copy
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_ssl import SSLImageEmbedder
from sklearn_ssl._networks.backbones import build_backbone, make_backbone
from sklearn_ssl._networks.borders import ignored_border, ignored_share

RGB = {"in_channels": 3}


def maps(*layers):
    """Return a backbone of maps; in eval mode, as `ignored_border` is given it."""
    return nn.Sequential(*layers).eval()


def patches(side, **kind):
    return nn.Conv2d(3, 8, side, side, **kind)


class Crop(nn.Module):
    """Takes a part of the images only."""

    def forward(self, x):
        return x[:, :, :16, :16]


class InPlace(nn.Module):
    def forward(self, x):
        return x.mul_(2).mean((2, 3))


class Detached(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.detach().numpy().mean((2, 3)))


class Zero(nn.Module):
    """The last layer begins at zero."""

    def __init__(self):
        super().__init__()
        self.first, self.last = patches(7), nn.Linear(8, 4)
        nn.init.zeros_(self.last.weight)

    def forward(self, x):
        return self.last(self.first(x).mean((2, 3)))


class Residual(nn.Module):
    """A branch that begins at zero beside a shortcut that sees every fourth pixel, as in ResNets."""

    def __init__(self):
        super().__init__()
        self.branch, self.norm = nn.Conv2d(3, 8, 7, 4, 3, bias=False), nn.BatchNorm2d(8)
        self.shortcut = nn.Conv2d(3, 8, 1, 4)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x):
        return self.norm(self.branch(x)) + self.shortcut(x)


class Scaled(nn.Module):
    """A branch with a scale of its own, which begins at zero."""

    def __init__(self):
        super().__init__()
        self.branch, self.shortcut = nn.Conv2d(3, 8, 7, 4, 3), nn.Conv2d(3, 8, 1, 4)
        self.scale = nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        return self.scale * self.branch(x) + self.shortcut(x)


class Constant(nn.Module):
    def forward(self, x):
        return x.new_ones(len(x), 4) + 0 * x.sum()


class Normalized(nn.Module):
    """Ends in a LayerNorm: the sum of its features is the same for all images."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = patches(7), nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(self.first(x).mean((2, 3)))


@pytest.mark.parametrize("side", [2, 4, 7, 14, 16])
@pytest.mark.parametrize("size", [(32, 32), (33, 33), (42, 40), (28, 64)])
def test_what_is_left_beside_patches_is_found(side, size):
    height, width = size
    assert ignored_border(maps(patches(side)), 3, size) == (height % side, width % side)


@pytest.mark.parametrize(
    ("make", "border"),
    [
        (lambda: maps(Crop(), nn.Conv2d(3, 4, 3, padding=1)), (24, 24)),
        (lambda: maps(nn.Conv2d(3, 4, 3, stride=2)), (1, 1)),  # 19 of the 3 x 3 windows fit into 39 pixels
        (Normalized, (5, 5)),
        (lambda: maps(nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveMaxPool2d(1)), (0, 0)),
        (lambda: maps(nn.Conv2d(3, 2, 3, padding=1), nn.Threshold(5.0, 0.0)), (0, 0)),  # dead nearly anywhere
        (lambda: maps(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()), (0, 0)),
        (InPlace, (0, 0)),
        (Detached, (0, 0)),
        (Zero, (5, 5)),
        (Residual, (0, 0)),
        (Scaled, (0, 0)),
        (Constant, (0, 0)),
    ],
)
def test_a_network_is_asked_for_the_pixels_that_it_sees(make, border):
    assert ignored_border(make().eval(), 3, (40, 40)) == border


SILENT = [
    *[(name, (33, 33)) for name in ("resnet10", "shufflenet_v2_x0_5", "squeezenet1_1", "mnasnet0_5")],
    *[("resnet18", size) for size in ((1, 9), (8, 8), (28, 28), (63, 65))],
    ("vit", (28, 28)),
    ("timm:regnetx_002", (42, 42)),  # whose residual branches begin at zero
    (lambda: maps(nn.Conv2d(3, 8, 11, 4, 2), nn.MaxPool2d(3, 2)), (69, 69)),  # AlexNet's; 4 rows are dropped
    (lambda: maps(nn.Conv2d(3, 8, 3, stride=2)), (8, 8)),
    (lambda: maps(nn.Conv2d(3, 8, 5, stride=3)), (64, 64)),
    (lambda: maps(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2)), (33, 33)),
    (lambda: maps(nn.Conv2d(3, 8, 1, stride=2)), (9, 9)),
    (Residual, (40, 40)),
    (Constant, (40, 40)),
    (lambda: maps(patches(16)), (225, 225)),  # one pixel of 225
]


@pytest.mark.parametrize(("backbone", "size"), SILENT)
def test_networks_without_patches_get_no_warning(backbone, size):
    if backbone == "timm:regnetx_002":
        pytest.importorskip("timm")
    build_backbone(backbone, {}, image_size=size, **RGB)


@pytest.mark.parametrize(
    ("backbone", "size", "words"),
    [
        (lambda: maps(patches(4)), (42, 42), r"ignores 9% .* last 2 rows and 2 columns .*=44 or 40\."),
        (
            lambda: maps(patches(16)),
            (40, 40),
            r"ignores 36% .* last 8 rows and 8 col.* image_size=48 or 32\.",
        ),
        (lambda: maps(patches(16)), (64, 40), r"last 8 columns of .* 64 x 40 .*=\(64, 48\) or \(64, 32\)\."),
        (lambda: maps(patches(7)), (10, 14), r"ignores 30% .* last 3 rows of .*=14 or \(7, 14\)\."),
        (lambda: maps(Crop(), nn.Conv2d(3, 4, 3)), (40, 40), r"ignores 84% .* Set image_size=16\."),
    ],
)
def test_what_is_ignored_is_told_with_sizes_that_fit(backbone, size, words):
    with pytest.warns(UserWarning, match=words) as told:
        build_backbone(backbone, {}, image_size=size, **RGB)
    advice = str(told[0].message).rpartition("image_size=")[2].rstrip(".")
    for fit in map(ast.literal_eval, advice.split(" or ")):  # without a warning
        build_backbone(backbone, {}, image_size=fit if isinstance(fit, tuple) else (fit, fit), **RGB)


TIMM = {
    "test_vit3": ((40, 40), r"ignores 36% .* Set image_size=48 or 32\."),
    "test_convnext": ((42, 42), r"ignores 9% .* Set image_size=44 or 40\."),
    "test_efficientnet": ((33, 33), None),
    "test_resnet": ((45, 45), None),
    "test_nfnet": ((41, 33), None),
}


@pytest.mark.parametrize("name", TIMM)
def test_models_of_timm(name):
    pytest.importorskip("timm")
    size, words = TIMM[name]
    images = np.random.default_rng(0).integers(0, 256, (4, *size, 3), dtype=np.uint8)
    embedder = SSLImageEmbedder(backbone=f"timm:{name}", max_epochs=0, random_state=0)
    with pytest.warns(UserWarning, match=words) if words else nullcontext():
        embedder.fit(images)
    blank = images.copy()
    blank[:, -1] = blank[:, :, -1] = 0
    assert np.array_equal(embedder.transform(images), embedder.transform(blank)) == bool(words)


def test_the_share_is_that_of_the_pixels():
    assert ignored_share((40, 40), (8, 8)) == pytest.approx(0.36)
    assert ignored_share((64, 40), (0, 8)) == pytest.approx(0.2)


def test_nothing_of_the_network_and_of_the_process_changes():
    module = nn.Sequential(patches(7), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.ReLU()).train()
    before = copy.deepcopy(module.state_dict())
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    with pytest.warns(UserWarning, match="ignores"):
        built, _ = build_backbone(lambda: module, {}, image_size=(40, 40), **RGB)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(part.training for part in module.modules())
    assert built[0] is module


def test_initial_weights_are_those_of_the_seed():
    torch.manual_seed(0)
    alone = make_backbone("resnet10", {"width": 4}, 3, (16, 16))
    after = torch.rand(3)
    torch.manual_seed(0)
    built, _ = build_backbone("resnet10", {"width": 4}, image_size=(16, 16), **RGB)
    assert torch.equal(torch.rand(3), after)
    assert all(torch.equal(value, built.state_dict()[key]) for key, value in alone.state_dict().items())
