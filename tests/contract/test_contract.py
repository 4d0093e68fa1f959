"""The contract of a loss: six small methods, trained through the embedder."""

import functools
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from skorch.callbacks import Callback
from torch import nn

from sklearn_ssl import SSLImageEmbedder
from sklearn_ssl._training.optimizers import base_settings
from sklearn_ssl._training.seeds import LOSS_STEP, derive_seed
from sklearn_ssl.losses import SSLLoss, ViewSpec, mlp


def images(n=16, channels=1):
    shape = (n, 8, 8) if channels == 1 else (n, 8, 8, channels)
    return np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)


def tiny_backbone(in_channels):
    layers = [nn.Conv2d(in_channels, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Keep(Callback):
    """Callback that keeps the net, and the state of the loss before the first step."""

    def on_train_begin(self, net, **kwargs):
        self.net = net
        self.start = {name: tensor.clone() for name, tensor in net.criterion_.state_dict().items()}

    @property
    def loss(self):
        return self.net.criterion_

    def in_optimizer(self, parameter):
        return any(parameter is p for group in self.net.optimizer_.param_groups for p in group["params"])


def embedder(loss, **params):
    settings = dict(backbone=tiny_backbone, projector=(8, 4), max_epochs=3, batch_size=8, random_state=0)
    return SSLImageEmbedder(loss, **settings | params)


def trained(loss, X=None, y=None, **params):
    """Fit an embedder, and return the callback `Keep` of the fit."""
    keep = Keep()
    embedder(loss, callbacks=[keep], **params).fit(images() if X is None else X, y)
    return keep


class Recorder(SSLLoss):
    """Loss that trains by agreement and records its arguments."""

    def __init__(self):
        super().__init__()
        self.batches, self.first_numbers, self.epochs = [], [], []

    def step(self, batch, student, teacher):
        self.batches.append(batch)
        self.first_numbers.append(torch.rand(2, generator=batch.generator).tolist())
        z = student(batch.views)
        return sum((z[0] - other).square().mean() for other in z[1:])

    def on_epoch_start(self, epoch, generator):
        self.epochs.append((epoch, torch.rand(2, generator=generator).tolist()))


# ------------------------------------------------------------------ teacher, schedule, predictor (BYOL)


class Cosine:
    """Schedule from one value to another, as half a cosine of progress."""

    def __init__(self, start, end):
        self.start, self.end = start, end

    def __call__(self, progress):
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * progress)) / 2


class SmallBYOL(SSLLoss):
    def __init__(self, hidden=16, momentum=0.5):
        super().__init__()
        self.hidden = hidden
        self.teacher_momentum = Cosine(momentum, 1.0)
        self.moves = []

    def build(self, spec):
        self.predictor = mlp(spec.dim, self.hidden, spec.dim)

    def step(self, batch, student, teacher):
        p1, p2 = (self.predictor(z) for z in student(batch.views))
        t1, t2 = teacher(batch.views)
        assert not t1.requires_grad
        self.progress = batch.progress
        self.before = tensors(teacher.average)
        return 2 - F.cosine_similarity(p1, t2).mean() - F.cosine_similarity(p2, t1).mean()

    def after_step(self, student, teacher):
        self.moves.append((self.progress, self.before, tensors(teacher.average), tensors(student)))


def tensors(module):
    """Return copies of the parameters and running statistics."""
    return [tensor.clone() for tensor in module.state_dict().values() if tensor.is_floating_point()]


def test_the_teacher_moves_by_exactly_the_rest_of_its_momentum_towards_the_student():
    keep = trained(SmallBYOL)
    assert len(keep.loss.moves) == 6
    for progress, before, after, student in keep.loss.moves:
        # From 1/2 to 1: at progress 0 the teacher goes half of the way, at 1/2 a quarter.
        share = 0.25 * (1 + math.cos(math.pi * progress))
        for old, new, target in zip(before, after, student, strict=True):
            torch.testing.assert_close(new, torch.lerp(old, target, share), rtol=1e-6, atol=1e-7)
        assert not torch.equal(before[0], after[0])


def test_a_schedule_of_the_momentum_sees_the_progress_of_the_training():
    assert [round(move[0], 6) for move in trained(SmallBYOL).loss.moves] == [
        round(step / 6, 6) for step in range(6)
    ]


