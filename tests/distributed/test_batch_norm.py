"""BatchNorm over the rows of all processes, against torch's over all rows."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sklearn_ssl._distributed.batch_norm import SharedBatchNorm, moments
from sklearn_ssl._distributed.team import ALONE, Team, present_team
from sklearn_ssl._together import run_together

pytestmark = pytest.mark.usefixtures("sent_by_value")


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


def test_outside_of_training_batch_norm_sends_nothing():
    x, norm = torch.randn(4, 3), nn.BatchNorm1d(3).eval()
    with SharedBatchNorm(Team(rank=0, size=2)):  # without groups: a message would fail
        assert torch.equal(
            norm(x), F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
