"""How long architectures take on a device: measured block by block, added up, and fitted to whole networks.

A network takes neither less than its blocks (there are a stem and a head) nor always as long as they take alone: in a
network, caches are warm, and a GPU's calls overlap. So the latency of a network is taken to be `a + b * sum`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from spos_cli.models.blocks import build_block
from spos_cli.models.network import Network
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.cost import CostTable
from spos_cli.space.search_space import SearchSpace

WARM_UP, ROUNDS = 3, 15
STEPS = 20_000  # of which the latency of a network has at most about so many
OUTLIER = 1.5  # a slowest call so many times the median is worth a look

SecondsOf = Callable[[Callable[[], object]], float]  # makes a call and times it


@dataclass(frozen=True)
class Conditions:
    """Under which latencies were measured; they hold for these only.

    Attributes:
        device: its name.
        batch: images of a call.
        threads: of the CPU.
        dtype: of weights and images, and what convolutions make of it.
        warm_up, rounds: calls of each block before, and measured; the medians count.
    """

    device: str
    batch: int
    threads: int
    dtype: str = "float32"
    warm_up: int = WARM_UP
    rounds: int = ROUNDS


@dataclass(frozen=True)
class Latencies:
    """An additive table of latencies in microseconds of a batch, and how far it can be trusted.

    Attributes:
        table: fitted to the networks in `whole`; the fixed part may be negative, but no architecture's latency is.
        spread: by layer and option, the slowest call divided by the median.
        whole: of some architectures, microseconds as measured, and as the table says.
        held_out: of the same ones, what the fit to the others says.
    """

    conditions: Conditions
    table: CostTable
    spread: list[list[float]]
    whole: list[tuple[Architecture, int, int]]
    held_out: list[float]

    @property
    def error(self) -> float:
        """Mean difference between whole networks and what the fit to the others says, as a share of the former."""
        pairs = zip(self.whole, self.held_out, strict=True)
        return statistics.mean(abs(predicted - measured) / measured for (_, measured, _), predicted in pairs)


@dataclass(frozen=True)
class Fit:
    """The line `a + b * sum` from the latencies of a network's blocks to its own."""

    a: float
    b: float

    def __call__(self, total: float) -> float:
        """The latency of a network whose blocks take `total`."""
        return self.a + self.b * total


def fit(sums: Sequence[float], whole: Sequence[float], least: float) -> Fit:
    """The line of least squares, if it rises and is above 0 everywhere; else the best one through 0.

    Args:
        sums: latencies of the blocks of some networks, added up, above 0.
        whole: of the same networks, as measured, above 0.
        least: the smallest sum in the space.
    """
    x, y = np.asarray(sums, np.float64), np.asarray(whole, np.float64)
    deviations = x - x.mean()
    if (scale := float(deviations @ deviations)) > 0:
        b = float(deviations @ y) / scale
        line = Fit(float(y.mean()) - b * float(x.mean()), b)
        if b > 0 and line(least) >= 1:
            return line
    return Fit(0.0, float(x @ y) / float(x @ x))


def measure(
    space: SearchSpace,
    device: torch.device,
    batch: int,
    checked: Sequence[Architecture],
    progress: Callable[[int], object] = lambda done: None,
    seconds_of: SecondsOf | None = None,
    *,
    name: str = "cpu",
    dtype: str = "float32",
) -> Latencies:
    """Measures every option of every layer, and whole networks to fit their sums to.

    All are called in turn, round by round, so that a machine that slows down does so for all of them.

    Args:
        batch: images of a call.
        checked: architectures that are measured as a whole, at least one.
        progress: is told how many more rounds are done.
        seconds_of: times a call on the device; by default by the clock, which a CPU alone can do with: elsewhere the
            call returns before the work is done.
        name, dtype: of the device, and what float32 is on it, for `Conditions`.

    Raises:
        ConfigError: a block of the user's cannot be built.
    """
    assert seconds_of is not None or device.type == "cpu"
    timed = seconds_of or _by_the_clock
    keys: list[list[tuple[Choice, int, tuple[int, ...]]]] = []
    calls: dict[object, Callable[[], object]] = {}
    for layer, options in zip(space.layers, space.options.by_layer, strict=True):
        keys.append([])
        for option in options:
            choice = layer.choices[option.choice]
            key = choice, option.width, layer.signature
            keys[-1].append(key)
            if key not in calls:
                block = build_block(choice, layer, affine=True, width=option.width)
                calls[key] = _call(block, device, (batch, layer.op_in_channels, layer.in_size, layer.in_size))
    for arch in dict.fromkeys(checked):
        calls[arch] = _call(Network(space, arch), device, (batch, 3, space.image_size, space.image_size))

    seconds: dict[object, list[float]] = {key: [] for key in calls}
    with torch.inference_mode():
        for turn in range(WARM_UP + ROUNDS):
            for called, call in calls.items():
                taken = timed(call)
                if turn >= WARM_UP:
                    seconds[called].append(taken)
            progress(1)

    medians = {key: max(1, round(statistics.median(times) * 1e6)) for key, times in seconds.items()}
    whole, blocks = [medians[arch] for arch in checked], [[medians[key] for key in row] for row in keys]
    sums, least = [CostTable("latency", 0, blocks, space.options).of(arch) for arch in checked], sum(map(min, blocks))
    fitted = fit(sums, whole, least)
    # Sums are counted exactly, in steps; what is finer than these was not measured.
    step = max(1, round(statistics.mean(whole)) // STEPS)
    rows = [[max(step, round(fitted.b * time / step) * step) for time in row] for row in blocks]
    # Rounding must not take the cheapest network to 0.
    fixed = max(round(fitted.a), 1 - sum(map(min, rows)))
    table = CostTable("latency", fixed, rows, space.options)
    others = [[i for i in range(len(checked)) if i != left_out] or [left_out] for left_out in range(len(checked))]
    held_out = [
        fit([sums[i] for i in rest], [whole[i] for i in rest], least)(total)
        for total, rest in zip(sums, others, strict=True)
    ]
    spread = [[max(seconds[key]) / statistics.median(seconds[key]) for key in layer_keys] for layer_keys in keys]
    return Latencies(
        Conditions(name, batch, torch.get_num_threads(), dtype),
        table,
        spread,
        [(arch, medians[arch], table.of(arch)) for arch in checked],
        held_out,
    )


def _by_the_clock(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _call(module: nn.Module, device: torch.device, shape: tuple[int, ...]) -> Callable[[], object]:
    """One forward pass of a module in eval mode."""
    module.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    features: Tensor = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
    return lambda: module(features)