def test_a_number_is_a_constant_momentum():
    class Constant(SmallBYOL):
        def __init__(self):
            super().__init__()
            self.teacher_momentum = 0.75

    for _, before, after, student in trained(Constant).loss.moves:
        for old, new, target in zip(before, after, student, strict=True):
            torch.testing.assert_close(new, 0.75 * old + 0.25 * target, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum", [-0.1, 1.5, float("nan")])
def test_a_momentum_that_is_none_is_told_before_anything_is_trained(momentum):
    class Constant(Recorder):
        teacher_momentum = momentum

    keep = Keep()
    with pytest.raises(
        ValueError, match=rf"^Constant: the momentum .* is {momentum}\. It must be in \[0, 1\]"
    ):
        embedder(Constant, callbacks=[keep]).fit(images())
    assert not hasattr(keep, "net")


def test_a_schedule_that_leaves_the_range_is_told_in_the_step_where_it_does():
    with pytest.raises(ValueError, match=r"Leaves: the momentum of the teacher is 1\.5"):
        embedder(Leaves).fit(images())


class Leaves(SmallBYOL):
    def __init__(self):
        super().__init__()
        self.teacher_momentum = Cosine(0.5, 2.5)  # half-way it is at 1.5


def test_the_predictor_is_trained_and_the_teacher_is_not():
    keep = trained(SmallBYOL)
    assert all(keep.in_optimizer(p) for p in keep.loss.predictor.parameters())
    assert all(not torch.equal(p, keep.start[name]) for name, p in keep.loss.named_parameters())
    for parameter in keep.net.teacher.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad
        assert not keep.in_optimizer(parameter)


def test_student_teacher_and_loss_are_in_training_mode_in_each_step():
    modes = []

    class Modes(SmallBYOL):
        def step(self, batch, student, teacher):
            modes.append((self.training, student.training, teacher.training))
            return super().step(batch, student, teacher)

    class Evaluates(Callback):
        """Callback that evaluates the model between epochs."""

        def on_epoch_end(self, net, **kwargs):
            net.module_.eval()
            net.criterion_.eval()

    embedder(Modes, callbacks=[Evaluates()]).fit(images())
    assert modes == [(True, True, True)] * 6


def test_sizes_of_a_predictor_are_nested_parameters():
    assert trained(SmallBYOL, loss__hidden=5).loss.predictor[0].out_features == 5


# ------------------------------------------------------------------ teacher and queue (MoCo)


class SmallMoCo(SSLLoss):
    teacher_momentum = 0.9

    def __init__(self, queue_size=20):
        super().__init__()
        self.queue_size = queue_size
        self.keys = []

    def build(self, spec):
        self.register_buffer("queue", torch.randn(self.queue_size, spec.dim, generator=spec.generator))

    def step(self, batch, student, teacher):
        [query], [key] = student(batch.views[:1]), teacher(batch.views[1:])
        self.keys.append(key)
        logits = torch.cat([(query * key).sum(dim=1, keepdim=True), query @ self.queue.T], dim=1)
        return F.cross_entropy(logits, torch.zeros(len(key), dtype=torch.long))

    def after_step(self, student, teacher):
        self.queue = torch.cat([self.queue, self.keys[-1]])[-self.queue_size :]


@pytest.mark.parametrize("batch_size", [8, 5, 16])
@pytest.mark.parametrize("queue_size", [20, 3])
def test_a_queue_holds_the_teachers_latest_projections_whatever_the_batch_size(queue_size, batch_size):
    keep = trained(SmallMoCo, loss__queue_size=queue_size, batch_size=batch_size)
    keys = torch.cat(keep.loss.keys)
    assert len(keys) == 3 * batch_size * (16 // batch_size)
    assert torch.equal(keep.loss.queue, keys[-queue_size:])


def test_a_queue_that_is_drawn_in_build_repeats():
    a, b, other = (trained(SmallMoCo, random_state=seed).start["queue"] for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)


# ------------------------------------------------------------------ multi-crop and prototypes (SwAV)


class SmallSwAV(SSLLoss):
    view_spec = ViewSpec(2, local=4, local_size=0.5)

    def __init__(self, n_prototypes=6):
        super().__init__()
        self.n_prototypes = n_prototypes
        self.shapes = []

    def make_projector(self, in_dim, widths):
        return nn.Linear(in_dim, widths[-1])

    def build(self, spec):
        prototypes = torch.randn(self.n_prototypes, spec.dim, generator=spec.generator)
        self.prototypes = nn.Parameter(F.normalize(prototypes, dim=1))

    def step(self, batch, student, teacher):
        self.shapes.append([tuple(view.shape) for view in batch.views])
        scores = [F.normalize(z, dim=1) @ self.prototypes.T / 0.1 for z in student(batch.views)]
        target = torch.stack(scores[:2]).mean(dim=0).detach().softmax(dim=1)
        return torch.stack([F.cross_entropy(score, target) for score in scores]).mean()

    @torch.no_grad()
    def after_step(self, student, teacher):
        self.prototypes.copy_(F.normalize(self.prototypes, dim=1))


def test_local_crops_have_the_declared_size_and_come_after_the_others():
    full, local = (8, 3, 8, 8), (8, 3, 4, 4)
    keep = trained(SmallSwAV, images(channels=3))
    assert keep.loss.shapes == [[full, full, local, local, local, local]] * 6


def test_views_of_one_size_go_through_the_backbone_in_one_call():
    calls = []

    def counting_backbone(in_channels):
        backbone = tiny_backbone(in_channels)
        backbone.register_forward_pre_hook(
            lambda module, given: calls.append(tuple(given[0].shape)) if module.training else None
        )
        return backbone

    trained(SmallSwAV, backbone=counting_backbone, max_epochs=1)
    assert calls == [(2 * 8, 1, 8, 8), (4 * 8, 1, 4, 4)] * 2  # one call for each size, two steps


def test_prototypes_are_trained_and_stay_as_after_step_leaves_them():
    keep = trained(SmallSwAV, lr=0.01)
    assert keep.in_optimizer(keep.loss.prototypes)
    assert not torch.allclose(keep.loss.prototypes, keep.start["prototypes"], atol=1e-4)
    torch.testing.assert_close(keep.loss.prototypes.detach().norm(dim=1), torch.ones(6))


def test_a_method_makes_its_own_projector_and_is_told_its_width():
    keep = trained(SmallSwAV, projector=(7, 5))
    assert type(keep.net.module_.projector) is nn.Linear
    assert keep.loss.prototypes.shape == (6, 5)


def test_the_users_own_projector_goes_before_the_methods():
    mine = nn.Sequential(nn.Linear(8, 3))
    keep = trained(SmallSwAV, projector=mine)
    assert type(keep.net.module_.projector) is nn.Sequential
    assert keep.loss.prototypes.shape == (6, 3)
    assert not torch.equal(keep.net.module_.projector[0].weight, mine[0].weight)  # a copy was trained


def test_areas_of_views_are_as_the_method_declares_them():
    # Ramps from left to right, of various contrasts: the spread of a view tells how much of it is in there.
    # A local crop of 4 % of the area is at most 0.2 * sqrt(4/3) = 0.23 of the image wide.
    X = np.outer(np.arange(4, 20), np.tile(np.arange(8), 8)).reshape(16, 8, 8).astype(np.uint8)

    class Crops(Recorder):
        view_spec = ViewSpec(1, local=1, scale=(1.0, 1.0), local_scale=(0.04, 0.04))

    whole = standardized(X).std(dim=(2, 3))
    for batch in trained(Crops, X, augment="none").loss.batches:
        full, local = (view.std(dim=(2, 3)) / whole[batch.index] for view in batch.views)
        torch.testing.assert_close(full, torch.ones(8, 1))
        assert local.max() < 0.3


class Places(Recorder):
    """Method that asks where its views lie."""

    view_spec = ViewSpec(2, local=1, places=True)


def test_a_method_may_ask_where_its_views_lie():
    for batch in trained(Places, augment="none").loss.batches:
        full, other, local = batch.places
        whole = torch.eye(2, 3).expand(8, 2, 3)
        assert torch.equal(full, whole)
        assert torch.equal(other, whole)
        area = local[:, 0, 0] * local[:, 1, 1]  # sides of a crop of 0.05 to 0.4 of the area
        assert ((area > 0.049) & (area < 0.401)).all()
        assert (local[:, :, 2].abs() + local[:, [0, 1], [0, 1]] < 1.001).all()
    assert all(batch.places is None for batch in trained(Recorder).loss.batches)


def test_a_function_as_augment_cannot_tell_where_views_lie():
    with pytest.raises(ValueError, match="'Places' has to know where its views lie in an image"):
        embedder(Places, augment=lambda images, generator: images).fit(images())


# ------------------------------------------------------------------ labels (SupCon)


class SmallSupCon(SSLLoss):
    uses_labels = True

    def __init__(self):
        super().__init__()
        self.seen = []

    def step(self, batch, student, teacher):
        self.seen += zip(batch.index.tolist(), batch.y.tolist(), strict=True)
        return super().step(batch, student, teacher)

    def forward(self, *z, y):
        same = (y.repeat(2)[:, None] == y.repeat(2)) * (1 - torch.eye(2 * len(y)))
        z = F.normalize(torch.cat(z), dim=1)
        return -((z @ z.T / 0.2).log_softmax(dim=1) * same).sum() / same.sum().clamp(min=1)


@pytest.mark.parametrize(
    "y",
    [
        ["dog", "cat", "emu", "cat"] * 4,
        np.array(["dog", "cat", "emu", "cat"] * 4, dtype=object),
        np.array([10, 7, 12, 7] * 4),
        np.array([1.5, 0.5, 2.5, 0.5] * 4),
    ],
)
def test_labels_arrive_as_class_numbers(y):
    seen = trained(SmallSupCon, y=y).loss.seen
    assert dict(seen) == {i: [1, 0, 2, 0][i % 4] for i in range(16)}


def test_unlabeled_stays_minus_one_beside_classes_of_any_kind():
    numbers, words = np.array([3, -1, 9, -1] * 4), np.array(["a", -1, "b", -1] * 4, dtype=object)
    for y in (numbers, words):
        assert dict(trained(SmallSupCon, y=y).loss.seen) == {i: [0, -1, 1, -1][i % 4] for i in range(16)}


def test_further_images_are_unlabeled():
    keep = Keep()
    y = np.arange(8) % 2
    embedder(SmallSupCon, callbacks=[keep]).fit(images(8), y, X_unlabeled=images(8))
    assert dict(keep.loss.seen) == {i: i % 2 if i < 8 else -1 for i in range(16)}


class Values(Recorder):
    """Method that is given numbers as labels."""

    uses_labels = "values"


def seen_values(y, **params):
    keep = trained(Values, y=y, **params)
    values = {}
    for batch in keep.loss.batches:
        assert batch.y.dtype == torch.float32
        values.update(zip(batch.index.tolist(), batch.y.tolist(), strict=True))
    return [values[i] for i in range(16)]


def test_values_arrive_as_they_are():
    ages = np.linspace(20, 80, 16)
    assert seen_values(ages) == [[pytest.approx(age)] for age in ages]
    assert seen_values(pd.Series(ages)) == seen_values(ages)
    pairs = np.random.default_rng(0).normal(size=(16, 2))
    assert seen_values(pairs) == [pytest.approx(list(pair)) for pair in pairs]
    assert seen_values(pd.DataFrame(pairs)) == seen_values(pairs)
    assert seen_values([list(pair) for pair in pairs]) == seen_values(pairs)


def test_values_may_be_unknown():
    y = [None if i % 4 == 3 else -1.0 * i for i in range(16)]
    assert [math.isnan(value) for [value] in seen_values(y)] == [i % 4 == 3 for i in range(16)]
    known = pd.Series([1.5, pd.NA] * 8, dtype="Float64")
    assert [math.isnan(value) for [value] in seen_values(known)] == [False, True] * 8
    # One of several unknown values makes the image unlabeled.
    pairs = np.ones((16, 2))
    pairs[3, 1] = np.nan
    assert all(map(math.isnan, seen_values(pairs)[3]))
    keep = Keep()
    embedder(Values, callbacks=[keep]).fit(images(8), np.arange(8), X_unlabeled=images(8))
    for batch in keep.loss.batches:
        assert torch.equal(batch.y.isnan().squeeze(1), batch.index >= 8)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (None, r"'Values' learns from labels, but y is None: fit\(X, y\), with NaN where unlabeled"),
        (["old"] * 16, "learns from values, but y holds other things than numbers: .*'old'"),
        ([np.inf] * 16, "learns from values, and y holds infinite ones"),
        (np.zeros((16, 2, 2)), "y holds images, rather than a label"),
    ],
)
def test_labels_that_are_no_values_are_refused(y, words):
    with pytest.raises(ValueError, match=words):
        embedder(Values).fit(images(), y)


