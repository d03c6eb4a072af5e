"""The optimizer, learning-rate schedules and the moving average of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the step.

    Attributes:
        peak: largest learning rate.
        steps: steps of the whole training.
        kind: shape of the fall to 0.
        warmup_steps: steps of the linear rise to `peak`.
        first: position of the first step on the schedule. With 0 it has the full `peak`. The official code steps its
            schedule before each update, which is 1: its last update has learning rate 0.
    """

    peak: float
    steps: int
    kind: Literal["linear", "cosine"] = "linear"
    warmup_steps: int = 0
    first: int = 0

    def lr(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        position = step + self.first
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        progress = min(1.0, (position - self.warmup_steps) / (self.steps - self.warmup_steps))
        if self.kind == "cosine":
            return self.peak * 0.5 * (1 + math.cos(math.pi * progress))
        return self.peak * (1 - progress)


def make_sgd(model: nn.Module, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """Make SGD with weight decay on weights of two or more dimensions only, so not on BatchNorm or biases.

    The trainer sets the learning rate before each step. A parameter without a gradient does not change at all, neither
    by weight decay nor by momentum. The foreach form accepts parameters without momentum beside others; the fused form
    does not.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.SGD([g for g in groups if g["params"]], lr=0.0, momentum=momentum, foreach=True)


def make_ema(model: nn.Module, decay: float) -> torch.optim.swa_utils.AveragedModel:
    """Make an exponential moving average of a model's weights and of its BatchNorm statistics.

    Averaged weights have other features, so the model's own statistics would not fit them. timm and torchvision's
    reference trainings average both, too. Counters are copied.
    """
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    def update(averaged: Any, current: Any, count: Any) -> None:
        if averaged[0].is_floating_point():
            average(averaged, current, count)
        else:
            torch._foreach_copy_(averaged, current)

    return torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=update, use_buffers=True)
