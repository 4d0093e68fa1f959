"""Fits on two processes of this machine, against the same fits on one."""

import os
import pickle
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback, EarlyStopping
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from sklearn_ssl import SSLImageEmbedder, fit_together
from sklearn_ssl._distributed.batch_norm import SharedBatchNorm, moments
from sklearn_ssl._distributed.team import ALONE, Team, present_team
from sklearn_ssl._together import run_together

try:
    import cloudpickle
except ImportError:  # joblib before 1.5 has its own
    from joblib.externals import cloudpickle

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this module
pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")

IMAGES = (load_digits().images[:96] * 15).astype(np.uint8)
LABELS = np.where(np.arange(96) % 3 == 0, load_digits().target[:96], -1)


class InDouble(Callback):
    """Callback that trains in float64, in which only the meaning of the arithmetic counts."""

    def on_train_begin(self, net, **kwargs):
        draw = net.draw_views
        net.draw_views = lambda *args: [view.double() for view in draw(*args)]
        for module in filter(None, (net.module_, net.criterion_, net.teacher)):
            module.double()
        for layer in net.module_.backbone.modules():  # images of `transform` are float32
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_pre_hook(lambda layer, args: (args[0].double(),))


def tiny_resnet(in_channels):
    net = ResNet(BasicBlock, [1, 1, 1, 1])
    net.inplanes = 16
    net.conv1, net.bn1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
    net.maxpool = net.fc = nn.Identity()
    for i, width in enumerate((16, 16, 32, 32)):
        setattr(net, f"layer{i + 1}", net._make_layer(BasicBlock, width, 1, stride=1 + (i > 0)))
    return net


TINY_VIT = {"backbone": "vit", "backbone__width": 16, "backbone__depth": 1, "backbone__patch": 2}
FITS = {
    "ntxent": {},
    "micro-batches of a batch with an odd number of images": {"batch_size": 31, "micro_batches": 2},
    "labels": {"loss": "supcon"},
    "terms": {"loss": "vicreg"},
    "teacher and predictor": {"loss": "byol"},
    "queue": {"loss": "moco"},
    "local crops and prototypes": {"loss": "swav", "loss__local_crops": 2, "image_size": 32},
    "bank and k-means": {"loss": "deepcluster"},
    "mean over images, patches": {"loss": "mae", **TINY_VIT},
    "mean over an odd number of images": {"loss": "rotation", "batch_size": 31},
    "pixels of the views": {"loss": "jigsaw", "image_size": 18},
}


def embedder(**params):
    given = dict(loss="ntxent", backbone=tiny_resnet, batch_size=32, max_epochs=1, precision="float32")
    if params.get("backbone") == "vit":
        given.pop("backbone")
    return SSLImageEmbedder(**{**given, "device": "cpu", "random_state": 0, **params})


def trained(params):
    """Fit in float64; return all trained weights, the history, and what is random in another way."""
    fitted = embedder(optimizer="sgd", lr=0.02, warm_start=True, callbacks=[InDouble()], **params).fit(
        IMAGES, LABELS
    )
    parts = [fitted._training_state[part] or {} for part in ("student", "teacher", "loss")]
    values = [value.double().flatten() for part in parts for value in part.values()]
    return torch.cat(values), [row["train_loss"] for row in fitted.history_]


@pytest.fixture(scope="module")
def by_two():
    return run_together(lambda: {name: trained(FITS[name]) for name in FITS}, 2)


@pytest.mark.parametrize("name", FITS)
def test_two_processes_train_the_weights_of_one(by_two, name):
    weights, history = trained(FITS[name])
    (first, first_history), (second, second_history) = (results[name] for results in by_two)
    assert torch.equal(first, second)
    assert first_history == second_history
    assert (first - weights).norm() < 1e-11 * weights.norm()
    assert first_history == pytest.approx(history, rel=1e-9)


# ---------------------------------------------------------------------------- messages


def messages():
    """Return what each kind of message gives on each process."""
    with present_team() as team:
        team.connect(torch.device("cpu"))
        x = torch.arange(10.0).view(5, 2)
        own = team.share(x).clone().requires_grad_()
        whole = team.gather(own, 5)
        (whole**2).sum().backward()
        tensors = [torch.full((2, 3), float(team.rank)), torch.full((1,), 3.0, dtype=torch.float64)]
        team.average(tensors)
        return {
            "gathered": whole.detach(),
            "gradient": own.grad / team.size,  # which the average over the processes does
            "average": tensors,
            "sums": team.sums(1.0, team.rank),
            "from first": team.from_first(lambda: ("rank", team.rank)),
            "everyones": team.everyones(team.rank),
        }


def test_messages():
    first, second = run_together(messages, 2)
    x = torch.arange(10.0).view(5, 2)
    for rank, results in enumerate((first, second)):
        assert torch.equal(results["gathered"], x)
        assert torch.equal(results["gradient"], 2 * x[rank::2])
        assert torch.equal(results["average"][0], torch.full((2, 3), 0.5))
        assert results["average"][1].item() == 3.0
        assert results["sums"] == [2.0, 1.0]
        assert results["from first"] == ("rank", 0)
        assert results["everyones"] == [0, 1]


