"""The student passes views of one size through the network together; the teacher follows the student."""

import pytest
import torch
from torch import nn

from sklearn_ssl._networks.student import Student, Teacher


class MeanAndMax(nn.Module):
    """Backbone with features (n, 2 * channels) for any image size, which records the shapes of batches."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(tuple(x.shape))
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)


def small_student(precision="float32"):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return Student(nn.Sequential(*layers), nn.Linear(4, 2), precision)


def random_views(*sizes, n=5):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(n, 3, *size, generator=generator) for size in sizes]


# ------------------------------------------------------------------ student


def test_views_of_one_size_go_through_the_backbone_in_one_batch():
    student = Student(MeanAndMax(), nn.Identity())
    student(random_views((8, 8), (4, 4), (8, 8), (4, 4), (4, 4)))
    assert student.backbone.seen == [(10, 3, 8, 8), (15, 3, 4, 4)]


def test_height_and_width_both_count_as_size():
    student = Student(MeanAndMax(), nn.Identity())
    student(random_views((4, 8), (8, 4)))
    assert student.backbone.seen == [(5, 3, 4, 8), (5, 3, 8, 4)]


def test_projections_come_in_the_order_of_the_views():
    student = Student(MeanAndMax(), nn.Identity())
    views = random_views((8, 8), (4, 4), (8, 8), (6, 4))
    for z, view in zip(student(views), views, strict=True):
        torch.testing.assert_close(z, torch.cat([view.mean((2, 3)), view.amax((2, 3))], dim=1))


def test_views_with_different_numbers_of_images_are_taken_apart_again():
    student = Student(MeanAndMax(), nn.Identity())
    views = [torch.rand(n, 3, 4, 4) for n in (2, 5, 3)]
    assert [len(z) for z in student(views)] == [2, 5, 3]


def test_batch_norm_sees_the_views_together():
    # Values 0 and 2: together 1 +- 1. Normalized one by one, both would be 0.
    student = Student(nn.Sequential(nn.BatchNorm2d(1, eps=1e-12), nn.Flatten()), nn.Identity())
    z1, z2 = student([torch.zeros(3, 1, 1, 1), torch.full((3, 1, 1, 1), 2.0)])
    assert z1.flatten().tolist() == pytest.approx([-1, -1, -1])
    assert z2.flatten().tolist() == pytest.approx([1, 1, 1])


def test_features_are_what_the_backbone_says_before_the_projector():
    student = Student(MeanAndMax(), nn.Linear(6, 2))
    [view] = random_views((4, 4))
    torch.testing.assert_close(
        student.features(view), torch.cat([view.mean((2, 3)), view.amax((2, 3))], dim=1)
    )


def test_arithmetic_in_bfloat16_comes_out_as_float32():
    exact, rounded = small_student("float32"), small_student("bf16")
    views = random_views((8, 8), (8, 8))
    for student in (exact, rounded):
        assert [z.dtype for z in student(views)] == [torch.float32] * 2
        assert student.features(views[0]).dtype == torch.float32
    a, b = exact(views)[0], rounded(views)[0]
    assert not torch.equal(a, b)
    torch.testing.assert_close(a, b, rtol=0, atol=0.05)  # bfloat16 keeps 8 bits: 0.4 % of values of about 1


def test_autocast_is_off_outside_the_student():
    student = small_student("bf16")
    [z] = student(random_views((8, 8)))
    assert (z @ z.T).dtype == torch.float32


def test_double_precision_stays():
    student = small_student().double()
    [z] = student([view.double() for view in random_views((8, 8))])
    assert z.dtype == torch.float64


# ------------------------------------------------------------------ teacher


def test_the_teacher_starts_as_the_student_and_shares_nothing_with_it():
    student = small_student()
    teacher = Teacher(student)
    for mine, theirs in zip(teacher.average.parameters(), student.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.data_ptr() != theirs.data_ptr()
    assert all(p.requires_grad for p in student.parameters())


def test_the_teacher_receives_no_gradient():
    teacher = Teacher(small_student())
    views = [view.requires_grad_() for view in random_views((8, 8))]
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher(views)[0].requires_grad
    assert not teacher.features(views[0]).requires_grad


@pytest.mark.parametrize("momentum", [0.0, 0.75, 1.0])
def test_parameters_and_running_statistics_move_by_the_rest_of_the_momentum(momentum):
    # 8 -> 16 with momentum 0.75: 8 + 0.25 * (16 - 8) = 10
    student = small_student()
    teacher = Teacher(student)
    with torch.no_grad():
        for tensor in [*teacher.average.parameters(), *teacher.average.buffers()]:
            tensor.fill_(8)
        for tensor in [*student.parameters(), *student.buffers()]:
            tensor.fill_(16)
    teacher.follow(student, momentum)
    expected = 8 + (1 - momentum) * 8
    state = teacher.average.state_dict()
    assert state["backbone.1.running_var"].tolist() == [expected] * 4
    assert state["projector.weight"].unique().tolist() == [expected]
    # A count has no average: it is copied.
    assert state.pop("backbone.1.num_batches_tracked") == 16
    assert all((tensor == expected).all() for tensor in state.values())


def test_following_leaves_the_student_alone():
    student = small_student()
    teacher = Teacher(student)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    teacher.follow(student, 0.5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


def test_a_following_teacher_uses_the_batchs_own_statistics():
    student = small_student().train()
    teacher = Teacher(student)
    with torch.no_grad():
        teacher.average.backbone[1].running_mean.fill_(1000)
    [z], [z_teacher] = student(random_views((8, 8))), teacher(random_views((8, 8)))
    torch.testing.assert_close(z_teacher, z)


def test_a_teacher_of_a_student_in_bfloat16_answers_in_float32():
    assert Teacher(small_student("bf16"))(random_views((8, 8)))[0].dtype == torch.float32
