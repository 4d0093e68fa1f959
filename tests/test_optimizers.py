"""Optimizers by name, LARS by its paper, and what weight decay touches."""

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn

from sklearn_ssl import SSLImageEmbedder
from sklearn_ssl.optimizers import LARS, OPTIMIZERS, base_settings, decay_groups, resolve_optimizer


def layers():
    """A weight matrix, a convolution and a bias, in float64."""
    rng = np.random.default_rng(0)
    shapes = [(4, 3), (2, 3, 3, 3), (5,)]
    return [nn.Parameter(torch.from_numpy(rng.normal(size=shape))) for shape in shapes]


def gradients(step):
    rng = np.random.default_rng(100 + step)
    return [torch.from_numpy(rng.normal(size=p.shape)) for p in layers()]


def train(parameters, optimizer, steps=4):
    for step in range(steps):
        for parameter, gradient in zip(parameters, gradients(step), strict=True):
            parameter.grad = gradient
        optimizer.step()
    return [p.detach().numpy() for p in parameters]


# ------------------------------------------------------------------ LARS


def slow_lars(weights, lr, momentum, trust, decay, steps=4):
    """arXiv:1708.03888, algorithm 1, layer after layer; weight decay inside the norm, as in VICReg's code."""
    velocities = [np.zeros_like(w) for w in weights]
    for step in range(steps):
        for i, g in enumerate(gradients(step)):
            w, g = weights[i], g.numpy()
            if w.ndim > 1:
                g = g + decay * w
                g = g * trust * np.sqrt((w**2).sum()) / np.sqrt((g**2).sum())
            velocities[i] = momentum * velocities[i] + g
            weights[i] = w - lr * velocities[i]
    return weights


@pytest.mark.parametrize(
    ("momentum", "trust", "decay"), [(0.9, 0.02, 0.1), (0.0, 1.0, 0.0), (0.5, 0.001, 1e-4)]
)
def test_lars_is_the_papers_algorithm(momentum, trust, decay):
    parameters = layers()
    optimizer = LARS(decay_groups(parameters, decay), 0.3, momentum=momentum, trust=trust)
    expected = slow_lars([p.detach().numpy().copy() for p in parameters], 0.3, momentum, trust, decay)
    for got, wanted in zip(train(parameters, optimizer), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_a_step_of_lars_is_a_fixed_share_of_the_weights_norm():
    # |w| = 5 and any gradient: a step of lr * trust * |w| = 0.1 * 0.02 * 5 = 0.01, here along (0, 1).
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    weight.grad = torch.tensor([[0.0, 1000.0]], dtype=torch.float64)
    LARS([weight], 0.1, trust=0.02).step()
    assert weight.tolist() == [[3.0, pytest.approx(3.99, rel=1e-12)]]


def test_a_bias_takes_a_plain_momentum_step():
    # v1 = 2, v2 = 0.5 * 2 + 2 = 3; the bias goes 1 -> 1 - 0.1 * 2 -> 0.8 - 0.1 * 3 = 0.5
    bias = nn.Parameter(torch.ones(1, dtype=torch.float64))
    bias.grad = torch.full((1,), 2.0, dtype=torch.float64)
    optimizer = LARS([bias], 0.1, momentum=0.5)
    optimizer.step()
    assert bias.item() == pytest.approx(0.8)
    optimizer.step()
    assert bias.item() == pytest.approx(0.5)


def test_a_layer_at_zero_leaves_it():
    # No norm to take a share of: a plain step, 0 - 0.1 * 1.
    weight = nn.Parameter(torch.zeros(1, 2))
    weight.grad = torch.ones(1, 2)
    LARS([weight], 0.1).step()
    assert weight.tolist() == [[pytest.approx(-0.1)] * 2]


def test_a_layer_without_gradient_values_or_without_gradient_stays():
    zero, absent = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    zero.grad = torch.zeros(2, 2)
    LARS([zero, absent], 0.1).step()
    assert zero.tolist() == absent.tolist() == [[1, 1], [1, 1]]


def test_lars_evaluates_a_closure_as_torchs_optimizers_do():
    weight = nn.Parameter(torch.ones(1, 2))
    optimizer = LARS([weight], 0.1)

    def closure():
        optimizer.zero_grad()
        loss = weight.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2
    assert weight.grad.tolist() == [[1, 1]]


def test_lars_goes_on_from_its_state_dict():
    straight, halves = layers(), layers()
    make = {"lr": 0.1, "momentum": 0.9}
    train(straight, LARS(straight, **make), steps=4)
    first = LARS(halves, **make)
    train(halves, first, steps=2)
    second = LARS(halves, **make)
    second.load_state_dict(first.state_dict())
    for step in (2, 3):
        for parameter, gradient in zip(halves, gradients(step), strict=True):
            parameter.grad = gradient
        second.step()
    assert all(torch.equal(a, b) for a, b in zip(straight, halves, strict=True))


# ------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("name", "params", "torchs_own"),
    [
        ("sgd", {}, lambda groups: torch.optim.SGD(groups, 0.1, momentum=0.9)),
        (
            "sgd",
            {"momentum": 0.5, "nesterov": True},
            lambda groups: torch.optim.SGD(groups, 0.1, momentum=0.5, nesterov=True),
        ),
        ("adamw", {}, lambda groups: torch.optim.AdamW(groups, 0.1)),
        (
            "adamw",
            {"betas": (0.5, 0.9), "eps": 0.1},
            lambda groups: torch.optim.AdamW(groups, 0.1, betas=(0.5, 0.9), eps=0.1),
        ),
    ],
)
def test_named_optimizers_are_torchs_own(name, params, torchs_own):
    ours, theirs = layers(), layers()
    train(ours, resolve_optimizer(name)(decay_groups(ours, 0.1), 0.1, **params))
    train(theirs, torchs_own(decay_groups(theirs, 0.1)))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_auto_is_adamw():
    assert resolve_optimizer("auto") is OPTIMIZERS["adamw"]


