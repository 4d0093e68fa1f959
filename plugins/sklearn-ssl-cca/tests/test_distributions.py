"""LeJEPA and VISReg: agreement of views whose projections are distributed as a Gaussian."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.stats import norm
from sklearn_ssl_cca import LeJEPA, VISReg
from sklearn_ssl_cca.lejepa import epps_pulley
from sklearn_ssl_cca.slices import draw_directions
from sklearn_ssl_cca.visreg import wasserstein_to_normal

from sklearn_ssl.testing import parametrize_with_loss_checks

RNG = np.random.default_rng(0)
VIEWS = RNG.normal(size=(3, 7, 4)) * [0.5, 1.0, 1.5, 2.0] + 0.3
DIRECTIONS = RNG.normal(size=(4, 5))
DIRECTIONS /= np.linalg.norm(DIRECTIONS, axis=0)


@parametrize_with_loss_checks(["lejepa", functools.partial(LeJEPA, n_views=3)])
def test_lejepa_keeps_the_contract(check):
    check()


@parametrize_with_loss_checks(
    ["visreg"],
    expected_failed_checks=lambda loss: {
        "check_gradient_is_right_in_float64": "deviations are a constant to the gradient of the shape"
    },
)
def test_visreg_keeps_the_contract(check):
    check()


def terms_of(loss):
    """Return the loss of two full-size views and a local crop, as a loss has before `build`."""
    return loss(*map(torch.from_numpy, VIEWS), directions=torch.from_numpy(DIRECTIONS))


def slow_invariance(views, n_full):
    return np.mean(
        [(row - views[:n_full, i].mean(axis=0)) ** 2 for view in views for i, row in enumerate(view)]
    )


def slow_sigreg(views):
    """Compute the statistic one view, direction and frequency at a time, over both signs of the frequency."""
    t = np.linspace(-3, 3, 33)
    values = []
    for z in views:
        for a in DIRECTIONS.T:
            empirical = np.array([np.mean(np.exp(1j * each * (z @ a))) for each in t])
            error = np.abs(empirical - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2)
            values.append(len(z) * trapezoid(error, t))
    return np.mean(values)


def test_lejepa_is_the_papers_formula():
    terms = terms_of(LeJEPA())
    invariance, sigreg = slow_invariance(VIEWS, n_full=2), slow_sigreg(VIEWS)
    assert float(terms["invariance"]) == pytest.approx(invariance, rel=1e-12)
    assert float(terms["sigreg"]) == pytest.approx(sigreg, rel=1e-12)
    assert float(terms["loss"]) == pytest.approx(0.95 * invariance + 0.05 * sigreg, rel=1e-12)


def slow_regularization(views):
    """Compute VISReg's three terms, one view, dimension and direction at a time."""
    center, scale, shape = [], [], []
    for z in views:
        mean, std = z.mean(axis=0), z.std(axis=0)
        center += [m**2 for m in mean]
        scale += [(1 - s) ** 2 for s in std]
        for a in DIRECTIONS.T:
            ordered = sorted(((z - mean) / (std + 1e-4)) @ a)
            quantiles = [norm.ppf(k / (len(z) + 1)) for k in range(1, len(z) + 1)]
            shape.append(np.mean([(x - q) ** 2 for x, q in zip(ordered, quantiles, strict=True)]))
    return np.mean(center), np.mean(scale), np.mean(shape)


def test_visreg_is_the_papers_formula():
    terms = terms_of(VISReg())
    expected = slow_regularization(VIEWS)
    for name, slow in zip(("center", "scale", "shape"), expected, strict=True):
        assert float(terms[name]) == pytest.approx(slow, rel=1e-6)  # of EPS in the standard deviation
    loss = 0.4 * slow_invariance(VIEWS, n_full=2) + 0.6 * sum(expected)
    assert float(terms["loss"]) == pytest.approx(loss, rel=1e-6)


# Printed by benchmarks/loss_references.py, from lightly 1.6.0; the third view is a local crop.
@pytest.mark.parametrize(("kind", "expected"), [(LeJEPA, 0.2752583454), (VISReg, 0.2697215576)])
def test_the_value_is_lightlys(kind, expected, projections):
    first, second = projections
    directions = torch.eye(6, dtype=torch.float64)
    terms = kind()(first, second, first - second, directions=directions)
    assert float(terms["loss"]) == pytest.approx(expected, abs=1e-6)


def test_values_worked_out_by_hand():
    # All observations at zero: |1 - exp(-t^2 / 2)|^2 exp(-t^2 / 2), integrated over all of t, is
    # sqrt(pi) (sqrt(2) - 2 + sqrt(2 / 3)); beyond 3 there is little.
    n, at_zero = 10, torch.zeros(10, 1, dtype=torch.float64)
    whole = math.sqrt(math.pi) * (math.sqrt(2) - 2 + math.sqrt(2 / 3))
    assert float(epps_pulley(at_zero)) == pytest.approx(n * whole, rel=0.02)
    # Three observations at zero: the quantiles at 1/4, 1/2 and 3/4 are -0.6745, 0 and 0.6745.
    assert float(wasserstein_to_normal(at_zero[:3])) == pytest.approx(2 * 0.67448975**2 / 3, rel=1e-7)


def test_the_statistics_are_small_for_a_gaussian_and_large_for_others():
    gaussian = torch.from_numpy(RNG.normal(size=(2000, 1)))
    for statistic in (epps_pulley, wasserstein_to_normal):
        for other in (gaussian.sign(), 2 * gaussian, gaussian + 1, gaussian.abs()):
            assert statistic(other) > 10 * statistic(gaussian)


def test_visregs_gradient_does_not_vanish_where_projections_collapse():
    noise = torch.from_numpy(RNG.normal(size=(2, 16, 4)))
    size = []
    for kind in (LeJEPA, VISReg):
        z = (1e-4 * noise).requires_grad_()
        loss = kind(lambd=1.0)(*z, directions=torch.from_numpy(DIRECTIONS))["loss"]
        size.append(float(torch.autograd.grad(loss, z)[0].norm()))
    assert size[1] > 100 * size[0]


def test_directions_have_unit_length_and_depend_on_the_generator_alone():
    z = torch.zeros(2, 3)
    first, again = (draw_directions(50, z, torch.Generator().manual_seed(1)) for _ in range(2))
    torch.testing.assert_close(first.norm(dim=0), torch.ones(50))
    assert first.shape == (3, 50)
    assert torch.equal(first, again)
    assert not torch.equal(first, draw_directions(50, z, torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("kind", [LeJEPA, VISReg])
@pytest.mark.parametrize(("name", "given"), [("lambd", 1.5), ("n_directions", 0), ("n_views", 1)])
def test_impossible_hyperparameters_are_refused(kind, name, given):
    with pytest.raises(ValueError, match=f"loss__{name}={given}"):
        kind(**{name: given})