def test_an_unknown_kind_of_labels_is_named():
    class Ages(Values):
        uses_labels = "ages"

    with pytest.raises(ValueError, match=r"'Ages' declares uses_labels='ages': give True for classes"):
        embedder(Ages).fit(images(), np.arange(16))


def test_a_warning_tells_that_no_value_is_known():
    with pytest.warns(UserWarning, match="every y is NaN, unlabeled"):
        embedder(Values).fit(images(), [None] * 16)


def test_values_of_held_back_images_are_theirs():
    model = embedder(Values, validation_fraction=0.25).fit(images(), np.arange(16.0).reshape(16, 1))
    assert all(math.isfinite(row["valid_loss"]) and "rankme" in row for row in model.history_)


def test_a_method_that_needs_labels_asks_for_them():
    with pytest.raises(ValueError, match=r"'SmallSupCon' learns from labels, but y is None: fit\(X, y\)"):
        embedder(SmallSupCon).fit(images())


def test_other_methods_are_given_no_labels():
    assert {batch.y for batch in trained(Recorder, y=np.arange(16)).loss.batches} == {None}


# ------------------------------------------------------------------ recipes


def test_a_recipe_says_how_each_view_is_drawn():
    class Three(Recorder):
        view_spec = ViewSpec(3, recipes=("none", "weak", "strong"))

    params = {"augment": "none", "augment__flip": 1.0, "augment__noise": 0.5}
    for batch in trained(Three, **params).loss.batches:
        plain, weak, strong = batch.views
        torch.testing.assert_close(plain, standardized(images())[batch.index])
        torch.testing.assert_close(weak, plain.flip(-1), rtol=0, atol=1e-4)  # every image is flipped
        assert (strong - weak).abs().mean() > 0.3  # and noise is added where all is used


