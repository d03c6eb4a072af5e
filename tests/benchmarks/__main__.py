"""Each line is a piece of work done in two ways, taken in turns; the ratio is of the medians.

The baseline is written from the published procedure: the same model, images and threads, with contiguous
memory and a channel shuffle that copies; paths by rejection; PIL transforms. Machines are noisy: look at the
range too. Writes bench.json.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from spos_cli.engine.optim import sgd
from spos_cli.models import blocks
from spos_cli.models.counting import count
from spos_cli.models.skeleton import initialize
from spos_cli.models.supernet import Supernet
from spos_cli.space.architecture import Architecture
from spos_cli.space.sampling import CostBinSampler
from spos_cli.space.search_space import PUBLISHED
from tests.benchmarks.comparison import Comparison, compare
from tests.benchmarks.inputs import from_jpeg, from_store

BATCH = 16
LOW, HIGH, WIDTH = 290_000_000, 360_000_000, 10_000_000


def copying_split(features: Tensor) -> tuple[Tensor, Tensor]:
    """The channel shuffle as published: reshape, permute, reshape; the permutation copies."""
    batch, channels, height, width = features.shape
    halves = features.reshape(batch * channels // 2, 2, height * width).permute(1, 0, 2)
    even, odd = halves.reshape(2, batch, channels // 2, height, width)
    return even, odd


def supernet_step() -> Comparison:
    """Forward, backward and update of one path at 224 px."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, 3, 224, 224, generator=generator) * 255
    labels = torch.randint(0, 1000, (BATCH,), generator=generator)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    sampler = CostBinSampler(count(PUBLISHED).flops, LOW, HIGH, WIDTH, seed=0)

    def stepper(memory_format: torch.memory_format) -> Callable[[], None]:
        model = Supernet(PUBLISHED)
        initialize(model, 0)
        model.to(memory_format=memory_format).train()
        optimizer, batch, steps = sgd(model, 0.9, 4e-5), images.contiguous(memory_format=memory_format), iter(range(99))

        def step() -> None:
            criterion(model(batch, sampler.draw(next(steps))), labels).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    plain = stepper(torch.contiguous_format)

    def baseline() -> None:
        with mock.patch.object(blocks, "split_channels", copying_split):
            plain()

    return compare("supernet step, 224 px", "images/s", BATCH, baseline, stepper(torch.channels_last), 7)


def path_draw() -> Comparison:
    """A path inside of a FLOPs bin: drawn until one fits (or 500 tries), against exact."""
    table, number = count(PUBLISHED).flops, 300
    sampler, rng = CostBinSampler(table, LOW, HIGH, WIDTH, seed=0), np.random.default_rng(0)

    def rejection() -> None:
        for _ in range(number):
            low = LOW + WIDTH * int(rng.integers((HIGH - LOW) // WIDTH))
            for _ in range(500):
                arch = Architecture(tuple(rng.integers(4, size=20).tolist()))
                if low <= table.of(arch) <= low + WIDTH:
                    break

    return compare(
        "path in a FLOPs bin", "paths/s", number, rejection, lambda: [sampler.draw(i) for i in range(number)], 5
    )


def show(results: list[Comparison]) -> None:
    """The table on the screen, and bench.json."""
    table = Table(title=f"medians (least to most); {torch.get_num_threads()} threads, PyTorch {torch.__version__}")
    for title in ("what", "unit", "published procedure", "spos", "ratio"):
        table.add_column(title)
    for result in results:
        sides = (
            f"{statistics.median(side):.4g} ({min(side):.4g} to {max(side):.4g})"
            for side in (result.baseline, result.ours)
        )
        table.add_row(result.what, result.unit, *sides, f"{result.ratio:.2f}x")
    console = Console()
    (console if console.is_terminal else Console(width=130)).print(table)
    path = Path("bench.json")
    path.write_text(json.dumps([{**asdict(result), "ratio": result.ratio} for result in results], indent=1) + "\n")


if __name__ == "__main__":
    show([supernet_step(), path_draw(), from_jpeg(), from_store()])
