"""Measure latencies block by block, and fit their sums to whole networks.

A network takes longer than the sum of its blocks, since it has a stem and a head. It can also take less than each block
does by itself: in a network, caches are warm, and a GPU's calls overlap. So the latency of a network is modelled as
`a + b * sum`.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from spos_cli.models.blocks import build_option
from spos_cli.models.network import Network
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.cost import CostTable, choose_latency_step
from spos_cli.space.cost_kinds import LATENCY
from spos_cli.space.search_space import SearchSpace

WARM_UP_ROUNDS, MEASURED_ROUNDS = 3, 15
OUTLIER_RATIO = 1.5  # A slowest call of this many times the median is reported as an outlier.

Call = Callable[[], object]  # One forward pass.
TimeCall = Callable[[Call], float]  # Make a call and return its seconds.
MakeCall = Callable[[nn.Module, torch.device, tuple[int, ...]], Call]  # Prepare a module for inputs of a shape.
# Choice, width, bits and the layer's signature: equal blocks are measured once.
BlockKey = tuple[Choice, int, int, tuple[int, ...]]
Key = BlockKey | Architecture


@dataclass(frozen=True)
class Conditions:
    """The conditions under which latencies were measured; the numbers hold for these only.

    Attributes:
        device: its name.
        batch: images per call.
        threads: of the CPU.
        dtype: of weights and images, and how convolutions compute it.
        runtime: what computes, `torch` or `onnxruntime`.
        warm_up, rounds: calls of each block before the measurement, and in it; the table has the medians of the latter.
    """

    device: str
    batch: int
    threads: int
    dtype: str = "float32"
    runtime: str = "torch"
    warm_up: int = WARM_UP_ROUNDS
    rounds: int = MEASURED_ROUNDS


@dataclass(frozen=True)
class Latencies:
    """An additive table of latencies, in microseconds for a batch, and how far to trust it.

    Attributes:
        table: fitted to the networks in `whole`. Its fixed part may be negative, but no architecture's latency is.
        spread: by layer and column of the table, the slowest call divided by the median.
        whole: for some architectures, microseconds as measured, and as the table says.
        held_out: for each of these, microseconds by a fit to all the others.
    """

    conditions: Conditions
    table: CostTable
    spread: list[list[float]]
    whole: list[tuple[Architecture, int, int]]
    held_out: list[float]

    @property
    def error(self) -> float:
        """Mean relative error of `held_out` against the measured networks."""
        pairs = zip(self.whole, self.held_out, strict=True)
        return statistics.mean(abs(predicted - measured) / measured for (_, measured, _), predicted in pairs)


@dataclass(frozen=True)
class Fit:
    """The line `a + b * sum` from the summed latencies of a network's blocks to the network's own latency."""

    a: float
    b: float

    def __call__(self, total: float) -> float:
        """Predict the latency of a network whose blocks take `total`."""
        return self.a + self.b * total


def fit_line(sums: Sequence[float], whole: Sequence[float], smallest_sum: float) -> Fit:
    """Fit a line by least squares; if it falls, or is not above 0 everywhere, fit one through 0 instead.

    Args:
        sums: summed latencies of the blocks of some networks, above 0.
        whole: measured latencies of the same networks, above 0.
        smallest_sum: the smallest sum in the space.
    """
    x, y = np.asarray(sums, np.float64), np.asarray(whole, np.float64)
    deviations = x - x.mean()
    if (scale := float(deviations @ deviations)) > 0:
        b = float(deviations @ y) / scale
        line = Fit(float(y.mean()) - b * float(x.mean()), b)
        if b > 0 and line(smallest_sum) >= 1:
            return line
    return Fit(0.0, float(x @ y) / float(x @ x))


def measure(
    space: SearchSpace,
    device: torch.device,
    batch: int,
    networks: Sequence[Architecture],
    progress: Callable[[int], object] = lambda done: None,
    time_call: TimeCall | None = None,
    make_call: MakeCall | None = None,
    *,
    name: str = "cpu",
    dtype: str = "float32",
    runtime: str = "torch",
) -> Latencies:
    """Measure every option of every layer in each of its contexts, and whole networks to fit their sums to.

    Args:
        batch: images per call.
        networks: architectures to measure as a whole, at least one.
        progress: is called with the number of rounds that were done since the last time.
        time_call: times a call on the device. The default is the clock, which is right for a CPU only: on other devices
            a call returns before its work is done.
        make_call: prepares each block, and each whole network, for the device and for inputs of shape `(B, C, H, W)`.
            The default is PyTorch's forward pass. Another runtime may compile the module, and call what it has
            compiled.
        name, dtype, runtime: the device, how it computes float32, and what computes, for `Conditions`.

    Raises:
        ConfigError: a user's own block cannot be built.
    """
    assert time_call is not None or device.type == "cpu"
    prepare = make_call or _make_call
    keys: list[list[BlockKey]] = []  # by layer and column of a cost table
    calls: dict[Key, Call] = {}
    for layer, contexts, options in zip(space.layers, space.options.contexts, space.options.by_layer, strict=True):
        keys.append([])
        for context, option in itertools.product(contexts, options):
            variant = space.layer_in(layer, context, option)
            key = variant.choices[option.choice], option.width, option.bits, variant.signature
            keys[-1].append(key)
            if key not in calls:
                block = build_option(variant, option, affine=True)
                calls[key] = prepare(block, device, (batch, variant.op_in_channels, variant.in_size, variant.in_size))
    for arch in dict.fromkeys(networks):
        side = arch.image_size or space.image_size
        calls[arch] = prepare(Network(space, arch), device, (batch, space.in_channels, side, side))

    seconds = _time_in_turns(calls, time_call or _time_by_clock, progress)
    medians = {key: max(1, round(statistics.median(times) * 1e6)) for key, times in seconds.items()}
    blocks = [[medians[key] for key in row] for row in keys]
    whole = [medians[arch] for arch in networks]
    table, held_out = _fit_table(space, blocks, networks, whole)
    return Latencies(
        Conditions(name, batch, torch.get_num_threads(), dtype, runtime),
        table,
        [[max(seconds[key]) / statistics.median(seconds[key]) for key in row] for row in keys],
        [(arch, medians[arch], table.of(arch)) for arch in networks],
        held_out,
    )


def _time_in_turns(
    calls: dict[Key, Call], time_call: TimeCall, progress: Callable[[int], object]
) -> dict[Key, list[float]]:
    """Return the seconds of each call in each measured round.

    All calls take turns within a round, so that a machine that slows down does so for all of them.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in calls}
    with torch.inference_mode():
        for turn in range(WARM_UP_ROUNDS + MEASURED_ROUNDS):
            for key, call in calls.items():
                elapsed = time_call(call)
                if turn >= WARM_UP_ROUNDS:
                    seconds[key].append(elapsed)
            progress(1)
    return seconds


