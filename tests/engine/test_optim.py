"""Schedules against their formulas, and what an update must not change."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from spos_cli.engine import checkpoint
from spos_cli.engine.optim import MovingAverage, Schedule, count_averages, make_optimizer
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


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("warmup", [0, 10])
@pytest.mark.parametrize("kind", ["linear", "cosine", "step"])
def test_schedules_are_those_of_pytorch(kind: Any, warmup: int, first: int) -> None:
    """The warm-up is PyTorch's linear one, from lr / warmup_steps; the fall is PyTorch's schedule after it."""
    steps, peak, lowest = 110, 0.4, 0.01
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    fall: lr_scheduler.LRScheduler
    if kind == "linear":
        fall = lr_scheduler.LinearLR(optimizer, 1.0, lowest / peak, total_iters=steps - warmup)
    elif kind == "cosine":
        fall = lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup, eta_min=lowest)
    else:
        fall = lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.5)
    falling = []
    for _ in range(steps - warmup + 1):
        falling.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        fall.step()
    rising = [peak * (step + 1) / warmup for step in range(warmup)]
    schedule = Schedule(peak, steps, kind, warmup, first, lowest, 30 if kind == "step" else None, 0.5)
    assert [schedule.lr(step) for step in range(steps)] == pytest.approx([*rising, *falling[first:]][:steps])


def test_falls_in_steps_end_at_the_lowest_learning_rate() -> None:
    schedule = Schedule(1.0, 100, "step", lowest=0.05, step_every=10, step_factor=0.5)
    assert [schedule.lr(step) for step in range(0, 100, 10)] == [1, 0.5, 0.25, 0.125, 0.0625, *[0.05] * 5]


OPTIMIZERS: list[tuple[dict[str, Any], dict[str, Any], type[torch.optim.Optimizer]]] = [
    ({"kind": "sgd", "momentum": 0.8}, {"momentum": 0.8}, torch.optim.SGD),
    ({"kind": "nesterov", "momentum": 0.8}, {"momentum": 0.8, "nesterov": True}, torch.optim.SGD),
    ({"kind": "adamw", "betas": (0.8, 0.95), "eps": 1e-3}, {"betas": (0.8, 0.95), "eps": 1e-3}, torch.optim.AdamW),
    ({"kind": "adamw"}, {}, torch.optim.AdamW),
    (
        {"kind": "rmsprop", "momentum": 0.8, "alpha": 0.9, "eps": 0.0316},
        {"momentum": 0.8, "alpha": 0.9, "eps": 0.0316},
        torch.optim.RMSprop,
    ),
    ({"kind": "rmsprop", "momentum": 0.0}, {}, torch.optim.RMSprop),
]
KINDS = ["sgd", "nesterov", "adamw", "rmsprop"]


@pytest.mark.parametrize(("ours", "theirs", "kind"), OPTIMIZERS, ids=lambda value: str(value)[:60])
def test_updates_are_those_of_pytorch(ours: dict[str, Any], theirs: dict[str, Any], kind: Any) -> None:
    """Weight decay is for weights of two or more dimensions only; the learning rate is set before each step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    oracle = copy.deepcopy(model)
    optimizer = make_optimizer(model, **ours, weight_decay=0.1)
    plain = kind(
        [
            {"params": [oracle[0].weight, oracle[2].weight], "weight_decay": 0.1},
            {"params": [oracle[0].bias, oracle[1].weight, oracle[1].bias, oracle[2].bias], "weight_decay": 0.0},
        ],
        lr=0.0,
        foreach=False,
        **theirs,
    )
    for step in range(4):
        inputs = torch.randn(8, 6, dtype=torch.float64)
        for one, network in ((optimizer, model), (plain, oracle)):
            for group in one.param_groups:
                group["lr"] = 0.1 / (step + 1)
            network(inputs).square().sum().backward()
            one.step()
            one.zero_grad(set_to_none=True)
    for parameter, expected in zip(model.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-12, atol=1e-14)


