import numpy as np
import pytest
import torch
from sklearn_ssl_self_distillation import SimSiam
from torch import nn

from sklearn_ssl import Batch, Spec
from sklearn_ssl.testing import parametrize_with_loss_checks


def expected_failed_checks(loss):
    return {"check_gradient_is_right_in_float64": "what is predicted is a constant for the gradient"}


@parametrize_with_loss_checks(["simsiam"], expected_failed_checks=expected_failed_checks)
def test_simsiam_keeps_the_contract(check):
    check()


class Means(nn.Module):
    def forward(self, x):
        return x.mean(dim=(1, 2, 3))[:, None].expand(-1, 8)


def built(loss, dim=8, feature_dim=8, size=(8, 8)):
    backbone, generator = Means(), torch.Generator().manual_seed(0)
    loss.build(Spec(feature_dim, dim, 64, 4, 1, size, backbone, generator))
    return loss.double()


def value(loss, z):
    """Compute the loss for outputs z of the student, one tensor for each view."""
    batch = Batch([], torch.arange(len(z[0])), None, 0, 0.0, torch.Generator())
    return loss.step(batch, lambda views: z, None)


def views(seed=0, n=7, dim=8):
    return list(torch.from_numpy(np.random.default_rng(seed).normal(size=(2, n, dim))))


def slow_simsiam(p, z):
    """Compute equations 3 and 4 of the paper, one image at a time."""
    total = 0.0
    for a, b in ((0, 1), (1, 0)):
        for prediction, target in zip(p[a], z[b], strict=True):
            norms = np.sqrt((prediction**2).sum()) * np.sqrt((target**2).sum())
            total -= (prediction * target).sum() / norms / len(p[a]) / 2
    return total


def test_the_loss_is_the_papers_sum():
    p, z = np.random.default_rng(0).normal(size=(2, 2, 7, 5))
    loss = built(SimSiam())
    loss.predictor = Says(torch.from_numpy(p))
    assert float(value(loss, list(torch.from_numpy(z)))) == pytest.approx(slow_simsiam(p, z), rel=1e-12)


def test_from_local_crops_both_full_size_views_are_predicted():
    z = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 7, 8)))
    loss = built(SimSiam(local_crops=1, local_size=1.0), size=(16, 16))
    loss.predictor = nn.Identity()
    pairs = [torch.cosine_similarity(z[i], z[j]).mean() for i, j in ((0, 1), (1, 0), (2, 0), (2, 1))]
    assert float(value(loss, list(z))) == pytest.approx(-float(sum(pairs)) / 4, rel=1e-12)


def test_a_value_worked_out_by_hand():
    # With a predictor that hands on what it is given. One image: z1 = (3, 4), z2 = (1, 0), and their cosine
    # is 3/5, both ways: -0.6 / 2 - 0.6 / 2.
    loss = built(SimSiam())
    loss.predictor = nn.Identity()
    assert float(value(loss, [torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]])])) == pytest.approx(-0.6)


def test_the_value_is_lightlys():
    # lightly 1.6.0:
    #   p = torch.arange(12.0).sin().reshape(2, 3, 2); z = torch.arange(12.0).cos().reshape(2, 3, 2)
    #   cosine = lightly.loss.NegativeCosineSimilarity()
    #   (cosine(p[0], z[1]) + cosine(p[1], z[0])) / 2
    lightly = -0.0658765509724617
    p, z = torch.arange(12.0).sin().reshape(2, 3, 2), torch.arange(12.0).cos().reshape(2, 3, 2)
    loss = built(SimSiam())
    loss.predictor = Says(p)
    assert float(value(loss, list(z))) == pytest.approx(lightly, rel=1e-6)


class Says(nn.Module):
    """Replacement of a predictor that returns given outputs in turn."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = iter(outputs)

    def forward(self, z):
        return next(self.outputs)


def test_what_is_predicted_gets_no_gradient():
    # The gradient by z1 is that of predicting z2 from it; as a target z1 adds nothing.
    loss, (z1, z2) = built(SimSiam()), views()
    z1.requires_grad_()
    loss.predictor.eval()
    both = torch.autograd.grad(value(loss, [z1, z2]), z1)[0]
    p1 = nn.functional.normalize(loss.predictor(z1), dim=1)
    one = torch.autograd.grad(-(p1 * nn.functional.normalize(z2, dim=1)).sum(dim=1).mean() / 2, z1)[0]
    torch.testing.assert_close(both, one)


def test_the_predictor_is_a_bottleneck_that_follows_the_projections():
    widths = [layer.out_features for layer in built(SimSiam()).predictor if isinstance(layer, nn.Linear)]
    assert widths == [2, 8]
    assert built(SimSiam(predictor_dim=5)).predictor[0].out_features == 5
    assert built(SimSiam(), dim=1).predictor[0].out_features == 1
