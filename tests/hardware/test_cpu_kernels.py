"""Attention as two matrix products, compared with torch's own."""

import pytest
import torch
import torch.nn.functional as F

from sklearn_ssl._hardware.cpu_kernels import FasterOperations, attention_as_products, is_short
from sklearn_ssl._networks.vit import make_vit


def tokens(n=3, heads=2, count=7, width=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    draw = (torch.randn(n, heads, count, width, generator=generator, dtype=dtype) for _ in range(3))
    return [each.requires_grad_() for each in draw]


def test_values_and_gradients_are_torchs():
    q, k, v = tokens()
    ours, theirs = attention_as_products(q, k, v), F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(out.sin().sum(), (q, k, v)) for out in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_a_value_worked_out_by_hand():
    # Two tokens of width 1; the query is ln 3 times the difference of the keys, so that weights are 3 : 1.
    q = torch.tensor([[[[1.0986123]]]])
    k, v = torch.tensor([[[[1.0], [0.0]]]]), torch.tensor([[[[4.0], [8.0]]]])
    assert attention_as_products(q, k, v).item() == pytest.approx(5.0)


def test_only_short_sequences_with_a_gradient_are_taken_over():
    q, k, v = tokens()
    assert is_short(q, k, v)
    assert is_short(q, k, v, None, 0.0, False)
    assert not is_short(q, k, v, torch.ones(7, 7, dtype=torch.bool))
    assert not is_short(q, k, v, None, 0.1)
    assert not is_short(q, k, v, None, 0.0, True)
    assert not is_short(*tokens(count=513))
    with torch.no_grad():
        assert not is_short(q, k, v)


def test_a_transformer_is_computed_this_way_while_the_mode_is_open(monkeypatch):
    vit = make_vit(3, (16, 16), width=16, depth=2)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = vit(x)
    calls = []
    monkeypatch.setattr(
        "sklearn_ssl._hardware.cpu_kernels.attention_as_products",
        lambda *args: calls.append(1) or attention_as_products(*args),
    )
    with FasterOperations():
        torch.testing.assert_close(vit(x), plain)
    assert len(calls) == 2


def test_in_bf16_values_and_gradients_are_close():
    exact = tokens()
    rough = [each.detach().to(torch.bfloat16).requires_grad_() for each in exact]
    a, b = attention_as_products(*exact), attention_as_products(*rough)
    assert b.dtype == torch.bfloat16
    torch.testing.assert_close(b.double(), a, rtol=0, atol=0.03)
    for g, h in zip(torch.autograd.grad(a.sum(), exact), torch.autograd.grad(b.sum(), rough), strict=True):
        torch.testing.assert_close(h.double(), g, rtol=0, atol=0.05)
