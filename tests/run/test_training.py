"""What the settings of a training make."""

from __future__ import annotations

import json
import re

import pytest

from spos_cli.config.loading import load
from spos_cli.errors import LimitError
from spos_cli.models.counting import count
from spos_cli.run.command import Run
from spos_cli.run.training import make_sampler
from spos_cli.space.sampling import CostBinSampler, SandwichSampler, UniformSampler
from tests.conftest import Spos

BINS = "supernet.flops_bins={low: 40K, high: 60K, width: 10K}"


@pytest.mark.parametrize(
    ("sampler", "kind", "paths"),
    [
        ("uniform", UniformSampler, 1),
        ("flops_bins", CostBinSampler, 1),
        ("sandwich", SandwichSampler, 4),
    ],
)
def test_the_sampler_and_its_paths(spos: Spos, sampler: str, kind: type, paths: int) -> None:
    config = load(spos.folder / "spos.yaml", [f"supernet.sampler={sampler}", BINS])
    made = make_sampler(Run(config), config.space.build())
    assert isinstance(made, kind)
    assert [len(made.paths(step)) for step in range(3)] == [paths] * 3


@pytest.mark.slow
def test_a_sandwich_is_trained_and_searched(spos: Spos) -> None:
    """Each step trains the choices of the largest and of the smallest path."""
    sandwich = "--set=supernet.sampler=sandwich"
    spos.here("supernet-train", "--set=supernet.steps=4", sandwich)
    trained = json.loads((spos.run / "supernet" / "choices.json").read_text())
    flops = count(load(spos.folder / "spos.yaml").space.build()).flops
    for row, largest, smallest in zip(trained, flops.most_expensive, flops.cheapest, strict=True):
        assert sum(row) == 16
        assert min(row[largest], row[smallest]) >= 4
    spos.here("search", "--set=supernet.steps=4", sandwich)
    assert (spos.run / "search" / "result.yaml").exists()


def test_advice_for_bins_without_an_architecture(spos: Spos) -> None:
    def draw(*overrides: str) -> None:
        config = load(spos.folder / "spos.yaml", overrides)
        make_sampler(Run(config), config.space.build()).paths(0)

    bins = "supernet.sampler=flops_bins"
    with pytest.raises(LimitError, match=r"set supernet\.flops_bins within that, or") as raised:
        draw(bins)
    low, high = re.findall(r"from (\S+)K to ([\d.]+)K", str(raised.value))[0]
    low, high = (round(float(number) * 1000) for number in (low, high))
    draw(bins, f"supernet.flops_bins={{low: {low}, high: {high}, width: {high - low}}}")
    draw("supernet.sampler=uniform")