def test_a_shorter_list_of_recipes_is_cycled():
    class Three(Recorder):
        view_spec = ViewSpec(3, recipes=("weak", "strong"))

    for batch in trained(Three, augment="none", augment__noise=0.5).loss.batches:
        first, noisy, third = batch.views
        assert torch.equal(first, third)
        assert not torch.equal(first, noisy)


def standardized(X):
    """Return the unaugmented views of uint8 images (n, 8, 8)."""
    unit = torch.from_numpy(X).float()[:, None] / 255
    return (unit - unit.mean()) / unit.std(correction=0)


# ------------------------------------------------------------------ what a batch says


class Plain(Recorder):
    view_spec = ViewSpec(2, recipes=("none",))


def test_index_says_which_images_the_views_are_of():
    for batch in trained(Plain, images(18)).loss.batches:
        torch.testing.assert_close(batch.views[0], standardized(images(18))[batch.index])


def test_each_image_comes_at_most_once_in_an_epoch_in_another_order_each_time():
    batches = trained(Plain, images(18)).loss.batches
    epochs = [torch.cat([b.index for b in batches if b.epoch == epoch]).tolist() for epoch in range(3)]
    assert [len(set(epoch)) for epoch in epochs] == [16, 16, 16]  # 18 images: two batches of 8 are complete
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert set().union(*epochs) <= set(range(18))


def test_progress_rises_evenly_from_zero_towards_one():
    batches = trained(Plain).loss.batches
    assert [batch.progress for batch in batches] == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    assert [batch.epoch for batch in batches] == [0, 0, 1, 1, 2, 2]


