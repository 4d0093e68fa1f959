"""TiCo, MMCR and EMP-SSL: methods that spread the projections over many directions."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn_ssl_cca import EMPSSL, MMCR, TiCo
from sklearn_ssl_cca.emp_ssl import total_coding_rate

from sklearn_ssl import Batch, available_losses
from sklearn_ssl.testing import parametrize_with_loss_checks

VIEWS = np.random.default_rng(0).normal(size=(3, 7, 4))


@parametrize_with_loss_checks(
    [
        "mmcr",
        functools.partial(MMCR, lambd=0.1, n_views=3),
        "emp_ssl",
        functools.partial(EMPSSL, n_patches=3),
    ]
)
def test_the_loss_keeps_the_contract(check):
    check()


@parametrize_with_loss_checks(
    ["tico"],
    expected_failed_checks=lambda loss: {
        "check_gradient_is_right_in_float64": "earlier projections are a constant to the gradient",
        "check_learns": "the contrast grows as the moments fill up",
    },
)
def test_tico_keeps_the_contract(check):
    check()


@pytest.mark.parametrize("name", ["emp_ssl", "lejepa", "mmcr", "tico", "visreg"])
def test_it_is_found_by_name(name):
    assert available_losses()[name].distribution == "sklearn-ssl-cca"


# ------------------------------------------------------------------ MMCR


def slow_mmcr(views, lambd):
    """Compute the nuclear norms from the eigenvalues of Gram matrices."""
    unit = views / np.linalg.norm(views, axis=2, keepdims=True)
    loss = -nuclear_norm(unit.mean(axis=0))
    return loss + lambd * np.mean([nuclear_norm(unit[:, i]) for i in range(unit.shape[1])])


def nuclear_norm(matrix):
    return np.sqrt(np.linalg.eigvalsh(matrix @ matrix.T).clip(0)).sum()


@pytest.mark.parametrize("lambd", [0.0, 0.3])
def test_mmcr_is_the_papers_formula(lambd):
    loss = MMCR(lambd=lambd, n_views=3)(*map(torch.from_numpy, VIEWS))
    assert float(loss) == pytest.approx(slow_mmcr(VIEWS, lambd), rel=1e-6)


def test_mmcr_by_hand():
    # Views that agree, at right angles between images: three centers of length one, singular values 1, 1, 1.
    z = torch.eye(3, 5, dtype=torch.float64)
    assert float(MMCR()(z, 2 * z)) == pytest.approx(-3)
    # Each image's two views at right angles, too: centers of length sqrt(1/2).
    first = torch.eye(3, 6, dtype=torch.float64)
    assert float(MMCR()(first, first.roll(3, dims=1))) == pytest.approx(-3 * 0.5**0.5)


# ------------------------------------------------------------------ EMP-SSL


def slow_emp_ssl(views, weight, epsilon):
    unit = views / np.linalg.norm(views, axis=2, keepdims=True)
    _, n, d = unit.shape
    rates, cosines = [], []
    for z in unit:
        rates.append(0.5 * np.log(np.linalg.det(np.eye(d) + d / (n * epsilon) * z.T @ z)))
        for i, row in enumerate(z):
            mean = unit[:, i].mean(axis=0)
            cosines.append(row @ mean / np.linalg.norm(mean))
    return -np.mean(rates) - weight * np.mean(cosines)


@pytest.mark.parametrize("n", [7, 3])  # more and fewer images than dimensions
def test_emp_ssl_is_the_papers_formula(n):
    views = VIEWS[:, :n]
    terms = EMPSSL(n_patches=3, weight=20.0)(*map(torch.from_numpy, views))
    assert float(terms["loss"]) == pytest.approx(slow_emp_ssl(views, 20.0, 0.2), rel=1e-12)


def test_the_coding_rate_by_hand():
    # Two images at right angles in two dimensions: I + 2 / (2 * 0.2) I = 6 I, half of log 36.
    assert float(total_coding_rate(torch.eye(2, dtype=torch.float64), 0.2)) == pytest.approx(np.log(6))


# ------------------------------------------------------------------ TiCo


class Fixed:
    """Student or teacher that returns given projections."""

    def __init__(self, z):
        self.z = z

    def __call__(self, views):
        assert len(views) == 1
        return [self.z]


def step(loss, z, t):
    batch = Batch([None, None], torch.arange(len(z)), None, 0, 0.0, torch.Generator())
    return loss.step(batch, Fixed(z), Fixed(t))


def test_tico_is_the_papers_formula_over_several_steps(built):
    loss = built(TiCo(), dim=4).double()
    C = np.zeros((4, 4))
    for z, t in ((VIEWS[0], VIEWS[1]), (VIEWS[1], VIEWS[2]), (VIEWS[2], VIEWS[0])):
        terms = step(loss, torch.from_numpy(z), torch.from_numpy(t))
        z, t = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (z, t))
        C = 0.9 * C + 0.1 * np.mean([np.outer(row, row) for row in z], axis=0)
        expected = 1 - np.mean([a @ b for a, b in zip(z, t, strict=True)])
        expected += 8 * np.mean([row @ C @ row for row in z])
        assert float(terms["loss"]) == pytest.approx(expected, rel=1e-12)


def test_ticos_moments_are_a_constant_to_the_gradient(built):
    z = torch.from_numpy(VIEWS[0]).requires_grad_()
    loss = built(TiCo(beta=0.0), dim=4).double()
    step(loss, z, torch.from_numpy(VIEWS[1]))["contrast"].backward()
    C = F.normalize(torch.from_numpy(VIEWS[0]), dim=1)
    C = C.T @ C / len(C)
    other = torch.from_numpy(VIEWS[0]).requires_grad_()
    unit = F.normalize(other, dim=1)
    ((unit @ C) * unit).sum(dim=1).mean().backward()
    torch.testing.assert_close(z.grad, other.grad)


@pytest.mark.parametrize("name", ["emp_ssl", "mmcr", "tico"])
def test_a_fit_records_a_finite_loss(name, embedder, images):
    history = embedder(name, max_epochs=2).fit(images).history_
    assert np.isfinite([row["train_loss"] for row in history]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TiCo(beta=1.5), "loss__beta=1.5"),
        (lambda: TiCo(rho=-1), "loss__rho=-1"),
        (lambda: TiCo(momentum=2), "loss__momentum=2"),
        (lambda: MMCR(lambd=-1), "loss__lambd=-1"),
        (lambda: MMCR(n_views=1), "loss__n_views=1"),
        (lambda: EMPSSL(n_patches=1), "loss__n_patches=1"),
        (lambda: EMPSSL(patch_area=0), "loss__patch_area=0"),
        (lambda: EMPSSL(epsilon=0), "loss__epsilon=0"),
        (lambda: EMPSSL(weight=-1), "loss__weight=-1"),
    ],
)
def test_impossible_hyperparameters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
