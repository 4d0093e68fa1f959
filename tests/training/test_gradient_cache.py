"""A batch in several parts: the gradient of the whole batch, with the activations of one part at a time."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_ssl import SSLLoss
from sklearn_ssl._networks.student import Student
from sklearn_ssl._training.gradient_cache import GradientCache, InParts
from sklearn_ssl.losses._ntxent import NTXent

LOSSES = ["ntxent", "dcl", "vicreg"]


class Net(nn.Module):
    """Network with features of images (n, 3, 6, 6), with BatchNorm and optional dropout."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(dropout)

    def forward(self, x):
        return self.drop(self.norm(self.conv(x)).relu().mean((2, 3)))


def student_and_views(n=10, dropout=0.0):
    torch.manual_seed(0)
    student = Student(Net(dropout), nn.Linear(6, 4)).double()
    return student, [torch.rand(n, 3, 6, 6, dtype=torch.float64) for _ in range(2)]


def gradients(network):
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def by_parts(student, views, loss, parts):
    cache = GradientCache(student, parts)
    value = loss(*cache(views))
    value.backward()
    cache.backward()
    return value.detach(), gradients(student)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_the_gradient_is_that_of_one_large_batch_with_batchnorm_over_each_part(parts):
    student, views = student_and_views()
    plain = copy.deepcopy(student)
    # written out: each part through the network, all projections to the loss, one backward
    z = [plain(part) for part in zip(*(view.tensor_split(parts) for view in views), strict=True)]
    expected = NTXent(0.2)(*(torch.cat(of_view) for of_view in zip(*z, strict=True)))
    expected.backward()
    value, found = by_parts(student, views, NTXent(0.2), parts)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(found, gradients(plain), rtol=1e-10, atol=1e-12)


def test_the_loss_compares_images_of_all_parts():
    student, views = student_and_views()
    student.eval()  # BatchNorm is then the same for all, and the parts make no difference at all
    whole = NTXent(0.2)(*student(views))
    value, _ = by_parts(student, views, NTXent(0.2), 5)
    torch.testing.assert_close(value, whole.detach())
    of_parts = [NTXent(0.2)(*student(part)) for part in zip(*(v.split(2) for v in views), strict=True)]
    assert abs(value - torch.stack(of_parts).mean()) > 0.5  # 2 negatives instead of 18


def test_running_statistics_move_once_for_each_part():
    student, views = student_and_views()
    plain = copy.deepcopy(student)
    by_parts(student, views, NTXent(), 2)
    for part in zip(*(view.tensor_split(2) for view in views), strict=True):
        plain(part)
    torch.testing.assert_close(dict(student.named_buffers()), dict(plain.named_buffers()))


def test_dropout_falls_the_same_way_twice():
    student, views = student_and_views(dropout=0.5)
    plain = copy.deepcopy(student)
    torch.manual_seed(1)
    z = [plain(part) for part in zip(*(view.tensor_split(2) for view in views), strict=True)]
    NTXent()(*(torch.cat(of_view) for of_view in zip(*z, strict=True))).backward()
    torch.manual_seed(1)
    _, found = by_parts(student, views, NTXent(), 2)
    torch.testing.assert_close(found, gradients(plain), rtol=1e-10, atol=1e-12)


def test_a_loss_may_ask_several_times_and_drop_a_view():
    student, views = student_and_views()
    plain = copy.deepcopy(student).eval()
    student.eval()
    cache = GradientCache(student, 2)
    (a,), (b,), _ = cache(views[:1]), cache(views[1:]), cache(views)
    NTXent()(a, b).backward()
    cache.backward()
    NTXent()(*plain(views)).backward()
    torch.testing.assert_close(gradients(student), gradients(plain), rtol=1e-10, atol=1e-12)


def test_the_teacher_takes_parts_without_gradient():
    student, views = student_and_views(n=5)
    z = InParts(student.eval(), 2)(views)
    torch.testing.assert_close(z, [each.detach() for each in student(views)])
    assert not any(each.requires_grad for each in z)


# ------------------------------------------------------------------ the estimator


@pytest.mark.parametrize("loss", LOSSES)
def test_accumulate_trains_like_a_plain_loop_over_parts(loss, embedder, images):
    class LayerNormed(nn.Module):  # without BatchNorm, parts must change nothing at all
        def __init__(self, in_channels):
            super().__init__()
            self.conv = nn.Conv2d(in_channels, 8, 3)
            self.norm = nn.GroupNorm(1, 8)

        def forward(self, x):
            return self.norm(self.conv(x)).relu().mean((2, 3))

    settings = {"backbone": LayerNormed, "projector": (4,), "precision": "float32", "max_epochs": 3}
    whole, parts = (embedder(loss, micro_batches=k, **settings).fit(images) for k in (1, 3))
    np.testing.assert_allclose(whole.transform(images), parts.transform(images), rtol=1e-4, atol=1e-5)
    for a, b in zip(whole.history_, parts.history_, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)


def test_a_fit_in_parts_is_repeatable(embedder, images):
    first, second = (embedder(micro_batches=2).fit_transform(images) for _ in range(2))
    np.testing.assert_array_equal(first, second)


class UsesFeatures(SSLLoss):
    def step(self, batch, student, teacher):
        return student.features(batch.views[0]).square().mean()


class UsesTeacher(SSLLoss):
    teacher_momentum = 0.9

    def step(self, batch, student, teacher):
        pairs = zip(student(batch.views), teacher(batch.views), strict=True)
        return sum((a - b).square().mean() for a, b in pairs)


def test_losses_with_a_teacher_take_parts(embedder, images):
    assert np.isfinite(embedder(UsesTeacher, micro_batches=2).fit_transform(images)).all()


def test_a_loss_that_looks_into_the_network_says_so(embedder, images):
    with pytest.raises(RuntimeError) as error:
        embedder(UsesFeatures, micro_batches=2).fit(images)
    assert str(error.value).endswith(
        "with micro_batches=2 a loss can only call student(views) and teacher(views), but this one uses "
        "`.features`. Set micro_batches=1, and a smaller batch_size if memory is short"
    )


@pytest.mark.parametrize("wrong", [0, 1.5, "2", None])
def test_accumulate_is_a_whole_number(wrong, embedder, images):
    with pytest.raises(ValueError, match=r"micro_batches=.*give an integer of at least 1"):
        embedder(micro_batches=wrong).fit(images)


def test_a_part_has_two_images_at_least(embedder, images):
    with pytest.raises(ValueError) as error:
        embedder(micro_batches=5).fit(images)
    assert str(error.value) == (
        "micro_batches=5 leaves less than 2 of a batch's 8 images to a part: give at most 4, or a larger "
        "batch_size."
    )
