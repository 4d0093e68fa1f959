"""Fits on several processes that one program starts."""

import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest
import torch.distributed as dist
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback, EarlyStopping

from sklearn_ssl import fit_together
from sklearn_ssl._together import _map, _Mapped

pytestmark = pytest.mark.usefixtures("sent_by_value")


class FailsIn1(Callback):
    """Callback that raises, or kills its process, in the second step of process 1."""

    def __init__(self, kill):
        self.kill = kill

    def on_batch_end(self, net, **kwargs):
        if net.steps_done == 2 and dist.get_rank() == 1:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("on purpose")


def test_it_fits_a_pipeline_in_place(embedder, images, labels, convolution):
    first = embedder(backbone=convolution, callbacks=[EarlyStopping("train_loss")])
    pipe = make_pipeline(first, LogisticRegression())
    assert fit_together(pipe, images, labels, n_processes=2) is pipe
    assert pipe[0] is first
    assert first.backbone is first.backbone_ is convolution
    assert len(pipe.predict(images)) == len(images)
    again = pickle.loads(pickle.dumps(pipe))
    assert np.array_equal(again[0].transform(images), pipe[0].transform(images))
    assert not dist.is_initialized()


def test_with_one_process_it_is_fit(embedder, images):
    one = fit_together(embedder(), images, n_processes=1)
    assert np.array_equal(one.transform(images), embedder().fit(images).transform(images))


@pytest.mark.parametrize("value", ["two", 0, 1.5])
def test_a_wrong_number_of_processes(embedder, images, value):
    with pytest.raises(ValueError, match="n_processes"):
        fit_together(embedder(), images, n_processes=value)


@pytest.mark.parametrize(
    ("kill", "error", "words"),
    [(False, ValueError, "on purpose"), (True, RuntimeError, "One of 2 worker processes was killed")],
    ids=["raises", "is killed"],
)
def test_a_worker_that_fails_ends_the_fit(embedder, images, convolution, kill, error, words):
    one = embedder(backbone=convolution, max_epochs=50, callbacks=[FailsIn1(kill)])
    with pytest.raises(error, match=words):
        fit_together(one, images, n_processes=2)


class Touches(Callback):
    """Callback that makes a file after each step."""

    def __init__(self, path):
        self.path = path

    def on_batch_end(self, net, **kwargs):
        self.path.touch()


@pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) is not signal.default_int_handler, reason="Ctrl-C is ignored here"
)
def test_ctrl_c_keeps_the_model_so_far(embedder, images, convolution, tmp_path):
    def press():
        while not (tmp_path / "trains").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    one = embedder(backbone=convolution, max_epochs=100_000, callbacks=[Touches(tmp_path / "trains")])
    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        fit_together(one, images, n_processes=2)
    thread.join()
    assert one.n_iter_ < 100_000
    assert np.isfinite(one.transform(images)).all()


def test_arrays_are_mapped_and_other_inputs_are_sent(images, tmp_path):
    mapped = _map(images, tmp_path / "X")
    assert isinstance(mapped, _Mapped)
    assert type(mapped()) is np.ndarray
    assert np.array_equal(mapped(), images)
    assert _map(["a.png"], tmp_path / "X") == ["a.png"]


def test_a_memory_map_is_sent_by_its_file(images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    stored = np.load(tmp_path / "images.npy", mmap_mode="r")[3:]
    mapped = _map(stored, tmp_path / "X")
    assert len(pickle.dumps(mapped)) < stored.nbytes
    assert not (tmp_path / "X.npy").exists()
    assert isinstance(mapped(), np.memmap)
    assert np.array_equal(mapped(), stored)
    assert np.array_equal(_map(stored[:, ::2], tmp_path / "X")(), stored[:, ::2])
