"""Rank fidelity, by simulation: the winner was selected for its score, and is not counted."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import kendalltau, spearmanr

from spos_cli.config import loading
from spos_cli.run.command import Run
from spos_cli.search import statistics
from spos_cli.search.fidelity import compare_rankings
from spos_cli.search.journal import Entry
from spos_cli.space.architecture import Architecture
from spos_cli.stages import audit
from tests.conftest import TINY

TAU = 0.33
CORRELATION = math.sin(math.pi * TAU / 2)  # of normal scores with this tau (Greiner)


def entries(scores: np.ndarray) -> list[Entry]:
    """Make entries with these scores and made-up costs."""
    flops = np.random.default_rng(len(scores)).permutation(len(scores)) + 1
    return [
        Entry(Architecture((number // 4 % 4, number % 4)), int(cost), 1, float(score), 1.0, 100, 0, "random")
        for number, (score, cost) in enumerate(zip(scores, flops, strict=True))
    ]


def audited(rng: np.random.Generator, others: int) -> tuple[np.ndarray, np.ndarray]:
    """One-shot and stand-alone scores of the best of 1,000 by one-shot score, then of others chosen at random."""
    shots = rng.standard_normal(1000)
    stand_alone = CORRELATION * shots + math.sqrt(1 - CORRELATION**2) * rng.standard_normal(1000)
    chosen = [int(shots.argmax()), *rng.choice(1000, others, replace=False)]
    return 0.7 + 0.01 * shots[chosen], 0.9 + 0.01 * stand_alone[chosen]


def test_tau_is_not_raised_by_the_selection_of_the_winner(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bootstrap", "bootstrap_kendall"):
        monkeypatch.setattr(statistics, name, lambda *given: (0.0, 1.0))  # 2,000 times the work
    rng, said, with_winner = np.random.default_rng(0), [], []
    for _ in range(500):
        shots, stand_alone = audited(rng, 11)
        said.append(compare_rankings(entries(shots), stand_alone.tolist())["kendall"]["value"])
        with_winner.append(kendalltau(shots, stand_alone).statistic)
    error = np.std(said) / math.sqrt(len(said))
    assert abs(np.mean(said) - TAU) < 3 * error
    assert np.mean(with_winner) > TAU + 5 * error


def test_rankings_of_eight_or_more() -> None:
    shots, stand_alone = audited(np.random.default_rng(1), 8)
    found = compare_rankings(entries(shots), stand_alone.tolist())
    assert (found["winner"]["one_shot"], found["winner"]["alone"]) == (shots[0], stand_alone[0])
    assert [row["alone"] for row in found["architectures"]] == stand_alone[1:].tolist()
    assert found["kendall"]["value"] == pytest.approx(kendalltau(shots[1:], stand_alone[1:]).statistic)
    assert found["spearman"]["value"] == pytest.approx(spearmanr(shots[1:], stand_alone[1:]).statistic)
    flops = [row["flops"] for row in found["architectures"]]
    assert found["kendall_of_flops"]["value"] == pytest.approx(kendalltau(flops, stand_alone[1:]).statistic)


def shown(capsys: pytest.CaptureFixture[str], fidelity: dict[str, Any]) -> str:
    result = {"evolution": [], "random": [], "operators": {}, "images": [], "fidelity": {"steps": 10, **fidelity}}
    audit.show(Run(loading.validate(yaml.safe_load(TINY), [], origin="a test")), json.loads(json.dumps(result)))
    return " ".join(capsys.readouterr().out.split())


def test_rankings_of_fewer_are_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    shots, stand_alone = audited(np.random.default_rng(2), 7)
    found = compare_rankings(entries(shots), stand_alone.tolist())
    for name in ("kendall", "spearman", "kendall_of_flops"):
        assert found[name] == {"value": None, "low": None, "high": None}
    said = shown(capsys, found)
    assert "7 architectures beside the winner are too few" in said
    assert "raise audit.architectures to 9 or more" in said
    assert f"{stand_alone[0]:.2%} │ winner" in said
    shots, stand_alone = audited(np.random.default_rng(3), 9)
    said = shown(capsys, compare_rankings(entries(shots), stand_alone.tolist()))
    assert "agreement of both rankings, 9 architectures; without the winner" in said
    assert "too few" not in said
