import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn_ssl_metric_learning.moco import MoCo
from torch import nn

from sklearn_ssl import Batch, Spec
from sklearn_ssl.testing import parametrize_with_loss_checks


@parametrize_with_loss_checks(["moco"])
def test_moco_keeps_the_contract(check):
    check()


def built(size, n, dim, temperature):
    loss = MoCo(temperature=temperature, queue_size=size)
    loss.build(Spec(8, dim, 100, n, 1, (8, 8), nn.Identity(), torch.Generator()))
    return loss.double()


def value(loss, q, k):
    """Compute the loss for given queries and keys instead of views."""
    index = torch.arange(len(q))
    batch = Batch([q, k], index, y=None, epoch=0, progress=0.0, generator=torch.Generator())
    return loss.step(batch, student=list, teacher=list).item()


def wave(n, d, phase):
    """Return numbers that look random but need no generator."""
    return torch.sin(torch.arange(n * d, dtype=torch.float64) * 0.7 + phase).reshape(n, d)


def cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def slow_moco(q, k, earlier, temperature):
    """Compute equation 1, one query at a time; the sum is over `earlier` and the keys of the batch."""
    losses = []
    for i in range(len(q)):
        positive = np.exp(cosine(q[i], k[i]) / temperature)
        others = [key for j, key in enumerate(k) if j != i] + list(earlier)
        losses.append(
            -np.log(positive / (positive + sum(np.exp(cosine(q[i], u) / temperature) for u in others)))
        )
    return np.mean(losses)


@pytest.mark.parametrize("n_earlier", [0, 3, 7, 30])
def test_the_loss_is_the_papers(n_earlier):
    q, k, earlier = wave(5, 4, 0), wave(5, 4, 0.5), wave(n_earlier, 4, 2)
    loss = built(12, 5, 4, temperature=0.3)
    loss.queue.push(F.normalize(earlier, dim=1))
    still_there = earlier[-7:]  # 12 places, of which the batch takes 5
    expected = slow_moco(q.numpy(), k.numpy(), still_there.numpy(), 0.3)
    assert value(loss, q, k) == pytest.approx(expected, rel=1e-10)


def test_the_values_of_another_library():
    # pytorch_metric_learning 2.9.0; its memory is a ring, whose batches need not divide its size:
    # memory = CrossBatchMemory(NTXentLoss(temperature=0.3), embedding_size=4, memory_size=12)
    # memory(torch.cat([q, k]), (torch.arange(5) + 5 * s).repeat(2), enqueue_mask=torch.arange(10) >= 5)
    loss = built(12, 5, 4, temperature=0.3)
    values = [value(loss, wave(5, 4, s), wave(5, 4, s + 0.5)) for s in range(4)]
    expected = [0.658173493835549, 1.4133423930050726, 1.5414519572492051, 1.5185996938654456]
    assert values == pytest.approx(expected, rel=1e-6)


AXES = torch.eye(2, dtype=torch.float64)


def test_a_value_worked_out_by_hand():
    # Queries and keys are the two axes: at temperature 1 each has a positive of e and a negative of 1. In
    # the second step the first one's keys are there as well, one e and one 1 more.
    loss = built(4, 2, 2, temperature=1.0)
    e = np.e
    assert value(loss, 3 * AXES, 0.1 * AXES) == pytest.approx(np.log((e + 1) / e), rel=1e-12)
    assert value(loss, AXES, AXES) == pytest.approx(np.log((2 * e + 2) / e), rel=1e-12)
    # The queue is full: the third step is as the second.
    assert value(loss, AXES, AXES) == pytest.approx(np.log((2 * e + 2) / e), rel=1e-12)


def test_an_image_meets_its_own_earlier_key_one_time_in_eight():
    # Half as many rows as images, each epoch in another order: (1/2)² / 2.
    n, rng = 1000, np.random.default_rng(0)
    before, now = (np.stack([rng.permutation(n) for epoch in range(100)]) for _ in range(2))  # places
    age = now + n - before
    assert (age <= n // 2).mean() == pytest.approx(1 / 8, abs=0.005)
