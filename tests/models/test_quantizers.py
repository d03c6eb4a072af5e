"""Quantizers of weights and activations: levels and gradients, against their formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spos_cli.models.layers import Convolution, QuantizedConvolution
from spos_cli.models.quantizers import FIRST_CLIPPING_LEVEL, quantize_features, quantize_weight
from spos_cli.space.bits import BIT_WIDTHS

LEVEL = 1.7


def make_level(value: float = LEVEL) -> Tensor:
    return torch.full((1, 1, 1, 1), value, requires_grad=True)


def make_features(seed: int = 0) -> Tensor:
    """Return features from 0 on, about a fifth of which are above `LEVEL`."""
    features = torch.randn(16, 8, 12, 12, generator=torch.Generator().manual_seed(seed)).abs() * 1.3
    features[0, 0, 0, :3] = torch.tensor([0.0, LEVEL, 100.0])
    return features.requires_grad_()


def make_weight() -> Tensor:
    return (torch.rand(32, 64, 3, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1).requires_grad_()


class Pact(torch.autograd.Function):
    """Equations 1 to 3 of arXiv 1805.06085, written down."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, bits: int) -> Tensor:
        ctx.save_for_backward(x, alpha)
        y = 0.5 * (x.abs() - (x - alpha).abs() + alpha)
        return torch.round(y * (2**bits - 1) / alpha) * alpha / (2**bits - 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, alpha = ctx.saved_tensors
        return gradient * (x < alpha), gradient[(x >= alpha).expand_as(gradient)].sum().view(1, 1, 1, 1), None


@pytest.mark.parametrize("bits", BIT_WIDTHS)
def test_activations_have_equal_steps_from_0_to_the_clipping_level(bits: int) -> None:
    quantized = quantize_features(make_features(), make_level(), bits)
    assert quantized.numbers.unique().tolist() == list(range(2**bits))
    values = (quantized.numbers * quantized.step).detach()
    assert values.max() == pytest.approx(LEVEL)
    assert not quantized.step.requires_grad


@pytest.mark.parametrize("bits", BIT_WIDTHS)
def test_activations_and_their_gradients_are_those_of_pact(bits: int) -> None:
    features, level, theirs, their_level = make_features(), make_level(), make_features(), make_level()
    quantized = quantize_features(features, level, bits)
    ours, expected = quantized.numbers * quantized.step, Pact.apply(theirs, their_level, bits)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(ours, expected)
    gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
    for values in (ours, expected):
        values.backward(gradient)
    torch.testing.assert_close(features.grad, theirs.grad)
    torch.testing.assert_close(level.grad, their_level.grad)
    assert level.grad is not None
    assert level.grad.item() == pytest.approx(gradient[features >= LEVEL].sum().item(), rel=1e-4)
    assert 0.1 < (features >= LEVEL).float().mean() < 0.5


@pytest.mark.parametrize("bits", [bits for bits in BIT_WIDTHS if bits > 1])
def test_weights_are_those_of_dorefa(bits: int) -> None:
    weight = make_weight()
    quantized = quantize_weight(weight, bits)
    assert quantized.numbers.unique().tolist() == list(range(1 - 2**bits, 2**bits, 2))  # odd numbers, without 0
    values, levels = quantized.numbers * quantized.step, 2**bits - 1
    tangents = torch.tanh(weight.detach())
    expected = 2 * (torch.round((tangents / (2 * tangents.abs().max()) + 0.5) * levels) / levels) - 1  # equation 9
    torch.testing.assert_close(values.detach(), expected)
    # The gradient is that of the same function without rounding.
    smooth = make_weight()
    gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    values.backward(gradient)
    (torch.tanh(smooth) / torch.tanh(smooth).abs().max()).backward(gradient)
    torch.testing.assert_close(weight.grad, smooth.grad)


def test_a_weight_of_one_bit_is_its_sign_times_the_mean_magnitude() -> None:
    weight = make_weight()
    quantized = quantize_weight(weight, 1)
    values = quantized.numbers * quantized.step
    assert len(values.unique()) == 2
    torch.testing.assert_close(values.detach(), weight.detach().sign() * weight.detach().abs().mean())
    gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    values.backward(gradient)
    torch.testing.assert_close(weight.grad, gradient)


@pytest.mark.parametrize("bits", BIT_WIDTHS)
def test_weights_without_a_magnitude_are_finite(bits: int) -> None:
    weight = torch.zeros(4, 3, 3, 3, requires_grad=True)
    quantized = quantize_weight(weight, bits)
    (quantized.numbers * quantized.step).sum().backward()  # type: ignore[no-untyped-call]
    assert (quantized.numbers * quantized.step).isfinite().all()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


def test_eight_bits_are_close_to_full_precision() -> None:
    features, weight = make_features().detach(), make_weight().detach()
    x, w = quantize_features(features, make_level().detach(), 8), quantize_weight(weight, 8)
    smooth = weight.tanh() / weight.tanh().abs().max()
    assert (x.numbers * x.step - features.clamp(max=LEVEL)).abs().max() <= LEVEL / 255 / 2 + 1e-6
    assert (w.numbers * w.step - smooth).abs().max() <= 1 / 255 + 1e-6
    convolution = QuantizedConvolution(8, 32, 3, 1, 1, (88,))
    with torch.no_grad():
        convolution.weight.copy_(weight[:, :8])
        convolution.clipping_levels["a8"].fill_(LEVEL)
        ours = convolution(features)
        part = weight[:, :8].tanh()
        exact = F.conv2d(features.clamp(max=LEVEL), part / part.abs().max(), padding=1)
    assert (ours - exact).norm() / exact.norm() < 0.01


@pytest.mark.parametrize("bits", [12, 22, 14, 24, 34, 44, 83, 88])
def test_a_convolution_computes_with_quantized_values(bits: int) -> None:
    """And so do its gradients; the path's bits choose the clipping level, and the others get no gradient."""
    convolution = QuantizedConvolution(8, 16, 3, 2, 1, (12, 22, 14, 24, 34, 44, 83, 88))
    assert sorted(convolution.clipping_levels) == ["a2", "a3", "a4", "a8"]
    assert {level.item() for level in convolution.clipping_levels.values()} == {FIRST_CLIPPING_LEVEL}
    with torch.no_grad():
        for index, level in enumerate(convolution.clipping_levels.values()):
            level.fill_(LEVEL + index)
    features, theirs = make_features(), make_features()
    weight = convolution.weight.detach().clone().requires_grad_()
    own = convolution.clipping_levels[f"a{bits % 10}"]
    level = own.detach().clone().requires_grad_()
    x, w = quantize_features(theirs, level, bits % 10), quantize_weight(weight, bits // 10)
    expected = F.conv2d(x.numbers * x.step, w.numbers * w.step, stride=2, padding=1)
    ours = convolution(features, bits=bits)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(4))
    for values in (ours, expected):
        values.backward(gradient)
    for one, other in ((features, theirs), (convolution.weight, weight), (own, level)):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4)
    assert [name for name, one in convolution.clipping_levels.items() if one.grad is not None] == [f"a{bits % 10}"]


def test_sums_of_few_bits_are_exact_whatever_their_order() -> None:
    """With the 4,608 products of the largest convolution of ResNet-34: as in float64, and with channels last."""
    features, weight = torch.rand(2, 512, 7, 7) * 3, torch.randn(8, 512, 3, 3)
    x, w = quantize_features(features, make_level().detach(), 4), quantize_weight(weight, 4)
    convolution = Convolution(512, 8, 3, padding=1, bias=False)
    exact = convolution.convolve(x.numbers.double(), w.numbers.double())
    for form in (torch.contiguous_format, torch.channels_last):
        inputs = (values.contiguous(memory_format=form) for values in (x.numbers, w.numbers))
        assert torch.equal(convolution.convolve(*inputs).double(), exact)
