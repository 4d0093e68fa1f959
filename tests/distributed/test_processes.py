"""Fits on two processes of this machine, against the same fits on one."""

import errno
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from skorch.callbacks import Callback
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from sklearn_ssl import SSLImageEmbedder, fit_together
from sklearn_ssl._distributed.team import Team
from sklearn_ssl._together import run_together
from sklearn_ssl._training import checkpoint

pytestmark = pytest.mark.usefixtures("sent_by_value")

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


STRONG = {"blur": 0.5, "noise": 0.1, "cutout": 0.5, "solarize": 0.2, "rotation": 20, "shear": 5}
TINY_VIT = {"backbone": "vit", "backbone__width": 16, "backbone__depth": 1, "backbone__patch": 2}
FITS = {
    "ntxent": {},
    "every augmentation": {"augment": "photo", "augment_params": STRONG},
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
    "held-back images": {"loss": "moco", "validation_fraction": 0.2, "batch_size": 24},
}


def embedder(**params):
    given = dict(loss="ntxent", backbone=tiny_resnet, batch_size=32, max_epochs=1, precision="float32")
    if params.get("backbone") == "vit":
        given.pop("backbone")
    return SSLImageEmbedder(**{**given, "device": "cpu", "random_state": 0, **params})


def trained(params):
    """Fit in float64; return all trained weights, of the loss too, and the history."""
    fitted = embedder(optimizer="sgd", lr=0.02, warm_start=True, callbacks=[InDouble()], **params).fit(
        IMAGES, LABELS
    )
    parts = [fitted._training_state[part] or {} for part in ("student", "teacher", "loss")]
    values = [value.double().flatten() for part in parts for value in part.values()]
    history = [(row["train_loss"], row.get("valid_loss", 0.0)) for row in fitted.history_]
    return torch.cat(values), np.array(history).ravel().tolist()


@pytest.fixture(scope="module")
def by_two(sent_by_value):
    return run_together(lambda: {name: trained(FITS[name]) for name in FITS}, 2)


@pytest.mark.parametrize("name", FITS)
def test_two_processes_train_the_weights_of_one(by_two, name):
    weights, history = trained(FITS[name])
    (first, first_history), (second, second_history) = (results[name] for results in by_two)
    assert torch.equal(first, second)
    assert first_history == second_history
    assert (first - weights).norm() < 1e-11 * weights.norm()
    assert first_history == pytest.approx(history, rel=1e-9)


# ---------------------------------------------------------------------------- life of a fit


def digest(fitted):
    return sum(value.double().abs().sum().item() for value in fitted.encoder_.state_dict().values())


class PressesCtrlC(Callback):
    """Callback that presses Ctrl-C in process 1, after 4 steps."""

    def on_batch_end(self, net, **kwargs):
        if net.steps_done == 4 and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGINT)


def interrupted(folder):
    """Interrupt process 1 after 4 of 9 steps; return the number of steps, and the error."""
    one = embedder(max_epochs=3, checkpoint=folder, callbacks=[PressesCtrlC()])
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
        one = embedder(max_epochs=3, callbacks=[InDouble(), PressesCtrlC()], **sgd, checkpoint=folder)
        with pytest.raises(KeyboardInterrupt):
            one.fit(IMAGES)

    sgd = {"optimizer": "sgd", "lr": 0.02}
    run_together(begun, 2, str(tmp_path))
    with pytest.warns(UserWarning, match="resumes from .* after 4 steps"):
        resumed = embedder(max_epochs=3, callbacks=[InDouble()], **sgd, checkpoint=tmp_path).fit(IMAGES)
    straight = embedder(max_epochs=3, callbacks=[InDouble()], **sgd).fit(IMAGES)
    weights, expected = (
        torch.cat([value.double().flatten() for value in one.encoder_.state_dict().values()])
        for one in (resumed, straight)
    )
    # The state was loaded into a network of float32, before it became one of float64.
    assert (weights - expected).norm() < 1e-5 * expected.norm()


class FillsTheDisk(Callback):
    """Callback after whose fourth step process 0 can write no file."""

    def on_batch_end(self, net, **kwargs):
        if net.steps_done == 4:
            checkpoint.INTERVAL, checkpoint.MAX_TIME_FRACTION = -1.0, float("inf")
            checkpoint.write_archive = no_space


def no_space(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


def on_a_full_disk(folder):
    one = embedder(max_epochs=3, checkpoint=folder, callbacks=[FillsTheDisk()])
    with pytest.raises(OSError) as caught:
        one.fit(IMAGES)
    return one._training_state["steps_done"], str(caught.value)


def test_a_full_disk_ends_all_processes_after_the_same_step(tmp_path):
    (steps, first), (others_steps, second) = run_together(on_a_full_disk, 2, str(tmp_path))
    assert steps == others_steps == 4
    assert "No space left on device" in first
    assert "another process could not continue" in second


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
    task = replace(embedder(batch_size=7, micro_batches=2)._open(IMAGES)[0], team=Team(rank=0, size=4))
    with pytest.raises(
        ValueError, match="A batch of 7 images in micro_batches=2 is too small for 4 processes"
    ):
        task.check_team(None)


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
