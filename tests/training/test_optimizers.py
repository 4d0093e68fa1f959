"""Optimizers by name, Muon compared with its definition, and the parameters that weight decay applies to."""

import math

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn

from sklearn_ssl import SSLImageEmbedder
from sklearn_ssl._training.muon import Muon, newton_schulz, orthogonalized
from sklearn_ssl._training.optimizers import OPTIMIZERS, base_settings, decay_groups, resolve_optimizer


def layers():
    """Return a weight matrix, a convolution and a bias, in float64."""
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


def test_muon_evaluates_a_closure_as_torchs_optimizers_do():
    weight = nn.Parameter(torch.ones(1, 2))
    optimizer = Muon([weight], 0.1)

    def closure():
        optimizer.zero_grad()
        loss = weight.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2
    assert weight.grad.tolist() == [[1, 1]]


def test_muon_goes_on_from_its_state_dict():
    straight, halves = layers(), layers()
    make = {"lr": 0.1, "momentum": 0.9}
    train(straight, Muon(straight, **make), steps=4)
    first = Muon(halves, **make)
    train(halves, first, steps=2)
    second = Muon(halves, **make)
    second.load_state_dict(first.state_dict())
    for step in (2, 3):
        for parameter, gradient in zip(halves, gradients(step), strict=True):
            parameter.grad = gradient
        second.step()
    assert all(torch.equal(a, b) for a, b in zip(straight, halves, strict=True))


# ------------------------------------------------------------------ Muon


def slow_polar(matrix, iterations):
    """Apply Muon's polynomial to the singular values, by a decomposition instead of products."""
    u, values, v = np.linalg.svd(matrix / np.sqrt((matrix**2).sum()), full_matrices=False)
    for _ in range(iterations):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return u @ np.diag(values) @ v


def slow_muon(weights, lr, momentum, rows, iterations, decay, steps=4):
    """Compute the algorithm of kellerjordan.github.io/posts/muon without Nesterov's step, part by part."""
    means = [np.zeros_like(w) for w in weights]
    for step in range(steps):
        for i, g in enumerate(gradients(step)):
            if weights[i].ndim == 1:
                continue
            means[i] = momentum * means[i] + (1 - momentum) * g.numpy()
            matrix = means[i].reshape(len(g), -1)
            lies_down = matrix.shape[0] <= matrix.shape[1]
            matrix = matrix if lies_down else matrix.T
            parts = np.array_split(matrix, -(-len(matrix) // rows))
            made = np.concatenate([slow_polar(part, iterations) for part in parts])
            size = 0.2 * np.sqrt(matrix.shape[1])
            made = (made if lies_down else made.T).reshape(g.shape)
            weights[i] = weights[i] - lr * decay * weights[i] - lr * size * made
    return weights


@pytest.mark.parametrize(
    ("momentum", "rows", "iterations", "decay"), [(0.95, 128, 3, 0.1), (0.0, 2, 5, 0.0), (0.5, 1, 1, 1e-4)]
)
def test_muon_is_the_algorithm_as_published(momentum, rows, iterations, decay):
    settings = dict(momentum=momentum, rows=rows, iterations=iterations)
    parameters = layers()
    expected = slow_muon([p.detach().numpy().copy() for p in parameters], 0.3, **settings, decay=decay)
    got = train(parameters, Muon(decay_groups(parameters, decay), 0.3, **settings))
    for ours, wanted in zip(got[:2], expected[:2], strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-10)


def test_a_step_of_muon_by_hand():
    # |g| = 5, so the singular values are 0.6 and 0.8; one iteration makes of them
    # 3.4445 * 0.6 - 4.7750 * 0.216 + 2.0315 * 0.07776 = 1.1932694 and
    # 3.4445 * 0.8 - 4.7750 * 0.512 + 2.0315 * 0.32768 = 0.9764819; the step is 0.1 * 0.2 * sqrt(2) of that.
    weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    weight.grad = torch.diag(torch.tensor([3.0, 4.0], dtype=torch.float64))
    Muon([weight], 0.1, momentum=0.0, iterations=1).step()
    step = -0.1 * 0.2 * 2**0.5
    wanted = torch.diag(torch.tensor([1.1932694, 0.9764819], dtype=torch.float64)) * step
    torch.testing.assert_close(weight.detach(), wanted, rtol=1e-6, atol=0)


def test_muon_on_whole_matrices_is_torchs():
    ours, theirs = ([nn.Parameter(p.detach().float()) for p in layers()[:1]] for _ in range(2))
    before = ours[0].detach().clone()
    kwargs = dict(momentum=0.9, weight_decay=0.1)
    train_floats(ours, Muon(ours, 0.1, iterations=5, **kwargs))
    train_floats(
        theirs,
        torch.optim.Muon(theirs, 0.1, nesterov=False, adjust_lr_fn="match_rms_adamw", **kwargs),
    )
    # torch's products are in bf16 on any device
    gap = (ours[0] - theirs[0]).norm() / (theirs[0] - before).norm()
    assert gap < 0.02


def train_floats(parameters, optimizer, steps=4):
    for step in range(steps):
        for parameter, gradient in zip(parameters, gradients(step), strict=False):
            parameter.grad = gradient.float()
        optimizer.step()


def test_vectors_positions_and_single_numbers_take_adamws_step():
    rng = np.random.default_rng(0)
    ours, theirs = (
        [nn.Parameter(torch.from_numpy(np.random.default_rng(0).normal(size=s))) for s in [(5,), (1, 4, 3)]]
        for _ in range(2)
    )
    settings = dict(betas=(0.8, 0.9), eps=0.01, weight_decay=0.1)
    optimizers = Muon(ours, 0.1, **settings), torch.optim.AdamW(theirs, 0.1, **settings)
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.from_numpy(rng.normal(size=a.shape))
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def test_singular_values_come_near_one_and_zero_stays():
    matrices = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 6, 9)))
    matrices[2] = 0.0
    made = newton_schulz(matrices, 5)
    values = torch.linalg.svdvals(made[:2])
    assert values.min() > 0.6
    assert values.max() < 1.2
    assert (made[2] == 0).all()


