import copy
import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn_ssl_self_distillation import DINO
from torch import nn

from sklearn_ssl import Batch, Spec
from sklearn_ssl.testing import parametrize_with_loss_checks

multi_crop = functools.partial(DINO, local_crops=2, local_size=1.0, freeze_last_layer=0)


@parametrize_with_loss_checks(["dino", multi_crop])
def test_dino_keeps_the_contract(check):
    check()


def built(loss, dim=4, size=(8, 8), backbone=None):
    """Build a loss for 64 images, in double precision."""
    backbone, generator = nn.Flatten() if backbone is None else backbone, torch.Generator().manual_seed(0)
    loss.build(Spec(math.prod(size), dim, 64, 4, 1, size, backbone, generator))
    return loss.double()


class FixedTeacher:
    """Teacher that returns given projections."""

    def __init__(self, t, last_layer):
        self.t, self.heads = t, {"last_layer": last_layer}

    def __call__(self, views):
        return self.t[: len(views)]


def value(loss, z, t, epoch=0, progress=0.0, teachers_last_layer=None):
    """Compute the loss for projections z of the student and t of the teacher, one tensor for each view."""
    batch = Batch([None] * len(z), torch.arange(len(z[0])), None, epoch, progress, torch.Generator())
    teacher = FixedTeacher(t, teachers_last_layer or copy.deepcopy(loss.last_layer).requires_grad_(False))
    return loss.step(batch, lambda views: z[: len(views)], teacher)


def with_identity(**params):
    """Build DINO whose last layers are the identity: outputs of length 1 pass unchanged."""
    loss = built(DINO(out_dim=4, **params))
    loss.last_layer.weight.data = torch.eye(4, dtype=torch.float64)
    return loss


def outputs(views, seed=0, n=3):
    z = torch.from_numpy(np.random.default_rng(seed).normal(size=(views, n, 4)))
    return list(F.normalize(z, dim=2))


def slow_dino(s, t, center, student_temp, teacher_temp):
    """Compute algorithm 1 of the paper with multi-crop, one image and one output at a time."""
    total, terms = 0.0, 0
    for i in range(len(t)):
        for j in range(len(s)):
            if i == j:
                continue
            for a, b in zip(t[i], s[j], strict=True):
                p = np.exp((a - center) / teacher_temp)
                q = np.exp(b / student_temp)
                total -= sum(p[k] / p.sum() * np.log(q[k] / q.sum()) for k in range(len(p)))
                terms += 1
    return total / terms


@pytest.mark.parametrize("views", [2, 5])
def test_the_loss_is_the_papers_sum(views):
    loss, s, t = with_identity(), outputs(views), outputs(2, seed=1)
    loss.center.copy_(torch.tensor([0.1, -0.2, 0.0, 0.3]))
    slow = slow_dino(
        [each.numpy() for each in s], [each.numpy() for each in t], loss.center.numpy(), 0.1, 0.04
    )
    assert float(value(loss, s, t)) == pytest.approx(slow, rel=1e-12)


def test_a_value_worked_out_by_hand():
    # One image; both views of the teacher are the first axis, both of the student the second. With
    # temperatures of 1 / ln 3 an output of 1 weighs 3 and one of 0 weighs 1, so that the probabilities are
    # (3, 1, 1, 1) / 6 for the teacher and (1, 3, 1, 1) / 6 for the student:
    # -(3 ln 1/6 + ln 3/6 + 2 ln 1/6) / 6 = ln 6 - ln 3 / 6.
    temp = 1 / math.log(3)
    loss = with_identity(student_temp=temp, teacher_temp=temp, warmup_teacher_temp=temp)
    first, second = torch.eye(4, dtype=torch.float64)[:2, None]
    assert float(value(loss, [second] * 2, [first] * 2)) == pytest.approx(math.log(6) - math.log(3) / 6)


def test_loss_and_center_are_lightlys():
    # lightly 1.6.0, on outputs that have length 1:
    #   unit = lambda k, f: torch.nn.functional.normalize(f(torch.arange(12.0) + k).reshape(3, 4))
    #   dino = lightly.loss.DINOLoss(4, teacher_temp=0.04, student_temp=0.1, center_momentum=0.9)
    #   t, s = [unit(k, torch.cos) for k in (0, 1)], [unit(k, torch.sin) for k in (0, 1, 2)]
    #   dino(t, s), dino(t, s), dino.center
    values = [3.750452756881714, 3.7495663166046143]
    center = [0.0022852839902043343, -0.009098445065319538, -0.012117104604840279, -0.003995354287326336]
    loss = with_identity()
    t, s = ([unit(k, f) for k in views] for f, views in ((torch.cos, (0, 1)), (torch.sin, (0, 1, 2))))
    assert [float(value(loss, s, t)) for _ in range(2)] == pytest.approx(values, rel=1e-6)
    assert loss.center.tolist() == pytest.approx(center, rel=1e-5)


def unit(k, f):
    return F.normalize(f(torch.arange(12.0, dtype=torch.float64) + k).reshape(3, 4))


