"""Searches on tables: the formats, the size of the noise, and regret, on small tables that are written here."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from tests.benchmarks import search_tables
from tests.benchmarks.search_tables import Networks, Sample, Space, read_networks

LAYERS = 6
PATHS = ["".join(path) for path in itertools.product("012", repeat=LAYERS)]
VALUES = np.random.default_rng(0).random((LAYERS, 3))
ACCURACY = [80 + float(VALUES[range(LAYERS), [int(digit) for digit in path]].sum()) for path in PATHS]
FLOPS = [1_000_000 + 100_000 * sum(map(int, path)) for path in PATHS]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """As NAS-Bench-Macro: all 729 networks."""
    rows = {path: {"mean_acc": a, "flops": f} for path, a, f in zip(PATHS, ACCURACY, FLOPS, strict=True)}
    file = tmp_path / "table.json"
    file.write_text(json.dumps(rows))
    return file


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """As Accel-NASBench: every third network, one of them twice."""
    folder = tmp_path / "sample"
    folder.mkdir()
    for number in [*range(0, len(PATHS), 3), 0]:
        architecture = {f"block{layer}_k": 3 + 2 * int(digit) for layer, digit in enumerate(PATHS[number])}
        row = {"architecture": architecture, "metrics": {"val_top1": ACCURACY[number]}}
        row["model_info"] = {"macs": FLOPS[number] / 1e6}
        (folder / f"result_{len(list(folder.iterdir()))}.json").write_text(json.dumps(row))
    return folder


def test_a_table_and_its_limit(table: Path) -> None:
    networks = read_networks(str(table))
    assert networks.size == 729
    assert networks.look_up(networks.archs).tolist() == ACCURACY
    limited = read_networks(f"{table}@1.6M")
    assert limited.size == sum(flops <= 1_600_000 for flops in FLOPS)
    assert limited.flops.max() == 1_600_000


def test_digits_may_begin_at_one(table: Path) -> None:
    """As in Channel-Bench-Macro."""
    rows = {"".join(str(int(digit) + 1) for digit in path): {"mean": 1.0, "flops": 1} for path in PATHS}
    table.write_text(json.dumps(rows))
    networks = read_networks(str(table))
    assert (networks.counts, networks.archs[0].choices) == ([3] * LAYERS, (0,) * LAYERS)


@pytest.mark.parametrize("tau", [0.75, 0.6])
def test_noise_gives_the_tau(table: Path, tau: float) -> None:
    networks = read_networks(str(table))
    errors = networks.find_noise(tau) * networks.draw_errors(networks.archs, 3)
    assert kendalltau(networks.accuracy, networks.accuracy + errors).statistic == pytest.approx(tau, abs=0.03)
    assert networks.find_noise(1) == 0
    again = networks.draw_errors(networks.archs[5:9], 3)
    assert again.tolist() == networks.draw_errors(networks.archs, 3)[5:9].tolist()


def networks_of(name: str, table: Path, sample: Path) -> Networks:
    return read_networks({"table": f"{table}@1.6M", "sample": str(sample), "space": f"{sample}@space"}[name])


@pytest.mark.parametrize("name", ["table", "sample", "space"])
@pytest.mark.parametrize("changes", search_tables.SEARCHES.values(), ids=search_tables.SEARCHES)
def test_searches(table: Path, sample: Path, name: str, changes: dict[str, object]) -> None:
    """They score each network once; the leader is the one with the best score, and ends as the best network."""
    networks = networks_of(name, table, sample)
    for noise in (0.0, 0.3):
        run = search_tables.search(networks, noise, 1, changes)
        assert len(run) == min(networks.size, 500 if "predictor" in changes else 1000)
        assert set(run[:, 1]) <= set(run[:, 0])
        if not noise:
            assert run[:, 1].tolist() == np.maximum.accumulate(run[:, 0]).tolist()
        if name != "space":
            assert len(set(run[:, 0].round(9))) == len(run)  # All accuracies are different.
            assert {round(a, 9) for a in run[:, 0]} <= {round(a, 9) for a in networks.accuracy}
    if name != "space":
        assert search_tables.search(networks, 0, 1, changes)[-1, 1] == networks.accuracy.max()


def test_a_sample_and_the_space_around_it(sample: Path) -> None:
    networks, space = read_networks(str(sample)), read_networks(f"{sample}@space")
    assert (type(networks), networks.size) == (Sample, 243)
    assert isinstance(space, Space)
    assert space.look_up(space.archs) == pytest.approx(space.accuracy, abs=0.1)
    assert [space.table.of(arch) for arch in space.archs] == pytest.approx(
        [flops / 1e3 - 1000 for flops in space.flops], abs=3
    )


def test_evaluations_that_are_needed() -> None:
    regret = np.array([5.0, 4, 3, 2, 1, 0])
    assert search_tables.count_needed(regret, 2, population=2) == "4"
    assert search_tables.count_needed(regret, 2.5, population=3) == "6"
    assert search_tables.count_needed(regret, -1, population=2) == "more than 6"
