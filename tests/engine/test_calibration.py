"""Calibrated BatchNorm statistics, against a plain average computed by hand."""

from __future__ import annotations

import torch
from torch import nn

from spos_cli.engine.calibration import calibrate


def test_statistics_are_the_average_over_batches() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    model = nn.Sequential(conv, norm).eval()
    norm.running_mean.fill_(7.0)  # type: ignore[union-attr]
    batches = [torch.randn(8, 3, 6, 6) * (i + 1) for i in range(5)]
    calibrate(model, batches)

    with torch.no_grad():
        features = [conv(batch).transpose(0, 1).flatten(1) for batch in batches]
    mean = torch.stack([f.mean(1) for f in features]).mean(0)
    variance = torch.stack([f.var(1, unbiased=True) for f in features]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    assert (norm.momentum, norm.training) == (0.1, False)


def test_later_layers_see_batch_statistics_not_running_ones() -> None:
    torch.manual_seed(0)
    first, second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    calibrate(nn.Sequential(first, second), [torch.randn(64, 3, 4, 4) * 9 + 5 for _ in range(3)])
    torch.testing.assert_close(second.running_mean, torch.zeros(3), atol=1e-5, rtol=0)


def test_other_layers_are_untouched() -> None:
    used, unused = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    before = {name: tensor.clone() for name, tensor in unused.state_dict().items()}
    calibrate(used, [torch.randn(8, 3, 4, 4)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in unused.state_dict().items())
