import numpy as np
import pytest
import torch
from sklearn_ssl_self_distillation import BYOL
from torch import nn

from sklearn_ssl import Batch, Spec
from sklearn_ssl.testing import parametrize_with_loss_checks


@parametrize_with_loss_checks(["byol"])
def test_byol_keeps_the_contract(check):
    check()


class Means(nn.Module):
    def forward(self, x):
        return x.mean(dim=(1, 2, 3))[:, None].expand(-1, 8)


def built(loss, dim=2, feature_dim=8, size=(8, 8)):
    backbone, generator = Means(), torch.Generator().manual_seed(0)
    loss.build(Spec(feature_dim, dim, 64, 4, 1, size, backbone, generator))
    return loss


def value(loss, z, t, progress=0.0):
    """Compute the loss for outputs z of the student and t of the teacher, one array for each view."""
    batch = Batch([], torch.arange(len(z[0])), None, 0, progress, torch.Generator())
    return float(loss.step(batch, lambda views: as_tensors(z), lambda views: as_tensors(t)))


def as_tensors(arrays):
    return [torch.as_tensor(each, dtype=torch.float64) for each in arrays]


def without_predictor():
    """Build BYOL whose predictor is the identity."""
    loss = built(BYOL())
    loss.predictor = nn.Identity()
    return loss


def slow_byol(p, t):
    """Compute equations 2 and 3 of the paper, one image at a time."""
    total = 0.0
    for a, b in ((0, 1), (1, 0)):
        for prediction, target in zip(p[a], t[b], strict=True):
            unit_p = prediction / np.sqrt((prediction**2).sum())
            unit_t = target / np.sqrt((target**2).sum())
            total += ((unit_p - unit_t) ** 2).sum() / len(p[a])
    return total


def test_the_loss_is_the_papers_sum():
    p, t = np.random.default_rng(0).normal(size=(2, 2, 7, 5))
    assert value(without_predictor(), p, t) == pytest.approx(slow_byol(p, t), rel=1e-12)


def test_local_crops_predict_both_full_size_views():
    z, t = np.random.default_rng(0).normal(size=(2, 3, 7, 5))
    loss = built(BYOL(local_crops=1, local_size=1.0), size=(16, 16))
    loss.predictor = nn.Identity()
    between = [[((unit(a) - unit(b)) ** 2).sum(axis=1).mean() for b in t[:2]] for a in z]
    expected = (between[0][1] + between[1][0] + between[2][0] + between[2][1]) / 2
    assert value(loss, z, t[:2]) == pytest.approx(expected, rel=1e-12)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_value_worked_out_by_hand():
    # One image. p1 = (3, 4) and t2 = (1, 0): the cosine is 3/5, so 2 - 2 * 0.6 = 0.8.
    # p2 = (0, 2) and t1 = (0, -1): the cosine is -1, so 2 + 2 = 4. Together 4.8.
    z, t = [[[3.0, 4.0]], [[0.0, 2.0]]], [[[0.0, -1.0]], [[1.0, 0.0]]]
    assert value(without_predictor(), z, t) == pytest.approx(4.8, rel=1e-12)


def test_the_value_is_lightlys():
    # lightly 1.6.0, whose mean of two negative cosines is (loss - 4) / 4:
    #   p = torch.arange(12.0).sin().reshape(2, 3, 2); t = torch.arange(12.0).cos().reshape(2, 3, 2)
    #   cosine = lightly.loss.NegativeCosineSimilarity()
    #   (cosine(p[0], t[1]) + cosine(p[1], t[0])) / 2
    lightly = -0.0658765509724617
    p, t = torch.arange(12.0).sin().reshape(2, 3, 2), torch.arange(12.0).cos().reshape(2, 3, 2)
    assert value(without_predictor(), p, t) == pytest.approx(4 + 4 * lightly, rel=1e-6)


def test_the_momentum_rises_to_one_as_a_cosine():
    # At a third of the training the cosine is 1/2: 1 - 0.2 * (1/2 + 1) / 2 = 0.85.
    schedule = BYOL(momentum=0.8).teacher_momentum
    assert [schedule(k) for k in (0, 1 / 3, 0.5, 1)] == pytest.approx([0.8, 0.85, 0.9, 1.0])


def test_the_predictor_follows_the_features_unless_it_is_told_its_width():
    widths = [layer.out_features for layer in built(BYOL()).predictor if isinstance(layer, nn.Linear)]
    assert widths == [16, 2]  # twice the 8 features, then the projections' 2
    assert built(BYOL(predictor_dim=5)).predictor[0].out_features == 5
