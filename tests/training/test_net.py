"""The training loop: schedules, repeatability and exact resumption."""

import io
import math
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.utils import check_random_state
from skorch.callbacks import Callback
from torch import nn
from torchvision.ops import StochasticDepth

from sklearn_ssl import SSLImageEmbedder
from sklearn_ssl._distributed.team import ALONE
from sklearn_ssl._images.pixel_scale import PixelScale
from sklearn_ssl._images.sources import ArraySource
from sklearn_ssl._networks.student import Student
from sklearn_ssl._training.assemble import output_width
from sklearn_ssl._training.batches import TrainingSet
from sklearn_ssl._training.clock import Clock
from sklearn_ssl._training.meter import READ_EVERY, Meter
from sklearn_ssl._training.net import SSLNet, StopTraining, check_loss_value
from sklearn_ssl._training.optimizers import resolve_optimizer
from sklearn_ssl._training.schedule import Schedule
from sklearn_ssl._training.seeds import SHUFFLE, VIEWS, derive_seed, seeded_modules
from sklearn_ssl._views.augmentation import make_augment
from sklearn_ssl._views.random_views import RandomViews
from sklearn_ssl.losses import NTXent, Spec, SSLLoss, ViewSpec, mlp


def images(n=16):
    return np.random.default_rng(0).integers(0, 256, size=(n, 8, 8), dtype=np.uint8)


