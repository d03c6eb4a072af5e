"""Compare a training step with the bounds of this machine, which follow from measured rates.

The model is simple on purpose. Arithmetic: three times the forward pass (the pass itself, the gradient of the input,
the gradient of the weights) with two operations a multiply-add, at the rate of a large matrix product. Memory: every op
of eager execution reads its operands once and writes its result once (see `_count_traffic`), at the rate of a copy. A
step can beat the second bound only where a cache holds what the next op reads, or where ops are fused.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spos_cli.models.counting import count
from spos_cli.space.search_space import OFFICIAL_SPACE
from tests.benchmarks import official, training
from tests.benchmarks.comparison import MAX_SPREAD, TOO_NOISY, measure_spread

MATRIX_SIDE = 2048
COPIED_BYTES = 256 * 2**20  # far larger than any cache
FLOAT_BYTES = 4
TURNS = 7


@dataclass(frozen=True)
class Machine:
    """Measured rates: operations per second (a multiply-add is two), and bytes read plus written per second."""

    gemm_fp32: float
    gemm_bf16: float
    copy: float


@dataclass(frozen=True)
class Roofline:
    """A training step of the supernet, per image; rates in images per second.

    Attributes:
        machine: rates of the machine.
        batch: images per step.
        operations: per image.
        traffic: bytes per image, with its share of the weights.
        reached: measured images per second.
        spread: the largest one of all measured rates.
    """

    machine: Machine
    batch: int
    operations: float
    traffic: float
    reached: float
    spread: float

    @property
    def by_compute(self) -> float:
        """Bound of arithmetic in fp32."""
        return self.machine.gemm_fp32 / self.operations

    @property
    def by_compute_bf16(self) -> float:
        """Bound of arithmetic in bf16."""
        return self.machine.gemm_bf16 / self.operations

    @property
    def by_memory(self) -> float:
        """Bound of eager execution's memory traffic in fp32."""
        return self.machine.copy / self.traffic

    @property
    def fraction(self) -> float:
        """Share of the lower fp32 bound that was reached."""
        return self.reached / min(self.by_compute, self.by_memory)

    @property
    def verdict(self) -> str:
        """That share in words, unless it is noise."""
        return TOO_NOISY if self.spread > MAX_SPREAD else f"{self.fraction:.0%} of the lower fp32 bound"


def measure_rates(work: Sequence[tuple[float, Callable[[], object]]]) -> list[list[float]]:
    """Return the units per second of several pieces of work, in turns, so that a disturbance affects all."""
    seconds: list[list[float]] = [[] for _ in work]
    for turn in range(TURNS + 1):
        for (_, call), times in zip(work, seconds, strict=True):
            begin = time.perf_counter()
            call()
            if turn:
                times.append(time.perf_counter() - begin)
    return [[units / second for second in times] for (units, _), times in zip(work, seconds, strict=True)]


def _count_traffic(module: nn.Module, inputs: int, outputs: int) -> int:
    """Count the values that forward and backward pass of one op read or write, by the sizes of input and output.

    - Convolution, linear: reads its input, writes its output; the gradient of the input reads the output's and writes
      its own; the gradient of the weights reads the input and the output's gradient.
    - BatchNorm: reads its input for the statistics and again to normalise, writes its output; backward reads the input
      and the output's gradient for two sums, both again, and writes the gradient of the input.
    - ReLU in place: reads and writes; backward reads the result and its gradient, and writes one.
    """
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        return (inputs + outputs) + (outputs + inputs) + (inputs + outputs)
    if isinstance(module, nn.BatchNorm2d):
        return 3 * inputs + 5 * inputs
    if isinstance(module, nn.ReLU):
        return 2 * inputs + 3 * inputs
    return 0


def count_traffic(path: official.Arch, batch: int) -> float:
    """Count the bytes per image that a step of one path moves, in fp32.

    A block's concatenation reads and writes its result; splits and backward slices are views and count nothing.
    Weights move eight times, shared by the images of a batch.
    """
    path = list(path)
    moved = 0

    def add(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal moved
        moved += _count_traffic(module, inputs[0].numel(), output.numel())
        if isinstance(module, official.Block):
            moved += 2 * output.numel()

    with torch.device("meta"):
        model = official.Supernet()
        hooks = [module.register_forward_hook(add) for module in model.modules()]
        with torch.no_grad():
            model.eval()(torch.empty(1, 3, official.IMAGE_SIZE, official.IMAGE_SIZE), path)
        for hook in hooks:
            hook.remove()
    chosen = [choices[choice] for choices, choice in zip(model.features, path, strict=True)]  # type: ignore[index]
    weights: int = sum(
        parameter.numel()
        for module in (model.first_conv, *chosen, model.conv_last, model.classifier)
        for parameter in module.parameters()
    )
    # Read forward and backward, their gradient written; the update reads weight, gradient and momentum, writes two.
    return float(FLOAT_BYTES * (moved + (3 + 5) * weights / batch))


def measure_roofline(batch: int) -> Roofline:
    """Measure the machine and our step in turns, with as many threads as PyTorch uses.

    Args:
        batch: images per step.
    """
    one, other = torch.rand(MATRIX_SIDE, MATRIX_SIDE), torch.rand(MATRIX_SIDE, MATRIX_SIDE)
    one16, other16 = one.bfloat16(), other.bfloat16()
    source = torch.zeros(COPIED_BYTES // FLOAT_BYTES)
    target = torch.zeros_like(source)
    rates = measure_rates(
        [
            (2 * MATRIX_SIDE**3, lambda: one @ other),
            (2 * MATRIX_SIDE**3, lambda: one16 @ other16),
            (2 * COPIED_BYTES, lambda: target.copy_(source)),
            (batch, training.make_our_step(batch)),
        ]
    )
    gemm_fp32, gemm_bf16, copy, reached = map(statistics.median, rates)
    table, paths = count(OFFICIAL_SPACE).flops, training.draw_paths()
    return Roofline(
        machine=Machine(gemm_fp32, gemm_bf16, copy),
        batch=batch,
        operations=3 * 2 * statistics.mean(table.of(path) for path in paths),
        traffic=statistics.mean(count_traffic(path, batch) for path in paths),
        reached=reached,
        spread=max(map(measure_spread, rates)),
    )
