"""The built-in losses, compared with slow loops from the papers and values worked out by hand."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_ssl import Spec, SSLImageEmbedder
from sklearn_ssl.losses import DCL, NTXent, SSLLoss, VICReg
from sklearn_ssl.losses import _blockwise as blocks
from sklearn_ssl.losses._adapters import build_loss, make_loss
from sklearn_ssl.testing import check_loss, parametrize_with_loss_checks

SIZES = [(2, 3), (3, 1), (5, 4), (16, 7)]  # (n, d)
# Two images with orthogonal unit projections, the same in both views.
ORTHOGONAL = torch.eye(2, dtype=torch.float64)


def projections(n, d, views=2):
    return torch.from_numpy(np.random.default_rng(n).normal(size=(views, n, d)))


def value(loss, *z):
    out = loss(*z)
    return float(out["loss"] if isinstance(out, dict) else out)


# ------------------------------------------------------------------ the papers, one number after the other


def similarity(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (a.norm() * b.norm())


def slow_contrastive(z1, z2, temperature, positive_in_denominator):
    """Compute NT-Xent (arXiv:2002.05709, equation 1) or DCL (arXiv:2110.06848, equation 6) by anchors."""
    z, n = [*z1, *z2], len(z1)
    total = 0.0
    for i in range(2 * n):
        positive = (i + n) % (2 * n)
        denominator = 0.0
        for k in range(2 * n):
            if k != i and (positive_in_denominator or k != positive):
                denominator += (similarity(z[i], z[k]) / temperature).exp()
        total += -similarity(z[i], z[positive]) / temperature + denominator.log()
    return total / (2 * n)


def slow_vicreg(z1, z2, lam, mu, nu):
    """Compute equations 1 to 6 of arXiv:2105.04906, with the authors' halved variance term."""
    n, d = z1.shape
    total = lam * sum(float(a - b) ** 2 for a, b in zip(z1.flatten(), z2.flatten(), strict=True)) / (n * d)
    for z in (z1.tolist(), z2.tolist()):
        mean = [sum(row[j] for row in z) / n for j in range(d)]
        for i in range(d):
            for j in range(d):
                c = sum((row[i] - mean[i]) * (row[j] - mean[j]) for row in z) / (n - 1)
                if i == j:
                    total += mu / 2 * max(0.0, 1 - math.sqrt(c + 1e-4)) / d
                else:
                    total += nu * c**2 / d
    return total


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
@pytest.mark.parametrize(("n", "d"), SIZES)
def test_ntxent_is_the_papers_sum(n, d, temperature):
    z1, z2 = projections(n, d)
    expected = slow_contrastive(z1, z2, temperature, positive_in_denominator=True)
    assert value(NTXent(temperature), z1, z2) == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
@pytest.mark.parametrize(("n", "d"), SIZES)
def test_dcl_is_the_papers_sum(n, d, temperature):
    z1, z2 = projections(n, d)
    expected = slow_contrastive(z1, z2, temperature, positive_in_denominator=False)
    assert value(DCL(temperature), z1, z2) == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("coefficients", [(25, 25, 1), (0, 0.7, 0), (2, 0, 3)])
@pytest.mark.parametrize(("n", "d"), SIZES)
def test_vicreg_is_the_papers_sum(n, d, coefficients):
    z1, z2 = 0.3 * projections(n, d)  # small enough for the variance term to be alive
    assert value(VICReg(*coefficients), z1, z2) == pytest.approx(
        slow_vicreg(z1, z2, *coefficients), rel=1e-10
    )


# ------------------------------------------------------------------ by hand


def test_ntxent_of_two_orthogonal_images_by_hand():
    # Each of the four anchors has its positive at similarity 1 and two others at 0, itself left out:
    # -log(e / (e + 2)) = log(1 + 2/e) = 0.5514. At temperature 1/2 e becomes e^2: log(1 + 2/e^2) = 0.2396.
    assert value(NTXent(1.0), ORTHOGONAL, ORTHOGONAL) == pytest.approx(math.log(1 + 2 / math.e), rel=1e-12)
    assert value(NTXent(0.5), ORTHOGONAL, ORTHOGONAL) == pytest.approx(0.2395447662, rel=1e-9)


