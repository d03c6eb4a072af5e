"""The measurements of `make bench`: the named work is really done, and memory is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spos_cli.search.journal import Journal
from tests.benchmarks import growth, measure, roofline, training


def allocate_hundred_megabytes() -> measure.Cost:
    """Measure the allocation of 100 MB; call it in a new process."""
    return measure.measure_cost(lambda: np.ones(100_000_000, np.uint8).sum(), 2)


@pytest.mark.slow
def test_memory_of_a_child() -> None:
    """The memory of the calling process does not count."""
    held = np.ones(200_000_000, np.uint8)
    cost = measure.run_in_child(allocate_hundred_megabytes)
    assert held.all()
    assert cost.above_rest == pytest.approx(100, abs=20)
    assert len(cost.seconds) == 2


def test_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    growth.write_journal(path, 100)
    assert len(Journal(path).read()) == 100
    growth.resume(path, 100)  # It reads the whole journal.
    growth.export(path, 100)
    growth.search_again(path, 100)


@pytest.mark.parametrize("layers", growth.LAYERS)
@pytest.mark.parametrize("choices", growth.CHOICES)
def test_spaces(layers: int, choices: int) -> None:
    space = growth.make_space(layers, choices)
    assert (space.num_layers, len(space.choices)) == (layers, choices)


def test_traffic_of_a_path() -> None:
    """It exceeds the traffic of the stem, counted by hand here; blocks with more convolutions move more."""
    one, large = ((0,) * 20, (3,) * 20)
    assert roofline.count_traffic(one, 32) < roofline.count_traffic(large, 32)
    weights = roofline.count_traffic(one, 1) - roofline.count_traffic(
        one, 2
    )  # half of a path's weights, eight times four bytes
    assert weights / 16 == pytest.approx(3.3e6, rel=0.2)
    stem = 3 * (3 * 224**2 + 16 * 112**2) + (8 + 5) * 16 * 112**2  # numbers of convolution, BatchNorm and ReLU
    assert 10 < roofline.count_traffic(one, 10**9) / (4 * stem) < 30


def test_both_sides_train_the_same_paths() -> None:
    assert len(set(training.draw_paths())) > 1
    assert training.draw_paths() is training.draw_paths()