def tiny_backbone(in_channels, extra=nn.Identity):
    layers = [nn.Conv2d(in_channels, 8, 3, stride=2), nn.BatchNorm2d(8), extra(), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Record(Callback):
    """Callback that keeps the net, and the learning rate and number of images of each step."""

    def __init__(self):
        self.rates, self.sizes = [], []

    def on_train_begin(self, net, **kwargs):
        self.net = net

    def on_batch_end(self, net, batch, **kwargs):
        self.rates.append({group["lr"] for group in net.optimizer_.param_groups})
        self.sizes.append(len(batch[0]))


def fitted(loss="ntxent", *, n=16, **params):
    settings = dict(backbone=tiny_backbone, projector=(8, 4), max_epochs=3, batch_size=8, random_state=0)
    settings |= {"precision": "float32", **params}
    return SSLImageEmbedder(loss, **settings).fit(images(n))


def weights(embedder):
    return embedder.encoder_.state_dict()


def same(a, b):
    """Return whether two nested structures of tensors and numbers are equal, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


# ------------------------------------------------------------------ schedule


@pytest.mark.parametrize(
    ("progress", "rate"),
    # A quarter of warm-up to 2, then half a cosine: at 1/6 of the rest 2 * (1 + cos(pi/6)) / 2.
    [
        (0, 0),
        (0.125, 1),
        (0.25, 2),
        (0.375, 1 + math.sqrt(3) / 2),
        (0.625, 1),
        (0.875, 1 - math.sqrt(3) / 2),
        (1, 0),
    ],
)
def test_the_rate_rises_linearly_and_falls_as_half_a_cosine(progress, rate):
    schedule = Schedule(max_epochs=10, max_time=None, lr=2.0, warmup=0.25)
    assert schedule.rate(progress) == pytest.approx(rate, abs=1e-12)


def test_without_warm_up_the_rate_begins_at_its_peak():
    schedule = Schedule(max_epochs=10, max_time=None, lr=2.0, warmup=0.0)
    assert [schedule.rate(p) for p in (0, 0.5, 1)] == pytest.approx([2, 1, 0])


def test_a_warm_up_may_last_the_whole_training():
    schedule = Schedule(max_epochs=10, max_time=None, lr=2.0, warmup=1.0)
    assert [schedule.rate(p) for p in (0, 0.5, 0.999)] == pytest.approx([0, 1, 1.998])


@pytest.mark.parametrize(
    ("max_epochs", "max_time", "progress"),
    [
        (10, None, 0.3),  # 3 of 10 epochs
        (None, 60.0, 0.25),  # 15 of 60 seconds
        (10, 60.0, 0.3),  # the epochs end first
        (10, 20.0, 0.75),  # the time ends first
        (2, None, 1.0),  # and no further
        (None, None, 0.0),
    ],
)
def test_progress_is_the_share_of_what_ends_first(max_epochs, max_time, progress):
    schedule = Schedule(max_epochs, max_time, lr=1.0, warmup=0.0)
    assert schedule.progress(epochs=3, seconds=15) == progress


def test_every_step_takes_the_rate_of_its_middle():
    record = Record()
    embedder = fitted(lr=0.1, warmup=0.5, callbacks=[record])
    # Six steps, half of them warm-up: 1/6, 3/6, 5/6 of the peak, and the same downwards as a cosine.
    falling = [(1 + math.cos(math.pi * share)) / 2 for share in (1 / 6, 3 / 6, 5 / 6)]
    expected = [0.1 * share for share in (1 / 6, 3 / 6, 5 / 6, *falling)]
    assert [rate for rates in record.rates for rate in rates] == pytest.approx(expected)
    assert [row["lr"] for row in embedder.history_] == pytest.approx(expected[1::2])


@pytest.mark.usefixtures("clock")
def test_time_ends_a_training_and_brings_the_rate_down():
    record = Record()
    embedder = fitted(max_epochs="auto", max_time=1.0, lr=0.1, warmup=0.0, callbacks=[record])
    assert embedder.max_epochs_ is None
    assert record.net.steps_done == len(record.sizes) > 1
    rates = [rate for rates in record.rates for rate in rates]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.05


# ------------------------------------------------------------------ batches


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [(16, 8, [8, 8]), (18, 8, [8, 8]), (9, 8, [8]), (8, 8, [8]), (7, 8, [7]), (2, 256, [2])],
)
def test_the_last_incomplete_batch_is_dropped_but_never_the_only_one(n, batch_size, sizes):
    record = Record()
    embedder = fitted(n=n, batch_size=batch_size, max_epochs=2, callbacks=[record])
    assert record.sizes == 2 * sizes
    assert embedder.batch_size_ == sizes[0]
    assert len(embedder.history_) == embedder.n_iter_ == 2


# ------------------------------------------------------------------ a step, written out


def plain_loop(loss, seed, epochs=3, batch_size=8, lr=0.1):
    """Run the same training in plain PyTorch, and return weights and the mean loss of each epoch."""
    X = torch.from_numpy(images())[:, None].float() / 255
    with seeded_modules(seed):
        backbone, projector = tiny_backbone(1), mlp(8, 8, 4)
    net = nn.Sequential(backbone, projector)
    matrices = [p for p in net.parameters() if p.ndim > 1]
    vectors = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr, momentum=0.9)
    augment = make_augment("symbols", {})
    draw_views = RandomViews(augment, (8, 8), X.mean((0, 2, 3)), X.std((0, 2, 3), correction=0))
    step, means = 0, []
    for epoch in range(epochs):
        shuffle = torch.Generator().manual_seed(derive_seed(seed, SHUFFLE, epoch))
        values = []
        for index in torch.randperm(16, generator=shuffle).split(batch_size):
            rate = lr * (1 + math.cos(math.pi * (step + 0.5) / (2 * epochs))) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate
            x1, x2 = draw_views(X[index], ViewSpec(), derive_seed(seed, VIEWS, step))
            value = loss(*net(torch.cat([x1, x2])).split(batch_size))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            values.append(value.item())
            step += 1
        means.append(np.mean(values))
    return backbone.state_dict(), means


def test_a_training_is_what_a_plain_loop_does():
    params = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 0.1, "warmup": 0.0}
    embedder = fitted(augment="symbols", **params)
    seed = int(check_random_state(0).randint(2**31))
    state, means = plain_loop(NTXent(), seed)
    for name, tensor in embedder.encoder_.backbone.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=1e-5, atol=1e-6)
    assert [row["train_loss"] for row in embedder.history_] == pytest.approx(means, rel=1e-5)


def test_bfloat16_trains_float32_weights_to_nearly_the_same_loss():
    exact = fitted(max_epochs=20, lr=0.01)
    rounded = fitted(max_epochs=20, lr=0.01, precision="bf16")
    assert rounded.precision_ == "bf16"
    assert {tensor.dtype for tensor in weights(rounded).values()} == {torch.float32, torch.int64}
    assert not same(weights(exact), weights(rounded))
    # Mean of the last five epochs: 2.67, where it began with 2.80.
    of_exact, of_rounded = (
        np.mean([row["train_loss"] for row in fit.history_[-5:]]) for fit in (exact, rounded)
    )
    assert of_rounded == pytest.approx(of_exact, rel=0.02)


# ------------------------------------------------------------------ repeatability


class Perceptron(SSLLoss):
    """Loss with a dropout layer."""

    def build(self, spec):
        self.predictor = nn.Sequential(nn.Linear(spec.dim, 8), nn.Dropout(), nn.Linear(8, spec.dim))

    def forward(self, z1, z2):
        return (self.predictor(z1) - z2).square().mean()


RANDOM_PARTS = {
    "dropout": {"backbone": partial(tiny_backbone, extra=nn.Dropout)},
    "stochastic depth": {"backbone": partial(tiny_backbone, extra=partial(StochasticDepth, 0.5, "row"))},
    "random ReLU": {"backbone": partial(tiny_backbone, extra=nn.RReLU)},
    "dropout in the loss": {"loss": Perceptron},
    "nothing random": {},
}


@pytest.mark.parametrize("part", RANDOM_PARTS)
def test_a_fit_repeats_and_has_nothing_to_do_with_torchs_global_generator(part):
    fits = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        fits.append(fitted(**RANDOM_PARTS[part]))
        assert torch.equal(torch.get_rng_state(), before)
    assert same(weights(fits[0]), weights(fits[1]))
    assert not same(weights(fits[0]), weights(fitted(random_state=1, **RANDOM_PARTS[part])))


def test_dropout_is_drawn_anew_in_each_step():
    masks = []

    class Dropped(SSLLoss):
        def step(self, batch, student, teacher):
            h = student.backbone[2](torch.ones(8, 8))  # the dropout layer alone
            masks.append(h.tolist())
            return student(batch.views)[0].square().mean()

    fitted(Dropped, backbone=partial(tiny_backbone, extra=nn.Dropout))
    assert len({str(mask) for mask in masks}) == 6


def test_layers_are_made_by_the_seed_and_the_global_generator_stays():
    before = torch.get_rng_state()
    a, b, c = (make_layer(seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def make_layer(seed):
    with seeded_modules(seed):
        first = nn.Linear(64, 64)
        return torch.cat([first.weight, nn.Linear(64, 64).weight]).detach()


def test_threads_that_make_layers_do_not_disturb_each_other():
    alone = [make_layer(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as threads:
        assert same(alone, list(threads.map(make_layer, range(8))))


def test_derived_seeds_differ():
    seeds = {
        derive_seed(seed, purpose, number)
        for seed in range(5)
        for purpose in range(5)
        for number in range(40)
    }
    assert len(seeds) == 1000
    assert derive_seed(1, 2, 3) == derive_seed(1, 2, 3)


# ------------------------------------------------------------------ going on


def half_then_full(progress):
    return 0.5 if progress < 0.5 else 1.0


class Everything(SSLLoss):
    """Loss with a teacher, heads, rates, a queue and randomness: everything that a state has to contain."""

    teacher_momentum = 0.9
    teacher_heads = ("head",)
    encoder = "teacher"
    weight_decay_at = staticmethod(half_then_full)

    def __init__(self):
        super().__init__()
        self.epochs = []
        self.rates = {"predictor": half_then_full}

    def before_epoch(self, epoch, project):
        self.queue += 0.1 * project()[:1]

    def build(self, spec):
        self.predictor = mlp(spec.dim, 8, spec.dim)
        self.head = nn.Linear(spec.dim, spec.dim)
        self.register_buffer("queue", torch.randn(20, spec.dim, generator=spec.generator))

    def on_epoch_start(self, epoch, generator):
        self.epochs.append(epoch)
        self.queue += 0.1 * torch.randn(self.queue.shape, generator=generator)

    def step(self, batch, student, teacher):
        [z], [t] = student(batch.views[:1]), teacher(batch.views[1:])
        z, t = self.head(z), teacher.heads["head"](t)
        self.keys = t
        noise = 0.1 * torch.randn(z.shape, generator=batch.generator)
        near = (z @ self.queue.T).softmax(dim=1) @ self.queue
        terms = {
            "predicted": (self.predictor(z + noise) - t).square().mean(),
            "near": (z - near).square().mean(),
        }
        return {"loss": terms["predicted"] + terms["near"], **terms}

    def after_step(self, student, teacher):
        self.queue = torch.cat([self.queue, self.keys])[-20:]


class StopAfter(Callback):
    """Callback that ends the training after a number of steps."""

    def __init__(self, steps, stop):
        self.steps = steps
        self.stop = stop

    def on_batch_end(self, net, **kwargs):
        if net.steps_done == self.steps:
            self.stop()


def stop_quietly():
    raise StopTraining("callback")


def make_net(optimizer="adamw", callbacks=()):
    """Make a net for 16 images, in batches of 4, for 5 epochs."""
    source = ArraySource(torch.from_numpy(images())[:, None])
    loss = Everything()
    with seeded_modules(0) as generator:
        backbone, projector = tiny_backbone(1, nn.Dropout), mlp(8, 8, 4)
        loss.build(Spec(8, output_width(projector, 8), 16, 4, 1, (8, 8), backbone, generator))
    pixels = PixelScale.of(source)
    net = SSLNet(
        Student(backbone, projector),
        loss,
        loss_name="everything",
        make_optimizer=resolve_optimizer(optimizer),
        weight_decay=0.1,
        schedule=Schedule(5, None, 0.01, 0.2),
        draw_views=RandomViews(make_augment("symbols", {}), (8, 8), pixels.mean, pixels.std),
        pixels=pixels,
        seed=7,
        batch_size=4,
        micro_batches=1,
        compile=False,
        device=torch.device("cpu"),
        callbacks=list(callbacks),
    ).initialize()
    return net, TrainingSet(source)


def train(net, dataset):
    net.train(dataset, time.monotonic())
    return net


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def earlier(state, rows):
    return {"training": state, "history": rows, "finished": None, "bad": {}}


def without_seconds(state):
    return {name: value for name, value in state.items() if name != "seconds"}


def without_times(row):
    return {name: value for name, value in row.items() if name not in ("dur", "images_per_second", "batches")}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize("steps", [1, 8, 10, 19])  # of 20, four in an epoch
def test_a_training_goes_on_from_a_file_bit_for_bit(steps, optimizer):
    straight = train(*make_net(optimizer))
    stopped = train(*make_net(optimizer, [StopAfter(steps, stop_quietly)]))
    assert stopped.steps_done == steps
    rows = [row for row in stopped.history if "train_loss" in row]
    state = through_a_file(stopped.training_state())

    again, dataset = make_net(optimizer)
    train(again.resume(earlier(state, rows)), dataset)
    assert again.steps_done == straight.steps_done == 20
    assert same(without_seconds(again.training_state()), without_seconds(straight.training_state()))
    assert [row["epoch"] for row in again.history] == [1, 2, 3, 4, 5]
    for ours, theirs in zip(again.history, straight.history, strict=True):
        assert without_times(ours) == without_times(theirs)


def test_an_epoch_is_not_announced_again_when_it_is_gone_on_with():
    stopped = train(*make_net(callbacks=[StopAfter(6, stop_quietly)]))
    again, dataset = make_net()
    train(again.resume(earlier(stopped.training_state(), [])), dataset)
    assert stopped.criterion_.epochs == [0, 1]
    assert again.criterion_.epochs == [2, 3, 4]


@pytest.mark.usefixtures("clock")
def test_the_time_of_earlier_fits_counts():
    stopped = train(*make_net(callbacks=[StopAfter(6, stop_quietly)]))
    state = stopped.training_state() | {"seconds": 1000.0}
    again, dataset = make_net()
    train(again.resume(earlier(state, [])), dataset)
    assert 1000 < again.seconds() < 1010


def test_a_stopped_training_was_not_interrupted():
    assert train(*make_net(callbacks=[StopAfter(6, stop_quietly)])).end == "callback"


def press_ctrl_c():
    signal.raise_signal(signal.SIGINT)


def test_a_fit_that_was_interrupted_in_mid_epoch_goes_on_bit_for_bit():
    straight = fitted(Everything, max_epochs=5)
    embedder = SSLImageEmbedder(
        Everything, backbone=tiny_backbone, projector=(8, 4), max_epochs=5, batch_size=8, random_state=0
    ).set_params(precision="float32", callbacks=[StopAfter(5, press_ctrl_c)])
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="in epoch 3, after 5 steps"):
        embedder.fit(images())
    assert embedder.n_iter_ == 3  # begun
    assert len(embedder.history_) == 2
    assert not same(weights(embedder), weights(straight))

    embedder.set_params(callbacks=None, warm_start=True).fit(images())
    assert same(weights(embedder), weights(straight))
    assert [row["epoch"] for row in embedder.history_] == [1, 2, 3, 4, 5]
    for ours, theirs in zip(embedder.history_, straight.history_, strict=True):
        assert without_times(ours) == without_times(theirs)


# ------------------------------------------------------------------ meter


@pytest.mark.parametrize("steps", [1, READ_EVERY - 1, READ_EVERY, 2 * READ_EVERY + 5])
def test_means_of_loss_and_terms_are_numpys(steps):
    values = np.random.default_rng(0).normal(size=(2, steps)).astype(np.float32)
    meter = Meter("mine", Clock(ALONE))
    for step, (loss, term) in enumerate(values.T):
        meter.add({"loss": torch.tensor(loss), "term": torch.tensor(term)}, step, 0.1)
    assert meter.mean("loss") == pytest.approx(values[0].astype(np.float64).mean(), rel=1e-12)
    assert meter.mean("term") == pytest.approx(values[1].astype(np.float64).mean(), rel=1e-12)
    assert meter.terms() == ["term"]


def test_a_meter_can_be_read_while_it_counts():
    meter = Meter("mine", Clock(ALONE))
    means = []
    for step, value in enumerate([1.0, 3.0, 8.0]):
        meter.add({"loss": torch.tensor(value)}, step, 0.1)
        means.append(meter.mean("loss"))
    assert means == [1, 2, 4]


def test_the_mean_of_no_steps_is_not_a_number():
    assert math.isnan(Meter("mine", Clock(ALONE)).mean("loss"))


def test_terms_may_be_plain_numbers():
    meter = Meter("mine", Clock(ALONE))
    meter.add({"loss": torch.tensor(1.0), "share": 0.25}, 0, 0.1)
    assert meter.mean("share") == 0.25


def test_a_term_may_come_later_and_counts_where_it_was():
    meter = Meter("mine", Clock(ALONE))
    for step in range(READ_EVERY + 4):
        extra = {"late": torch.tensor(step * 1.0)} if step in (3, READ_EVERY + 1) else {}
        meter.add({"loss": torch.tensor(1.0), **extra}, step, 0.1)
    assert meter.mean("late") == (3 + READ_EVERY + 1) / 2


def test_a_loss_that_is_not_finite_is_noticed_within_sixteen_steps():
    meter = Meter("mine", Clock(ALONE))
    for step in range(READ_EVERY - 1):
        meter.add({"loss": torch.tensor(math.nan if step == 5 else 1.0)}, step + 100, 0.001 * step)
    with pytest.raises(FloatingPointError, match=r"The loss 'mine' became nan in step 105, at lr 0\.005"):
        meter.add({"loss": torch.tensor(1.0)}, 115, 0.1)


def test_a_loss_that_is_not_finite_from_the_start_is_not_blamed_on_the_learning_rate():
    meter = Meter("mine", Clock(ALONE))
    meter.add({"loss": torch.tensor(math.nan)}, 0, 0.1)
    with pytest.raises(FloatingPointError, match=r"nan in the first step, .* not the learning rate"):
        meter.read()


def test_a_term_that_is_not_finite_is_only_written_down():
    meter = Meter("mine", Clock(ALONE))
    meter.add({"loss": torch.tensor(1.0), "ratio": torch.tensor(math.inf)}, 0, 0.1)
    assert meter.mean("ratio") == math.inf


def test_one_number_in_brackets_is_one_number():
    class Bracketed(SSLLoss):
        def forward(self, z1, z2):
            return (z1 - z2).square().mean().reshape(1)

    assert fitted(Bracketed).history_[0]["train_loss"] > 0


def test_a_loss_value_is_one_tensor_with_gradient():
    value = torch.ones((), requires_grad=True)
    check_loss_value("mine", {"loss": value, "term": 3})
    with pytest.raises(ValueError, match=r"The loss 'mine' returned a tensor of shape \(2,\)"):
        check_loss_value("mine", {"loss": value.expand(2)})
    with pytest.raises(ValueError, match="The loss 'mine' returned None"):
        check_loss_value("mine", {"term": value})
    with pytest.raises(ValueError, match="without gradient"):
        check_loss_value("mine", {"loss": value.detach()})


def test_the_width_of_a_projector_is_found_without_disturbing_it():
    projector = mlp(6, 5, 3)
    before = {name: tensor.clone() for name, tensor in projector.state_dict().items()}
    assert output_width(projector, 6) == 3
    assert projector.training
    assert same(projector.state_dict(), before)
