"""Gradients by strips of a depthwise kernel, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from spos_cli.models import depthwise
from spos_cli.models.layers import DepthwiseConvolution


@pytest.mark.parametrize("kernel", [5, 7, 9, 11])
@pytest.mark.parametrize("channels", [1, 6])
@pytest.mark.parametrize(
    ("size", "stride"),
    [((1, 6), 1), ((3, 7), 1), ((9, 8), 1), ((6, 14), 1), ((6, 6), 2), ((7, 9), 2), ((8, 7), 2), ((15, 6), 2)],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_gradients_equal_those_of_conv2d(
    kernel: int, channels: int, size: tuple[int, int], stride: int, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(channels, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    features = torch.randn(3, channels, *size, dtype=torch.float64)
    features = features.contiguous(memory_format=memory_format).requires_grad_()
    theirs = F.conv2d(features, weight, None, stride, kernel // 2, 1, channels)
    ours = depthwise.StripDepthwise.apply(features, weight, stride)  # type: ignore[no-untyped-call]
    assert torch.equal(ours, theirs)
    gradient = torch.randn_like(theirs)
    for one, other in zip(
        torch.autograd.grad(ours, (features, weight), gradient),
        torch.autograd.grad(theirs, (features, weight), gradient),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_strips_are_used_only_where_they_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depthwise, "IS_X86", True)
    features = torch.randn(2, 6, 8, 8)
    wide, narrow = torch.randn(6, 1, 5, 5), torch.randn(6, 1, 3, 3)
    assert depthwise.is_faster_in_strips(features, wide)
    assert not depthwise.is_faster_in_strips(features, narrow)
    assert not depthwise.is_faster_in_strips(features[:, :, :2], wide)
    assert not depthwise.is_faster_in_strips(features[..., :2], wide)
    assert not depthwise.is_faster_in_strips(features.double(), wide.double())
    assert not depthwise.is_faster_in_strips(features.to("meta"), wide.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not depthwise.is_faster_in_strips(features, wide)
    with torch.no_grad():
        assert not depthwise.is_faster_in_strips(features, wide)
    monkeypatch.setattr(depthwise, "IS_X86", False)
    assert not depthwise.is_faster_in_strips(features, wide)


def test_a_frozen_weight_has_no_gradient() -> None:
    layer = DepthwiseConvolution(4, 5)
    layer.weight.requires_grad_(False)
    features = torch.randn(2, 4, 8, 8, requires_grad=True)
    layer(features).sum().backward()
    assert layer.weight.grad is None
    assert features.grad is not None
