"""The predictor, and searches with it, on spaces whose scores are known."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from spos_cli.search.evolution import Candidate, Evolution, Proposal
from spos_cli.search.journal import Entry, Origin
from spos_cli.search.overview import OPERATORS, Overview
from spos_cli.search.predictor import PENALTY, Predictor
from spos_cli.search.statistics import hypervolume, kendall
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostTable
from spos_cli.space.cost_kinds import FLOPS, PARAMS
from spos_cli.space.limits import Limit
from spos_cli.space.options import Options

RNG = np.random.default_rng(0)
COUNTS = (4, 3, 5, 2, 4, 4, 3, 4)  # layers have different numbers of choices: 23,040 architectures
TABLE = CostTable(FLOPS, 100, [RNG.integers(1, 50, count).tolist() for count in COUNTS])
PARAMS = CostTable(PARAMS, 10, [RNG.integers(1, 50, count).tolist() for count in COUNTS])
EFFECTS = [RNG.random(count) / len(COUNTS) for count in COUNTS]
LIMIT = Limit(TABLE.distribution().quantile(0.5))
EVOLUTION = Evolution(
    table=TABLE,
    limit=LIMIT,
    population=20,
    generations=6,
    parents=5,
    mutations=8,
    crossovers=8,
    mutation_probability=0.1,
    seed=3,
    predictor="ridge",
)
# The last of three choices has no width.
OPTIONS = Options(((True, True, False),) * 6, (500, 1000, 1500, 2000))
WIDE = CostTable(FLOPS, 10, [sorted(RNG.integers(1, 50, 9).tolist()) for _ in range(6)], OPTIONS)


# With bits, which are not listed in the order of their codes.
BIT_OPTIONS = Options(((True, True, False),) * 6, (500, 1000), ((True, False, False),) * 6, (44, 12, 24))
QUANTIZED = CostTable(FLOPS, 10, [sorted(RNG.integers(1, 50, 9).tolist()) for _ in range(6)], BIT_OPTIONS)


def true_score(arch: Architecture) -> float:
    """Return an additive score from 0 to 1; wider is better by a little."""
    effects = sum(row[choice % len(row)] for row, choice in zip(EFFECTS, arch.choices, strict=False))
    return float(effects) + sum(arch.widths) / 10**5


def score(candidates: Sequence[Candidate]) -> list[float]:
    return [true_score(candidate.architecture) for candidate in candidates]


def run(evolution: Evolution) -> list[tuple[Candidate, float]]:
    return [scored for generation in evolution.search(score) for scored in generation]


def draw(table: CostTable, number: int) -> list[Architecture]:
    rng = np.random.default_rng(5)
    return [table.options.draw(rng) for _ in range(number)]


def one_hot(table: CostTable, arch: Architecture) -> list[float]:
    """Choices of all layers, then widths, with one for no width, then bits in the order of their codes, likewise."""
    row = [
        float(arch.choices[layer] == choice) for layer, count in enumerate(COUNTS_OF[table]) for choice in range(count)
    ]
    if table.options.widths:
        widths = arch.widths or (0,) * len(arch)
        row += [float(widths[layer] == width) for layer in range(len(arch)) for width in (0, *table.options.widths)]
    if table.options.bits:
        bits = arch.bits or (0,) * len(arch)
        row += [float(bits[layer] == pair) for layer in range(len(arch)) for pair in (0, *sorted(table.options.bits))]
    return row


COUNTS_OF = {table: [len(layer) for layer in table.options.scalable] for table in (TABLE, WIDE, QUANTIZED)}


@pytest.mark.parametrize("table", [TABLE, WIDE, QUANTIZED])
def test_the_effects_solve_the_penalised_least_squares(table: CostTable) -> None:
    """As NumPy's least squares of the system with one row more per feature, for its penalty, but none for the mean."""
    archs = draw(table, 60)
    values = np.random.default_rng(6).random(60)
    predictor = Predictor(table.options, archs, values.tolist())
    rows = np.array([one_hot(table, arch) for arch in archs])
    features = rows.shape[1]
    system = np.block([[np.ones((60, 1)), rows], [np.zeros((features, 1)), np.sqrt(PENALTY) * np.eye(features)]])
    solution = np.linalg.lstsq(system, np.concatenate([values, np.zeros(features)]), rcond=None)[0]
    assert predictor.intercept == pytest.approx(solution[0], abs=1e-7)
    assert predictor.effects == pytest.approx(solution[1:], abs=1e-7)
    assert predictor.predict(archs) == pytest.approx(rows @ solution[1:] + solution[0], abs=1e-7)
    assert predictor.predict([]) == []


