"""The queue of earlier projections that several methods use."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sklearn_ssl import Spec, SSLImageEmbedder
from sklearn_ssl.losses import Queue, SSLLoss, queue_size


def counted(start, stop):
    """Return the rows (start, -start), ..., one for each number."""
    numbers = torch.arange(start, stop, dtype=torch.float32)
    return torch.stack([numbers, -numbers], dim=1)


def filled_with(size, *batches):
    queue = Queue(size, 2)
    for batch in batches:
        queue.push(batch)
    return queue


def test_an_empty_queue_holds_nothing():
    queue = Queue(3, 2)
    assert queue.filled.tolist() == [False] * 3
    assert torch.equal(queue.rows, torch.zeros(3, 2))


def test_what_came_first_leaves_first():
    queue = filled_with(4, counted(1, 4))
    assert queue.rows[:, 0].tolist() == [0, 1, 2, 3]
    assert queue.filled.tolist() == [False, True, True, True]
    queue.push(counted(4, 7))
    assert queue.rows.tolist() == [[3, -3], [4, -4], [5, -5], [6, -6]]
    assert queue.filled.tolist() == [True] * 4


def test_of_more_rows_than_it_holds_it_keeps_the_last():
    queue = filled_with(3, counted(1, 9))
    assert queue.rows[:, 0].tolist() == [6, 7, 8]
    assert queue.filled.all()


@pytest.mark.parametrize("size", [1, 5, 8, 13])
def test_it_holds_the_latest_rows_whatever_the_sizes_of_the_batches(size):
    queue, pushed = Queue(size, 2), counted(0, 0)
    for n in (3, 0, 1, 8, 2, 30, 4):
        batch = counted(len(pushed) + 1, len(pushed) + 1 + n)
        pushed = torch.cat([pushed, batch])
        queue.push(batch)
        assert torch.equal(queue.rows[queue.filled], pushed[-size:])
        assert queue.filled.sum() == min(size, len(pushed))
        assert queue.rows.shape == (size, 2)


def test_rows_are_kept_without_their_gradient_and_as_they_were():
    z = counted(1, 3).requires_grad_()
    queue = filled_with(2, z)
    assert not queue.rows.requires_grad
    with torch.no_grad():
        z.zero_()
    assert torch.equal(queue.rows, counted(1, 3))


def test_pushing_does_not_disturb_a_gradient_that_is_not_taken_yet():
    queue, query = filled_with(3, counted(1, 4)), torch.ones(1, 2, requires_grad=True)
    similarity = query @ queue.rows.T
    queue.push(counted(4, 6))
    similarity.sum().backward()
    assert query.grad.tolist() == [[1 + 2 + 3, -1 - 2 - 3]]


def test_rows_keep_their_precision():
    queue = filled_with(2, counted(1, 3).to(torch.bfloat16))
    assert queue.rows.dtype == torch.float32
    double = Queue(2, 2).to(torch.float64)
    double.push(counted(1, 3))
    assert double.rows.dtype == torch.float64


def reloaded(queue):
    file = io.BytesIO()
    torch.save(queue.state_dict(), file)
    file.seek(0)
    other = Queue(*queue.rows.shape)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda q: pickle.loads(pickle.dumps(q)), reloaded])
def test_a_copy_goes_on_where_the_queue_was(copied):
    queue = filled_with(4, counted(1, 4))
    twin = copied(queue)
    assert torch.equal(twin.filled, queue.filled)
    twin.push(counted(4, 6))
    assert twin.rows[:, 0].tolist() == [2, 3, 4, 5]
    assert queue.rows[:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("size", "expected"), [(2, [2, 3]), (4, [0, 1, 2, 3]), (6, [0, 0, 0, 1, 2, 3])])
def test_a_queue_of_another_size_takes_over_the_newest_rows_that_fit(size, expected):
    queue = Queue(size, 2)
    queue.load_state_dict(filled_with(4, counted(1, 4)).state_dict())
    assert queue.rows[:, 0].tolist() == expected
    assert queue.filled.tolist() == [number > 0 for number in expected]


def test_rows_of_another_width_are_not_taken_over():
    with pytest.raises(RuntimeError, match=r"size mismatch for rows: .*\[4, 3\].*\[4, 2\]"):
        Queue(4, 2).load_state_dict(Queue(4, 3).state_dict())


def test_it_never_waits_for_the_device():
    # Fake tensors have no values: whatever asks for one raises.
    with FakeTensorMode():
        queue = Queue(4, 2).to("cuda")
        queue.push(torch.empty(3, 2, device="cuda"))
        assert (queue.rows.shape, queue.rows.device.type) == ((4, 2), "cuda")
        assert (queue.filled.shape, queue.filled.device.type) == ((4,), "cuda")


def spec(n_samples, batch_size):
    return Spec(8, 4, n_samples, batch_size, 1, (8, 8), nn.Identity(), torch.Generator())


@pytest.mark.parametrize(
    ("n_samples", "batch_size", "expected"),
    [(10_000, 256, 4096), (1300, 128, 1300), (64, 64, 64), (4096, 8000, 8000)],
)
def test_auto_is_the_default_but_no_more_than_the_images_and_no_less_than_a_batch(
    n_samples, batch_size, expected
):
    assert queue_size("auto", 4096, spec(n_samples, batch_size)) == expected


@pytest.mark.parametrize("given", [32, np.int64(50), 5000])
def test_a_given_size_is_taken_if_it_holds_a_batch(given):
    assert queue_size(given, 4096, spec(100, 32)) == given


@pytest.mark.parametrize("given", [31, 0, -1, "automatic", 64.5, None])
def test_a_given_size_that_does_not_hold_a_batch_is_told_what_would(given):
    with pytest.raises(
        ValueError, match=rf"^loss__queue_size={given!r}: .* 32 rows.* at least 32, or 'auto'"
    ):
        queue_size(given, 4096, spec(100, 32))


class Remembers(SSLLoss):
    """Loss that pulls towards the mean of the queue."""

    def build(self, spec):
        self.queue = Queue(queue_size("auto", 4096, spec), spec.dim)

    def forward(self, z1, z2):
        self.queue.push(z2)
        return (z1 - self.queue.rows.mean(dim=0)).square().mean()


class RowsAtTheEnd(Callback):
    def on_train_end(self, net, **kwargs):
        self.shape = net.criterion_.queue.rows.shape


@pytest.mark.parametrize("n", [24, 12])
def test_training_goes_on_with_more_or_fewer_images(n):
    def tiny_backbone(in_channels):
        return nn.Sequential(nn.Conv2d(in_channels, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    X = np.random.default_rng(0).integers(0, 256, size=(24, 8, 8), dtype=np.uint8)
    embedder = SSLImageEmbedder(
        Remembers, backbone=tiny_backbone, projector=(8, 4), max_epochs=1, batch_size=4, warm_start=True
    )
    rows = RowsAtTheEnd()
    embedder.fit(X[:16]).set_params(max_epochs=20, callbacks=[rows]).fit(X[:n])
    assert rows.shape == (n, 4)