def test_the_generator_depends_on_seed_and_step_alone():
    a, b, other = (trained(Plain, random_state=seed) for seed in (0, 0, 1))
    assert a.loss.first_numbers == b.loss.first_numbers
    assert len({tuple(numbers) for numbers in a.loss.first_numbers + other.loss.first_numbers}) == 12
    for step, numbers in enumerate(a.loss.first_numbers):
        again = torch.Generator().manual_seed(derive_seed(a.net.seed, LOSS_STEP, step))
        assert numbers == torch.rand(2, generator=again).tolist()


def test_the_generator_is_not_moved_by_how_many_numbers_were_drawn_before():
    class Greedy(Plain):
        def step(self, batch, student, teacher):
            out = super().step(batch, student, teacher)
            torch.rand(100, generator=batch.generator)
            return out

    assert trained(Greedy).loss.first_numbers == trained(Plain).loss.first_numbers


def test_each_epoch_is_announced_once_with_a_generator_of_its_own():
    a, b = trained(Plain), trained(Plain)
    assert [epoch for epoch, _ in a.loss.epochs] == [0, 1, 2]
    assert a.loss.epochs == b.loss.epochs
    assert len({tuple(numbers) for _, numbers in a.loss.epochs}) == 3


class Bank(SSLLoss):
    """Loss with the projections of all samples, grouped once per epoch (as in DeepCluster)."""

    def build(self, spec):
        self.register_buffer("bank", torch.zeros(spec.n_samples, spec.dim))
        self.register_buffer("center", torch.zeros(spec.dim))

    def on_epoch_start(self, epoch, generator):
        self.center = self.bank[torch.randint(len(self.bank), (4,), generator=generator)].mean(dim=0)

    def step(self, batch, student, teacher):
        z = student(batch.views)[0]
        self.last = batch.index, z.detach()
        return (z - self.center).square().mean()

    def after_step(self, student, teacher):
        self.bank[self.last[0]] = self.last[1]


def test_a_bank_by_sample_number_is_filled_in_one_epoch():
    keep = trained(Bank, max_epochs=1)
    assert keep.loss.bank.shape == (16, 4)
    assert keep.loss.bank.abs().sum(dim=1).min() > 0
    index, z = keep.loss.last
    assert torch.equal(keep.loss.bank[index], z)
    assert trained(Bank, max_epochs=2).loss.center.abs().sum() > 0


def test_build_is_told_all_sizes():
    class Sizes(Recorder):
        def build(self, spec):
            self.spec = spec

    keep = Keep()
    embedder(Sizes, callbacks=[keep]).fit(images(18, channels=3))
    spec = keep.loss.spec
    assert (spec.feature_dim, spec.dim, spec.n_samples, spec.batch_size) == (8, 4, 18, 8)
    assert (spec.in_channels, spec.image_size) == (3, (8, 8))
    assert spec.backbone is keep.net.module_.backbone


# ------------------------------------------------------------------ defaults


class Demanding(Recorder):
    defaults = {  # noqa: RUF012
        "backbone": tiny_backbone,
        "projector": (6, 5),
        "augment": "overhead",
        "optimizer": "sgd",
        "lr": 0.5,
        "weight_decay": 0.25,
        "warmup": 0.5,
        "max_epochs": 2,
        "batch_size": 4,
        "image_size": (9, 12),
        "precision": "float32",
    }


RESOLVED = (
    "backbone_",
    "projector_",
    "augment_",
    "optimizer_",
    "lr_",
    "weight_decay_",
    "warmup_",
    "max_epochs_",
    "batch_size_",
    "image_size_",
    "precision_",
)


def test_defaults_hold_where_the_user_left_auto():
    fitted = SSLImageEmbedder(Demanding, random_state=0).fit(images())
    # The rate is for 256 images in a step: 0.5 * 4 / 256.
    expected = [tiny_backbone, (6, 5), "overhead", "sgd", 0.5 / 64, 0.25, 0.5, 2, 4, (9, 12), "float32"]
    assert [getattr(fitted, name) for name in RESOLVED] == expected
    assert fitted.n_iter_ == 2


def test_a_projector_may_follow_the_width_of_the_features():
    def half_as_wide(feature_dim):
        return feature_dim // 2, 3

    class Follows(Recorder):
        defaults = {"projector": half_as_wide}  # noqa: RUF012

    fitted = embedder(Follows, projector="auto", max_epochs=1).fit(images())
    assert fitted.projector_ == (4, 3)  # the tiny backbone's features have 8 dimensions
    assert embedder("vicreg", projector="auto", max_epochs=1).fit(images()).projector_ == (8, 8, 8)
    assert embedder("ntxent", projector="auto", max_epochs=1).fit(images()).projector_ == (8, 128)


def test_an_image_size_may_follow_that_of_the_images():
    def two_more_rows(size):
        return size[0] + 2, size[1]

    class Follows(Recorder):
        defaults = {"image_size": two_more_rows}  # noqa: RUF012

    assert embedder(Follows, max_epochs=0).fit(images()).image_size_ == (10, 8)