def test_ntxent_leaves_the_sample_itself_out():
    # One image has no negatives: the softmax is over its other view alone, -log(1) = 0, however far
    # that is. With the diagonal in it would be log(1 + e^2) at the opposite side.
    z = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert value(NTXent(1.0), z, -z) == pytest.approx(0.0, abs=1e-12)


def test_dcl_of_two_orthogonal_images_by_hand_is_negative():
    # As for NT-Xent, without the positive: -1 + log(1 + 1) = -0.3069; at temperature 1/10 -10 + log(2).
    assert value(DCL(1.0), ORTHOGONAL, ORTHOGONAL) == pytest.approx(math.log(2) - 1, rel=1e-12)
    assert value(DCL(0.1), ORTHOGONAL, ORTHOGONAL) == pytest.approx(math.log(2) - 10, rel=1e-12)


def test_dcl_leaves_out_sample_and_positive_in_both_views_and_both_directions():
    # Similarities: a a' = .6, b b' = 1; across the images a b = a b' = 0, a' b = a' b' = .8. So the four
    # anchors have
    #   a : -.6 + log(e^0 + e^0)        a': -.6 + log(e^.8 + e^.8)
    #   b : -1  + log(e^0 + e^.8)       b': -1  + log(e^0 + e^.8)
    # Any positive, or the sample itself, in a denominator changes the sum.
    z1 = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    z2 = torch.tensor([[0.6, 0.8], [0.0, 1.0]], dtype=torch.float64)
    by_hand = (-0.6 + math.log(2)) + (-0.6 + math.log(2) + 0.8) + 2 * (-1 + math.log(1 + math.exp(0.8)))
    assert value(DCL(1.0), z1, z2) == pytest.approx(by_hand / 4, rel=1e-12)


def test_vicreg_of_a_tiny_matrix_by_hand():
    # Both columns are (1, -1): variance (1 + 1) / (2 - 1) = 2, so no variance term; the covariance is 2
    # as well, and c(z) = (2^2 + 2^2) / d = 4 in each view: 8. The views differ by 1 everywhere: 25 * 1.
    z = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    terms = VICReg()(z, z + 1)
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(
        {"loss": 33.0, "invariance": 1.0, "variance": 0.0, "covariance": 8.0}, abs=1e-12
    )


def test_vicregs_variance_term_is_halved_as_in_the_authors_code():
    # A collapsed batch: v(z) = v(z') = 1 - sqrt(1e-4) = 0.99, and 25 * (0.99 + 0.99) / 2 = 24.75. The
    # paper's formula, without the half, has 49.5.
    z = torch.zeros(3, 2, dtype=torch.float64)
    assert value(VICReg(), z, z) == pytest.approx(24.75, rel=1e-12)


def test_vicreg_is_zero_for_uncorrelated_columns_of_unit_variance():
    # Columns of +-sqrt(3)/2, each orthogonal to the others: variance 4 * (3/4) / (4 - 1) = 1. Divided by
    # n instead of n - 1 it would be 3/4, and the variance term 25 * (1 - 0.866) = 3.35.
    hadamard = torch.tensor([[1.0, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]], dtype=torch.float64)
    z = math.sqrt(3) / 2 * hadamard
    assert value(VICReg(), z, z) == pytest.approx(0.0, abs=1e-12)


def test_vicreg_does_not_normalize_the_projections():
    # With both views four times as large, the invariance is 16 times as large.
    z1, z2 = projections(8, 4)
    once, four_times = VICReg()(z1, z2), VICReg()(4 * z1, 4 * z2)
    assert float(four_times["invariance"]) == pytest.approx(16 * float(once["invariance"]), rel=1e-12)


@pytest.mark.parametrize("loss", [NTXent(), DCL()])
def test_contrastive_losses_do_not_see_the_length_of_a_projection(loss):
    z1, z2 = projections(6, 4)
    assert value(loss, 100 * z1, 0.01 * z2) == pytest.approx(value(loss, z1, z2), rel=1e-10)


# ------------------------------------------------------------------ in little memory


@pytest.fixture
def small_blocks(monkeypatch):
    """Use blocks of 3 of the 10 rows of similarities of 5 images, and a last block of one row."""
    monkeypatch.setattr(blocks, "BLOCK_ENTRIES", 35)