def test_the_center_follows_the_teachers_outputs():
    # Both views of both images are the first axis: the center goes a tenth of the way to it, then a tenth
    # of the rest: 0.1, then 0.1 + 0.1 * 0.9.
    loss, axis = with_identity(center_momentum=0.9), torch.eye(4, dtype=torch.float64)[[0, 0]]
    for expected in (0.1, 0.19):
        value(loss, outputs(2, n=2), [axis, axis])
        assert loss.center.tolist() == pytest.approx([expected, 0, 0, 0])


def test_a_teacher_that_says_the_same_of_all_images_is_centered_to_indecision():
    # Centered on its own constant output, the teacher finds all K = 4 outputs equally likely; so does a
    # student that says nothing, and the cross entropy is ln 4.
    loss, axis = with_identity(), torch.eye(4, dtype=torch.float64)[[0, 0]]
    loss.center.copy_(axis[0])
    silent = torch.zeros(2, 4, dtype=torch.float64)
    assert float(value(loss, [silent, silent], [axis, axis])) == pytest.approx(math.log(4))


def test_the_last_layer_is_still_while_frozen_and_then_learns():
    loss = built(DINO(out_dim=6, freeze_last_layer=2))
    gradients = []
    for epoch in range(3):
        z = [each.requires_grad_() for each in outputs(2)]
        value(loss, z, outputs(2, seed=1), epoch=epoch).backward()
        assert z[0].grad.abs().max() > 0
        gradients.append(loss.last_layer.weight.grad)
    assert gradients[:2] == [None, None]
    assert gradients[2].abs().max() > 0


def test_the_last_layer_is_still_for_a_tenth_of_the_training_at_most():
    loss = built(DINO(out_dim=6, freeze_last_layer=2))
    value(loss, [each.requires_grad_() for each in outputs(2)], outputs(2, seed=1), progress=0.1).backward()
    assert loss.last_layer.weight.grad.abs().max() > 0


def test_the_length_of_the_last_layers_rows_does_not_matter():
    a, b = built(DINO(out_dim=6)), built(DINO(out_dim=6))
    teachers = copy.deepcopy(b.last_layer).requires_grad_(False)
    b.last_layer.weight.data *= 7
    teachers.weight *= 3
    s, t = outputs(2), outputs(2, seed=1)
    expected = float(value(a, s, t))
    assert float(value(b, s, t, teachers_last_layer=teachers)) == pytest.approx(expected, rel=1e-12)


def test_the_teacher_has_a_last_layer_of_its_own():
    # The student says the first output, the teacher, whose rows are exchanged, the second.
    loss = with_identity()
    axis = torch.eye(4, dtype=torch.float64)[[0, 0]]
    teachers = copy.deepcopy(loss.last_layer).requires_grad_(False)
    agree = float(value(loss, [axis, axis], [axis, axis], teachers_last_layer=teachers))
    teachers.weight.copy_(teachers.weight[[1, 0, 2, 3]].clone())
    differ = float(value(loss, [axis, axis], [axis, axis], teachers_last_layer=teachers))
    assert DINO.teacher_heads == ("last_layer",)
    assert differ > agree + 1


def test_momentum_and_weight_decay_rise_to_one():
    # 1 - 0.4 * (cos(pi / 2) + 1) / 2 = 0.8 half-way; of a tenth, 0.55.
    loss = DINO(momentum=0.6, initial_weight_decay=0.1)
    assert [loss.teacher_momentum(k) for k in (0, 0.5, 1)] == pytest.approx([0.6, 0.8, 1.0])
    assert [loss.weight_decay_at(k) for k in (0, 0.5, 1)] == pytest.approx([0.1, 0.55, 1.0])
    assert DINO().weight_decay_at is None


def test_the_teachers_temperature_warms_up_in_a_straight_line():
    loss = DINO(warmup_teacher_temp=0.04, teacher_temp=0.07, teacher_temp_warmup=0.3)
    assert [loss.teacher_temp(k) for k in (0, 0.1, 0.3, 1)] == pytest.approx([0.04, 0.05, 0.07, 0.07])
    assert DINO(teacher_temp=0.07, teacher_temp_warmup=0.0).teacher_temp(0.0) == 0.07


# ------------------------------------------------------------------ multi-crop


def test_by_default_there_are_local_crops_from_48_pixels_on():
    for size, crops in (((8, 8), 0), ((46, 100), 0), ((48, 48), 4), ((64, 96), 4)):
        loss = built(DINO(), size=size, backbone=Pools(math.prod(size)))
        assert (loss.view_spec.n, loss.view_spec.local) == (2, crops)


class Pools(nn.Module):
    """Backbone for images of any size, with a given number of features."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, x):
        return x.mean(dim=(1, 2, 3))[:, None].expand(-1, self.width)


def test_center_and_last_layers_are_in_the_state_from_the_start():
    assert set(built(DINO()).state_dict()) == {"last_layer.weight", "center"}