def test_it_learns_an_additive_score_and_smooths_noise() -> None:
    archs, others = draw(TABLE, 150), draw(TABLE, 1000)[150:]
    truth = [true_score(arch) for arch in others]
    exact = Predictor(TABLE.options, archs, [true_score(arch) for arch in archs])
    assert kendall(exact.predict(others), truth) > 0.95
    noise = np.random.default_rng(7).normal(0, np.std(truth), 150)
    noisy_scores = np.maximum([true_score(arch) for arch in archs] + noise, 0)
    noisy = Predictor(TABLE.options, archs, noisy_scores.tolist())
    assert kendall(noisy.predict(others), truth) > 0.6 > kendall(noisy_scores, [true_score(arch) for arch in archs])


def test_a_candidate_that_was_stopped_early_counts_with_its_score_so_far() -> None:
    archs = draw(TABLE, 40)
    scores = [true_score(arch) for arch in archs]
    stopped = [value - 1 if index % 3 == 0 else value for index, value in enumerate(scores)]
    assert Predictor(TABLE.options, archs, stopped).predict(archs) == pytest.approx(
        Predictor(TABLE.options, archs, scores).predict(archs)
    )


def test_predictions_are_never_below_zero() -> None:
    """There, fitness would mean that a candidate was stopped early."""
    archs = draw(TABLE, 40)
    predicted = Predictor(TABLE.options, archs, [0.0] * 39 + [1.0]).predict(draw(TABLE, 500))
    assert min(predicted) == 0 < max(predicted)


@pytest.mark.parametrize("known", [1, 2])
def test_one_score_is_enough_to_go_on(known: int) -> None:
    archs = draw(TABLE, known)
    assert Predictor(TABLE.options, archs[:1], [0.25]).predict(archs) == [0.25] * known
    (generation,) = replace(EVOLUTION, generations=0).search(score, dict.fromkeys(archs, 0.5))
    assert len(generation) == 20


def several() -> Evolution:
    return replace(EVOLUTION, others=((PARAMS, Limit(PARAMS.distribution().quantile(0.5))),))


def wide() -> Evolution:
    return replace(EVOLUTION, table=WIDE, limit=Limit(WIDE.distribution().quantile(0.5)))


@pytest.mark.parametrize("evolution", [EVOLUTION, several(), wide(), replace(EVOLUTION, limit=None, front_on=TABLE)])
def test_candidates_are_new_under_all_limits_and_replayed(evolution: Evolution) -> None:
    scored = run(evolution)
    archs = [candidate.architecture for candidate, _ in scored]
    assert len(archs) == len(set(archs)) == 140
    assert all(evolution.allows(arch) for arch in archs)
    allowed = [set(layer) for layer in evolution.table.options.by_layer]
    assert all(option in options for arch in archs for option, options in zip(arch.options, allowed, strict=True))
    assert scored == run(evolution)
    assert scored != run(replace(evolution, seed=4))
    assert scored[20:] != run(replace(evolution, predictor="off"))[20:]


def test_the_first_generation_is_random_and_a_fifth_of_the_others() -> None:
    scored = run(EVOLUTION)
    assert scored[:20] == run(replace(EVOLUTION, predictor="off"))[:20]
    for generation in range(1, 7):
        origins = [candidate.origin for candidate, _ in scored if candidate.generation == generation]
        assert origins == ["predicted"] * 16 + ["random"] * 4


def test_proposals_do_not_depend_on_the_order_of_scores() -> None:
    fitness = {arch: true_score(arch) for arch in draw(TABLE, 100) if EVOLUTION.allows(arch)}
    best = EVOLUTION.select_best(fitness, fitness)
    shuffled = dict(sorted(fitness.items()))
    assert EVOLUTION.propose(4, best, fitness).candidates == EVOLUTION.propose(4, best, shuffled).candidates