def _fit_table(
    space: SearchSpace, blocks: list[list[int]], networks: Sequence[Architecture], whole: list[int]
) -> tuple[CostTable, list[float]]:
    """Fit the table to whole networks; also predict each network by a fit to all the others.

    Args:
        blocks: by layer and column of the table, median microseconds.
        networks: the architectures that were measured as a whole.
        whole: their median microseconds.
    """
    table = CostTable(LATENCY, 0, blocks, space.options)
    smallest_sum, sums = table.minimum, [table.of(arch) for arch in networks]
    line = fit_line(sums, whole, smallest_sum)
    step = choose_latency_step(statistics.mean(whole))
    rows = [[max(step, round(line.b * time / step) * step) for time in row] for row in blocks]
    # Rounding must not take the cheapest network to 0.
    fixed = max(round(line.a), 1 - CostTable(LATENCY, 0, rows, space.options).minimum)
    indices = range(len(networks))
    others = [[i for i in indices if i != left_out] or [left_out] for left_out in indices]
    held_out = [
        fit_line([sums[i] for i in rest], [whole[i] for i in rest], smallest_sum)(total)
        for total, rest in zip(sums, others, strict=True)
    ]
    return CostTable(LATENCY, fixed, rows, space.options), held_out


def _time_by_clock(call: Callable[[], object]) -> float:
    """Return the seconds of a call by the clock."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _make_call(module: nn.Module, device: torch.device, shape: tuple[int, ...]) -> Call:
    """Return a forward pass of a module in eval mode, on random features of shape `(B, C, H, W)`."""
    module.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    features: Tensor = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
    return lambda: module(features)