@pytest.mark.parametrize("rows", [1, 3, 4, 9])  # of 10, so the last block is smaller, but for 1
@pytest.mark.parametrize("loss", [NTXent(0.2), DCL(0.2)])
def test_blocks_of_rows_have_the_papers_value_and_gradient(monkeypatch, loss, rows):
    monkeypatch.setattr(blocks, "BLOCK_ENTRIES", 10 * rows)
    z = [view.requires_grad_() for view in projections(5, 4)]
    expected = slow_contrastive(*z, 0.2, positive_in_denominator=isinstance(loss, NTXent))
    torch.testing.assert_close(loss(*z), expected, rtol=1e-10, atol=0)
    # Three times the loss: the gradient that comes from outside counts.
    gradients = torch.autograd.grad(3 * loss(*z), z)
    for gradient, of_sum in zip(gradients, torch.autograd.grad(3 * expected, z), strict=True):
        torch.testing.assert_close(gradient, of_sum, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("loss", [NTXent(0.2), DCL(0.2)])
def test_the_gradient_of_blocks_agrees_with_finite_differences(loss):
    assert torch.autograd.gradcheck(loss, [view.requires_grad_() for view in projections(5, 4)])


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("loss", ["ntxent", "dcl"])
def test_the_contract_is_kept_in_blocks(loss):
    check_loss(loss)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("loss", [NTXent(), DCL()])
def test_torch_compile_sees_the_whole_contrastive_loss(loss):
    z = [view.requires_grad_() for view in projections(5, 4)]
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    gradients, of_compiled = (torch.autograd.grad(f(*z), z) for f in (loss, compiled))
    torch.testing.assert_close(of_compiled, gradients)


@pytest.mark.parametrize("loss", [NTXent(), DCL()])
def test_the_value_is_the_same_without_a_gradient(loss):
    z = projections(5, 4).requires_grad_()
    with torch.no_grad():
        alone = loss(*z)
    torch.testing.assert_close(alone, loss(*z).detach())
    assert not alone.requires_grad


def test_low_temperatures_do_not_underflow():
    # Two opposite images at temperature 1/100: -100 + log(2 e^-100) = log(2) - 200. In float32 e^-200, which
    # is what a common maximum of 100 would leave of the sum, is zero, and its logarithm infinite.
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert value(DCL(0.01), z, z) == pytest.approx(math.log(2) - 200, rel=1e-6)


PEAKS = """
import torch
from sklearn_ssl.losses import DCL, NTXent

def peak():  # of this process so far, in MB
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) / 1024

def rise(work):
    before = peak()
    work()
    return peak() - before

torch.set_num_threads(1)
z = torch.randn(8192, 16, requires_grad=True)
for loss in (NTXent(), DCL()):
    loss(*z[:64].chunk(2)).backward()
    print(rise(lambda: loss(*z.chunk(2)).backward()))
print(rise(lambda: z @ z.T))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's peak memory on Linux")
def test_8192_projections_never_make_their_whole_matrix():
    # One copy of the matrix has 8192 * 8192 * 4 bytes = 256 MB; a block has 8 MB.
    done = subprocess.run([sys.executable, "-c", PEAKS], check=True, capture_output=True, text=True)
    ntxent, dcl, matrix = (float(line) for line in done.stdout.split())
    assert matrix > 200
    assert max(ntxent, dcl) < 50


@pytest.mark.parametrize(("dtype", "precision"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_vicregs_covariance_is_the_same_from_rows_and_from_columns(dtype, precision):
    # 12 samples of 8 numbers take the way by columns, and by rows with 8 columns of zeros more, which
    # correlate with nothing: the sum of squares stays, and is divided by 16 in place of 8.
    z = projections(12, 8).to(dtype).requires_grad_()
    padded = torch.cat([z, torch.zeros_like(z)], dim=2)
    by_columns, by_rows = VICReg()(*z)["covariance"], 2 * VICReg()(*padded)["covariance"]
    torch.testing.assert_close(by_rows, by_columns, rtol=precision, atol=0)
    gradients = [torch.autograd.grad(covariance, z)[0] for covariance in (by_rows, by_columns)]
    torch.testing.assert_close(*gradients, rtol=precision, atol=precision)


# ------------------------------------------------------------------ all of them


@pytest.mark.parametrize("loss", [NTXent(), DCL(), VICReg()])
def test_three_views_cost_the_mean_of_their_three_pairs(loss):
    a, b, c = projections(6, 4, views=3)
    pairs = [value(loss, a, b), value(loss, a, c), value(loss, b, c)]
    assert value(loss, a, b, c) == pytest.approx(sum(pairs) / 3, rel=1e-12)


def with_local_crops(loss, n):
    loss.build(Spec(16, 4, 64, 6, 3, (32, 32), nn.Conv2d(3, 16, 3), torch.Generator()))
    assert (loss.view_spec.n, loss.view_spec.local) == (2, n)
    return loss


@pytest.mark.parametrize("kind", [NTXent, DCL])
def test_local_crops_are_compared_with_full_size_views_only(kind):
    a, b, c, d = projections(6, 4, views=4)
    pairs = [value(kind(), *pair) for pair in ((a, b), (a, c), (a, d), (b, c), (b, d))]
    loss = with_local_crops(kind(local_crops=2), 2)
    assert value(loss, a, b, c, d) == pytest.approx(sum(pairs) / 5, rel=1e-12)


def test_vicregs_local_crops_are_pulled_to_full_size_views_and_take_part_in_the_other_terms():
    a, b, c, d = projections(6, 4, views=4)
    terms = with_local_crops(VICReg(local_crops=2), 2)(a, b, c, d)
    pairs = [(x - y).square().mean() for x, y in ((a, b), (a, c), (a, d), (b, c), (b, d))]
    assert float(terms["invariance"]) == pytest.approx(float(sum(pairs)) / 5, rel=1e-12)
    for name in ("variance", "covariance"):
        both = [VICReg()(*pair)[name] for pair in ((a, b), (c, d))]
        assert float(terms[name]) == pytest.approx(float(sum(both)) / 2, rel=1e-12)


# Averages of noise hardly differ: whether their projections collapse is chance.
@pytest.mark.filterwarnings("ignore:The projection has collapsed")
@pytest.mark.parametrize("kind", [NTXent, DCL, VICReg])
def test_a_fit_with_local_crops(kind):
    X = np.random.default_rng(0).random((8, 32, 32))
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    seen = []
    backbone[0].register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape)))
    SSLImageEmbedder(kind, backbone=backbone, max_epochs=1, loss__local_crops=3, batch_size=8).fit(X)
    assert {(16, 1, 32, 32), (24, 1, 16, 16)} <= set(seen)


@pytest.mark.parametrize("loss", [NTXent(), DCL(), VICReg()])
def test_a_single_view_is_refused_in_words(loss):
    with pytest.raises(ValueError, match="a loss on pairs needs at least two views, got 1"):
        loss(torch.zeros(4, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", [NTXent(), DCL(), VICReg()])
def test_the_loss_has_the_precision_of_its_projections(loss, dtype):
    out = loss(*projections(4, 3).to(dtype))
    assert (out["loss"] if isinstance(out, dict) else out).dtype == dtype


@pytest.mark.parametrize("loss", [NTXent(), DCL(), VICReg()])
def test_the_gradient_agrees_with_finite_differences(loss):
    z = [(0.5 * view).requires_grad_() for view in projections(4, 3)]

    def of(*z):
        out = loss(*z)
        return out["loss"] if isinstance(out, dict) else out

    assert torch.autograd.gradcheck(of, z)


def reference_projections():
    """Return two views of 12 samples in 6 dimensions, made of sines instead of random numbers."""
    i, j = torch.arange(12, dtype=torch.float64)[:, None], torch.arange(6, dtype=torch.float64)
    common = torch.sin(1 + i * 1.7 + j * 2.3 + i * j)
    return common + 0.3 * torch.cos(i + 3 * j), common + 0.3 * torch.cos(2 * i + j)


# Printed by benchmarks/loss_references.py, from lightly 1.6.0.
@pytest.mark.parametrize(
    ("loss", "expected"),
    [(NTXent(0.5), 1.8361916928), (DCL(0.1), -0.0847283312), (VICReg(), 8.9046813812)],
)
def test_the_value_is_lightlys(loss, expected):
    assert float(value(loss, *reference_projections())) == pytest.approx(expected, abs=1e-9)


@parametrize_with_loss_checks(["ntxent", "dcl", "vicreg"])
def test_the_built_in_losses_keep_the_contract(check):
    check()


def tiny_backbone(in_channels):
    layers = [nn.Conv2d(in_channels, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers)


def test_vicregs_terms_are_in_the_history_and_add_up_to_the_loss():
    X = np.random.default_rng(0).integers(0, 256, size=(12, 8, 8), dtype=np.uint8)
    embedder = SSLImageEmbedder(
        "vicreg", loss__std_coeff=10.0, backbone=tiny_backbone, projector=(8,), max_epochs=2, random_state=0
    ).fit(X)
    for row in embedder.history_:
        sum_of_terms = 25 * row["invariance"] + 10 * row["variance"] + 1 * row["covariance"]
        assert row["train_loss"] == pytest.approx(sum_of_terms, rel=1e-6)
        assert row["variance"] > 0


@pytest.mark.parametrize("value", ["x", None, True, -1.0, math.nan, math.inf, [0.5], np.ones(1)])
@pytest.mark.parametrize(
    ("loss", "name"),
    [
        *[(NTXent, "temperature"), (DCL, "temperature")],
        *[(VICReg, "sim_coeff"), (VICReg, "std_coeff"), (VICReg, "cov_coeff")],
    ],
)
def test_a_hyperparameter_out_of_range_is_named_as_the_user_writes_it(loss, name, value):
    with pytest.raises(ValueError) as error:
        loss(**{name: value})
    range_ = "of at least 0" if loss is VICReg else "above 0"
    assert str(error.value) == f"loss__{name}={value!r}: give a finite number {range_}."


def test_a_temperature_of_0_is_refused_and_a_weight_of_0_is_not():
    with pytest.raises(ValueError, match="loss__temperature=0: give a finite number above 0"):
        NTXent(temperature=0)
    assert VICReg(cov_coeff=0).cov_coeff == 0


def test_a_loss_that_wants_labels_is_told_its_wrapper():
    class NTXentLoss(nn.Module):
        """Loss with the name and signature of pytorch-metric-learning's."""

        def forward(self, embeddings, labels=None):
            return embeddings[labels].mean()

    NTXentLoss.__module__ = "pytorch_metric_learning.losses.ntxent_loss"
    for loss in (NTXentLoss, NTXentLoss()):
        with pytest.raises(TypeError) as error:
            make_loss(loss, {})
        assert str(error.value) == (
            "loss=NTXentLoss of pytorch-metric-learning wants labels. For two views of an image, give "
            "loss=SelfSupervisedLoss(NTXentLoss()), from pytorch_metric_learning.losses."
        )

    class SelfSupervisedLoss(nn.Module):
        def forward(self, embeddings, ref_emb):
            return (embeddings - ref_emb).mean()

    SelfSupervisedLoss.__module__ = "pytorch_metric_learning.losses.self_supervised_loss"
    assert make_loss(SelfSupervisedLoss(), {})(torch.ones(2, 3), torch.zeros(2, 3)) == 1


def test_what_makes_nothing_that_can_be_called_is_no_loss():
    for loss in (dict, 5, None):
        with pytest.raises(TypeError, match=r"^loss=.* is not a loss\. Give a name"):
            make_loss(loss, {})


def test_a_loss_that_cannot_be_made_or_built_is_named_with_its_parameters():
    class Broken(SSLLoss):
        def __init__(self, width=4):
            super().__init__()
            self.width = [][width]

    with pytest.raises(ValueError, match=r"^loss=Broken cannot be made with loss__width=3: list index out"):
        make_loss(Broken, {"width": 3})

    class Huge(SSLLoss):
        def build(self, spec):
            self.register_buffer("rows", torch.zeros(2**60))

    with pytest.raises(ValueError, match=r"^The loss 'Huge' cannot be built with loss__width=3: .*allocate"):
        build_loss(Huge(), None, "Huge", {"width": 3})
