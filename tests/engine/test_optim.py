"""Schedules against their formulas, and what an update must not change."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from spos_cli.engine.optim import MovingAverage, Schedule, make_sgd
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


def test_the_moving_average_is_the_textbook_one_after_a_warm_up() -> None:
    """The first update is a copy; the decay rises as (1 + t) / (10 + t) until it is 0.5, at t = 8."""
    model = torch.nn.Linear(2, 1, bias=False).double()
    ema = MovingAverage(model, 0.5)
    decays = [0, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 0.5, 0.5, 0.5]
    expected = 0.0
    for step, decay in enumerate(decays):
        torch.nn.init.constant_(model.weight, step**2 + 1)
        ema.update_parameters(model)
        expected = decay * expected + (1 - decay) * (step**2 + 1)
        assert ema.n_averaged == step + 1
        torch.testing.assert_close(ema.module.weight, torch.full((1, 2), expected).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(model.weight, torch.full((1, 2), 101.0).double())


def test_the_moving_average_of_a_block_moves_on_while_the_block_is_not_trained() -> None:
    """All blocks are averaged over the same steps; the supernet itself keeps an unsampled block as it is."""
    torch.manual_seed(0)
    model = Supernet(SPACE)
    optimizer, ema = make_sgd(model, 0.9, 0.1), MovingAverage(model, 0.9)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    weights: list[torch.Tensor] = []
    expected = torch.zeros(())
    for step, choice in enumerate((1, 0, 0)):
        model(torch.randn(4, 3, 16, 16), Architecture((choice,) * 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update_parameters(model)
        weights.append(model.features[0][1].branch_main[0].weight.detach().clone())  # type: ignore[index]
        decay = (1 + step) / (10 + step) if step else 0
        expected = decay * expected + (1 - decay) * weights[-1]
    assert torch.equal(weights[0], weights[2])
    torch.testing.assert_close(ema.module.features[0][1].branch_main[0].weight, expected)  # type: ignore[index]


def test_ema_averages_the_statistics_of_batchnorm_too() -> None:
    """Statistics are averaged like parameters; the counter of batches is copied."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    ema, expected = MovingAverage(model, 0.9), {}
    for step in range(5):
        model(torch.randn(8, 3, 4, 4) * (step + 1) + step)
        state = {name: tensor.double().clone() for name, tensor in model.state_dict().items()}
        decay = (1 + step) / (10 + step)
        expected = {n: decay * expected.get(n, tensor) + (1 - decay) * tensor for n, tensor in state.items()}
        ema.update_parameters(model)
    averaged = ema.module.state_dict()
    for name in ("1.running_mean", "1.running_var"):
        torch.testing.assert_close(averaged[name].double(), expected[name], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(averaged[name], model.state_dict()[name], rtol=1e-2)
    assert averaged["1.num_batches_tracked"] == 5
