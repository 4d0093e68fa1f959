import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn_ssl_metric_learning.meanshift import MeanShift
from torch import nn

from sklearn_ssl import Batch, Spec
from sklearn_ssl.testing import parametrize_with_loss_checks


@parametrize_with_loss_checks(["meanshift"])
def test_mean_shift_keeps_the_contract(check):
    check()


def built(queue, n, k, predictor=None):
    """Build a loss with these rows in its queue, and room for a batch."""
    loss = MeanShift(k=k, queue_size=len(queue) + n)
    loss.build(Spec(8, queue.shape[1], 100, n, 1, (8, 8), nn.Identity(), torch.Generator()))
    loss.predictor = predictor or loss.predictor
    loss.double().queue.push(F.normalize(queue, dim=1))
    return loss


def value(loss, z, t):
    """Compute the loss for given projections of student and teacher instead of views."""
    index = torch.arange(len(z))
    batch = Batch([z, t], index, y=None, epoch=0, progress=0.0, generator=torch.Generator())
    return loss.step(batch, student=list, teacher=list).item()


def wave(n, d, phase):
    """Return numbers that look random but need no generator."""
    return torch.sin(torch.arange(n * d, dtype=torch.float64) * 0.7 + phase).reshape(n, d)


def unit(x):
    return x / np.sqrt(x @ x)


def slow_mean_shift(p, t, earlier, k):
    """Compute, one image at a time, the neighbors of the target and their mean distance to the query."""
    bank = [unit(u) for u in (*earlier, *t)]
    losses = []
    for p_i, t_i in zip(p, t, strict=True):
        nearest = sorted(bank, key=lambda u: ((unit(t_i) - u) ** 2).sum())[:k]
        losses.append(sum(((unit(p_i) - u) ** 2).sum() for u in nearest) / k)
    return np.mean(losses)


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("n_earlier", [0, 7])
def test_the_loss_is_the_papers(n_earlier, k):
    z, t, earlier = wave(5, 4, 0), wave(5, 4, 0.5), wave(n_earlier, 4, 2)
    loss = built(earlier, 5, k)
    p = loss.predictor(z).detach().numpy()
    expected = slow_mean_shift(p, t.numpy(), earlier.numpy(), k)
    assert value(loss, z, t) == pytest.approx(expected, rel=1e-10)


def test_with_one_neighbor_it_is_byol():
    z, t = wave(5, 4, 0), wave(5, 4, 0.5)
    loss = built(wave(7, 4, 2), 5, k=1)
    byol = 2 - 2 * F.cosine_similarity(loss.predictor(z), t).mean()
    assert value(loss, z, t) == pytest.approx(byol.item(), rel=1e-10)


AXES = torch.eye(2, dtype=torch.float64)


def test_a_value_worked_out_by_hand():
    # The targets are the axes, which are queries as well, and (0.8, 0.6) is in the queue. The two nearest of
    # (1, 0) are itself, at 0, and (0.8, 0.6), at 0.2² + 0.6² = 0.4: mean 0.2. Those of (0, 1) are
    # itself and (0.8, 0.6), at 0.8² + 0.4² = 0.8: mean 0.4.
    loss = built(torch.tensor([[0.8, 0.6]], dtype=torch.float64), 2, k=2, predictor=nn.Identity())
    assert value(loss, 5 * AXES, 0.1 * AXES) == pytest.approx((0.2 + 0.4) / 2, rel=1e-12)


def test_a_batch_smaller_than_k_has_the_neighbors_that_are_there():
    # Only two of five neighbors exist, the axes themselves, at 0 and 2.
    loss = built(AXES[:0], 2, k=2, predictor=nn.Identity())
    larger = MeanShift(k=5, queue_size=20)
    larger.build(Spec(8, 2, 100, 2, 1, (8, 8), nn.Identity(), torch.Generator()))
    larger.double().predictor = nn.Identity()
    assert value(loss, AXES, AXES) == value(larger, AXES, AXES) == pytest.approx(1.0)


@pytest.mark.parametrize("k", [0, -1, 33])
def test_more_neighbors_than_there_can_be_are_refused(k):
    with pytest.raises(ValueError, match=rf"^loss__k={k}: of a queue of 32 projections, .* 1 to 32\."):
        MeanShift(k=k, queue_size=32).build(Spec(8, 4, 100, 32, 1, (8, 8), nn.Identity(), torch.Generator()))
