"""The plugin contract as a test suite: what a loss must do to work in `SSLImageEmbedder`.

In a plugin's tests, one decorator is enough::

    @parametrize_with_loss_checks(["my_loss"])
    def test_my_loss_keeps_the_contract(check):
        check()
"""

from __future__ import annotations

import copy
import functools
import inspect
import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from sklearn_ssl._networks.student import Student, Teacher
from sklearn_ssl._networks.vit import make_vit
from sklearn_ssl._training.net import check_loss_value, output_width
from sklearn_ssl._training.seeds import seeded_modules
from sklearn_ssl.losses._adapters import loss_name, make_loss, resolve_loss
from sklearn_ssl.losses._base import Batch, Spec, SSLLoss
from sklearn_ssl.losses._registry import get_loss

__all__ = ["check_loss", "check_name", "loss_checks", "parametrize_with_loss_checks"]

CHANNELS, SIDE, FEATURES = 3, 16, 16


IMMUTABLE = (int, float, complex, bool, str, bytes, tuple, frozenset, type(None))


def check_loss(loss: Any, *, expected_failed_checks: dict[str, str] | None = None) -> None:
    """Run every check on a loss.

    Parameters
    ----------
    loss : str, class, function or functools.partial
        As for `SSLImageEmbedder(loss=...)`. A partial of a class sets sizes that suit tiny batches.
    expected_failed_checks : dict, optional
        ``{"check_name": "reason"}`` for checks that fail by the method's nature; they must fail.

    Raises
    ------
    AssertionError
        Lists each check that failed, with its cause; also a check that was expected to fail and passed.
    """
    expected = dict(expected_failed_checks or {})
    problems = []
    for check in loss_checks(loss):
        name = check_name(check)
        reason = expected.pop(name, None)
        try:
            check()
        except Exception as error:
            if reason is None:
                problems.append(f"{name}: {error}")
        else:
            if reason is not None:
                problems.append(f"{name} passed, though it was expected to fail ({reason}).")
    problems += [f"{name}: there is no such check." for name in expected]
    if problems:
        raise AssertionError(f"The loss {loss_name(loss)!r} breaks the contract:\n- " + "\n- ".join(problems))


def parametrize_with_loss_checks(
    losses: Sequence[Any], *, expected_failed_checks: Callable[[Any], dict[str, str]] | None = None
):
    """Pytest decorator: one test for each loss and check; the test's one argument is `check`.

    Parameters
    ----------
    losses : sequence
        What `check_loss` takes.
    expected_failed_checks : callable, optional
        ``f(loss) -> {"check_name": "reason"}``; these tests are strict expected failures.
    """
    import pytest

    cases = []
    for loss in losses:
        expected = {} if expected_failed_checks is None else expected_failed_checks(loss)
        for check in loss_checks(loss):
            name = check_name(check)
            marks = [pytest.mark.xfail(reason=expected[name], strict=True)] if name in expected else []
            cases.append(pytest.param(check, id=f"{loss_name(loss)}-{name}", marks=marks))
    return pytest.mark.parametrize("check", cases)


def loss_checks(loss: Any) -> Iterator[functools.partial]:
    """The checks, each ready to be called."""
    for check in CHECKS:
        yield functools.partial(check, loss)


def check_name(check: functools.partial) -> str:
    return check.func.__name__


# ---------------------------------------------------------------------------- the stage


