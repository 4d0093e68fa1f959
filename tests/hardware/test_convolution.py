"""Convolutions as matrix products, compared with torch's convolution."""

import pytest
import torch
import torch.nn.functional as F

from sklearn_ssl._hardware.convolution import conv2d_as_product, is_small
from sklearn_ssl._hardware.cpu_kernels import FasterOperations


def example(h, w, kernel, n=3, c=64, d=80, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, c, h, w, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(d, c, kernel, kernel, generator=generator, dtype=dtype, requires_grad=True)
    return x, weight


# n = 3: as a product of neighborhoods, except on one pixel; n = 500: in the dense form up to 6 pixels.
@pytest.mark.parametrize("n", [3, 500])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 2), (4, 4), (1, 9), (16, 1)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1), (1, 2)])
def test_values_and_gradients_are_torchs(n, size, kernel, stride):
    x, weight = example(*size, kernel, n=n, c=3, d=2)
    stride, padding = (stride, stride), (kernel // 2, kernel // 2)
    theirs = F.conv2d(x, weight, None, stride, padding)
    up = torch.randn_like(theirs)
    expected = torch.autograd.grad(theirs, (x, weight), up)
    ours = conv2d_as_product(x, weight, None, stride, padding)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.autograd.grad(ours, (x, weight), up), expected)


def test_a_value_worked_out_by_hand():
    # One pixel under a 3x3 kernel with padding 1 meets the middle tap alone: 2 * 5 + 3 * 7 = 31.
    x = torch.tensor([2.0, 3.0]).reshape(1, 2, 1, 1)
    weight = torch.full((1, 2, 3, 3), 100.0)
    weight[0, :, 1, 1] = torch.tensor([5.0, 7.0])
    assert conv2d_as_product(x, weight, None, (1, 1), (1, 1)).item() == 31
    assert conv2d_as_product(x, weight, torch.tensor([0.5]), (1, 1), (1, 1)).item() == 31.5


def test_only_small_maps_of_many_channels_are_taken_over():
    x, weight = example(2, 2, 3, dtype=torch.float32)
    large, few = torch.zeros(3, 64, 5, 5), torch.zeros(3, 8, 2, 2)
    assert is_small(x, weight, None, (1, 1), (1, 1))
    assert not is_small(large, weight, None, (1, 1), (1, 1))
    assert not is_small(few, weight[:, :8], None, (1, 1), (1, 1))
    assert not is_small(x, weight, None, (1, 1), (1, 1), (1, 1), 2)
    assert not is_small(x, weight, None, (1, 1), "same")
    assert not is_small(x.to("meta"), weight.to("meta"), None, (1, 1), (1, 1))


def test_what_counts_is_the_map_that_is_made():
    x, weight = example(8, 8, 3, dtype=torch.float32)
    assert is_small(x, weight, None, (2, 2), (1, 1))  # 4x4
    assert not is_small(x, weight, None, (1, 1), (1, 1))  # 8x8


def test_bf16_takes_over_maps_of_up_to_sixty_four_pixels():
    x, weight = example(8, 8, 3, dtype=torch.float32)
    assert not is_small(x, weight, None, (1, 1), (1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        assert is_small(x, weight, None, (1, 1), (1, 1))


def test_without_a_gradient_they_are_smaller():
    x, weight = example(8, 8, 3, dtype=torch.float32)
    small = x[:, :, :4, :4]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert not is_small(x, weight, None, (1, 1), (1, 1))
        assert is_small(small, weight, None, (1, 1), (1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_small(x, weight.detach(), None, (1, 1), (1, 1))


@pytest.mark.parametrize("side", [4, 8, 9])
def test_in_bf16_values_and_gradients_are_close(side):
    x, weight = example(side, side, 3, dtype=torch.float32)
    exact = F.conv2d(x, weight, None, (1, 1), (1, 1))
    up = torch.randn_like(exact)
    with torch.autocast("cpu", torch.bfloat16), FasterOperations():
        ours = F.conv2d(x, weight, None, (1, 1), (1, 1))
    assert ours.dtype == torch.bfloat16
    assert (ours.float() - exact).norm() < 0.01 * exact.norm()
    rounded = torch.autograd.grad(ours, (x, weight), up.to(torch.bfloat16))
    for a, b in zip(rounded, torch.autograd.grad(exact, (x, weight), up), strict=True):
        assert (a - b).norm() < 0.01 * b.norm()


def test_a_bias_is_added():
    x, weight = example(4, 4, 3)
    bias = torch.arange(80, dtype=torch.float64)
    expected = F.conv2d(x, weight, bias, (1, 1), (1, 1))
    torch.testing.assert_close(conv2d_as_product(x, weight, bias, (1, 1), (1, 1)), expected)


def test_modules_are_computed_this_way_while_the_mode_is_open():
    layer = torch.nn.Conv2d(64, 64, 3, padding=1)
    x = torch.randn(4, 64, 2, 2, generator=torch.Generator().manual_seed(0))
    expected = layer(x)
    with FasterOperations():
        ours = layer(x)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert layer(x).is_contiguous()  # closed again: torch's own


@pytest.fixture
def two_threads():
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(usual)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("side", [1, 2, 4])  # in the dense form, and as a product of neighborhoods
def test_gradients_are_the_same_bits_whichever_thread_comes_first(side):
    x, weight = example(side, side, 3, n=256, c=128, d=128, dtype=torch.float32)
    gradients = set()
    for _ in range(20):
        out = conv2d_as_product(x, weight, None, (1, 1), (1, 1))
        gradients |= {torch.autograd.grad(out.square().sum(), weight)[0].numpy().tobytes()}
    assert len(gradients) == 1
