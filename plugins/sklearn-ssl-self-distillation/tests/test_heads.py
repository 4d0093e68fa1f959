import pytest
import torch
from sklearn_ssl_self_distillation import BYOL, DINO, SimSiam


@pytest.mark.parametrize("loss", [BYOL, DINO, SimSiam])
def test_projections_are_standardised_over_the_batch(loss):
    # However far the features lie from zero.
    features = 5 + torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    z = loss().make_projector(6, (5, 4))(features)
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.var(dim=0, correction=0), torch.ones(4), rtol=0, atol=1e-2)
    assert z.shape == (200, 4)
