"""Balanced accuracy, its interval and its paired test, against scikit-learn, enumeration and simulation."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import balanced_accuracy_score

from spos_cli.search.balance import Balance
from spos_cli.search.journal import Entry
from spos_cli.search.results import Results
from spos_cli.search.statistics import MIN_EFFECTIVE_IMAGES, interval, mcnemar, sign_flip
from spos_cli.space.architecture import Architecture

LABELS = np.repeat([0, 2, 5, 6], [200, 40, 12, 12])  # some classes have no images


def test_accuracy_is_that_of_scikit_learn() -> None:
    rng, balance = np.random.default_rng(0), Balance(LABELS)
    for _ in range(20):
        predictions = np.where(rng.random(len(LABELS)) < 0.6, LABELS, 9)
        with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
            expected = balanced_accuracy_score(LABELS, predictions)
        assert balance.accuracy(predictions == LABELS) == pytest.approx(expected, rel=1e-12)
    weights = sum(weight * mask for weight, mask in zip(balance.weights, balance.masks(), strict=True))
    assert float(weights @ (predictions == LABELS)) == pytest.approx(expected)
    assert weights.sum() == pytest.approx(1)


def test_with_equal_classes_it_is_top1_with_its_interval() -> None:
    labels = np.arange(900) % 9
    outcomes = np.random.default_rng(1).random(900) < 0.7
    balance = Balance(labels)
    assert balance.accuracy(outcomes) == pytest.approx(outcomes.mean())
    assert balance.effective_images(outcomes) == pytest.approx(900, rel=0.05)


@pytest.mark.parametrize("accuracies", [(0.9, 0.5, 0.3, 0.8), (0.97, 0.97, 0.97, 0.97), (0.5, 0.5, 1.0, 1.0)])
def test_the_interval_contains_the_balanced_accuracy(accuracies: tuple[float, ...]) -> None:
    """In at least 92 of 100 draws: with 12 images of a class, no interval of 95 % is exact."""
    rng, balance = np.random.default_rng(2), Balance(LABELS)
    shares = np.repeat(accuracies, [200, 40, 12, 12])
    inside, draws = 0, 2000
    for _ in range(draws):
        outcomes = rng.random(len(LABELS)) < shares
        images = balance.effective_images(outcomes)
        low, high = interval(balance.accuracy(outcomes) * images, images)
        inside += low <= np.mean(accuracies) <= high
    assert inside / draws > 0.92


def enumerate_signs(weights: list[float], distance: float) -> float:
    signs = np.array(list(itertools.product((-1, 1), repeat=len(weights))))
    return float((np.abs(signs @ np.array(weights)) >= abs(distance) - 1e-9).mean())


def test_the_sign_flip_test_is_exact_for_few_images() -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        groups = int(rng.integers(1, 5))
        weights = rng.choice([1, 2, 2.5, 7, 0.3], groups, replace=False)
        one, other = rng.integers(0, 3, (2, groups))
        each = np.repeat(weights, one + other).tolist()
        expected = enumerate_signs(each, float(weights @ (one - other))) if each else 1.0
        assert sign_flip(weights, one, other) == pytest.approx(expected, abs=1e-9)


def test_with_equal_weights_it_is_mcnemars_test() -> None:
    assert sign_flip([0.1, 0.1], [5, 60], [9, 40]) == mcnemar(65, 49)
    assert sign_flip([0.1, 0.7], [5, 0], [19, 0]) == mcnemar(5, 19)
    assert sign_flip([0.1, 0.7], [0, 0], [0, 0]) == 1


def test_merged_sums_and_the_normal_distribution_are_close_to_a_simulation() -> None:
    rng = np.random.default_rng(4)
    weights = 1 / np.array([3, 11, 40, 250, 700])
    for counts in ([2, 5, 9, 60, 150], [30, 60, 90, 300, 500]):
        effective = (weights**2 @ counts) ** 2 / (weights**4 @ counts)
        assert (effective < MIN_EFFECTIVE_IMAGES) == (counts[0] == 2)
        flipped = np.abs((2 * rng.binomial(counts, 0.5, (200_000, 5)) - counts) @ weights)
        for one in rng.binomial(counts, 0.57, (8, 5)):
            distance = abs(float(weights @ (2 * one - counts)))
            expected = float((flipped >= distance - 1e-9).mean())
            assert sign_flip(weights, one, counts - one) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("difference", [0.0, 0.25])
def test_equal_candidates_are_called_different_in_5_of_100_draws_at_most(difference: float) -> None:
    """Also if one is better on a class and worse on another, so that their balanced accuracies are equal."""
    rng, weights, sizes, draws = np.random.default_rng(5), 1 / np.array([200, 40]), np.array([200, 40]), 3000
    called = 0
    for _ in range(draws):
        differ = rng.binomial(sizes, 0.5)
        one = rng.binomial(differ, [0.5 + difference, 0.5 - difference])
        called += sign_flip(weights, one, differ - one) <= 0.05
    assert called <= binom.ppf(0.999, draws, 0.05)
    assert called > (100 if difference == 0 else 0)


@pytest.fixture
def scored(tmp_path: Path) -> tuple[list[Entry], Path, np.ndarray]:
    """Candidates, of which the better ones are better on the small classes only."""
    rng, balance = np.random.default_rng(6), Balance(LABELS)
    luck = np.where(rng.random((30, 264)) < 0.7, rng.random(264), rng.random((30, 264)))
    shares = np.where(LABELS[None] == 0, np.linspace(0.9, 0.85, 30)[:, None], np.linspace(0.3, 0.8, 30)[:, None])
    outcomes = luck < shares
    (tmp_path / "outcomes.bits").write_bytes(np.packbits(outcomes, axis=1).tobytes())
    (tmp_path / "scoring.u8.json").write_text(json.dumps({"labels": LABELS.tolist()}))
    entries = [
        Entry(
            *(Architecture((number % 4, number // 4)), 100, 10, float(row.mean()), 1.0, 264, 0, "random"),
            balanced=balance.accuracy(row),
            effective_images=balance.effective_images(row),
        )
        for number, row in enumerate(outcomes)
    ]
    return entries, tmp_path / "outcomes.bits", outcomes


def test_the_winner_and_its_ties_are_by_balanced_accuracy(scored: tuple[list[Entry], Path, np.ndarray]) -> None:
    entries, bits, outcomes = scored
    results = Results.of(entries, bits)
    winner = results.winner
    assert winner is max(entries, key=lambda entry: entry.balanced or 0)
    assert winner is not max(entries, key=lambda entry: entry.top1)
    best, groups = outcomes[entries.index(winner)], [LABELS == 0, LABELS == 2, LABELS >= 5]
    for entry, row in zip(entries, outcomes, strict=True):
        one, other = ([int((a & ~b & group).sum()) for group in groups] for a, b in ((best, row), (row, best)))
        expected = sign_flip([1 / 800, 1 / 160, 1 / 48], one, other)
        assert results.comparison.p_values[entry.architecture] == pytest.approx(expected)
    assert 1 < (results.comparison.count or 0) < 30
    assert Results.of([replace(one, balanced=None, effective_images=None) for one in entries]).winner is not winner


def test_lost_outcomes_and_unknown_classes_leave_ties_unknown(scored: tuple[list[Entry], Path, np.ndarray]) -> None:
    entries, bits, _ = scored
    row = entries.index(max(entries, key=lambda entry: entry.balanced or 0))
    content = bits.read_bytes()
    lost = 0 if row else 1
    bits.write_bytes(content[: 33 * lost] + bytes(33) + content[33 * (lost + 1) :])
    comparison = Results.of(entries, bits).comparison
    assert comparison.p_values.keys() == {e.architecture for e in entries} - {entries[lost].architecture}
    assert "outcomes of 1 candidates" in comparison.problem
    for text in ("", '{"labels": [1, 2]}', '{"labels": null}'):
        bits.with_name("scoring.u8.json").write_text(text)
        comparison = Results.of(entries, bits).comparison
        assert comparison.count is None
        assert "scoring.u8.json" in comparison.problem


def test_a_line_of_the_journal_keeps_both_numbers(scored: tuple[list[Entry], Path, np.ndarray]) -> None:
    entry = scored[0][3]
    assert Entry.from_line(entry.to_line()) == entry
    low, high = entry.interval
    assert low < (entry.balanced or 0) < high
    assert (entry.score, entry.score_name) == (entry.balanced, "balanced accuracy")
    for broken in ({"balanced": 1.5}, {"balanced": None}, {"effective_images": 0.0}, {"balanced": "0.5"}):
        with pytest.raises((ValueError, TypeError)):
            Entry.from_line(replace(entry, **broken).to_line())
