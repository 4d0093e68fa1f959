"""The checks of a loss pass losses that work, name what is broken in others, and skip what does not apply."""

import functools
import re
import unittest

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sklearn_ssl.losses import NTXent, SSLLoss, ViewSpec, mean_over_pairs, mlp
from sklearn_ssl.testing import CHECKS, check_loss, check_name, loss_checks, parametrize_with_loss_checks


def failed_checks(loss):
    """Return the names of the checks that a loss fails."""
    try:
        check_loss(loss)
    except AssertionError as error:
        return set(re.findall(r"^- (\w+):", str(error), flags=re.MULTILINE))
    return set()


class Alignment(SSLLoss):
    """Distance between two views, the simplest loss that keeps the contract."""

    def forward(self, *z):
        return mean_over_pairs(self.pair, z)

    def pair(self, z1, z2):
        return (z1 - z2).square().mean()


# ------------------------------------------------------------------ losses that work


@pytest.mark.parametrize("loss", ["ntxent", "dcl", "vicreg", NTXent, NTXent(temperature=0.5), Alignment])
def test_a_loss_that_keeps_the_contract_passes(loss):
    check_loss(loss)


def test_a_function_passes():
    def cosine(z1, z2, *, power=1.0):
        return (1 - F.cosine_similarity(z1, z2, dim=1)).abs().pow(power).mean()

    # A function that is defined in another one does not pickle.
    reason = {"check_state_survives_copies": "local function"}
    check_loss(cosine, expected_failed_checks=reason)
    check_loss(F.mse_loss)


def test_a_partial_of_a_class_sets_its_sizes():
    check_loss(functools.partial(NTXent, temperature=0.7))


def test_a_plain_module_passes():
    check_loss(nn.SmoothL1Loss)
    check_loss(nn.MSELoss())


class SmallSupCon(SSLLoss):
    """Loss with labels, as in SupCon; an image with label -1 is the only one of its class."""

    uses_labels = True

    def forward(self, *z, y):
        y = torch.where(y < 0, -1 - torch.arange(len(y), device=y.device), y).repeat(len(z))
        z = F.normalize(torch.cat(z), dim=1)
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        log_p = (z @ z.T / 0.1).masked_fill(itself, float("-inf")).log_softmax(dim=1)
        positive = (y[:, None] == y) & ~itself
        return -log_p[positive].mean()


def test_a_loss_with_labels_passes():
    check_loss(SmallSupCon)


class SmallBYOL(SSLLoss):
    """Loss with a teacher, a predictor and its own step."""

    teacher_momentum = 0.9

    def __init__(self, hidden=32):
        super().__init__()
        self.hidden = hidden

    def build(self, spec):
        self.predictor = mlp(spec.dim, self.hidden, spec.dim)

    def step(self, batch, student, teacher):
        p1, p2 = (self.predictor(z) for z in student(batch.views))
        t1, t2 = teacher(batch.views)
        return 2 - F.cosine_similarity(p1, t2).mean() - F.cosine_similarity(p2, t1).mean()


class SmallMoCo(SSLLoss):
    """Loss with a teacher and a queue, without a predictor."""

    teacher_momentum = 0.9

    def build(self, spec):
        self.register_buffer("queue", torch.randn(32, spec.dim, generator=spec.generator))

    def step(self, batch, student, teacher):
        query = F.normalize(student(batch.views[:1])[0], dim=1)
        key = F.normalize(teacher(batch.views[1:])[0], dim=1)
        positive = (query * key).sum(dim=1, keepdim=True)
        logits = torch.cat([positive, query @ F.normalize(self.queue, dim=1).T], dim=1) / 0.2
        self.queue = torch.cat([key, self.queue])[: len(self.queue)]
        return F.cross_entropy(logits, torch.zeros(len(key), dtype=torch.long, device=key.device))


class SmallMultiCrop(SSLLoss):
    """Distance of local crops to the mean of the full-size views, with noise from the batch's generator."""

    view_spec = ViewSpec(2, local=3)

    def step(self, batch, student, teacher):
        z = student(batch.views)
        target = torch.stack(z[:2]).mean(dim=0).detach()
        target += 0.01 * torch.empty_like(target).normal_(generator=batch.generator)
        return torch.stack([(local - target).square().mean() for local in z[2:]]).mean()


# Checks that SmallMultiCrop fails by design. A teacher, predictor or queue needs no exception.
EXPECTED = {
    "check_gradient_is_right_in_float64": "the target is detached",
    "check_does_not_depend_on_the_order_of_images": "each place in the batch has its own noise",
}


