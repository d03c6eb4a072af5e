"""The table of latencies: its arithmetic with a fake clock, and a real measurement."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from spos_cli.models import latency
from spos_cli.models.network import Network
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.cost import CostTable
from spos_cli.space.cost_kinds import LATENCY
from spos_cli.space.search_space import SearchSpace, Stage
from tests.engine.test_optim import SPACE

ARCHS = [Architecture(path) for path in itertools.product(range(2), repeat=4)]


def test_the_error_is_the_mean_of_the_relative_ones() -> None:
    """The errors are those of held-out networks."""
    rng = np.random.default_rng(0)
    measured, added, held_out = (1 + rng.permutation(900)[: len(ARCHS)] for _ in range(3))
    whole = list(zip(ARCHS, measured.tolist(), added.tolist(), strict=True))
    table = CostTable(LATENCY, 0, [[1]])
    found = latency.Latencies(latency.Conditions("cpu", 1, 1), table, [[1.0]], whole, held_out.tolist())
    assert found.error == pytest.approx(np.mean(np.abs(held_out - measured) / measured))


def test_every_choice_is_measured() -> None:
    rounds: list[int] = []
    found = latency.measure(SPACE, torch.device("cpu"), 2, ARCHS[:3], rounds.append)
    assert found.table.options.counts == [2] * 4
    assert min(map(min, found.table.rows)) >= 1
    assert [arch for arch, _, _ in found.whole] == ARCHS[:3]
    assert all(added == found.table.of(arch) for arch, _, added in found.whole)
    assert min(map(min, found.spread)) >= 1
    assert sum(rounds) == latency.WARM_UP_ROUNDS + latency.MEASURED_ROUNDS
    conditions = found.conditions
    assert (conditions.batch, conditions.device, conditions.dtype) == (2, "cpu", "float32")


def test_another_device_needs_its_own_timing() -> None:
    """It times every call, warm-up included. The clock alone is refused, since it does not wait for a device."""
    calls: list[object] = []

    def time_call(call: object) -> float:
        calls.append(call)
        return 0.002

    found = latency.measure(SPACE, torch.device("cpu"), 1, ARCHS[1:2], time_call=time_call)
    assert [measured for _, measured, _ in found.whole] == [2000]
    assert {calls.count(call) for call in calls} == {latency.WARM_UP_ROUNDS + latency.MEASURED_ROUNDS}
    with pytest.raises(AssertionError):
        latency.measure(SPACE, torch.device("cuda"), 1, ARCHS[:1])


def test_every_width_is_measured() -> None:
    space = replace(SPACE, widths=(500, 1000))
    arch = space.options.architecture([1, 2, 3, 0])
    found = latency.measure(space, torch.device("cpu"), 1, [arch])
    assert found.table.options.counts == [4] * 4
    assert [(one, added) for one, _, added in found.whole] == [(arch, found.table.of(arch))]


def test_medians_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fake clock each call takes the same time, so a network takes as long as one of its four blocks."""
    ticks = itertools.count()
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(ticks) * 0.5)
    found = latency.measure(SPACE, torch.device("cpu"), 1, ARCHS[:1])
    assert {cost for row in found.table.rows for cost in row} == {125_000}
    assert found.table.fixed == 0
    assert found.whole == [(ARCHS[0], 500_000, 500_000)]
    assert found.spread == [[1.0, 1.0]] * 4


def use_fake_clock(
    monkeypatch: pytest.MonkeyPatch, get_duration: Callable[[torch.nn.Module, tuple[int, ...]], float]
) -> None:
    """Replace the clock by one that only calls of blocks and networks move.

    Args:
        get_duration: the seconds that each call of a module takes, from the module and the shape of its input; asked
            once for each module.
    """
    now = 0.0

    def make_call(module: torch.nn.Module, device: torch.device, shape: tuple[int, ...]) -> Callable[[], None]:
        duration = get_duration(module, shape)

        def work() -> None:
            nonlocal now
            now += duration

        return work

    monkeypatch.setattr(latency, "_make_call", make_call)
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now)


def count_seconds(module: torch.nn.Module) -> float:
    """Return the time of a block by the fake clock."""
    return 1e-3 + 1e-6 * sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("a", "b"), [(0.004, 1.0), (0.001, 0.6), (-0.002, 1.3), (0.03, 0.05)])
def test_sums_are_fitted_to_whole_networks(monkeypatch: pytest.MonkeyPatch, a: float, b: float) -> None:
    """Also where a network takes less time than its blocks by themselves."""

    def get_duration(module: torch.nn.Module, shape: tuple[int, ...]) -> float:
        blocks = module.features if isinstance(module, Network) else None
        return count_seconds(module) if blocks is None else a + b * sum(map(count_seconds, blocks))

    use_fake_clock(monkeypatch, get_duration)
    found = latency.measure(SPACE, torch.device("cpu"), 1, ARCHS[:6])
    for arch in ARCHS:
        network = Network(SPACE, arch)
        expected = 1e6 * (a + b * sum(map(count_seconds, network.features)))
        assert found.table.of(arch) == pytest.approx(expected, abs=5)
    assert found.table.minimum > 0
    assert (found.table.fixed < 0) == (a < 0)
    assert found.error < 1e-3
    low, high = sorted(map(found.table.of, ARCHS))[3:9:5]
    distribution = found.table.distribution()  # stays exact with a negative fixed part
    under = [arch for arch in ARCHS if low <= found.table.of(arch) <= high]
    assert distribution.count(low, high) == len(under)
    assert {*distribution.enumerate(low, high)} == {*under}


