"""The network that `transform` runs gives the same embeddings as the encoder, and follows its changes."""

import copy
import pickle
import threading

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn
from torch.nn.utils import parametrizations, prune
from torchvision import models

from sklearn_ssl._networks.inference import InferenceNetwork, KeptNetwork, chunk_size, foldable_pairs

CPU = torch.device("cpu")
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class Choosy(nn.Module):
    """Backbone without BatchNorm whose control flow depends on values, so that torch.fx cannot trace it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.other = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return (self.conv(x) if x.mean() > 0 else self.other(x)).relu().mean((2, 3))


class ChoosyWithNorm(Choosy):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.norm(self.conv(x) if x.mean() > 0 else self.other(x)).relu().mean((2, 3))


class Held(nn.Module):
    """Backbone that holds the same layers under two names."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        self.first, self.second = self.layers

    def forward(self, x):
        return self.second(self.first(x)).relu().mean((2, 3))


class Shared(nn.Module):
    """Backbone that uses a convolution and a norm in several places, so that they cannot be folded."""

    def __init__(self, use):
        super().__init__()
        self.use = use
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.other = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.use(self, x).relu().mean((2, 3))


NOT_FOLDABLE = {
    "its output has two uses": lambda net, x: net.norm(y := net.conv(x)) + y,
    "the convolution is used twice": lambda net, x: net.norm(net.conv(x)) + net.other(net.conv(x)),
    "the norm is used twice": lambda net, x: net.norm(net.conv(x)) + net.norm(x),
    "its weight is read": lambda net, x: net.norm(net.conv(x)) * net.conv.weight.mean(),
    "the norm's weight is read": lambda net, x: net.norm(net.conv(x)) * net.norm.weight.mean(),
    "the norm comes first": lambda net, x: net.conv(net.norm(x)),
    "something is between": lambda net, x: net.norm(net.conv(x).relu()),
}


class Standardized(nn.Conv2d):
    """Convolution that computes its weights."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


def vgg():
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64, affine=False), nn.ReLU(), nn.MaxPool2d(4)),
        *(nn.Flatten(), nn.Linear(1024, 32)),
    )


NETWORKS = {
    "resnet18": models.resnet18,
    "depthwise": models.mobilenet_v3_small,
    "vgg": vgg,
    "choosy": Choosy,
    "choosy with a norm": ChoosyWithNorm,
    "held": Held,
}


def trained(make):
    """Build a network with random statistics and weights of its norms, as if trained."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make().eval()
    for norm in network.modules():
        if isinstance(norm, NORMS):
            for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
                if tensor is not None:
                    tensor.data.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return network


@pytest.fixture
def x():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def plainly(network, x):
    return network(x)


def weights(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def n_norms(network):
    return sum(isinstance(module, NORMS) for module in network.modules())


# ------------------------------------------------------------------ the same embeddings


@pytest.mark.parametrize("name", NETWORKS)
def test_norms_are_folded_and_the_embeddings_stay(name, x):
    network = trained(NETWORKS[name])
    fast = InferenceNetwork(network, CPU, precision="float32")
    expected = plainly(network, x)
    assert (fast(x) - expected).norm() < 1e-5 * expected.norm()
    assert n_norms(fast.module) == (1 if name == "choosy with a norm" else 0)


@pytest.mark.parametrize("use", [*NOT_FOLDABLE.values()], ids=[*NOT_FOLDABLE])
def test_what_cannot_be_one_stays_two(use, x):
    network = trained(lambda: Shared(use))
    assert list(foldable_pairs(network)) == []
    torch.testing.assert_close(InferenceNetwork(network, CPU, precision="float32")(x), plainly(network, x))


def test_a_pair_is_found_where_it_can_be_one(x):
    network = trained(lambda: Shared(lambda net, x: net.norm(input=net.conv(x))))
    assert list(foldable_pairs(network)) == [(network.conv, network.norm)]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(
    "convolution",
    [
        Standardized(3, 8, 3),
        parametrizations.weight_norm(nn.Conv2d(3, 8, 3)),
        prune.l1_unstructured(nn.Conv2d(3, 8, 3), "weight", 0.5),
    ],
    ids=["subclass", "weight_norm", "pruned"],
)
def test_weights_that_are_computed_are_computed_as_before(convolution, precision, x):
    network = trained(lambda: nn.Sequential(convolution, nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()))
    fast = InferenceNetwork(network, CPU, precision=precision)
    assert n_norms(fast.module) == 1
    assert {p.dtype for p in fast.module.parameters()} == {torch.float32}
    expected = plainly(network, x)
    assert (fast(x) - expected).norm() < (1e-5 if precision == "float32" else 0.02) * expected.norm()


def test_a_hook_is_heeded(x):
    network = trained(vgg)
    network[1].register_forward_hook(lambda norm, given, made: made.clamp(max=1))
    fast = InferenceNetwork(network, CPU, precision="float32")
    torch.testing.assert_close(fast(x), plainly(network, x), rtol=1e-4, atol=1e-5)
    assert n_norms(fast.module) == 1


def test_a_norm_that_uses_the_batch_itself_stays(x):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.Flatten())
    fast = InferenceNetwork(network, CPU, precision="float32")
    torch.testing.assert_close(fast(x), plainly(network, x), rtol=1e-4, atol=1e-5)
    assert n_norms(fast.module) == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_bf16_points_each_image_in_the_same_direction(name, x):
    network = trained(NETWORKS[name])
    fast = InferenceNetwork(network, CPU, precision="bf16")
    embeddings = fast(x)
    assert embeddings.dtype == torch.float32
    assert nn.functional.cosine_similarity(embeddings, plainly(network, x)).min() > 0.999
    layers = [m for m in fast.module.modules() if type(m) in (nn.Conv2d, nn.Linear)]
    assert {layer.weight.dtype for layer in layers} == {torch.bfloat16}