def test_a_class_from_torch_is_taken_as_it_is():
    assert resolve_optimizer(torch.optim.NAdam) is torch.optim.NAdam


@pytest.mark.parametrize("optimizer", ["adamv", 3, nn.Linear])
def test_an_unknown_optimizer_is_told_what_there_is(optimizer):
    with pytest.raises(ValueError) as caught:
        resolve_optimizer(optimizer)
    message = str(caught.value)
    assert message.startswith(f"Unknown optimizer {optimizer!r}.")
    assert message.endswith("Give 'auto', one of sgd, adamw, lars, or a class from torch.optim.")
    assert (" Did you mean 'adamw'?" in message) == (optimizer == "adamv")


def test_each_named_optimizer_has_settings_of_its_own_and_a_class_needs_a_rate():
    rates = {name: base_settings(name)["lr"] for name in OPTIMIZERS}
    assert rates == {"sgd": 0.06, "adamw": 2e-3, "lars": 0.3}
    decays = {name: base_settings(name)["weight_decay"] for name in OPTIMIZERS}
    assert decays == {"sgd": 5e-4, "adamw": 1e-2, "lars": 1e-4}
    assert base_settings(torch.optim.Adam, lr_is_given=True) == {"weight_decay": 0.0}
    with pytest.raises(ValueError, match=r"^Adam has no default learning rate here: say lr=\.\.\. as well"):
        base_settings(torch.optim.Adam)


# ------------------------------------------------------------------ decay and clipping


def test_weight_decay_does_not_touch_biases_and_norms():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    decayed, spared = decay_groups(net.parameters(), 0.1)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert {id(p) for p in decayed["params"]} == {id(net[0].weight), id(net[2].weight)}
    assert {id(p) for p in spared["params"]} == {
        id(p) for p in (net[0].bias, *net[1].parameters(), net[2].bias)
    }