class Trial:
    """A loss with a student (and teacher) small enough to run in milliseconds.

    A loss that writes `forward` only is given its projections directly; one that writes `step` is
    given images, a small backbone (a vision transformer where its `defaults` say so, else convolutional)
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
        self.teacher = None if self.simple or self.loss.teacher_momentum is None else Teacher(self.student)
        for module in self.modules():
            module.to(dtype)
        self.loss.on_epoch_start(0, torch.Generator().manual_seed(0))

    def _tiny_student(self) -> Student:
        """Images of any size -> 16 features -> projections."""
        if self.loss.defaults.get("backbone") == "vit":
            backbone = make_vit(CHANNELS, (SIDE, SIDE), width=FEATURES, depth=1)
        else:
            conv = nn.Conv2d(CHANNELS, FEATURES, 3, 2)
            backbone = nn.Sequential(conv, nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return Student(backbone, self.loss.make_projector(FEATURES, (32, self.dim)))

    def modules(self) -> list[nn.Module]:
        return [module for module in (self.loss, self.student, self.teacher) if module is not None]

    def inputs(self, seed: int = 0, agree: float = 0.5) -> list[Tensor]:
        """Projections (or images) that share a common part; `agree` is its weight."""
        generator = torch.Generator().manual_seed(seed)
        common = torch.randn(self.shape(0), generator=generator, dtype=torch.float64)
        views = []
        for i in range(self.loss.view_spec.n + self.loss.view_spec.local):
            own = torch.randn(self.shape(i), generator=generator, dtype=torch.float64)
            part = common if self.simple else common[..., : own.shape[-2], : own.shape[-1]]
            views.append((agree * part + (1 - agree) * own).to(self.dtype))
        return views

    def shape(self, view: int) -> tuple[int, ...]:
        if self.simple:
            return self.n, self.dim
        side = SIDE if view < self.loss.view_spec.n else max(1, round(SIDE * self.loss.view_spec.local_size))
        return self.n, CHANNELS, side, side

    def terms(self, views: list[Tensor], index: Tensor | None = None, step: int = 0) -> dict[str, Tensor]:
        """Everything that the loss returns for one batch."""
        device = views[0].device
        index = torch.arange(self.n) if index is None else index
        labels = (index % max(2, self.n // 2)).masked_fill(index % 5 == 4, -1)
        batch = Batch(
            views=[with_gradient(view) for view in views] if self.simple else views,
            index=index.to(device),
            y=labels.to(device) if self.loss.uses_labels else None,
            epoch=0,
            progress=step / 60,
            generator=torch.Generator().manual_seed(step),
        )
        out = self.loss.step(batch, self.student, self.teacher)
        terms = out if isinstance(out, dict) else {"loss": out}
        check_loss_value(type(self.loss).__name__, terms)
        return terms

    def value(self, views: list[Tensor], **kwargs: Any) -> Tensor:
        return self.terms(views, **kwargs)["loss"].reshape(())

    def sources(self, views: list[Tensor]) -> list[Tensor]:
        """What gradients are taken by: the projections; through a student, its parameters."""
        return views if self.simple else list(self.student.parameters())

    def gradients(self, views: list[Tensor]) -> list[Tensor]:
        """Of the loss, by the sources."""
        views = [with_gradient(view) for view in views]
        return list(torch.autograd.grad(self.value(views), self.sources(views), materialize_grads=True))

    def twin(self, loss: SSLLoss | None = None) -> Trial:
        """A copy that shares nothing, with another loss if one is given."""
        twin = copy.deepcopy(self)
        twin.loss = twin.loss if loss is None else copy.deepcopy(loss)
        return twin


class GivenProjections(Student):
    """In place of a student: the "views" are the projections."""

    def __init__(self):
        super().__init__(nn.Identity(), nn.Identity())

    def forward(self, views: Sequence[Tensor]) -> list[Tensor]:
        return list(views)


def with_gradient(view: Tensor) -> Tensor:
    return view if view.requires_grad else view.clone().requires_grad_()


# ---------------------------------------------------------------------------- the checks


def check_hyperparameters_have_immutable_defaults(loss: Any) -> None:
    """Grid searches read names and defaults from the signature, and copy them freely."""
    target = resolve_loss(loss)
    if isinstance(target, nn.Module):
        return
    for parameter in inspect.signature(target).parameters.values():
        tunable = inspect.isclass(target) or parameter.kind is parameter.KEYWORD_ONLY
        if tunable and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            assert parameter.default is not parameter.empty, f"{parameter.name} has no default"
            ok = isinstance(parameter.default, IMMUTABLE) or callable(parameter.default)
            assert ok, f"the default of {parameter.name} is mutable: {parameter.default!r}"


def check_returns_one_finite_number_with_gradient(loss: Any) -> None:
    """For few and odd numbers of images, and several widths."""
    for n in (2, 3, 17):
        for dim in (1, 8, 33):
            trial = Trial(loss, n=n, dim=dim)
            value = trial.value(trial.inputs())
            assert value.dtype == torch.float32, f"n={n}, dim={dim}: the loss is {value.dtype}, not float32"
            assert value.isfinite(), f"n={n}, dim={dim}: the loss is {value.item()}"
            finite = all(g.isfinite().all() for g in trial.gradients(trial.inputs()))
            assert finite, f"n={n}, dim={dim}: the gradient is not finite"


def check_depends_on_its_input(loss: Any) -> None:
    """A loss that ignores the projections trains nothing."""
    trial = Trial(loss)
    assert any(g.any() for g in trial.gradients(trial.inputs())), "the gradient is zero everywhere"


def check_gradient_is_right_in_float64(loss: Any) -> None:
    """Against a finite difference along a random direction. Expected to fail where a gradient is stopped."""
    trial = Trial(loss, n=4, dim=5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    sources = trial.sources(trial.inputs())
    direction = [torch.randn(s.shape, generator=generator, dtype=torch.float64) for s in sources]

    def value(distance: float) -> Tensor:
        twin = trial.twin()  # a queue or centre must not move between evaluations
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
    """Projections of a batch are parts of one tensor, and views may be used again: copy, then change."""
    trial = Trial(loss)
    views = trial.inputs()
    # Not leaves, which autograd guards itself.
    given = [view.clone().requires_grad_(trial.simple).clone() for view in views]
    trial.value(given)
    unchanged = all(torch.equal(a, b) for a, b in zip(given, views, strict=True))
    assert unchanged, f"the {'projections' if trial.simple else 'views'} were changed in place"


def check_survives_degenerate_projections(loss: Any) -> None:
    """Zeros, equal rows, huge and tiny values happen in training: finite value and gradient."""
    for kind in ("zeros", "constant", "identical rows", "huge", "tiny"):
        trial = Trial(loss)
        views = [_degenerate(kind, view) for view in trial.inputs()]
        value, gradients = trial.twin().value(views), trial.gradients(views)
        assert value.isfinite(), f"{kind}: the loss is {value.item()}"
        assert all(g.isfinite().all() for g in gradients), f"{kind}: the gradient is not finite"


def check_does_not_depend_on_the_order_of_images(loss: Any) -> None:
    trial = Trial(loss)
    views, order = trial.inputs(), torch.randperm(trial.n, generator=torch.Generator().manual_seed(1))
    a, b = trial.twin().value(views), trial.value([view[order] for view in views], index=order)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m: f"another order, another loss: {m}")


def check_prefers_views_that_agree(loss: Any) -> None:
    """Projections of one image that agree cost less than those that were exchanged with other images'."""
    trial = Trial(loss)
    if not trial.simple or trial.loss.view_spec.n + trial.loss.view_spec.local < 2:
        return  # with a step of its own, the value depends on parts that are not trained yet
    first, *others = trial.inputs(agree=0.9)
    exchanged = [view.roll(i, dims=0) for i, view in enumerate(others, 1)]
    agree, disagree = trial.twin().value([first, *others]), trial.value([first, *exchanged])
    assert agree < disagree, f"agreeing views cost {agree:.4g}, exchanged ones {disagree:.4g}"