@parametrize_with_loss_checks(
    [SmallBYOL, SmallMoCo, SmallMultiCrop],
    expected_failed_checks=lambda loss: EXPECTED if loss is SmallMultiCrop else {},
)
def test_methods_with_a_step_of_their_own_pass_through_a_tiny_student(check):
    check()


# ------------------------------------------------------------------ losses that do not


class IgnoresItsInput(Alignment):
    def build(self, spec):
        self.weight = nn.Parameter(torch.ones(()))

    def pair(self, z1, z2):
        return self.weight.square()


class DrawsFromTheGlobalGenerator(Alignment):
    def pair(self, z1, z2):
        return (z1 - z2 + 0.01 * torch.randn(z1.shape[1], device=z1.device)).square().mean()


class ChangesItsInput(Alignment):
    def pair(self, z1, z2):
        return (z1.div_(z1.detach().norm() + 1) - z2).square().mean()


class ChangesItsInputBehindAutogradsBack(Alignment):
    def pair(self, z1, z2):
        loss = super().pair(z1, z2)
        z2.detach().zero_()
        return loss


class StrayArange(Alignment):
    def pair(self, z1, z2):
        return F.cross_entropy(z1 @ z2.T, torch.arange(len(z1)))


class MutableDefault(Alignment):
    def __init__(self, weights=[1.0, 1.0]):  # noqa: B006
        super().__init__()
        self.weights = weights


class NoDefault(Alignment):
    def __init__(self, margin):
        super().__init__()
        self.margin = margin


class WeighsTheFirstImageMore(Alignment):
    def pair(self, z1, z2):
        weights = torch.ones(len(z1), device=z1.device, dtype=z1.dtype)
        weights[0] = 5
        return ((z1 - z2).square().mean(dim=1) * weights).mean()


class DividesByTheSpread(Alignment):
    def pair(self, z1, z2):
        return (z1 / z1.std(dim=0) - z2 / z2.std(dim=0)).square().mean()


class ReturnsAVector(Alignment):
    def forward(self, z1, z2):
        return (z1 - z2).square().mean(dim=1)


class Detached(Alignment):
    def forward(self, z1, z2):
        return super().forward(z1, z2).detach()


class KeepsItsCenterInAnAttribute(Alignment):
    def __init__(self):
        super().__init__()
        self.center = 0.0

    def pair(self, z1, z2):
        self.center = 0.9 * self.center + 0.1 * z1.detach().mean(dim=0)
        return (z1 - z2 - self.center).square().mean()


class PrefersDisagreement(Alignment):
    def pair(self, z1, z2):
        return -super().pair(z1, z2)


class StopsAGradient(Alignment):
    def pair(self, z1, z2):
        return super().pair(z1, z2.detach())


class Float32Only(Alignment):
    def pair(self, z1, z2):
        return super().pair(z1.float(), z2.float())


class FollowsTheLastDigits(Alignment):
    def pair(self, z1, z2):
        return super().pair(z1, z2) * (2 + (1e3 * z1.sum()).sin())


class RunsAway(Alignment):
    """Loss whose value decreases along its gradient."""

    def pair(self, z1, z2):
        distance = super().pair(z1, z2)
        return 2 * distance.detach() - distance


@pytest.mark.parametrize(
    ("loss", "broken"),
    [
        (IgnoresItsInput, {"check_depends_on_its_input", "check_prefers_views_that_agree"}),
        (ChangesItsInputBehindAutogradsBack, {"check_leaves_its_input_alone"}),
        (StrayArange, {"check_works_on_another_device"}),
        (MutableDefault, {"check_hyperparameters_have_immutable_defaults"}),
        (WeighsTheFirstImageMore, {"check_does_not_depend_on_the_order_of_images"}),
        (DividesByTheSpread, {"check_survives_degenerate_projections"}),
        (PrefersDisagreement, {"check_prefers_views_that_agree"}),
        (StopsAGradient, {"check_gradient_is_right_in_float64"}),
        (Float32Only, {"check_gradient_is_right_in_float64"}),
        (RunsAway, {"check_gradient_is_right_in_float64", "check_learns"}),
    ],
)
def test_a_broken_loss_fails_the_checks_of_what_is_broken_and_no_others(loss, broken):
    assert failed_checks(loss) == broken