def test_a_matrix_is_orthogonalized_along_its_shorter_side():
    matrix = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 8)))
    lying, standing = orthogonalized([matrix, matrix.T], rows=2, iterations=5)
    torch.testing.assert_close(lying, standing.T, rtol=1e-12, atol=0)
    # two parts, of two rows and of one, whose rows are at right angles within each
    np.testing.assert_allclose(np.linalg.svd(lying[:2], compute_uv=False), 1.0, atol=0.4)
    assert not np.allclose(lying, slow_polar(matrix.numpy(), 5), atol=0.01)


def test_the_layout_of_kernels_in_memory_does_not_matter():
    plain = nn.Parameter(torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3, 2, 2))))
    last = nn.Parameter(plain.detach().clone(memory_format=torch.channels_last))
    plain.grad = torch.from_numpy(np.random.default_rng(1).normal(size=plain.shape))
    last.grad = plain.grad.clone(memory_format=torch.channels_last)
    for p in (plain, last):
        Muon([p], 0.1).step()
    torch.testing.assert_close(plain, last, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("name", "value"), [("rows", 0), ("rows", 1.5), ("iterations", 0)])
def test_parts_and_iterations_are_whole_numbers(name, value):
    with pytest.raises(ValueError, match=rf"^optimizer__{name}={value}: give an integer"):
        fitted(optimizer="muon", optimizer_params={name: value})


def test_muon_leaves_what_has_no_gradient():
    absent, zero = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    zero.grad = torch.zeros(2, 2)
    Muon([absent, zero], 0.1).step()
    assert absent.tolist() == zero.tolist() == [[1, 1], [1, 1]]


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
    # Not bit for bit: our AdamW is torch's fused one, with another order of operations.
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_auto_is_muon():
    assert resolve_optimizer("auto") is OPTIMIZERS["muon"]


def test_a_class_from_torch_is_taken_as_it_is():
    assert resolve_optimizer(torch.optim.NAdam) is torch.optim.NAdam