def test_a_process_alone_is_a_team_of_one():
    x = torch.randn(3, 2)
    with present_team() as team:
        assert team is ALONE
    assert ALONE.share(x) is x
    assert ALONE.gather(x, 3) is x
    assert ALONE.from_first(lambda: 5) == ALONE.all_or_none(lambda: 5) == 5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 3), (16, 3, 4, 5)])
def test_moments_have_the_precision_of_float32(shape, dtype):
    x = (3 + 2 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    mean, var = moments(x, 1e-5)
    axes = [0, *range(2, x.ndim)]
    torch.testing.assert_close(mean.double(), x.double().mean(axes), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(var.double(), x.double().var(axes, correction=0), rtol=1e-4, atol=1e-5)


NORMS = [(21, 3), (21, 3, 4, 5)]


def normalized(shape, affine, team):
    """Return output, gradients and running statistics of BatchNorm on this process's rows."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 1
    dy = torch.randn(shape, generator=generator, dtype=torch.float64)
    kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    norm = kind(shape[1], affine=affine).double()
    if affine:
        nn.init.normal_(norm.weight, generator=generator)
        nn.init.normal_(norm.bias, generator=generator)
    own = team.share(x).clone().requires_grad_()
    with SharedBatchNorm(team):
        out = norm(own)
    out.backward(team.share(dy))
    gradients = [p.grad for p in norm.parameters()]
    return out.detach(), own.grad, gradients, (norm.running_mean, norm.running_var)


def normalized_by_team():
    with present_team() as team:
        team.connect(torch.device("cpu"))
        return [normalized(shape, affine, team) for shape in NORMS for affine in (True, False)]


def test_batch_norm_has_the_statistics_of_all_processes():
    every = run_together(normalized_by_team, 2)
    for case, (shape, affine) in enumerate((shape, affine) for shape in NORMS for affine in (True, False)):
        out, dx, gradients, running = normalized(shape, affine, ALONE)
        for rank, results in enumerate(every):
            torch.testing.assert_close(results[case][0], out[rank::2], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(results[case][1], dx[rank::2], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(results[case][3], running, rtol=1e-12, atol=1e-12)
        for i, gradient in enumerate(gradients):
            together = sum(results[case][2][i] for results in every)
            torch.testing.assert_close(together, gradient, rtol=1e-11, atol=1e-11)


def test_outside_of_training_batch_norm_is_left_alone():
    x, norm = torch.randn(4, 3), nn.BatchNorm1d(3).eval()
    with SharedBatchNorm(ALONE):
        assert torch.equal(
            norm(x), F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )


# ---------------------------------------------------------------------------- life of a fit


def digest(fitted):
    return sum(value.double().abs().sum().item() for value in fitted.encoder_.state_dict().values())


class StopsAfter(Callback):
    """Callback that presses Ctrl-C in process 1, or fails there, after a number of steps."""

    def __init__(self, steps, how):
        self.steps = steps
        self.how = how

    def on_batch_end(self, net, **kwargs):
        if net.steps_done != self.steps or (dist.is_initialized() and dist.get_rank() != 1):
            return
        if self.how == "Ctrl-C":
            os.kill(os.getpid(), signal.SIGINT)
        elif self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            raise ValueError("on purpose")


def interrupted(folder):
    """Interrupt process 1 after 4 of 9 steps; return the number of steps, and the error."""
    one = embedder(max_epochs=3, checkpoint=folder, callbacks=[StopsAfter(4, "Ctrl-C")])
    try:
        one.fit(IMAGES)
    except KeyboardInterrupt as error:
        return one._training_state["steps_done"], type(error).__name__


def test_an_interrupted_fit_goes_on_to_the_same_bits(tmp_path):
    # SIGINT is raised in the process itself: nobody presses a key here.
    assert run_together(interrupted, 2, str(tmp_path / "a")) == [(4, "KeyboardInterrupt")] * 2

    def whole(folder):
        return digest(embedder(max_epochs=3, checkpoint=folder).fit(IMAGES))

    resumed = run_together(whole, 2, str(tmp_path / "a"))
    undisturbed = run_together(whole, 2, str(tmp_path / "b"))
    assert resumed == undisturbed
    assert len(list((tmp_path / "a").iterdir())) == 1


def test_a_checkpoint_of_two_processes_goes_on_with_one(tmp_path):
    def begun(folder):
        one = embedder(
            max_epochs=3, callbacks=[InDouble(), StopsAfter(4, "Ctrl-C")], **sgd, checkpoint=folder
        )
        with pytest.raises(KeyboardInterrupt):
            one.fit(IMAGES)

    sgd = {"optimizer": "sgd", "lr": 0.02}
    run_together(begun, 2, str(tmp_path))
    with pytest.warns(UserWarning, match="goes on from .* after 4 steps"):
        resumed = embedder(max_epochs=3, callbacks=[InDouble()], **sgd, checkpoint=tmp_path).fit(IMAGES)
    straight = embedder(max_epochs=3, callbacks=[InDouble()], **sgd).fit(IMAGES)
    assert digest(resumed) == pytest.approx(digest(straight), rel=1e-6)


def different(what):
    rank = dist.get_rank()
    images = IMAGES[rank:] if what == "images" else IMAGES
    params = {"batch_size": 32 + rank} if what == "parameters" else {}
    path = "/nowhere" if what == "a folder" and rank == 1 else None
    try:
        embedder(**params).fit(path or images)
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"


def all_different():
    cases = ("parameters", "images", "a folder")
    return {what: different(what) for what in cases}


def test_processes_that_do_not_train_the_same_say_so_before_they_train():
    first, second = run_together(all_different, 2)
    for what in ("parameters", "images"):
        assert first[what] == second[what]
        assert f"but the {what}" in first[what]
        assert "of processes [1] differ from those of process 0" in first[what]
    assert "Process 1 of 2 cannot train" in first["a folder"]
    assert "/nowhere" in first["a folder"]
    assert second["a folder"].startswith("FileNotFoundError")


def test_more_processes_than_images_of_a_batch():
    task = replace(embedder(batch_size=7, micro_batches=2)._open(IMAGES), team=Team(rank=0, size=4))
    with pytest.raises(
        ValueError, match="A batch of 7 images in micro_batches=2 is too small for 4 processes"
    ):
        task.check_team(None)


# ---------------------------------------------------------------------------- fit_together


def test_fit_together_fits_a_pipeline_in_place():
    pipe = make_pipeline(embedder(callbacks=[EarlyStopping("train_loss")]), LogisticRegression(max_iter=2000))
    labels = load_digits().target[:96]
    first = pipe[0]
    assert fit_together(pipe, IMAGES, labels, n_processes=2) is pipe
    assert pipe[0] is first
    assert first.backbone is first.backbone_ is tiny_resnet
    assert len(pipe.predict(IMAGES)) == 96
    again = pickle.loads(pickle.dumps(pipe))
    assert np.array_equal(again[0].transform(IMAGES), pipe[0].transform(IMAGES))
    assert not dist.is_initialized()


def test_with_one_process_it_is_fit():
    one = fit_together(embedder(), IMAGES, n_processes=1)
    assert digest(one) == digest(embedder().fit(IMAGES))


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [("error", ValueError, "on purpose"), ("kill", RuntimeError, "One of 2 worker processes was killed")],
)
def test_a_worker_that_fails_ends_the_fit(how, error, words):
    with pytest.raises(error, match=words):
        fit_together(embedder(max_epochs=50, callbacks=[StopsAfter(2, how)]), IMAGES, n_processes=2)


@pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) is not signal.default_int_handler, reason="Ctrl-C is ignored here"
)
def test_ctrl_c_keeps_the_model_so_far(tmp_path):
    class Says(Callback):
        def on_batch_end(self, net, **kwargs):
            (tmp_path / "trains").touch()

    def press():
        while not (tmp_path / "trains").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    one = embedder(max_epochs=10_000, callbacks=[Says()])
    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        fit_together(one, IMAGES, n_processes=2)
    thread.join()
    assert one.n_iter_ < 10_000
    assert np.isfinite(one.transform(IMAGES)).all()


def fails_in_one(images, generator):
    if dist.is_initialized() and dist.get_rank() == 1:
        raise ValueError("an augmentation failed")
    return images


def test_an_error_within_a_step_of_one_process_ends_all():
    # Process 0 then waits for the projections of process 1.
    with pytest.raises(ValueError, match="an augmentation failed"):
        fit_together(embedder(augment=fails_in_one, max_epochs=50), IMAGES, n_processes=2)


class EndsInOne(Callback):
    """Callback that ends the training, as EarlyStopping does, in process 1 alone."""

    def on_epoch_end(self, net, **kwargs):
        if dist.get_rank() == 1 and net.epoch == 2:
            raise KeyboardInterrupt


def ended():
    return embedder(max_epochs=20, callbacks=[EndsInOne()]).fit(IMAGES).n_iter_


def test_a_callback_that_ends_one_process_ends_all_at_the_same_step():
    assert run_together(ended, 2) == [2, 2]


def test_unreadable_images_are_replaced_in_all_processes(save_images):
    paths = list(save_images(IMAGES))
    for bad in (3, 10):
        Path(paths[bad]).write_text("no image")
    one = embedder(loss="deepcluster", reader__on_error="skip", max_epochs=2)
    with pytest.warns(UserWarning, match="2 of 96 images were left out"):
        alone = embedder(loss="deepcluster", reader__on_error="skip", max_epochs=2).fit(paths)
    fit_together(one, paths, n_processes=2)
    assert set(one.skipped_) == set(alone.skipped_) == {3, 10}


def test_torchrun_without_a_group_is_told(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.warns(UserWarning, match=r"4 processes.*init_process_group\(\)"):
        embedder().fit(IMAGES)
