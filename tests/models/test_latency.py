"""The table of latencies: its arithmetic with a clock of ours, and that something is measured at all."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from spos_cli.models import latency
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostTable
from tests.engine.test_optim import SPACE

ARCHS = [Architecture(path) for path in itertools.product(range(2), repeat=4)]


def test_the_error_is_the_mean_of_the_relative_ones() -> None:
    rng = np.random.default_rng(0)
    measured, added = (rng.permutation(900)[: len(ARCHS)].tolist() for _ in range(2))
    whole = list(zip(ARCHS, measured, added, strict=True))
    found = latency.Latencies(latency.Conditions("cpu", 1, 1), CostTable("latency", 0, [[1]]), [[1.0]], whole)
    assert found.error == pytest.approx(np.mean(np.abs(np.subtract(added, measured)) / measured))


def test_every_choice_is_measured() -> None:
    rounds: list[int] = []
    found = latency.measure(SPACE, torch.device("cpu"), 2, ARCHS[:3], rounds.append)
    assert found.table.options.counts == [2] * 4
    assert min(map(min, found.table.rows)) >= 1
    assert [arch for arch, _, _ in found.whole] == ARCHS[:3]
    assert all(added == found.table.of(arch) for arch, _, added in found.whole)
    assert min(map(min, found.spread)) >= 1
    assert sum(rounds) == latency.WARM_UP + latency.ROUNDS
    conditions = found.conditions
    assert (conditions.batch, conditions.device, conditions.dtype) == (2, "cpu", "float32")


def test_another_device_is_timed_in_its_own_way() -> None:
    """Each call, those to warm up too; and never by the clock alone, which does not wait for it."""
    calls: list[object] = []

    def seconds_of(call: object) -> float:
        calls.append(call)
        return 0.002

    found = latency.measure(SPACE, torch.device("cpu"), 1, ARCHS[1:2], seconds_of=seconds_of)
    assert [measured for _, measured, _ in found.whole] == [2000]
    assert {calls.count(call) for call in calls} == {latency.WARM_UP + latency.ROUNDS}
    with pytest.raises(AssertionError):
        latency.measure(SPACE, torch.device("cuda"), 1, ARCHS[:1])


@pytest.mark.parametrize(
    ("generation", "allowed", "said"),
    [((8, 0), True, "float32 (TF32)"), ((8, 6), False, "float32"), ((7, 5), True, "float32")],
)
def test_what_float32_is_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, generation: tuple[int, int], allowed: bool, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: generation)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=allowed):
        assert latency.dtype_on(torch.device("cuda", 0)) == said
        assert latency.dtype_on(torch.device("cpu")) == "float32"


def test_every_width_is_measured() -> None:
    space = replace(SPACE, widths=(500, 1000))
    arch = space.options.architecture([1, 2, 3, 0])
    found = latency.measure(space, torch.device("cpu"), 1, [arch])
    assert found.table.options.counts == [4] * 4
    assert [(one, added) for one, _, added in found.whole] == [(arch, found.table.of(arch))]


def test_medians_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock of ours each call takes the same, and nothing is left for the stem and the head."""
    ticks = itertools.count()
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(ticks) * 0.5)
    found = latency.measure(SPACE, torch.device("cpu"), 1, ARCHS[:1])
    assert {cost for row in found.table.rows for cost in row} == {500_000}
    assert found.table.fixed == 0
    assert found.spread == [[1.0, 1.0]] * 4