@pytest.mark.parametrize("optimizer", ["adamv", 3, nn.Linear])
def test_an_unknown_optimizer_is_told_what_there_is(optimizer):
    with pytest.raises(ValueError) as caught:
        resolve_optimizer(optimizer)
    message = str(caught.value)
    assert message.startswith(f"Unknown optimizer {optimizer!r}.")
    assert message.endswith("Give 'auto', one of sgd, adamw, muon, or a class from torch.optim.")
    assert (" Did you mean 'adamw'?" in message) == (optimizer == "adamv")


def test_each_named_optimizer_has_settings_of_its_own_and_a_class_needs_a_rate():
    rates = {name: base_settings(name)["lr"] for name in OPTIMIZERS}
    assert rates == {"sgd": 0.06, "adamw": 2e-3, "muon": 8e-3}
    decays = {name: base_settings(name)["weight_decay"] for name in OPTIMIZERS}
    assert decays == {"sgd": 5e-4, "adamw": 1e-2, "muon": 1e-2}
    assert base_settings(torch.optim.Adam, lr_is_given=True) == {"weight_decay": 0.0}
    with pytest.raises(ValueError, match=r"^Adam has no default learning rate: set lr=\.\.\. as well"):
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
    """Callback that keeps the optimizer, and the norm of the gradient that each step has used."""

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


@pytest.mark.parametrize(("name", "lr"), [("sgd", 0.1), ("adamw", 0.01), ("muon", 0.05)])
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
    with pytest.raises(ValueError, match=r"^Adam has no default learning rate: set lr=\.\.\. as well"):
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


def test_a_name_that_the_optimizer_does_not_take_is_told_the_nearest(images):
    with pytest.raises(ValueError, match="Did you mean 'optimizer__momentum'"):
        SSLImageEmbedder(optimizer="sgd", optimizer__momentun=0.9).fit(images)


@pytest.mark.parametrize(
    ("optimizer", "name", "value", "words"),
    [
        *[(each, "momentum", "x", "of at least 0 and below 1") for each in ("sgd", "muon")],
        *[(each, "momentum", 1, "of at least 0 and below 1") for each in ("sgd", "muon")],
        *[(each, "eps", bad, "of at least 0") for each in ("adamw", "muon") for bad in ("x", -1, math.nan)],
        *[
            (each, "clip_norm", bad, "above 0, or None")
            for each in OPTIMIZERS
            for bad in ("x", -1, 0, math.nan, math.inf, True)
        ],
    ],
)
def test_a_setting_out_of_range_is_named(optimizer, name, value, words):
    with pytest.raises(ValueError) as error:
        fitted(optimizer=optimizer, optimizer_params={name: value})
    assert str(error.value) == f"optimizer__{name}={value!r}: give a finite number {words}."


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_betas_are_two_rates_below_1(optimizer):
    for betas in (0.5, (0.9,), "ab", None):
        with pytest.raises(ValueError) as error:
            fitted(optimizer=optimizer, optimizer__betas=betas)
        assert str(error.value) == (
            f"optimizer__betas={betas!r}: give two numbers, for example (0.9, 0.999)."
        )
    with pytest.raises(ValueError) as error:
        fitted(optimizer=optimizer, optimizer__betas=(0.9, 2))
    assert str(error.value) == "optimizer__betas[1]=2: give a finite number of at least 0 and below 1."


@pytest.mark.parametrize(
    ("optimizer", "params", "words"),
    [
        (torch.optim.LBFGS, {}, "optimizer=LBFGS cannot take a step: "),
        (
            torch.optim.SGD,
            {"momentum": "x"},
            "optimizer=SGD with optimizer__momentum='x' cannot take a step: ",
        ),
        (torch.optim.Adam, {"betas": 0.5}, "optimizer=Adam with optimizer__betas=0.5 cannot take a step: "),
        (torch.optim.SparseAdam, {}, "optimizer=SparseAdam cannot take a step: "),
    ],
)
def test_a_class_that_cannot_take_a_step_is_told_what_it_has_to_accept(optimizer, params, words):
    with pytest.raises(ValueError) as error:
        fitted(optimizer=optimizer, lr=0.1, optimizer_params=params)
    assert str(error.value).startswith(words)
    assert str(error.value).endswith("It must accept parameter groups and lr, and step() without a closure.")
