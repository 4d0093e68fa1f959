"""Test suite of the plugin contract: requirements on a loss to work in `SSLImageEmbedder`.

One decorator applies all checks to the losses of a plugin::

    @parametrize_with_loss_checks(["my_loss"])
    def test_my_loss_keeps_the_contract(check):
        check()

A check that does not apply to a loss raises `unittest.SkipTest` with the reason, which pytest and unittest
report as skipped.
"""

from __future__ import annotations

import copy
import functools
import inspect
import io
import pickle
import unittest
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from sklearn_ssl._networks.student import Student, Teacher
from sklearn_ssl._networks.vit import make_vit
from sklearn_ssl._training.assemble import output_width, teacher_heads
from sklearn_ssl._training.net import check_loss_value
from sklearn_ssl._training.seeds import seeded_modules
from sklearn_ssl.losses._adapters import loss_name, make_loss, resolve_loss
from sklearn_ssl.losses._base import Batch, Spec, SSLLoss, view_kinds
from sklearn_ssl.losses._registry import get_loss

if TYPE_CHECKING:
    import pytest

__all__ = ["check_loss", "check_name", "loss_checks", "parametrize_with_loss_checks"]
# Number of channels and side of the test images, and width of the features.
CHANNELS, SIDE, FEATURES = 3, 16, 16
# Types of defaults that cannot be changed in place.
IMMUTABLE_TYPES = (int, float, complex, bool, str, bytes, tuple, frozenset, type(None))


def check_loss(loss: Any, *, expected_failed_checks: dict[str, str] | None = None) -> dict[str, str]:
    """Run every check on a loss.

    Parameters
    ----------
    loss : str, class, function or functools.partial
        Loss, as for `SSLImageEmbedder(loss=...)`. A partial of a class can set sizes that suit tiny batches.
    expected_failed_checks : dict of str to str, default=None
        Names of checks that the method fails by design, with the reasons; these checks have to fail.

    Returns
    -------
    dict of str to str
        Names of the checks that do not apply to the loss and were skipped, with the reasons.

    Raises
    ------
    AssertionError
        If a check fails, or passes or is skipped although it is expected to fail. The message lists all such
        checks.

    See Also
    --------
    parametrize_with_loss_checks : Run each check as a test of pytest.

    Examples
    --------
    >>> from sklearn_ssl.testing import check_loss
    >>> check_loss("ntxent")
    {'check_is_a_mean_over_images': 'the loss does not set mean_over_images'}
    """
    expected = dict(expected_failed_checks or {})
    problems, skipped = [], {}
    for check in loss_checks(loss):
        name = check_name(check)
        reason = expected.pop(name, None)
        try:
            check()
        except unittest.SkipTest as skip:
            skipped[name] = str(skip)
        except Exception as error:
            if reason is None:
                problems.append(f"{name}: {error}")
            continue
        if reason is not None:
            outcome = "was skipped" if name in skipped else "passed"
            problems.append(f"{name} {outcome}, though it was expected to fail ({reason}).")
    problems += [f"{name}: there is no such check." for name in expected]
    if problems:
        raise AssertionError(f"The loss {loss_name(loss)!r} breaks the contract:\n- " + "\n- ".join(problems))
    return skipped


def parametrize_with_loss_checks(
    losses: Sequence[Any], *, expected_failed_checks: Callable[[Any], dict[str, str]] | None = None
) -> pytest.MarkDecorator:
    """Parametrize a pytest test by losses and checks; a decorator.

    The test has a single argument `check`, a callable without arguments. Checks that do not apply to a loss
    are reported as skipped.

    Parameters
    ----------
    losses : sequence
        Losses as for `check_loss`.
    expected_failed_checks : callable, default=None
        Function ``f(loss) -> {"check_name": "reason"}`` that returns the checks which a loss fails by design;
        their tests are strict expected failures.

    Returns
    -------
    pytest.MarkDecorator
        Decorator of the test.

    See Also
    --------
    check_loss : Run all checks on one loss.
    """
    import pytest  # not a dependency of the package

    cases = []
    for loss in losses:
        expected = {} if expected_failed_checks is None else expected_failed_checks(loss)
        for check in loss_checks(loss):
            name = check_name(check)
            marks = [pytest.mark.xfail(reason=expected[name], strict=True)] if name in expected else []
            cases.append(pytest.param(check, id=f"{loss_name(loss)}-{name}", marks=marks))
    return pytest.mark.parametrize("check", cases)


