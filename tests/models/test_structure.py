"""Comparison of modules apart from their weights."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sklearn_ssl._models.structure import have_same_structure
from sklearn_ssl._networks.backbones import make_backbone
from sklearn_ssl._networks.vit import make_vit


class Scaled(nn.Module):
    """A user's module, whose repr shows none of its attributes."""

    def __init__(self, factor=2.0, activation=F.relu, sides=(1, 2)):
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.factor = factor
        self.activation = activation
        self.sides = list(sides)
        self.method = self.scaled

    def scaled(self, x):
        return self.factor * x

    def forward(self, x):
        return self.activation(self.method(self.linear(x)))


def small_vit(**params):
    return make_vit(3, (8, 8), **{"patch": 4, "width": 8, "depth": 1, "heads": 2, **params})


def convolutions(stride=1, p=0.1):
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=stride), nn.BatchNorm2d(4), nn.Dropout(p))


@pytest.mark.parametrize("make", [Scaled, small_vit, convolutions])
def test_networks_of_equal_settings_are_the_same_whatever_their_weights(make):
    assert have_same_structure(make(), make())
    assert have_same_structure(make(), copy.deepcopy(make()))


def test_training_mode_hooks_and_private_attributes_do_not_count():
    changed = convolutions().eval()
    changed[0].register_forward_hook(lambda module, args, output: output)
    changed._note = "mine"
    assert have_same_structure(changed, convolutions())


@pytest.mark.parametrize(
    ("a", "b"),
    [
        pytest.param(convolutions(), convolutions(stride=2), id="stride"),
        pytest.param(convolutions(), convolutions(p=0.2), id="dropout"),
        pytest.param(nn.Sequential(nn.ReLU()), nn.Sequential(nn.GELU()), id="class"),
        pytest.param(nn.Sequential(nn.ReLU(), nn.Tanh()), nn.Sequential(nn.ReLU()), id="another module"),
        pytest.param(
            nn.ModuleDict({"a": nn.ReLU(), "b": nn.Tanh()}),
            nn.ModuleDict({"b": nn.Tanh(), "a": nn.ReLU()}),
            id="order",
        ),
        pytest.param(nn.Linear(3, 4), nn.Linear(3, 5), id="shape"),
        pytest.param(Scaled(), Scaled(factor=3.0), id="number"),
        pytest.param(Scaled(), Scaled(sides=(2, 1)), id="list"),
        pytest.param(Scaled(), Scaled(activation=torch.tanh), id="function"),
        pytest.param(small_vit(), small_vit(pooling="class"), id="pooling"),
        pytest.param(small_vit(), small_vit(heads=1), id="heads"),
        pytest.param(small_vit(), make_vit(3, (16, 4), patch=4, width=8, depth=1, heads=2), id="grid"),
        pytest.param(make_vit(3, (8, 8), patch=2, width=8, depth=1, heads=2), small_vit(), id="patch"),
    ],
)
def test_another_setting_is_another_structure(a, b):
    assert not have_same_structure(a, b)
    assert not have_same_structure(b, a)


def test_a_replaced_method_is_another_structure():
    changed = Scaled()
    changed.forward = changed.linear.forward
    assert not have_same_structure(changed, Scaled())


@pytest.mark.parametrize("name", ["convnext_tiny", "densenet121", "inception_v3", "maxvit_t", "swin_t"])
def test_a_name_makes_the_same_structure_each_time(name):
    with torch.device("meta"):
        a, b = (make_backbone(name, {}, 3, (224, 224)) for _ in range(2))
    assert have_same_structure(a, b)