def test_frozen_parameters_are_not_in_the_optimizer():
    net = nn.Linear(4, 2)
    net.weight.requires_grad_(False)
    decayed, spared = decay_groups(net.parameters(), 0.1)
    assert decayed["params"] == []
    assert spared["params"] == [net.bias]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_whole_gradient_is_clipped_before_the_step(name):
    # Gradients (3,) and (4,) have the norm 5 together; held to 1, they are 0.6 and 0.8.
    weights = [nn.Parameter(torch.ones(1, 1)), nn.Parameter(torch.ones(1))]
    optimizer = resolve_optimizer(name)(decay_groups(weights, 0.0), 0.1, clip_norm=1.0)
    weights[0].grad, weights[1].grad = torch.full((1, 1), 3.0), torch.full((1,), 4.0)
    optimizer.step()
    assert weights[0].grad.item() == pytest.approx(0.6, rel=1e-5)
    assert weights[1].grad.item() == pytest.approx(0.8, rel=1e-5)


def test_a_smaller_gradient_is_not_enlarged():
    weight = nn.Parameter(torch.ones(1))
    weight.grad = torch.full((1,), 0.25)
    OPTIMIZERS["sgd"]([weight], 0.1, clip_norm=1.0).step()
    assert weight.grad.item() == 0.25


# ------------------------------------------------------------------ in the embedder


def tiny_backbone(in_channels):
    layers = [nn.Conv2d(in_channels, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers)


def images(n=16):
    return np.random.default_rng(0).integers(0, 256, size=(n, 8, 8), dtype=np.uint8)


class Keep(Callback):
    """Keeps the optimizer, and the norm of the gradient that each step has used."""

    def __init__(self):
        self.norms = []

    def on_train_begin(self, net, **kwargs):
        self.optimizer = net.optimizer_

    def on_batch_end(self, net, **kwargs):
        gradients = [p.grad.flatten() for group in self.optimizer.param_groups for p in group["params"]]
        self.norms.append(float(torch.cat(gradients).norm()))


def fitted(**params):
    settings = dict(backbone=tiny_backbone, projector=(8, 4), max_epochs=3, batch_size=8, random_state=0)
    return SSLImageEmbedder(**settings | params).fit(images())


@pytest.mark.parametrize(("name", "lr"), [("sgd", 0.1), ("adamw", 0.01), ("lars", 1.0)])
def test_every_named_optimizer_brings_the_loss_down(name, lr):
    rows = fitted(optimizer=name, lr=lr, max_epochs=20, loss__temperature=0.2).history_
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] - 0.1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_rate_is_the_optimizers_own_in_proportion_to_the_batch(name):
    assert fitted(optimizer=name, max_epochs=1).lr_ == pytest.approx(base_settings(name)["lr"] * 8 / 256)


def test_a_class_from_torch_trains_with_a_rate():
    keep = Keep()
    fitted(optimizer=torch.optim.RMSprop, optimizer__alpha=0.9, lr=0.01, warmup=0.0, callbacks=[keep])
    assert type(keep.optimizer) is torch.optim.RMSprop
    assert {group["alpha"] for group in keep.optimizer.param_groups} == {0.9}


def test_a_class_from_torch_without_a_rate_is_told_to_say_one():
    with pytest.raises(ValueError, match=r"^Adam has no default learning rate here: say lr=\.\.\. as well"):
        fitted(optimizer=torch.optim.Adam)


def test_weight_decay_reaches_matrices_only():
    keep = Keep()
    fitted(weight_decay=0.125, callbacks=[keep])
    decayed = {
        p.ndim for group in keep.optimizer.param_groups if group["weight_decay"] for p in group["params"]
    }
    spared = {
        p.ndim for group in keep.optimizer.param_groups if not group["weight_decay"] for p in group["params"]
    }
    assert (decayed, spared) == ({2, 4}, {1})
    assert [group["weight_decay"] for group in keep.optimizer.param_groups] == [0.125, 0]


def test_clip_norm_bounds_the_gradient_that_the_optimizer_sees():
    free, clipped = Keep(), Keep()
    fitted(callbacks=[free])
    fitted(optimizer__clip_norm=0.01, callbacks=[clipped])
    assert min(free.norms) > 0.01
    assert max(clipped.norms) == pytest.approx(0.01, rel=1e-3)


def test_a_name_that_the_optimizer_does_not_take_is_told_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'optimizer__momentum'"):
        SSLImageEmbedder(optimizer="lars", optimizer__momentun=0.9)
