"""skorch's own callbacks: each works, or says why it has no meaning."""

import json

import pytest
import skorch.callbacks
import torch
from skorch.callbacks import (
    BatchScoring,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    EpochTimer,
    Freezer,
    GradientNormClipping,
    Initializer,
    InputShapeSetter,
    LoadInitState,
    LRScheduler,
    MlflowLogger,
    ParamMapper,
    PassthroughScoring,
    PrintLog,
    ProgressBar,
    SacredLogger,
    TensorBoard,
    TrainEndCheckpoint,
    Unfreezer,
    WandbLogger,
)


class Recorder:
    """Stands in for the writers of logs: any method call is recorded."""

    dir = "."

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            return self

        return call


def recorded(calls):
    """Return all names and strings in the recorded calls."""
    return " ".join(map(repr, calls))


@pytest.fixture
def fit(embedder, many_images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def fit(*callbacks, **params):
        given = {"max_epochs": 4, "validation_fraction": 0.25, "eval_metrics": "rankme", **params}
        return embedder(callbacks=list(callbacks), **given).fit(many_images)

    return fit


def test_the_list_of_stock_callbacks_is_complete():
    ours = {name for name in skorch.callbacks.__all__ if name in globals()}
    # Callback: the base class; WarmRestartLR: a policy of LRScheduler; NeptuneLogger: needs neptune.
    assert set(skorch.callbacks.__all__) - ours <= {"Callback", "WarmRestartLR", "NeptuneLogger"}


@pytest.mark.parametrize(
    ("callback", "advice"),
    [
        (BatchScoring("accuracy"), "eval_metrics"),
        (EpochScoring("accuracy"), "eval_metrics"),
        (PassthroughScoring("train_loss"), "eval_metrics"),
        (InputShapeSetter(), "built for the images"),
        (LRScheduler(), "lr and warmup"),
        (LoadInitState(Checkpoint()), "give checkpoint"),
    ],
)
def test_callbacks_without_meaning_say_so(fit, callback, advice):
    name = type(callback).__name__
    for given in (callback, (name, callback)):
        with pytest.raises(ValueError, match=f"{name}.*{advice}"):
            fit(given)


@pytest.mark.parametrize(
    "callback",
    [EarlyStopping(), EarlyStopping, Checkpoint(), WandbLogger(Recorder()), EarlyStopping("rankme")],
)
def test_callbacks_that_wait_for_an_evaluation_say_what_is_missing(fit, callback):
    with pytest.raises(ValueError, match=r"validation_fraction=0\.1"):
        fit(callback, validation_fraction=0.0, eval_metrics="auto")


def test_early_stopping_ends_a_training_on_a_plateau(fit):
    fitted = fit(EarlyStopping(patience=2, sink=lambda text: None), max_epochs=30)
    assert 2 <= len(fitted.history_) < 30
    fitted = fit(EarlyStopping("rankme", patience=3, sink=lambda text: None), max_epochs=30)
    assert 3 <= len(fitted.history_) < 30
    fit(EarlyStopping("train_loss"), validation_fraction=0.0, eval_metrics="auto")


class Weights(skorch.callbacks.Callback):
    """Keeps a weight, and the validation loss, of each epoch."""

    def on_train_begin(self, net, **kwargs):
        self.epochs = []

    def on_epoch_end(self, net, **kwargs):
        weight = net.module_.backbone.conv.weight.detach().clone()
        self.epochs.append((net.history[-1, "valid_loss"], weight))


def test_early_stopping_can_keep_the_best_epoch(fit):
    stop, weights = EarlyStopping(patience=3, load_best=True, sink=lambda text: None), Weights()
    fitted = fit(weights, stop, max_epochs=12, eval_every=1, lr=0.1)
    losses = [loss for loss, _ in weights.epochs]
    best = losses.index(min(losses))
    assert best < len(losses) - 1  # else nothing would have to be loaded
    torch.testing.assert_close(fitted.encoder_.backbone.conv.weight.detach(), weights.epochs[best][1])


def test_checkpoints_of_skorch_are_written_and_the_best_is_loaded(fit, tmp_path, many_images):
    fitted = fit(Checkpoint(dirname="best", load_best=True), lr=1e-9)
    history = json.loads((tmp_path / "best" / "history.json").read_text())
    assert history[0]["valid_loss_best"]
    saved = torch.load(tmp_path / "best" / "params.pt", weights_only=True)
    torch.testing.assert_close(saved["backbone.conv.weight"], fitted.encoder_.backbone.conv.weight.detach())
    fit(TrainEndCheckpoint(dirname="end"))
    assert (tmp_path / "end" / "train_end_params.pt").exists()
    fit(Checkpoint(monitor=None, dirname="all"), validation_fraction=0.0, eval_metrics="auto")
    assert (tmp_path / "all" / "params.pt").exists()


def test_parameters_can_be_frozen_and_set(fit):
    frozen = fit(Freezer("backbone.conv.*"), lr=0.1)
    free = fit(lr=0.1)
    start = fit(lr=1e-9)
    weight = [each.encoder_.backbone.conv.weight.detach() for each in (frozen, free, start)]
    torch.testing.assert_close(weight[0], weight[2], atol=1e-6, rtol=0)
    assert not torch.allclose(weight[1], weight[2], atol=1e-3)
    thawed = fit(Freezer("backbone.conv.*"), Unfreezer("backbone.conv.*", at=2), lr=0.1)
    assert not torch.allclose(thawed.encoder_.backbone.conv.weight.detach(), weight[2], atol=1e-3)
    zeros = fit(Initializer("backbone.norm.bias", fn=lambda p: p.data.fill_(7.0)), lr=1e-9)
    torch.testing.assert_close(zeros.encoder_.backbone.norm.bias.detach(), torch.full((8,), 7.0))
    seen = []
    fit(ParamMapper("backbone.conv.weight", fn=lambda p: seen.append(p.shape), at=1))
    assert seen == [(8, 3, 3, 3)]


def test_gradients_are_clipped(fit):
    norms = []

    class Norm(skorch.callbacks.Callback):
        def on_grad_computed(self, net, named_parameters, **kwargs):
            norms.append(torch.nn.utils.get_total_norm([p.grad for _, p in named_parameters]).item())

    fit(GradientNormClipping(1e-3), Norm())
    assert max(norms) <= 1e-3 * (1 + 1e-4)


def test_logs_hold_the_losses_and_scores(fit, capsys):
    fit(EpochTimer(), PrintLog())
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("train_loss", "valid_loss", "rankme", "dur"))
    fit(ProgressBar())
    assert capsys.readouterr().err.count("0/4") == 4  # a bar for each epoch; 30 images in batches of 8
    for logger in (WandbLogger, SacredLogger, TensorBoard):
        writer = Recorder()
        fit(logger(writer))
        assert "valid_loss" in recorded(writer.calls), logger
        assert "rankme" in recorded(writer.calls), logger


def test_mlflow_logs_each_epoch(fit):
    client = Recorder()

    class Run:
        class info:
            run_id = 1

    fit(MlflowLogger(run=Run, client=client, log_on_epoch_end=True, log_on_batch_end=False))
    assert "valid_loss" in recorded(client.calls)