@pytest.mark.parametrize("backbone", ["tiny", "resnet18"])
def test_float32_on_request_is_a_plain_loop_bit_for_bit(backbone, tiny, embedder, draw_images):
    images = draw_images(50, (96, 96, 3))
    fitted = embedder(backbone={"tiny": tiny}.get(backbone, backbone), precision="float32").fit(images[:2])
    rows, encoder = [], fitted.encoder_
    for chunk in torch.tensor(images).movedim(-1, 1).float().split(42):
        padded = torch.zeros(42, 3, 96, 96)
        padded[: len(chunk)] = chunk
        rows.append(plainly(encoder, padded.to(memory_format=torch.channels_last))[: len(chunk)])
    np.testing.assert_array_equal(fitted.transform(images), torch.cat(rows).numpy())


def test_the_encoder_is_left_alone(x):
    network = trained(models.resnet18).train()
    before, modules = weights(network), list(network.modules())
    InferenceNetwork(network, CPU, precision="bf16")(x)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(new is old for new, old in zip(network.modules(), modules, strict=True))
    assert all(module.training for module in modules)
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.usefixtures("compiler")
def test_compiled_it_is_the_same_network(x):
    network = trained(vgg)
    compiled = InferenceNetwork(network, CPU, precision="float32", compile=True)
    expected = InferenceNetwork(network, CPU, precision="float32")(x)
    assert (compiled(x) - expected).norm() < 1e-5 * expected.norm()
    assert list(compiled.module.state_dict()) == list(
        InferenceNetwork(network, CPU, precision="float32").module.state_dict()
    )


# ------------------------------------------------------------------ the chunk


def test_of_larger_images_fewer_go_through_the_network_together():
    sizes = {4: 256, 16: 256, 28: 146, 32: 128, 64: 64, 96: 42, 224: 18, 1000: 8}
    assert {side: chunk_size((side, side), CPU) for side in sizes} == sizes
    assert chunk_size((16, 64), CPU) == chunk_size((32, 32), CPU)


def test_on_a_gpu_there_are_more():
    gpu = torch.device("cuda")
    assert [chunk_size((side, side), gpu) for side in (32, 64, 256, 2000)] == [1024, 1024, 256, 64]


# ------------------------------------------------------------------ kept, until the encoder is another


def step(optimizer, **settings):
    def change(encoder):
        encoder.eval()  # norms stay as they are, so that only the optimizer changes anything
        encoder(torch.rand(2, 3, 8, 8)).square().sum().backward()
        optimizer(encoder.parameters(), lr=0.1, **settings).step()

    return change


def see_images(encoder):
    encoder.train()
    plainly(encoder, torch.rand(4, 3, 8, 8))


def load(encoder):
    encoder.load_state_dict({name: tensor + 1 for name, tensor in encoder.state_dict().items()})


def load_in_inference_mode(encoder):
    with torch.inference_mode():
        encoder.load_state_dict(
            {name: tensor + 1 for name, tensor in encoder.state_dict().items()}, assign=True
        )


def change_one(encoder):
    with torch.no_grad():
        encoder.backbone.conv.weight[7, 2, 1, 1] += 1


def through_data(encoder):
    encoder.backbone.conv.weight.data.mul_(1.5)