def check_leaves_the_global_generator_alone(loss: Any) -> None:
    """All randomness comes from `batch.generator`: else fits are not repeatable."""
    trial = Trial(loss)
    before = torch.get_rng_state()
    train(trial, steps=2)
    trial.loss.on_epoch_start(1, torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.get_rng_state()), "the loss draws from torch's global generator"


def check_repeats_itself(loss: Any) -> None:
    """The same batch and generator give the same value."""
    a, b = (trial.value(trial.inputs()) for trial in (Trial(loss), Trial(loss)))
    assert torch.equal(a, b), f"two equal calls gave {a.item()} and {b.item()}"


def check_bfloat16_is_close(loss: Any) -> None:
    """Projections rounded to bfloat16 change the loss by at most 5 %."""
    trial = Trial(loss)
    views = trial.inputs()
    a = trial.twin().value(views)
    b = trial.value([view.to(torch.bfloat16).to(torch.float32) for view in views])
    assert (a - b).abs() <= 0.05 * a.abs() + 1e-2, f"float32 {a.item():.5g}, from bfloat16 {b.item():.5g}"


def check_state_survives_copies(loss: Any) -> None:
    """state_dict (loaded with weights_only=True), pickle and deepcopy give a loss that says the same."""
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
    """Under fake "cuda" tensors, a tensor that was left on the CPU raises."""
    trial = Trial(loss)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in trial.modules():
            _to_fake_cuda(module)
        views = [torch.empty(view.shape, device="cuda") for view in trial.inputs()]
        try:
            value = trial.value(views)
        except (DynamicOutputShapeException, DataDependentOutputException):
            return  # a mask or .item(): fake tensors have no values, so this is as far as they go
    assert value.device.type == "cuda", f"the loss came back on {value.device}"


def check_learns(loss: Any) -> None:
    """Sixty steps on one batch bring the loss down."""
    values = train(Trial(loss), steps=60)
    start, end = sum(values[:5]) / 5, sum(values[-5:]) / 5
    assert end < start, f"the loss went from {start:.5g} to {end:.5g} in 60 steps"


def check_name_leads_to_a_loss(loss: Any) -> None:
    """A loss given by name is installed, alone under its name, and can be imported."""
    if isinstance(loss, str):
        get_loss(loss)


CHECKS = (
    check_hyperparameters_have_immutable_defaults,
    check_returns_one_finite_number_with_gradient,
    check_depends_on_its_input,
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
    """Loss values of some steps on one batch; for a simple loss the projections themselves are trained."""
    views = trial.inputs(agree=0.2)
    parameters = [*trial.loss.parameters(), *trial.student.parameters()]
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
            trial.teacher.follow(trial.student, 0.9)
        trial.loss.after_step(trial.student, trial.teacher)
        values.append(value.item())
    return values


def _degenerate(kind: str, view: Tensor) -> Tensor:
    return {
        "zeros": torch.zeros_like(view),
        "constant": torch.ones_like(view),
        "identical rows": view[:1].expand_as(view).clone(),
        "huge": view * 1e4,
        "tiny": view * 1e-6,
    }[kind]


def _to_fake_cuda(module: nn.Module) -> None:
    """Its tensors on a pretended GPU; `Module.to` cannot exchange real tensors for fake ones."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            fake = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
            setattr(part, name, nn.Parameter(fake, parameter.requires_grad))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda"))