def test_a_default_that_means_nothing_is_named():
    class Misspelt(Recorder):
        defaults = {"max_epoch": 3}  # noqa: RUF012

    with pytest.raises(ValueError, match=r"loss Misspelt .* 'max_epoch'\. Did you mean 'max_epochs'\?"):
        embedder(Misspelt).fit(images())


def test_what_the_user_says_goes_before_the_defaults():
    def other_backbone(in_channels):
        return tiny_backbone(in_channels)

    mine = [other_backbone, (3,), "none", "adamw", 0.1, 0.0, 0.0, 1, 8, (8, 10), "float32"]
    params = {name.removesuffix("_"): value for name, value in zip(RESOLVED, mine, strict=True)}
    fitted = SSLImageEmbedder(Demanding, random_state=0, **params).fit(images())
    assert [getattr(fitted, name) for name in RESOLVED] == mine


def test_another_optimizer_comes_with_its_own_settings_not_with_the_methods():
    fitted = embedder(Demanding, optimizer="adamw", max_epochs=1).fit(images())
    usual = base_settings("adamw")
    assert (fitted.lr_, fitted.weight_decay_) == (usual["lr"] * 8 / 256, usual["weight_decay"])


def test_the_methods_own_optimizer_said_aloud_keeps_the_methods_settings():
    # Equal to the default but another object, as after a pickle in a worker process.
    fitted = embedder(Demanding, optimizer="".join(["s", "gd"]), max_epochs=1).fit(images())
    assert (fitted.lr_, fitted.weight_decay_) == (0.5 * 8 / 256, 0.25)


def test_a_method_may_want_a_class_from_torch_at_a_rate_of_its_own():
    class WantsRMSprop(Recorder):
        defaults = {"optimizer": torch.optim.RMSprop, "lr": 0.5}  # noqa: RUF012

    keep = Keep()
    fitted = embedder(WantsRMSprop, callbacks=[keep]).fit(images())
    assert type(keep.net.optimizer_) is torch.optim.RMSprop
    assert fitted.lr_ == 0.5 * 8 / 256


# ------------------------------------------------------------------ every kind of loss


class Power(SSLLoss):
    def __init__(self, power=2.0):
        super().__init__()
        self.power = power
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z1, z2):
        return self.scale.square() * (z1 - z2).abs().pow(self.power).mean()


class PlainModule(nn.Module):
    """Loss of another library, independent of this package."""

    def __init__(self, margin=1.0):
        super().__init__()
        self.margin = margin
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, z1, z2):
        return self.weight.square() * F.relu((z1 - z2).norm(dim=1) - self.margin).mean()


def nce(z1, z2, *, temperature=0.5):
    logits = F.normalize(z1, dim=1) @ F.normalize(z2, dim=1).T / temperature
    return F.cross_entropy(logits, torch.arange(len(z1)))


@pytest.mark.parametrize(
    ("loss", "name", "default", "other"),
    [
        (Power, "loss__power", 2.0, 1.0),
        (PlainModule, "loss__margin", 1.0, 0.1),
        (nce, "loss__temperature", 0.5, 0.1),
        (functools.partial(nce, temperature=0.7), "loss__temperature", 0.7, 0.1),
        (functools.partial(Power, power=3.0), "loss__power", 3.0, 1.0),
    ],
)
def test_the_keywords_of_a_class_or_function_are_nested_parameters(loss, name, default, other):
    assert embedder(loss).get_params()[name] == default
    first = embedder(loss).fit(images()).history_
    said = embedder(loss, **{name: default}).fit(images()).history_
    changed = embedder(loss, **{name: other}).fit(images()).history_
    assert first[0]["train_loss"] == said[0]["train_loss"]
    assert first[0]["train_loss"] != changed[0]["train_loss"]


@pytest.mark.parametrize("loss", [Power(power=1.0), PlainModule(margin=0.1)])
def test_an_instance_is_copied_and_the_users_own_is_never_trained(loss):
    keep = trained(loss, lr=0.01)
    [start] = [tensor for name, tensor in keep.start.items() if name.endswith(("scale", "weight"))]
    [end] = keep.loss.parameters()
    [mine] = loss.parameters()
    assert end.item() != start.item() == mine.item() == 1
    assert mine.grad is None


@pytest.mark.parametrize(("loss", "name"), [(Power(), "power"), (PlainModule(), "margin")])
def test_parameters_of_an_instance_are_set_already(loss, name):
    kind = type(loss).__name__
    with pytest.raises(ValueError, match=f"loss is an instance of {kind}, .* pass the class, loss={kind}"):
        embedder(loss).set_params(**{f"loss__{name}": 1.0})
    with pytest.raises(ValueError, match=f"Cannot set 'loss__{name}': .* pass the class, loss={kind}"):
        embedder(loss, loss_params={name: 1.0}).fit(images())


def test_parameters_of_a_plain_module_are_trained():
    keep = trained(PlainModule, loss__margin=0.0, lr=0.01)
    [weight] = keep.loss.parameters()
    assert keep.in_optimizer(weight)
    assert weight.item() != 1


def test_an_unknown_parameter_is_told_the_nearest():
    with pytest.raises(ValueError, match=r"loss=nce.*Did you mean 'loss__temperature'\?"):
        embedder(nce, loss__temprature=0.1).fit(images())


