"""The optimizer, learning-rate schedules and the moving average of weights."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the step.

    Attributes:
        peak: largest learning rate.
        steps: steps of the whole training.
        kind: shape of the fall.
        warmup_steps: steps of the linear rise to `peak`.
        first: position of the first step on the schedule. With 0 it has the full `peak`. The official code steps its
            schedule before each update, which is 1: its last update has learning rate 0.
        lowest: learning rate at the end of the fall. With `step`, the learning rate never falls below it.
        step_every: with `step`, steps between two falls, the first of which comes so long after the warm-up.
        step_factor: with `step`, factor of each fall.
        begin: the step at which the schedule begins, its warm-up included; later than 0 if a training was extended.
    """

    peak: float
    steps: int
    kind: Literal["linear", "cosine", "step"] = "linear"
    warmup_steps: int = 0
    first: int = 0
    lowest: float = 0.0
    step_every: int | None = None
    step_factor: float = 0.1
    begin: int = 0

    def lr(self, step: int) -> float:
        """Return the learning rate of a step of the training, counted from 0."""
        step, steps = step - self.begin, self.steps - self.begin
        position = step + self.first
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.kind == "step":
            assert self.step_every is not None
            falls = (position - self.warmup_steps) // self.step_every
            return max(self.lowest, self.peak * self.step_factor**falls)
        progress = min(1.0, (position - self.warmup_steps) / (steps - self.warmup_steps))
        height = self.peak - self.lowest
        if self.kind == "cosine":
            return self.lowest + height * 0.5 * (1 + math.cos(math.pi * progress))
        return self.lowest + height * (1 - progress)


OptimizerKind = Literal["sgd", "nesterov", "adamw", "rmsprop"]


def make_optimizer(
    model: nn.Module,
    kind: OptimizerKind = "sgd",
    *,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
    alpha: float = 0.99,
    eps: float | None = None,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Make an optimizer with weight decay on weights of two or more dimensions only, so not on BatchNorm or biases.

    The trainer sets the learning rate before each step. A parameter without a gradient does not change at all, neither
    by weight decay nor by averages of earlier gradients; these averages and AdamW's count of updates, which corrects
    their bias, do not change either. The foreach form accepts parameters without them beside others; the fused form
    does not.

    Args:
        momentum: of `sgd`, `nesterov` and `rmsprop`.
        betas: of `adamw`, the decays of the averages of the gradient and of its square.
        alpha: of `rmsprop`, the decay of the average of the squared gradient.
        eps: of `adamw` and `rmsprop`, added to the root of that average. None: PyTorch's default.
        weight_decay: an L2 penalty; with `adamw` decoupled from the gradient.
    """
    parameters = list(model.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    own_eps: dict[str, Any] = {} if eps is None else {"eps": eps}
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=betas, foreach=True, **own_eps)
    if kind == "rmsprop":
        return torch.optim.RMSprop(groups, lr=0.0, alpha=alpha, momentum=momentum, foreach=True, **own_eps)
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=kind == "nesterov", foreach=True)


def count_averages(kind: OptimizerKind, momentum: float) -> int:
    """Count the numbers that an optimizer keeps for each weight."""
    return {"adamw": 2, "rmsprop": 1 + (momentum > 0)}.get(kind, int(momentum > 0))


class MovingAverage(nn.Module):
    """An exponential moving average of a model's weights and of its BatchNorm statistics.

    Averaged weights have other features, so the model's own statistics would not fit them. timm and torchvision's
    reference trainings average both, too. Counters are copied.

    The average is one over steps, of all weights alike: it also moves towards a supernet's block in steps that do not
    train that block. So all averaged blocks are of the same steps. The first update is a copy; the decay of later ones
    is at most `(1 + t) / (10 + t)` after `t` updates, so that a short training forgets its first weights.

    Args:
        model: on its device.
        decay: per update, the weight of the average so far.

    Attributes:
        module: a copy of the model with the averaged weights.
        n_averaged: number of updates; on the CPU, so that nothing waits for a GPU.
    """

    n_averaged: Tensor  # ()

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module, self.decay = copy.deepcopy(model), decay
        self.register_buffer("n_averaged", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the present weights of the model."""
        updates = int(self.n_averaged)
        decay = min(self.decay, (1 + updates) / (10 + updates)) if updates else 0.0
        averaged, current = ([*one.parameters(), *one.buffers()] for one in (self.module, model))
        numbers = [pair for pair in zip(averaged, current, strict=True) if pair[0].is_floating_point()]
        counters = [pair for pair in zip(averaged, current, strict=True) if not pair[0].is_floating_point()]
        torch._foreach_lerp_([one for one, _ in numbers], [other for _, other in numbers], 1 - decay)
        if counters:
            torch._foreach_copy_([one for one, _ in counters], [other for _, other in counters])
        self.n_averaged += 1


def pick_averaged_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of the averaged model, of the state of a `MovingAverage`."""
    prefix = "module."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
