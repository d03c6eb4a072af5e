"""Schedules against their formulas, and what an update must not change."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from spos_cli.engine.optim import Schedule, make_ema, make_sgd
from spos_cli.models.supernet import Supernet
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.search_space import SearchSpace, Stage

SPACE = SearchSpace(
    stages=(Stage(2, 16), Stage(2, 32)),
    choices=(Choice.from_spec({"shuffle": {"kernel": 3}}), Choice.from_spec("shuffle_xception")),
    image_size=16,
    classes=5,
    stem_channels=8,
    stem_stride=1,
    head_channels=32,
)


def test_linear_schedule_of_paper_and_official_code() -> None:
    assert [Schedule(0.5, 4).lr(step) for step in range(4)] == [0.5, 0.375, 0.25, 0.125]
    assert [Schedule(0.5, 4, first=1).lr(step) for step in range(4)] == [0.375, 0.25, 0.125, 0.0]


def test_cosine_and_warmup() -> None:
    schedule = Schedule(1.0, 110, "cosine", warmup_steps=10)
    assert [schedule.lr(step) for step in range(10)] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert schedule.lr(10) == 1.0
    assert schedule.lr(60) == pytest.approx(0.5)
    assert schedule.lr(35) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_unsampled_blocks_are_untouched_by_a_step() -> None:
    """No weight decay, no momentum and no BatchNorm update outside of the path (invariant 4)."""
    torch.manual_seed(0)
    model = Supernet(SPACE, affine=True)
    optimizer = make_sgd(model, momentum=0.9, weight_decay=0.1)
    for group in optimizer.param_groups:
        group["lr"] = 0.1

    def step(arch: Architecture) -> None:
        model(torch.randn(4, 3, 16, 16), arch).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step(Architecture((1, 1, 1, 1)))  # Now all parameters of choice 1 have momentum.
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for _ in range(3):
        step(Architecture((0, 0, 0, 0)))
    for name, tensor in model.state_dict().items():
        sampled = not name.startswith("features") or name.split(".")[2] == "0"
        assert torch.equal(tensor, before[name]) != sampled, name


def test_batchnorm_has_no_weight_decay() -> None:
    groups = make_sgd(Supernet(SPACE, affine=True), 0.9, 4e-5).param_groups
    assert {p.dim() >= 2 for p in groups[0]["params"]} == {True}
    assert (groups[0]["weight_decay"], groups[1]["weight_decay"]) == (4e-5, 0.0)
    assert {p.dim() for p in groups[1]["params"]} == {1}


def test_ema_is_the_textbook_average() -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    ema = make_ema(model, 0.9)
    expected = None
    for value in (1.0, 2.0, 3.0):
        torch.nn.init.constant_(model.weight, value)
        ema.update_parameters(model)
        expected = value if expected is None else 0.9 * expected + 0.1 * value
    torch.testing.assert_close(ema.module.weight, torch.full((1, 2), expected))


def test_ema_averages_the_statistics_of_batchnorm_too() -> None:
    """Statistics are averaged like parameters; the counter of batches is copied."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    ema, expected = make_ema(model, 0.9), {}
    for step in range(5):
        model(torch.randn(8, 3, 4, 4) * (step + 1) + step)
        state = {name: tensor.double().clone() for name, tensor in model.state_dict().items()}
        expected = {n: 0.9 * expected.get(n, tensor) + 0.1 * tensor for n, tensor in state.items()}
        ema.update_parameters(model)
    averaged = ema.module.state_dict()
    for name in ("1.running_mean", "1.running_var"):
        torch.testing.assert_close(averaged[name].double(), expected[name], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(averaged[name], model.state_dict()[name], rtol=1e-2)
    assert averaged["1.num_batches_tracked"] == 5
