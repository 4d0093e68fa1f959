import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn_ssl_metric_learning.nnclr import NNCLR
from torch import nn

from sklearn_ssl import Batch, Spec
from sklearn_ssl.testing import parametrize_with_loss_checks

MOVES = "the neighbors are constants to the gradient, and move with the weights"


@parametrize_with_loss_checks(
    ["nnclr"], expected_failed_checks=lambda loss: {"check_gradient_is_right_in_float64": MOVES}
)
def test_nnclr_keeps_the_contract(check):
    check()


def built(queue, n, temperature, predictor=None):
    """Build a loss with these rows in its queue."""
    loss = NNCLR(temperature=temperature, queue_size=max(n, len(queue)))
    loss.build(Spec(8, queue.shape[1], 100, n, 1, (8, 8), nn.Identity(), torch.Generator()))
    loss.predictor = predictor or loss.predictor
    loss.double().queue.push(F.normalize(queue, dim=1))
    return loss


def value(loss, z1, z2):
    index = torch.arange(len(z1))
    batch = Batch([z1, z2], index, y=None, epoch=0, progress=0.0, generator=torch.Generator())
    return loss.step(batch, student=list, teacher=None)


def wave(n, d, phase):
    """Return numbers that look random but need no generator."""
    return torch.sin(torch.arange(n * d, dtype=torch.float64) * 0.7 + phase).reshape(n, d)


def cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def slow_nnclr(z, p, queue, temperature):
    """Compute the loss of section 3.2, one image at a time, in both directions."""
    losses = []
    for here, there in ((0, 1), (1, 0)):
        for i in range(len(z[0])):
            neighbor = max(queue, key=lambda u: cosine(u, z[here][i]))
            terms = [np.exp(cosine(neighbor, p_k) / temperature) for p_k in p[there]]
            losses.append(-np.log(terms[i] / sum(terms)))
    return np.mean(losses)


def test_the_loss_is_the_papers():
    z1, z2, queue = wave(5, 4, 0), wave(5, 4, 0.5), wave(12, 4, 2)
    loss = built(queue, 5, temperature=0.3)
    z = [F.normalize(view, dim=1) for view in (z1, z2)]
    p = [loss.predictor(view).detach().numpy() for view in z]
    expected = slow_nnclr([view.numpy() for view in z], p, queue.numpy(), 0.3)
    assert value(loss, z1, z2).item() == pytest.approx(expected, rel=1e-10)


def test_the_value_of_two_libraries():
    # bank = lightly.models.modules.NNMemoryBankModule((12, 4)); bank.bank = F.normalize(queue, dim=1)
    # pick = pytorch_metric_learning.losses.NTXentLoss(0.3); i = torch.arange(5)
    # (pick(bank(z1), i, ref_emb=z2, ref_labels=i.clone()) + pick(bank(z2), i, ref_emb=z1, ...)) / 2
    # lightly's own loss for it, NTXentLoss, is another: it contrasts neighbors with neighbors, too.
    z1, z2, queue = wave(5, 4, 0), wave(5, 4, 0.5), wave(12, 4, 2)
    loss = built(queue, 5, temperature=0.3, predictor=nn.Identity())
    assert value(loss, z1, z2).item() == pytest.approx(0.7685265933088319, rel=1e-6)


AXES = torch.eye(2, dtype=torch.float64)
BETWEEN = torch.tensor([[0.8, 0.6], [0.6, 0.8]], dtype=torch.float64)


def test_a_value_worked_out_by_hand():
    # The neighbors of (0.8, 0.6) and (0.6, 0.8) among the axes are (1, 0) and (0, 1). At temperature 1,
    # asked for the axes they pay log(1 + e^(0-1)) each; in the other direction the axes, their own
    # neighbors, ask for the vectors between, and pay log(1 + e^(0.6-0.8)).
    loss = built(AXES, 2, temperature=1.0, predictor=nn.Identity())
    expected = (np.log(1 + np.exp(-1)) + np.log(1 + np.exp(-0.2))) / 2
    assert value(loss, BETWEEN, AXES).item() == pytest.approx(expected, rel=1e-12)


def test_while_the_queue_is_empty_a_projection_is_its_own_neighbor():
    # In both directions, the positive is at 0.8 and the negative at 0.6.
    loss = built(AXES[:0], 2, temperature=1.0, predictor=nn.Identity())
    assert value(loss, BETWEEN, AXES).item() == pytest.approx(np.log(1 + np.exp(-0.2)), rel=1e-12)


def test_a_place_that_is_not_filled_is_nobodys_neighbor():
    # The only row is the most unlike the first image's views: a place that holds zeros would be nearer.
    loss = built(-AXES[:1], 3, temperature=1.0, predictor=nn.Identity())
    z = torch.cat([AXES, -AXES[:1]])
    expected = slow_nnclr([z.numpy()] * 2, [z.numpy()] * 2, -AXES[:1].numpy(), 1.0)
    assert value(loss, z, z).item() == pytest.approx(expected, rel=1e-12)


def test_the_queue_takes_the_first_views_projections_at_length_one():
    loss = built(AXES, 2, temperature=1.0)
    value(loss, 3 * BETWEEN, -AXES)
    torch.testing.assert_close(loss.queue.rows, BETWEEN)