def test_one_update_of_adamw_and_of_rmsprop_by_hand() -> None:
    """The first update of AdamW is lr, whatever the gradient; its weight decay is not a part of it."""
    for kind, settings in (("adamw", {}), ("rmsprop", {"momentum": 0.0, "alpha": 0.75})):
        model = nn.Linear(1, 1, bias=False).double()
        nn.init.constant_(model.weight, 2.0)
        optimizer = make_optimizer(model, kind, weight_decay=0.5, eps=1e-12, **settings)  # type: ignore[arg-type]
        optimizer.param_groups[0]["lr"] = 0.1
        (model.weight * 30).sum().backward()
        optimizer.step()
        # RMSprop: the gradient with weight decay, 30 + 0.5 * 2, over the root of a quarter of its square.
        expected = 2 * (1 - 0.1 * 0.5) - 0.1 if kind == "adamw" else 2 - 0.1 / 0.5
        assert model.weight.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_continues_from_its_state(kind: Any) -> None:
    """After 2 of 6 steps, through the bytes of a file, in bits. The third step is the first of some blocks."""

    def make() -> tuple[Supernet, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = Supernet(SPACE, affine=True, dropout=0.0)
        return model, make_optimizer(model, kind, weight_decay=0.1)

    def train(model: Supernet, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            torch.manual_seed(step)
            for group in optimizer.param_groups:
                group["lr"] = 0.01
            model(torch.randn(4, 3, 16, 16), Architecture((step % 3 == 2,) * 4)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    whole, optimizer = make()
    train(whole, optimizer, range(6))
    first, optimizer_of_first = make()
    train(first, optimizer_of_first, range(2))
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": optimizer_of_first.state_dict()}, file)
    resumed, resumed_optimizer = make()
    content = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    resumed.load_state_dict(content["model"])
    resumed_optimizer.load_state_dict(content["optimizer"])
    train(resumed, resumed_optimizer, range(2, 6))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert checkpoint.serialize(resumed_optimizer.state_dict()) == checkpoint.serialize(optimizer.state_dict())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_what_an_optimizer_keeps_for_each_weight(kind: Any, momentum: float) -> None:
    if kind == "nesterov" and not momentum:
        return  # PyTorch refuses it.
    model = nn.Linear(4, 3, bias=False)
    optimizer = make_optimizer(model, kind, momentum=momentum)
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    kept = [value for value in optimizer.state[model.weight].values() if value is not None and value.numel() > 1]
    assert len(kept) == count_averages(kind, momentum)


@pytest.mark.parametrize("kind", KINDS)
def test_unsampled_blocks_are_untouched_by_a_step(kind: Any) -> None:
    """No weight decay, no momentum and no BatchNorm update outside of the path (invariant 4)."""
    torch.manual_seed(0)
    model = Supernet(SPACE, affine=True)
    optimizer = make_optimizer(model, kind, weight_decay=0.1)
    for group in optimizer.param_groups:
        group["lr"] = 0.1

    def step(arch: Architecture) -> None:
        model(torch.randn(4, 3, 16, 16), arch).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step(Architecture((1, 1, 1, 1)))  # Now all parameters of choice 1 have momentum.
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = [name for name, _ in model.named_parameters()]
    kept = copy.deepcopy({name: optimizer.state[p] for name, p in zip(names, model.parameters(), strict=True)})
    for _ in range(3):
        step(Architecture((0, 0, 0, 0)))
    for name, parameter in model.named_parameters():
        if name.startswith("features") and name.split(".")[2] == "1":
            assert kept[name]
            assert checkpoint.fingerprint(optimizer.state[parameter]) == checkpoint.fingerprint(kept[name]), name
    for name, tensor in model.state_dict().items():
        sampled = not name.startswith("features") or name.split(".")[2] == "0"
        assert torch.equal(tensor, before[name]) != sampled, name


@pytest.mark.parametrize("kind", KINDS)
def test_batchnorm_has_no_weight_decay(kind: Any) -> None:
    groups = make_optimizer(Supernet(SPACE, affine=True), kind, weight_decay=4e-5).param_groups
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
    optimizer, ema = make_optimizer(model, weight_decay=0.1), MovingAverage(model, 0.9)
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