def test_what_is_no_loss_is_told_what_is():
    with pytest.raises(TypeError, match=r"loss=3 is not a loss\. Give a name .* or a function f\(z1, z2\)"):
        embedder(3).fit(images())


# ------------------------------------------------------------------ losses that go wrong


def returns(value):
    class Returns(SSLLoss):
        def forward(self, z1, z2):
            return value((z1 - z2).square())

    return Returns


@pytest.mark.parametrize(
    ("value", "given"),
    [
        (lambda d: d, r"a tensor of shape \(8, 4\)"),
        (lambda d: {"invariance": d.mean()}, "None"),
        (lambda d: d.mean().item(), r"0\.\d+"),
        (lambda d: None, "None"),
    ],
)
def test_a_loss_that_is_not_one_number_is_told_what_a_loss_returns(value, given):
    with pytest.raises(
        ValueError, match=rf"^The loss 'Returns' returned {given}\. A loss returns one number"
    ):
        embedder(returns(value)).fit(images())


def test_a_detached_loss_is_named():
    with pytest.raises(ValueError, match="'Returns' returned a value without gradient: was it detached"):
        embedder(returns(lambda d: d.mean().detach())).fit(images())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_longer_a_number_says_where_and_what_to_try(value):
    class Breaks(SSLLoss):
        steps = 0

        def forward(self, z1, z2):
            self.steps += 1
            return (z1 - z2).square().mean() * (value if self.steps == 4 else 1)

    # The fourth step of six is number 3; without a warm-up its rate is 0.8 * (1 + cos(pi * 3.5 / 6)) / 2.
    estimator = embedder(Breaks, lr=0.8, warmup=0.0)
    with pytest.raises(FloatingPointError) as caught:
        estimator.fit(images())
    assert str(caught.value) == (
        f"The loss 'Breaks' became {value} in step 3, at lr 0.296. "
        "Try a lower lr, optimizer__clip_norm=1.0, a longer warmup, or precision='float32'."
    )
    assert not hasattr(estimator, "encoder_")


def test_a_loss_that_raises_is_named_with_the_shapes_and_its_own_error_as_cause():
    class Raises(SSLLoss):
        view_spec = ViewSpec(1, local=1)

        def forward(self, *z):
            raise IndexError("no such neighbor")

    estimator = embedder(Raises)
    with pytest.raises(RuntimeError) as caught:
        estimator.fit(images())
    assert str(caught.value) == (
        "The loss 'Raises' failed in step 0, on views of shapes [(8, 1, 8, 8), (8, 1, 4, 4)]: "
        "no such neighbor"
    )
    assert isinstance(caught.value.__cause__, IndexError)
    assert not hasattr(estimator, "encoder_")


def test_a_method_without_forward_and_step_is_told_to_write_one():
    class Empty(SSLLoss):
        pass

    with pytest.raises(RuntimeError, match="Empty must write `forward` or `step`"):
        embedder(Empty).fit(images())


# ------------------------------------------------------------------ heads of the teacher, and which is kept


class WithHead(SSLLoss):
    """Method whose teacher has a head, too, and is the one to keep."""

    teacher_momentum = 0.75
    teacher_heads = ("head",)
    encoder = "teacher"

    def build(self, spec):
        self.head = nn.Linear(spec.dim, 5)

    def step(self, batch, student, teacher):
        z = self.head(student(batch.views)[0])
        t = teacher.heads["head"](teacher(batch.views)[1])
        assert (z.requires_grad, t.requires_grad) == (True, False)
        return 1 - F.cosine_similarity(z, t).mean()


def test_the_teacher_has_moving_averages_of_the_heads():
    keep = trained(WithHead, max_epochs=1, batch_size=16)  # a single step
    own, averages = keep.loss.head.state_dict(), keep.net.teacher.heads["head"].state_dict()
    assert not torch.equal(own["weight"], keep.start["head.weight"])
    for name, average in averages.items():
        torch.testing.assert_close(average, torch.lerp(keep.start[f"head.{name}"], own[name], 0.25))


def test_the_heads_of_a_teacher_are_not_trained():
    keep = trained(WithHead)
    assert keep.in_optimizer(keep.loss.head.weight)
    assert not keep.in_optimizer(keep.net.teacher.heads["head"].weight)


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_the_encoder_is_the_network_that_the_method_declares(which):
    class Keeps(WithHead):
        encoder = which

    keep = Keep()
    fitted = embedder(Keeps, callbacks=[keep]).fit(images())
    networks = {"student": keep.net.module_, "teacher": keep.net.teacher.average}
    weights = {name: network.backbone[0].weight for name, network in networks.items()}
    assert not torch.equal(weights["student"], weights["teacher"])
    assert torch.equal(fitted.encoder_.state_dict()["backbone.0.weight"], weights[which])


@pytest.mark.parametrize("which", ["teacher", "both"])
def test_an_encoder_that_is_none_is_told(which):
    class Wrong(Recorder):
        encoder = which

    with pytest.raises(ValueError, match=rf"Wrong.*encoder='{which}': 'student' is possible"):
        embedder(Wrong).fit(images())