@pytest.mark.parametrize(
    ("loss", "check", "words"),
    [
        (
            DrawsFromTheGlobalGenerator,
            "check_leaves_the_global_generator_alone",
            "the loss draws from torch's global generator",
        ),
        (ChangesItsInput, "check_leaves_its_input_alone", "the projections were changed in place"),
        (NoDefault, "check_hyperparameters_have_immutable_defaults", "margin has no default"),
        (ReturnsAVector, "check_returns_one_finite_number_with_gradient", "returned a tensor of shape (2,)"),
        (Detached, "check_returns_one_finite_number_with_gradient", "without gradient: was it detached?"),
        (KeepsItsCenterInAnAttribute, "check_state_survives_copies", "after state_dict the loss is"),
        (FollowsTheLastDigits, "check_bfloat16_is_close", "from bfloat16"),
        ("ntxnt", "check_name_leads_to_a_loss", "Unknown loss 'ntxnt'. Did you mean 'ntxent'?"),
    ],
)
def test_what_is_broken_is_among_what_is_named(loss, check, words):
    with pytest.raises(AssertionError, match=rf"- {check}: .*{re.escape(words)}"):
        check_loss(loss)


def test_the_message_names_the_loss():
    with pytest.raises(AssertionError, match=r"^The loss 'StrayArange' breaks the contract:\n- check_works"):
        check_loss(StrayArange)


# ------------------------------------------------------------------ checks that do not apply


class SingleView(SSLLoss):
    view_spec = ViewSpec(1)

    def forward(self, z):
        return z.square().mean()


class ReadsAValue(Alignment):
    def pair(self, z1, z2):
        largest = z1.abs().max().item()
        return super().pair(z1, z2) + 0 * largest


@pytest.mark.parametrize(
    ("loss", "reasons"),
    [
        ("ntxent", {}),
        (NTXent, {"check_name_leads_to_a_loss": "not given by name"}),
        (
            NTXent(temperature=0.5),
            {
                "check_hyperparameters_have_immutable_defaults": "already constructed",
                "check_name_leads_to_a_loss": "not given by name",
            },
        ),
        (
            SmallBYOL,
            {
                "check_prefers_views_that_agree": "its own step",
                "check_name_leads_to_a_loss": "not given by name",
            },
        ),
        (
            SingleView,
            {
                "check_prefers_views_that_agree": "single view",
                "check_name_leads_to_a_loss": "not given by name",
            },
        ),
        (
            ReadsAValue,
            {
                "check_works_on_another_device": "needs values, which fake tensors lack",
                "check_name_leads_to_a_loss": "not given by name",
            },
        ),
    ],
)
def test_checks_that_do_not_apply_are_skipped_with_the_reason(loss, reasons):
    skipped = check_loss(loss)
    assert "does not set mean_over_images" in skipped.pop("check_is_a_mean_over_images")
    assert list(skipped) == list(reasons)
    for name, words in reasons.items():
        assert words in skipped[name]


class DependsOnOtherImages(NTXent):
    mean_over_images = True


def test_a_loss_that_is_no_mean_over_images_is_found():
    with pytest.raises(AssertionError, match=r"check_is_a_mean_over_images: .*set mean_over_images=False"):
        check_loss(DependsOnOtherImages)


def test_the_checks_of_pytest_are_skipped_too():
    [check] = [check for check in loss_checks(NTXent) if check_name(check) == "check_name_leads_to_a_loss"]
    with pytest.raises(unittest.SkipTest, match="not given by name"):
        check()


# ------------------------------------------------------------------ expected failures


def test_an_expected_failure_is_no_problem():
    check_loss(StrayArange, expected_failed_checks={"check_works_on_another_device": "CPU only"})


def test_an_expected_failure_that_does_not_happen_is_one():
    words = r"check_learns passed, though it was expected to fail \(slow\)"
    with pytest.raises(AssertionError, match=words):
        check_loss(Alignment, expected_failed_checks={"check_learns": "slow"})


def test_an_expected_failure_of_a_check_that_does_not_apply_is_one():
    words = r"check_name_leads_to_a_loss was skipped, though it was expected to fail \(no name\)"
    with pytest.raises(AssertionError, match=words):
        check_loss(Alignment, expected_failed_checks={"check_name_leads_to_a_loss": "no name"})


def test_an_expected_failure_of_no_check_is_one():
    with pytest.raises(AssertionError, match="check_leanrs: there is no such check"):
        check_loss(Alignment, expected_failed_checks={"check_leanrs": "a typing error"})


def test_the_decorator_makes_one_strict_test_of_each_loss_and_check():
    expected = {"check_learns": "slow"}
    decorator = parametrize_with_loss_checks(
        [Alignment, "dcl"], expected_failed_checks=lambda loss: expected if loss == "dcl" else {}
    )
    cases = decorator.mark.args[1]
    assert len(cases) == 2 * len(CHECKS)
    assert {case.id for case in cases} >= {"Alignment-check_learns", "dcl-check_learns"}
    [marked] = [case for case in cases if case.marks]
    assert marked.id == "dcl-check_learns"
    assert marked.marks[0].kwargs == {"reason": "slow", "strict": True}


def test_each_check_can_be_called_by_itself():
    for check in loss_checks("ntxent"):
        check()