def data_anew(encoder):
    encoder.backbone.conv.weight.data = encoder.backbone.conv.weight.data * 1.5


CHANGES = {
    "sgd": step(torch.optim.SGD),
    "fused sgd": step(torch.optim.SGD, fused=True),
    "adamw": step(torch.optim.AdamW, foreach=False),
    "foreach adamw": step(torch.optim.AdamW, foreach=True),
    "fused adamw": step(torch.optim.AdamW, fused=True),
    "statistics of norms": see_images,
    "state dict": load,
    "state dict in inference mode": load_in_inference_mode,
    "one weight": change_one,
    "data": through_data,
    "new data": data_anew,
}


@pytest.mark.parametrize("change", [*CHANGES.values()], ids=[*CHANGES])
def test_a_change_of_the_encoder_is_seen(change, embedder, images):
    fitted = embedder().fit(images)
    before = fitted.transform(images)
    change(fitted.encoder_)
    after = fitted.transform(images)
    assert not np.array_equal(after, before)
    np.testing.assert_array_equal(after, pickle.loads(pickle.dumps(fitted)).transform(images))


def test_the_network_is_kept_from_call_to_call():
    encoder, kept = trained(models.resnet18), KeptNetwork()
    first = kept.of(encoder, CPU, precision="float32")
    assert kept.of(encoder, CPU, precision="float32") is first
    encoder.train()  # which makes no other embeddings
    assert kept.of(encoder, CPU, precision="float32") is first
    assert kept.of(encoder, CPU, precision="bf16") is not first
    assert kept.of(copy.deepcopy(encoder), CPU, precision="bf16") is not kept.of(
        encoder, CPU, precision="bf16"
    )


def test_a_layer_without_weights_is_seen_too(x):
    network, kept = trained(vgg), KeptNetwork()
    before = kept.of(network, CPU, precision="float32")(x)
    network[2] = nn.Tanh()
    assert not torch.equal(kept.of(network, CPU, precision="float32")(x), before)


def test_another_precision_is_used_at_once(embedder, images):
    fitted = embedder(precision="float32").fit(images)
    exact = fitted.transform(images)
    roughly = fitted.set_params(precision="auto").transform(images)
    assert not np.array_equal(roughly, exact)
    np.testing.assert_allclose(roughly, exact, rtol=0.02, atol=0.02)
    np.testing.assert_array_equal(fitted.set_params(precision="float32").transform(images), exact)


def test_a_new_fit_drops_it(embedder, images):
    fitted = embedder().fit(images)
    before = fitted.transform(images)
    fitted.set_params(random_state=1).fit(images)
    assert not np.array_equal(fitted.transform(images), before)
    assert same_as_fresh(fitted, images)


def test_neither_a_pickle_nor_a_copy_nor_a_clone_has_it(embedder, images):
    fitted = embedder().fit(images)
    fitted.transform(images)
    for other in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted), clone(fitted)):
        assert has_kept_network(fitted)
        assert not has_kept_network(other)
    assert not any("network" in name for name in fitted.get_params())


def has_kept_network(embedder):
    return any(isinstance(value, KeptNetwork) for value in vars(embedder).values())


def same_as_fresh(fitted, images):
    return np.array_equal(fitted.transform(images), pickle.loads(pickle.dumps(fitted)).transform(images))


# ------------------------------------------------------------------ threads


def in_threads(n, work):
    """Call a function in n threads; return their results, or raise what one of them raises."""
    results, errors = [None] * n, []

    def run(i):
        try:
            results[i] = work(i)
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    for error in errors:
        raise error
    return results


def test_threads_that_transform_at_once_get_the_same(embedder, images):
    fitted = embedder().fit(images)
    expected = fitted.transform(images)
    opened = pickle.loads(pickle.dumps(fitted))  # whose network is not made yet
    for embeddings in in_threads(4, lambda i: opened.transform(images)):
        np.testing.assert_array_equal(embeddings, expected)


def test_threads_share_one_network():
    network, kept = trained(models.resnet18), KeptNetwork()
    made = in_threads(4, lambda i: kept.of(network, CPU, precision="float32"))
    assert len(set(map(id, made))) == 1


def test_modules_run_in_one_thread_while_a_network_is_made_in_another(x):
    network, other = trained(models.resnet18), trained(vgg)
    expected, done = plainly(other, x), threading.Event()

    def work(i):
        if i == 0:
            try:
                for _ in range(3):
                    assert len(list(foldable_pairs(network))) == 20
            finally:
                done.set()
            return
        while not done.is_set():
            assert torch.equal(plainly(other, x), expected)

    in_threads(2, work)