# ------------------------------------------------------------------ rates and weight decay of its own


def half(progress):
    return 0.5


def rising(progress):
    return progress


class OwnRates(Recorder):
    """Method with a rate for its predictor and one for its scale, and a weight decay that rises."""

    weight_decay_at = staticmethod(rising)

    def __init__(self):
        super().__init__()
        self.rates = {"predictor": half, "scale": rising}

    def build(self, spec):
        self.predictor = nn.Linear(spec.dim, spec.dim)
        self.scale = nn.Parameter(torch.ones(()))

    def step(self, batch, student, teacher):
        a, b = student(batch.views)
        return self.scale * (self.predictor(a) - b).square().mean()


class Rates(Keep):
    """Callback that records each group's rate and weight decay in every step."""

    def on_train_begin(self, net, **kwargs):
        super().on_train_begin(net, **kwargs)
        self.seen = []

    def on_batch_end(self, net, **kwargs):
        self.seen.append([(group["lr"], group["weight_decay"]) for group in net.optimizer_.param_groups])


def test_parts_have_the_rates_that_the_method_gives_them():
    keep = Rates()
    embedder(OwnRates, callbacks=[keep], lr=0.1, weight_decay=0.2, warmup=0.0).fit(images())
    names = [group.get("rate_of") for group in keep.net.optimizer_.param_groups]
    assert names == [None, None, "predictor", "predictor", "scale"]
    for step, seen in enumerate(keep.seen):
        progress = (step + 0.5) / 6
        cosine = 0.1 * (1 + math.cos(math.pi * progress)) / 2
        assert [rate for rate, _ in seen] == pytest.approx([cosine, cosine, 0.05, 0.05, 0.1 * progress])
        assert [decay for _, decay in seen] == pytest.approx([0.2 * progress, 0, 0.2 * progress, 0, 0])


def test_the_network_may_have_a_rate_of_its_own():
    class Frozen(Recorder):
        rates = {"student": lambda progress: 0.0}  # noqa: RUF012

    keep = Rates()
    fitted = embedder(Frozen, callbacks=[keep]).fit(images())
    names = [group.get("rate_of") for group in keep.net.optimizer_.param_groups]
    assert {rate for seen in keep.seen for name, (rate, _) in zip(names, seen, strict=True) if name} == {0.0}
    assert fitted.lr_ > 0


def test_a_rate_of_nothing_is_told():
    class Misspelt(Recorder):
        rates = {"predicter": half}  # noqa: RUF012

    with pytest.raises(ValueError, match="declares a rate for 'predicter', which is neither"):
        embedder(Misspelt).fit(images())


# ------------------------------------------------------------------ passes over all images, steps


class LooksFirst(Recorder):
    """Method that begins with projections of all images."""

    def before_epoch(self, epoch, project):
        if epoch == 0:
            self.projections = project()


def test_a_method_may_see_projections_of_all_images_before_the_first_step():
    keep = trained(LooksFirst, images(9), batch_size=4)  # a last batch of one would be refused
    assert keep.loss.projections.shape == (9, 4)
    assert not keep.loss.projections.requires_grad
    other = trained(LooksFirst, images(9), batch_size=4)
    assert torch.equal(keep.loss.projections, other.loss.projections)


def test_the_pass_before_the_first_step_does_not_change_what_follows_but_by_batchnorm():
    keep, plain = trained(LooksFirst), trained(Recorder)
    assert keep.loss.first_numbers == plain.loss.first_numbers
    for a, b in zip(keep.loss.batches, plain.loss.batches, strict=True):
        assert torch.equal(a.index, b.index)
        assert torch.equal(a.views[0], b.views[0])


class LooksAgain(Recorder):
    """Method that looks at projections of all images before every epoch."""

    def __init__(self):
        super().__init__()
        self.projections = []

    def before_epoch(self, epoch, project):
        self.projections.append((epoch, project()))

    def on_epoch_start(self, epoch, generator):
        assert self.projections[-1][0] == epoch  # after `before_epoch`


def test_a_method_may_look_at_all_images_before_every_epoch():
    seen = trained(LooksAgain, max_epochs=3).loss.projections
    assert [epoch for epoch, _ in seen] == [0, 1, 2]
    assert all(z.shape == (16, 4) and not z.requires_grad for _, z in seen)
    assert not torch.equal(seen[0][1], seen[1][1])


def test_a_training_that_goes_on_does_not_look_again():
    first = embedder(LooksFirst, max_epochs=1, warm_start=True).fit(images())
    keep = Keep()
    first.set_params(max_epochs=2, callbacks=[keep]).fit(images())
    assert not hasattr(keep.loss, "projections")


def test_steps_are_counted_over_the_whole_training():
    assert [batch.step for batch in trained(Recorder).loss.batches] == list(range(6))


@pytest.mark.parametrize(("limits", "n_steps"), [({"max_epochs": 3}, 6), ({"max_time": 0.1}, None)])
def test_build_is_told_how_many_steps_there_will_be(limits, n_steps):
    class Asks(Recorder):
        def build(self, spec):
            self.n_steps = spec.n_steps

    assert trained(Asks, **{"max_epochs": "auto", **limits}).loss.n_steps == n_steps