def loss_checks(loss: Any) -> Iterator[functools.partial]:
    """Generate the checks of a loss.

    Parameters
    ----------
    loss : str, class, function or functools.partial
        Loss, as for `check_loss`.

    Yields
    ------
    functools.partial
        Check, to be called without arguments. It raises an error if it fails, and `unittest.SkipTest` if it
        does not apply to the loss.

    See Also
    --------
    check_loss : Run all checks on one loss.
    check_name : Return the name of a check.
    """
    for check in CHECKS:
        yield functools.partial(check, loss)


def check_name(check: functools.partial) -> str:
    """Return the name of a check.

    Parameters
    ----------
    check : functools.partial
        Check of `loss_checks`.

    Returns
    -------
    str
        Name of its function, such as "check_learns".

    See Also
    --------
    loss_checks : Generate the checks of a loss.
    """
    return check.func.__name__


# ---------------------------------------------------------------------------- set-up


class Trial:
    """Loss with a student, and a teacher if it uses one, small enough to run in milliseconds.

    A loss that overrides `forward` only receives its projections directly. A loss that overrides `step`
    receives images, with a small backbone (a vision transformer if that is its default, else convolutional)
    and its own projector.
    """

    def __init__(self, loss: Any, *, n: int = 17, dim: int = 16, dtype: torch.dtype = torch.float32):
        self.n, self.dim, self.dtype = n, dim, dtype
        with seeded_modules(0) as generator:
            self.loss = make_loss(loss, {})
            self.simple = type(self.loss).step is SSLLoss.step
            self.student = GivenProjections() if self.simple else self._tiny_student()
            width = dim if self.simple else output_width(self.student.projector, FEATURES)
            backbone = self.student.backbone
            self.loss.build(Spec(FEATURES, width, 64, n, CHANNELS, (SIDE, SIDE), backbone, generator))
        self.teacher = (
            None
            if self.simple or self.loss.teacher_momentum is None
            else Teacher(self.student, teacher_heads(self.loss))
        )
        for module in self.modules():
            module.to(dtype)
        self.loss.before_epoch(0, lambda: torch.randn(64, width, generator=generator).to(dtype))
        self.loss.on_epoch_start(0, torch.Generator().manual_seed(0))

    def _tiny_student(self) -> Student:
        """Build a network that maps images of any size to 16 features, and these to projections."""
        if self.loss.defaults.get("backbone") == "vit":
            backbone: nn.Module = make_vit(CHANNELS, (SIDE, SIDE), width=FEATURES, depth=1)
        else:
            conv = nn.Conv2d(CHANNELS, FEATURES, 3, 2)
            backbone = nn.Sequential(conv, nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return Student(backbone, self.loss.make_projector(FEATURES, (32, self.dim)))

    def modules(self) -> list[nn.Module]:
        return [module for module in (self.loss, self.student, self.teacher) if module is not None]

    def inputs(self, seed: int = 0, agree: float = 0.5) -> list[Tensor]:
        """Draw views, projections or images, that share a common component of weight `agree`."""
        generator = torch.Generator().manual_seed(seed)
        common = torch.randn(self.shape(0), generator=generator, dtype=torch.float64)
        views = []
        for i in range(len(view_kinds(self.loss.view_spec))):
            own = torch.randn(self.shape(i), generator=generator, dtype=torch.float64)
            part = common if self.simple else common[..., : own.shape[-2], : own.shape[-1]]
            views.append((agree * part + (1 - agree) * own).to(self.dtype))
        return views

    def shape(self, view: int) -> tuple[int, ...]:
        if self.simple:
            return self.n, self.dim
        return self.n, CHANNELS, *view_kinds(self.loss.view_spec)[view].shape((SIDE, SIDE))

    def terms(
        self, views: list[Tensor], index: Tensor | None = None, step: int = 0, rows: slice = slice(None)
    ) -> dict[str, Tensor]:
        """Return the loss and all its other terms for one batch, or for some of its rows."""
        device = views[0].device
        index = torch.arange(self.n) if index is None else index
        batch = Batch(
            views=[with_gradient(view) for view in views] if self.simple else views,
            index=index.to(device),
            y=self._labels(index, device),
            epoch=0,
            progress=step / 60,
            generator=torch.Generator().manual_seed(step),
            n_images=self.n,
            rows=rows,
            places=self._places(index, device) if self.loss.view_spec.places else None,
        )
        out = self.loss.step(batch, self.student, self.teacher)
        terms = out if isinstance(out, dict) else {"loss": out}
        check_loss_value(type(self.loss).__name__, terms)
        return terms

    def _labels(self, index: Tensor, device: torch.device) -> Tensor | None:
        """Return labels that depend on the image, each fifth of them unknown."""
        classes = index % max(2, self.n // 2)
        unknown = index % 5 == 4
        if self.loss.uses_labels == "values":
            values = torch.stack([classes, classes.sqrt()], dim=1).to(self.dtype)
            return values.masked_fill(unknown[:, None], float("nan")).to(device)
        return classes.masked_fill(unknown, -1).to(device) if self.loss.uses_labels else None

    def _places(self, index: Tensor, device: torch.device) -> list[Tensor]:
        """Return places that depend on the image: parts of three quarters of its sides."""
        generator = torch.Generator().manual_seed(0)
        places = torch.eye(2, 3).mul(0.75).repeat(len(view_kinds(self.loss.view_spec)), 64, 1, 1)
        places[..., 2] += 0.5 * torch.rand(places[..., 2].shape, generator=generator) - 0.25
        return list(places[:, index].to(device, self.dtype))

    def value(self, views: list[Tensor], **kwargs: Any) -> Tensor:
        return self.terms(views, **kwargs)["loss"].reshape(())

    def sources(self, views: list[Tensor]) -> list[Tensor]:
        """Return the tensors to differentiate by: the projections, or the parameters of the student."""
        return views if self.simple else list(self.student.parameters())

    def gradients(self, views: list[Tensor]) -> list[Tensor]:
        """Return the gradients of the loss by the sources."""
        views = [with_gradient(view) for view in views]
        return list(torch.autograd.grad(self.value(views), self.sources(views), materialize_grads=True))

    def twin(self, loss: SSLLoss | None = None) -> Trial:
        """Return a deep copy, with a copy of another loss if one is given."""
        twin = copy.deepcopy(self)
        twin.loss = twin.loss if loss is None else copy.deepcopy(loss)
        return twin


class GivenProjections(Student):
    """Student whose views are already the projections."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), nn.Identity())

    def forward(self, views: Sequence[Tensor]) -> list[Tensor]:
        return list(views)


def with_gradient(view: Tensor) -> Tensor:
    return view if view.requires_grad else view.clone().requires_grad_()


# ---------------------------------------------------------------------------- the checks


def check_hyperparameters_have_immutable_defaults(loss: Any) -> None:
    """Check names and defaults of the signature, which grid searches read and copy."""
    target = resolve_loss(loss)
    if isinstance(target, nn.Module):
        raise unittest.SkipTest("a module that is already constructed has no hyperparameters to set")
    for parameter in inspect.signature(target).parameters.values():
        tunable = inspect.isclass(target) or parameter.kind is parameter.KEYWORD_ONLY
        if tunable and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            assert parameter.default is not parameter.empty, f"{parameter.name} has no default"
            ok = isinstance(parameter.default, IMMUTABLE_TYPES) or callable(parameter.default)
            assert ok, f"the default of {parameter.name} is mutable: {parameter.default!r}"


def check_returns_one_finite_number_with_gradient(loss: Any) -> None:
    """Check value and gradient for small and odd numbers of images, and several widths."""
    for n in (2, 3, 17):
        for dim in (1, 8, 33):
            trial = Trial(loss, n=n, dim=dim)
            value = trial.value(trial.inputs())
            assert value.dtype == torch.float32, f"n={n}, dim={dim}: the loss is {value.dtype}, not float32"
            assert value.isfinite(), f"n={n}, dim={dim}: the loss is {value.item()}"
            finite = all(g.isfinite().all() for g in trial.gradients(trial.inputs()))
            assert finite, f"n={n}, dim={dim}: the gradient is not finite"


def check_depends_on_its_input(loss: Any) -> None:
    """Check that the gradient is not zero: a loss that ignores the projections trains nothing."""
    trial = Trial(loss)
    assert any(g.any() for g in trial.gradients(trial.inputs())), "the gradient is zero everywhere"


def check_is_a_mean_over_images(loss: Any) -> None:
    """Check that the mean of the losses of two parts is that of the batch, if `mean_over_images` says so."""
    trial = Trial(loss, dtype=torch.float64)
    if not trial.loss.mean_over_images:
        raise unittest.SkipTest("the loss does not set mean_over_images")
    views, index = trial.inputs(), torch.arange(trial.n)
    mean = 0.0
    for rows in (slice(0, None, 2), slice(1, None, 2)):
        value = trial.value([view[rows] for view in views], index=index[rows], rows=rows)
        mean += value.item() * len(index[rows]) / trial.n
    whole = trial.value(views).item()
    assert abs(mean - whole) <= 1e-9 * abs(whole), (
        f"the loss of a batch is {whole}, and the mean of those of its parts {mean}: set mean_over_images="
        f"False, or draw random values per image by Batch.draw"
    )


def check_gradient_is_right_in_float64(loss: Any) -> None:
    """Compare the gradient with a finite difference along a random direction.

    Expected to fail for losses with a stop-gradient.
    """
    trial = Trial(loss, n=4, dim=5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    sources = trial.sources(trial.inputs())
    direction = [torch.randn(s.shape, generator=generator, dtype=torch.float64) for s in sources]

    def value(distance: float) -> Tensor:
        twin = trial.twin()  # a queue or center must not change between evaluations
        views = twin.inputs()
        with torch.no_grad():
            for source, along in zip(twin.sources(views), direction, strict=True):
                source.add_(along, alpha=distance)
        return twin.value(views)

    assert value(0).dtype == torch.float64, "float64 projections give a loss of lower precision"
    numeric = (value(1e-6) - value(-1e-6)) / 2e-6
    gradients = trial.gradients(trial.inputs())
    analytic = sum((g * along).sum() for g, along in zip(gradients, direction, strict=True))
    torch.testing.assert_close(analytic, numeric, rtol=1e-4, atol=1e-7, msg=lambda m: f"wrong slope: {m}")


def check_leaves_its_input_alone(loss: Any) -> None:
    """Check that the loss does not change its input in place.

    The projections of a batch are slices of one tensor, and views may be used again.
    """
    trial = Trial(loss)
    views = trial.inputs()
    # Non-leaf tensors: autograd itself forbids to change leaves in place.
    given = [view.clone().requires_grad_(trial.simple).clone() for view in views]
    trial.value(given)
    unchanged = all(torch.equal(a, b) for a, b in zip(given, views, strict=True))
    assert unchanged, f"the {'projections' if trial.simple else 'views'} were changed in place"


def check_survives_degenerate_projections(loss: Any) -> None:
    """Check that value and gradient are finite for zeros, equal rows, and huge and tiny values."""
    for kind in ("zeros", "constant", "identical rows", "huge", "tiny"):
        trial = Trial(loss)
        views = [degenerate(kind, view) for view in trial.inputs()]
        value, gradients = trial.twin().value(views), trial.gradients(views)
        assert value.isfinite(), f"{kind}: the loss is {value.item()}"
        assert all(g.isfinite().all() for g in gradients), f"{kind}: the gradient is not finite"


def check_does_not_depend_on_the_order_of_images(loss: Any) -> None:
    """Check that a permutation of the batch does not change the loss."""
    trial = Trial(loss)
    views, order = trial.inputs(), torch.randperm(trial.n, generator=torch.Generator().manual_seed(1))
    a, b = trial.twin().value(views), trial.value([view[order] for view in views], index=order)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m: f"another order, another loss: {m}")


def check_prefers_views_that_agree(loss: Any) -> None:
    """Check that agreeing projections of an image cost less than ones exchanged between images."""
    trial = Trial(loss)
    if not trial.simple:
        raise unittest.SkipTest("the value of a loss with its own step depends on untrained modules")
    if len(view_kinds(trial.loss.view_spec)) < 2:
        raise unittest.SkipTest("the loss uses a single view")
    first, *others = trial.inputs(agree=0.9)
    exchanged = [view.roll(i, dims=0) for i, view in enumerate(others, 1)]
    agree, disagree = trial.twin().value([first, *others]), trial.value([first, *exchanged])
    assert agree < disagree, f"agreeing views cost {agree:.4g}, exchanged ones {disagree:.4g}"


def check_leaves_the_global_generator_alone(loss: Any) -> None:
    """Check that all randomness comes from `batch.generator`, as reproducible fits require."""
    trial = Trial(loss)
    before = torch.get_rng_state()
    train(trial, steps=2)
    trial.loss.on_epoch_start(1, torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.get_rng_state()), "the loss draws from torch's global generator"


def check_repeats_itself(loss: Any) -> None:
    """Check that the same batch and generator give the same value."""
    a, b = (trial.value(trial.inputs()) for trial in (Trial(loss), Trial(loss)))
    assert torch.equal(a, b), f"two equal calls gave {a.item()} and {b.item()}"


def check_bfloat16_is_close(loss: Any) -> None:
    """Check that rounding projections to bfloat16 changes the loss by at most 5 %."""
    trial = Trial(loss)
    views = trial.inputs()
    a = trial.twin().value(views)
    b = trial.value([view.to(torch.bfloat16).to(torch.float32) for view in views])
    assert (a - b).abs() <= 0.05 * a.abs() + 1e-2, f"float32 {a.item():.5g}, from bfloat16 {b.item():.5g}"


def check_state_survives_copies(loss: Any) -> None:
    """Check that copies by state_dict (weights_only=True), pickle and deepcopy give the same value."""
    trial = Trial(loss)
    train(trial, steps=2)
    file = io.BytesIO()
    torch.save(trial.loss.state_dict(), file)
    file.seek(0)
    restored = Trial(loss).loss
    restored.load_state_dict(torch.load(file, weights_only=True))
    copies = {"state_dict": restored, "deepcopy": copy.deepcopy(trial.loss)}
    copies["pickle"] = pickle.loads(pickle.dumps(trial.loss))
    views = trial.inputs(seed=7)
    values = {kind: trial.twin(loss).value(views) for kind, loss in copies.items()}
    expected = trial.value(views)
    for kind, value in values.items():
        assert torch.equal(value, expected), f"after {kind} the loss is {value.item()}, not {expected.item()}"


def check_works_on_another_device(loss: Any) -> None:
    """Check that no tensor stays on the CPU: mixed with fake "cuda" tensors it raises an error."""
    trial = Trial(loss)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in trial.modules():
            to_fake_cuda(module)
        views = [torch.empty(view.shape, device="cuda") for view in trial.inputs()]
        try:
            value = trial.value(views)
        except (DynamicOutputShapeException, DataDependentOutputException) as error:
            reason = "a mask or .item() of the loss needs values, which fake tensors lack"
            raise unittest.SkipTest(reason) from error
    assert value.device.type == "cuda", f"the loss came back on {value.device}"


def check_learns(loss: Any) -> None:
    """Check that sixty steps on one batch decrease the loss."""
    values = train(Trial(loss), steps=60)
    start, end = sum(values[:5]) / 5, sum(values[-5:]) / 5
    assert end < start, f"the loss went from {start:.5g} to {end:.5g} in 60 steps"


def check_name_leads_to_a_loss(loss: Any) -> None:
    """Check that a loss given by name is installed, has the name alone, and can be imported."""
    if not isinstance(loss, str):
        raise unittest.SkipTest("the loss is not given by name")
    get_loss(loss)


CHECKS = (
    check_hyperparameters_have_immutable_defaults,
    check_returns_one_finite_number_with_gradient,
    check_depends_on_its_input,
    check_is_a_mean_over_images,
    check_gradient_is_right_in_float64,
    check_leaves_its_input_alone,
    check_survives_degenerate_projections,
    check_does_not_depend_on_the_order_of_images,
    check_prefers_views_that_agree,
    check_leaves_the_global_generator_alone,
    check_repeats_itself,
    check_bfloat16_is_close,
    check_state_survives_copies,
    check_works_on_another_device,
    check_learns,
    check_name_leads_to_a_loss,
)


def train(trial: Trial, steps: int) -> list[float]:
    """Train on one batch and return the loss of each step; a simple loss trains the projections."""
    views = trial.inputs(agree=0.2)
    parameters: list[Tensor] = [*trial.loss.parameters(), *trial.student.parameters()]
    if trial.simple:
        parameters += [view.requires_grad_() for view in views]
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    values = []
    for step in range(steps):
        optimizer.zero_grad()
        value = trial.value(views, step=step)
        value.backward()
        optimizer.step()
        if trial.teacher is not None:
            trial.teacher.follow(trial.student, 0.9, teacher_heads(trial.loss))
        trial.loss.after_step(trial.student, trial.teacher)
        values.append(value.item())
    return values


def degenerate(kind: str, view: Tensor) -> Tensor:
    return {
        "zeros": torch.zeros_like(view),
        "constant": torch.ones_like(view),
        "identical rows": view[:1].expand_as(view).clone(),
        "huge": view * 1e4,
        "tiny": view * 1e-6,
    }[kind]


def to_fake_cuda(module: nn.Module) -> None:
    """Replace the tensors of a module by fake ones on a GPU, which `Module.to` cannot do."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            fake = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
            setattr(part, name, nn.Parameter(fake, parameter.requires_grad))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda"))