def test_options_are_measured_in_every_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block depends on its channels and its size. The first one of a network stage never adds its input."""
    space = SearchSpace(
        stages=(Stage(1, 16), Stage(2, 16, stride=1)),
        choices=(Choice.from_spec({"mbconv": {"kernel": 3, "expand": 2}}), Choice.from_spec({"basic": {"kernel": 3}})),
        image_size=16,
        classes=5,
        stem_channels=8,
        stem_stride=1,
        head_channels=16,
        output_widths=(500, 1000),
        image_sizes=(8, 16),
    )
    a, b = 0.002, 0.7

    def get_duration(module: torch.nn.Module, shape: tuple[int, ...]) -> float:
        if isinstance(module, Network):
            assert shape == (2, 3, module.arch.image_size, module.arch.image_size)
            sizes = [layer.in_size for layer in space.layers_of(module.arch)]
            parts = zip(module.features, sizes, strict=True)
            return a + b * sum(count_seconds(block) + 1e-5 * size for block, size in parts)
        module.eval()(torch.zeros(shape))
        return count_seconds(module) + 1e-5 * shape[-1]

    use_fake_clock(monkeypatch, get_duration)
    archs = [space.options.draw(np.random.default_rng(seed)) for seed in range(12)]
    found = latency.measure(space, torch.device("cpu"), 2, archs[:6])
    assert [len(row) for row in found.spread] == [len(row) for row in found.table.rows] == [8, 16, 8]
    for arch in archs:
        blocks = zip(Network(space, arch).features, space.layers_of(arch), strict=True)
        expected = 1e6 * (a + b * sum(count_seconds(block) + 1e-5 * layer.in_size for block, layer in blocks))
        assert found.table.of(arch) == pytest.approx(expected, abs=5)
    assert found.table.minimum > 0


def test_the_line_is_fitted_by_least_squares() -> None:
    rng = np.random.default_rng(0)
    sums = rng.integers(5000, 9000, 20)
    whole = 400 + 0.7 * sums + rng.normal(0, 50, 20)
    line = latency.fit_line(sums.tolist(), whole.tolist(), 4000)
    assert (line.b, line.a) == pytest.approx(tuple(np.polyfit(sums, whole, 1)))


@pytest.mark.parametrize(
    ("sums", "whole"),
    [
        ([100], [130]),
        ([100, 100], [120, 140]),
        ([100, 200], [130, 110]),  # falling
        ([1000, 1100], [100, 300]),  # below 0 for cheaper networks
    ],
)
def test_an_impossible_line_is_replaced_by_one_through_0(sums: list[float], whole: list[float]) -> None:
    """No architecture has a latency of 0 or less, and a block that takes longer never makes a network faster."""
    line = latency.fit_line(sums, whole, 50)
    assert line.a == 0
    assert line.b == pytest.approx(
        np.linalg.lstsq(np.array(sums, float)[:, None], np.array(whole, float), rcond=None)[0][0]
    )


def test_the_error_is_that_of_held_out_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """With random times, a fit to all networks looks better than it is."""
    rng = np.random.default_rng(3)

    def get_duration(module: torch.nn.Module, shape: tuple[int, ...]) -> float:
        return rng.uniform(0.001, 0.002) + 0.004 * isinstance(module, Network)

    use_fake_clock(monkeypatch, get_duration)
    archs = ARCHS[:5]
    found = latency.measure(SPACE, torch.device("cpu"), 1, archs)
    training_error = np.mean([abs(added - measured) / measured for _, measured, added in found.whole])
    assert found.error > training_error


def test_another_runtime_prepares_every_call() -> None:
    """It is given each different block once, and each network, with the shape of its input."""
    prepared: list[tuple[torch.nn.Module, tuple[int, ...]]] = []
    called: list[torch.nn.Module] = []

    def make_call(module: torch.nn.Module, device: torch.device, shape: tuple[int, ...]) -> Callable[[], None]:
        assert device.type == "cpu"
        prepared.append((module, shape))
        return lambda: called.append(module)

    found = latency.measure(SPACE, torch.device("cpu"), 2, ARCHS[:2], make_call=make_call)
    blocks = {(layer.signature, choice) for layer in SPACE.layers for choice in layer.choices}
    assert len(prepared) == len(blocks) + 2
    assert [shape for _, shape in prepared[-2:]] == [(2, 3, SPACE.image_size, SPACE.image_size)] * 2
    for module, shape in prepared:
        module.eval()(torch.zeros(shape))
        assert called.count(module) == latency.WARM_UP_ROUNDS + latency.MEASURED_ROUNDS
    assert found.table.minimum >= 1


def test_blocks_are_measured_at_each_image_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that counts pixels, the table has the time of each network at its size."""
    space = replace(SPACE, image_sizes=(SPACE.image_size // 2, SPACE.image_size))
    shapes: list[tuple[int, ...]] = []

    def count_time(inputs: int, side: int) -> float:
        return 1e-3 + 1e-5 * inputs * side**2

    def get_duration(module: torch.nn.Module, shape: tuple[int, ...]) -> float:
        if not isinstance(module, Network):
            return count_time(shape[1], shape[2])
        shapes.append(shape)
        layers = space.layers_of(module.arch)
        return 0.004 + 0.6 * sum(count_time(layer.op_in_channels, layer.in_size) for layer in layers)

    use_fake_clock(monkeypatch, get_duration)
    archs = [arch.with_image_size(side) for arch, side in zip(ARCHS, space.image_sizes * len(ARCHS), strict=False)]
    found = latency.measure(space, torch.device("cpu"), 1, archs)
    assert {shape[2] for shape in shapes} == {*space.image_sizes}
    for arch in archs:
        total = sum(count_time(layer.op_in_channels, layer.in_size) for layer in space.layers_of(arch))
        assert found.table.of(arch) == pytest.approx(1e6 * (0.004 + 0.6 * total), abs=5)
