"""Rank fidelity, by simulation: the winner was selected for its score, and is not counted."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import kendalltau, spearmanr, ttest_ind

from spos_cli.config import loading
from spos_cli.models.counting import count
from spos_cli.run.command import Run
from spos_cli.search import statistics
from spos_cli.search.evolution import Evolution
from spos_cli.search.fidelity import (
    choose_architectures,
    choose_equal_flops,
    compare_rankings,
    compare_with_equals,
)
from spos_cli.search.journal import Entry
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.cost import CostTable
from spos_cli.space.cost_kinds import FLOPS
from spos_cli.space.limits import Limit
from spos_cli.space.search_space import SearchSpace, Stage
from spos_cli.stages import audit
from tests.conftest import TINY

SPACE = loading.validate(yaml.safe_load(TINY), [], origin="a test").space.build()
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
    fidelity = {"steps": 10, "equal_flops": {"architectures": []}, **fidelity}
    fidelity["winner"]["trainings"] = [fidelity["winner"]["alone"]]
    result = {"evolution": [], "random": [], "operators": {}, "images": [], "fidelity": fidelity}
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
    assert f"{stand_alone[0]:.2%} │ winner, mean of 1" in said
    shots, stand_alone = audited(np.random.default_rng(3), 9)
    said = shown(capsys, compare_rankings(entries(shots), stand_alone.tolist()))
    assert "agreement of both rankings, 9 architectures; without the winner" in said
    assert "too few" not in said


def test_the_winner_against_others_of_equal_flops(capsys: pytest.CaptureFixture[str]) -> None:
    shots, stand_alone = audited(np.random.default_rng(4), 9)
    winner = [0.93, 0.94, 0.95]
    equals = compare_with_equals(winner, entries(shots[1:]), stand_alone[1:].tolist())
    expected = ttest_ind(winner, stand_alone[1:], equal_var=False).confidence_interval()
    difference = equals["difference"]
    assert difference["value"] == pytest.approx(0.94 - stand_alone[1:].mean())
    assert (difference["low"], difference["high"]) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert equals["kendall"]["value"] == pytest.approx(kendalltau(shots[1:], stand_alone[1:]).statistic)
    found = compare_rankings(entries(shots), stand_alone.tolist())
    said = shown(capsys, {**found, "equal_flops": equals})
    assert f"difference of the means: {100 * difference['value']:+.2f} points" in said
    assert "; the winner is better" in said
    assert "9 of about the winner's FLOPs" in said
    once = compare_with_equals(winner[:1], entries(shots[1:]), stand_alone[1:].tolist())["difference"]
    assert (once["low"], once["high"]) == (None, None)


def test_random_architectures_of_equal_flops() -> None:
    costs = count(SPACE)
    archs = [Architecture(choices) for choices in itertools.product(range(4), repeat=4)]
    middle = sorted(archs, key=costs.flops.of)[128]
    winner = Entry(middle, costs.flops.of(middle), 1, 0.9, 1.0, 100, 0, "random")
    evolution = Evolution(costs.flops, Limit(winner.flops), 1, 0, 1, 0, 0, 0.1, 0, main=costs.flops)
    about = {arch for arch in archs if 0.97 * winner.flops <= costs.flops.of(arch) <= winner.flops} - {middle}
    assert len(about) > 3
    rest = (evolution, costs.flops, SPACE.network_key)
    some, all_of_them = (set(choose_equal_flops(winner, number, *rest)) for number in (3, 1000))
    assert len(some) == 3
    assert some < all_of_them == about
    assert set(choose_equal_flops(winner, 3, *rest)) == some
    assert choose_equal_flops(winner, 0, *rest) == []


def test_the_winner_under_another_name_is_not_compared_with_itself() -> None:
    kernels = tuple(Choice("mbconv", (("expand", 2), ("kernel", kernel))) for kernel in (3, 5))
    space = SearchSpace((Stage(3, 8, 1), Stage(3, 8, 1)), (*kernels, Choice("identity")), 8, 10, 8, 1, 32)
    costs = count(space)
    arch = Architecture((0, 2, 0, 1, 2, 0))
    winner = Entry(arch, costs.flops.of(arch), 1, 0.9, 1.0, 100, 0, "random")
    evolution = Evolution(costs.flops, None, 1, 0, 1, 0, 0, 0.1, 0, main=costs.flops)
    equals = choose_equal_flops(winner, 1000, evolution, costs.flops, space.network_key)
    keys = [space.network_key(one) for one in [arch, *equals]]
    assert len(set(keys)) == len(keys) > 2


@pytest.mark.parametrize("limit", [None, Limit(280), Limit(280, 220)])
def test_architectures_of_an_audit_cover_what_the_limit_allows(limit: Limit | None) -> None:
    table = CostTable(FLOPS, 100, np.random.default_rng(0).integers(1, 50, (8, 4)))
    evolution = Evolution(table, limit, 10, 4, 4, 4, 4, 0.2, 0)
    winner = Entry(table.distribution().draw(np.random.default_rng(0), 220, 280), 0, 0, 0.9, 1.0, 100, 0, "random")
    archs = choose_architectures([winner], 9, evolution, table, limit, lambda arch: arch)
    low = table.minimum if limit is None or limit.low is None else limit.low
    high = table.maximum if limit is None else limit.high
    assert archs[0] == winner.architecture
    ends = [low + (high - low) * part // 8 for part in range(9)]
    for arch, (begin, end) in zip(archs[1:], itertools.pairwise(ends), strict=True):
        assert begin <= table.of(arch) <= end