def test_it_finds_the_optimum_of_an_additive_score_in_far_fewer_evaluations() -> None:
    """The best of all architectures under the limit, listed one by one; the same 10 seeds for both."""
    every = [Architecture(path) for path in itertools.product(*map(range, COUNTS))]
    optimum = max(true_score(arch) for arch in every if EVOLUTION.allows(arch))

    def needed(evolution: Evolution) -> int:
        """Evaluations until the optimum is found; all 1,000 if it takes more."""
        scores = (value for generation in evolution.search(score) for _, value in generation)
        return next((number for number, value in enumerate(scores, 1) if value > optimum - 1e-9), 1000)

    predicted = [needed(replace(EVOLUTION, seed=seed, generations=14)) for seed in range(10)]
    evolved = [needed(replace(EVOLUTION, seed=seed, generations=49, predictor="off")) for seed in range(10)]
    assert max(predicted) < 300
    assert np.median(predicted) <= 0.5 * np.median(evolved)


def test_a_small_space_is_searched_to_the_end() -> None:
    table = CostTable(FLOPS, 0, np.arange(8).reshape(2, 4) + 1)
    limit = int(table.distribution().quantile(0.6))
    small = replace(EVOLUTION, table=table, limit=Limit(limit), population=3)
    seen = {candidate.architecture for candidate, _ in run(small)}
    assert seen == set(table.distribution().enumerate(None, limit))


def test_all_that_narrow_limits_allow_is_found() -> None:
    """Where few of the architectures that are drawn under the first limit are under the second one."""
    every = [Architecture(path) for path in itertools.product(*map(range, COUNTS))]
    limit = sorted(PARAMS.of(arch) for arch in every if LIMIT.allows(TABLE.of(arch)))[100]
    narrow = replace(EVOLUTION, others=((PARAMS, Limit(limit)),))
    allowed = {arch for arch in every if narrow.allows(arch)}
    assert 100 <= len(allowed) < 140
    assert {candidate.architecture for candidate, _ in run(narrow)} == allowed


def test_a_search_for_the_front_with_a_predictor_is_better_than_one_without() -> None:
    def volume(evolution: Evolution) -> float:
        scored = run(evolution)
        costs, values = [TABLE.of(c.architecture) for c, _ in scored], [value for _, value in scored]
        return hypervolume(costs, values, TABLE.maximum)

    front = replace(EVOLUTION, limit=None, front_on=TABLE)
    predicted = [volume(replace(front, seed=seed)) for seed in range(5)]
    evolved = [volume(replace(front, seed=seed, predictor="off")) for seed in range(5)]
    assert np.mean(predicted) > np.mean(evolved)


def test_chance_has_no_predictor() -> None:
    """A search without parents is the baseline of an audit."""
    assert run(replace(EVOLUTION, parents=0)) == run(replace(EVOLUTION, parents=0, predictor="off"))


def test_proposals_are_fast_in_a_large_space() -> None:
    """4^20 architectures, of which 1,000 have scores; this takes about 0.1 s."""
    table = CostTable(FLOPS, 100, np.random.default_rng(0).integers(1, 400, (20, 4)))
    median = table.distribution().quantile(0.5)
    evolution = replace(EVOLUTION, table=table, limit=Limit(median), population=50)
    evolution = replace(evolution, mutations=25, crossovers=25, parents=10)
    rng = np.random.default_rng(1)
    fitness = {table.distribution().draw(rng, None, median): float(rng.random()) for _ in range(1000)}
    best = evolution.select_best(fitness, fitness)
    start = time.process_time()
    assert len(evolution.propose(1, best, fitness).candidates) == 50
    assert time.process_time() - start < 1


def test_an_overview_compares_predictions_with_scores() -> None:
    overview, proposals = Overview(6), []

    def watch(generation: int, proposal: Proposal) -> None:
        overview.begin(generation, proposal)
        proposals.append(proposal)

    for generation in EVOLUTION.search(score, watch=watch):
        entries = [Entry(c.architecture, 1, 1, value, 1.0, 10, c.generation, c.origin) for c, value in generation]
        overview.add(entries)
        if not proposals[-1].predictions:
            assert overview.tau is None
    assert not proposals[0].predictions
    pairs = [(value, true_score(arch)) for proposal in proposals for arch, value in proposal.predictions.items()]
    assert len(pairs) == 120
    assert overview.tau == pytest.approx(kendall(*zip(*pairs, strict=True)))
    assert ("predicted", [f"Kendall's tau {overview.tau:.2f}", "with 120 scores"]) in overview.rows


def test_every_operator_has_a_name_on_the_dashboard() -> None:
    assert OPERATORS.keys() == set(get_args(Origin)) - {"rescored", "imported"}
