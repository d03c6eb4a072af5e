"""Evolution on a toy space whose scores are known."""

from __future__ import annotations

import itertools
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from scipy.stats import chisquare

from spos_cli.errors import LimitError
from spos_cli.search import evolution as evolution_module
from spos_cli.search.evolution import Candidate, Draws, Evolution, Proposal
from spos_cli.search.journal import Entry
from spos_cli.search.results import ranking
from spos_cli.search.statistics import crowding, fronts, hypervolume
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostDistribution, CostTable
from spos_cli.space.cost_kinds import FLOPS, PARAMS, make_own_kind
from spos_cli.space.limits import Limit, parse_limit
from spos_cli.space.options import Options

LAYERS, CHOICES = 8, 4
TABLE = CostTable(FLOPS, 100, np.random.default_rng(0).integers(1, 50, (LAYERS, CHOICES)))
VALUES = np.random.default_rng(1).random((LAYERS, CHOICES))
EVOLUTION = Evolution(
    table=TABLE,
    limit=Limit(300),
    population=20,
    generations=10,
    parents=5,
    mutations=8,
    crossovers=8,
    mutation_probability=0.1,
    seed=3,
)


def value(candidates: Sequence[Candidate]) -> list[float]:
    return [float(sum(VALUES[layer, choice] for layer, choice in enumerate(c.architecture))) for c in candidates]


def run(evolution: Evolution) -> list[tuple[Candidate, float]]:
    return [scored for generation in evolution.search(value) for scored in generation]


def run_from(evolution: Evolution, known: dict[Architecture, float]) -> list[tuple[Candidate, float]]:
    return [scored for generation in evolution.search(value, known) for scored in generation]


def test_every_candidate_is_new_and_under_the_limit() -> None:
    scored = run(EVOLUTION)
    architectures = [candidate.architecture for candidate, _ in scored]
    assert len(scored) == 20 * 11
    assert len(set(architectures)) == len(architectures)
    assert all(TABLE.of(arch) <= 300 for arch in architectures)


def test_origins_are_as_asked_for() -> None:
    for candidate, _ in run(EVOLUTION)[:20]:
        assert (candidate.generation, candidate.origin) == (0, "random")
    first = [candidate.origin for candidate, _ in run(EVOLUTION) if candidate.generation == 1]
    assert first == ["mutation"] * 8 + ["crossover"] * 8 + ["random"] * 4
    last = [candidate.origin for candidate, _ in run(EVOLUTION) if candidate.generation == 10]
    assert len(last) == 20  # random candidates make up for children that were seen before
    assert last.count("mutation") <= 8
    assert last.count("crossover") <= 8


def test_children_come_from_the_best_so_far() -> None:
    scored = run(replace(EVOLUTION, mutations=0, crossovers=20))
    for generation in range(1, 11):
        before = [(c.architecture, s) for c, s in scored if c.generation < generation]
        parents = [arch for arch, _ in sorted(before, key=lambda item: (-item[1], TABLE.of(item[0])))[:5]]
        children = [c.architecture for c, _ in scored if c.generation == generation and c.origin == "crossover"]
        for child in children:
            assert all(choice in {p[layer] for p in parents} for layer, choice in enumerate(child))


def test_the_same_seed_gives_the_same_search_and_another_seed_another() -> None:
    assert run(EVOLUTION) == run(EVOLUTION)
    assert run(EVOLUTION) != run(replace(EVOLUTION, seed=4))


def test_it_beats_random_search_at_the_same_budget() -> None:
    def best(evolution: Evolution) -> float:
        return max(score for _, score in run(evolution))

    evolved = [best(replace(EVOLUTION, seed=seed)) for seed in range(10)]
    at_random = [best(replace(EVOLUTION, seed=seed, parents=0)) for seed in range(10)]
    assert np.median(evolved) > np.median(at_random)
    assert all(c.origin == "random" for c, _ in run(replace(EVOLUTION, parents=0)))


def test_a_small_space_is_searched_to_the_end() -> None:
    table = CostTable(FLOPS, 0, np.arange(8).reshape(2, 4) + 1)
    limit = int(table.distribution().quantile(0.6))
    small = replace(EVOLUTION, table=table, limit=Limit(limit))
    seen = {candidate.architecture for candidate, _ in run(small)}
    assert seen == set(table.distribution().enumerate(None, limit))


def test_a_space_is_listed_once_a_generation_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    table = CostTable(FLOPS, 0, np.arange(16).reshape(4, 4) + 1)
    every, listed = CostDistribution.enumerate, []
    monkeypatch.setattr(CostDistribution, "enumerate", lambda *given: (listed.append(1), every(*given))[1])
    whole = replace(EVOLUTION, table=table, limit=None, population=64, generations=3, parents=0)
    assert len({candidate.architecture for candidate, _ in run(whole)}) == 256
    assert 1 <= len(listed) <= 2  # of four generations, of which the last two have seen most of it


def test_an_impossible_limit_says_what_is_reachable() -> None:
    with pytest.raises(LimitError):
        replace(EVOLUTION, limit=Limit(50)).require_candidates()
    EVOLUTION.require_candidates()


def test_mutation_draws_each_layer_with_its_probability() -> None:
    rng = np.random.default_rng(0)
    parent = run(EVOLUTION)[0][0].architecture
    evolution = replace(EVOLUTION, mutation_probability=0.4)
    changed = [sum(a != b for a, b in zip(parent, evolution.mutate(parent, rng), strict=True)) for _ in range(4000)]
    assert np.mean(changed) == pytest.approx(LAYERS * 0.4 * (CHOICES - 1) / CHOICES, rel=0.05)


def wide_evolution() -> Evolution:
    """A space in which the last of three choices has no width."""
    options = Options(((True, True, False),) * 6, (500, 1000, 1500, 2000))
    rng = np.random.default_rng(4)
    table = CostTable(FLOPS, 10, [sorted(rng.integers(1, 50, 9).tolist()) for _ in range(6)], options)
    return replace(EVOLUTION, table=table, limit=Limit(table.distribution().quantile(0.5)))


def quantized_evolution(widths: tuple[int, ...] = ()) -> Evolution:
    """A space in which the last of three choices has no bits, and no width if others have some."""
    flags = ((True, True, False),) * 6
    options = Options(flags, widths, flags, (12, 22, 24, 44))
    rng, count = np.random.default_rng(4), 8 * max(1, len(widths)) + 1
    table = CostTable(FLOPS, 10, [sorted(rng.integers(1, 50, count).tolist()) for _ in range(6)], options)
    return replace(EVOLUTION, table=table, limit=Limit(table.distribution().quantile(0.5)))


@pytest.mark.parametrize(
    ("name", "values"), [("widths", (500, 1000, 0, 1500, 2000, 0)), ("bits", (12, 22, 0, 24, 44, 0))]
)
def test_mutation_draws_choices_apart_from_widths_or_bits(name: str, values: tuple[int, ...]) -> None:
    evolution = wide_evolution() if name == "widths" else quantized_evolution()
    evolution, rng = replace(evolution, mutation_probability=0.4), np.random.default_rng(0)
    parent = Architecture((0, 1, 2, 0, 1, 2), **{name: values})
    children = [evolution.mutate(parent, rng) for _ in range(4000)]
    options = evolution.table.options
    assert {option for child in children for option in child.options} == set(options.by_layer[0])
    choices = np.mean([[one != other for one, other in zip(parent, child, strict=True)] for child in children], 0)
    assert choices == pytest.approx(0.4 * 2 / 3, abs=0.03)
    kept = [child for child in children if child[0] == 0]
    assert np.mean([getattr(child, name)[0] != values[0] for child in kept]) == pytest.approx(0.4 * 3 / 4, abs=0.03)
    drawn = Counter(getattr(child, name)[2] for child in children if child[2] != 2)  # the parent had none to hand on
    assert chisquare([drawn[value] for value in getattr(options, name)]).pvalue > 1e-3


@pytest.mark.parametrize("has_bits", [False, True])
def test_crossover_takes_a_choice_with_its_width_and_bits(has_bits: bool) -> None:
    evolution, rng = quantized_evolution((500, 1000)) if has_bits else wide_evolution(), np.random.default_rng(0)
    mine_bits, their_bits = ((12, 22, 0, 24, 44, 0), (12, 24, 44, 0, 12, 0)) if has_bits else ((), ())
    one = Architecture((0, 1, 2, 0, 1, 2), (500, 1000, 0, 500, 1000, 0), mine_bits)
    other = Architecture((1, 1, 0, 2, 0, 2), (1000, 500, 1000, 0, 500, 0), their_bits)
    children = [evolution.cross(one, other, rng) for _ in range(2000)]
    for layer, (mine, theirs) in enumerate(zip(one.options, other.options, strict=True)):
        taken = Counter(child.options[layer] for child in children)
        assert set(taken) == {mine, theirs}
        if mine != theirs:
            assert chisquare([taken[mine], taken[theirs]]).pvalue > 1e-3


@pytest.mark.parametrize("widths", [(), (500, 1000)])
def test_a_space_with_bits_is_searched(widths: tuple[int, ...]) -> None:
    evolution = quantized_evolution(widths)
    scored = run(evolution)
    assert len({candidate.architecture for candidate, _ in scored}) == len(scored) == 220
    assert all(evolution.allows(candidate.architecture) for candidate, _ in scored)
    assert {bool(candidate.architecture.widths) for candidate, _ in scored} == {bool(widths)}
    assert scored == run(evolution)


def test_a_space_with_widths_is_searched() -> None:
    evolution = wide_evolution()
    scored = run(evolution)
    assert len({candidate.architecture for candidate, _ in scored}) == len(scored) == 220
    assert all(evolution.allows(candidate.architecture) for candidate, _ in scored)
    assert scored == run(evolution)


def test_it_goes_on_from_what_another_search_has_scored() -> None:
    """The best of those are the parents of the first generation, and nothing is scored again."""
    first = {candidate.architecture: score for candidate, score in run(replace(EVOLUTION, generations=1))}
    scored = run_from(replace(EVOLUTION, seed=8, generations=0), first)
    children = [candidate for candidate, _ in scored if candidate.origin != "random"]
    assert [candidate.origin for candidate, _ in scored[:16]] == ["mutation"] * 8 + ["crossover"] * 8
    assert not {candidate.architecture for candidate, _ in scored} & first.keys()
    parents = sorted(first, key=lambda arch: (-first[arch], TABLE.of(arch), arch))[:5]
    for candidate in children:
        if candidate.origin == "crossover":
            assert all(any(parent[i] == c for parent in parents) for i, c in enumerate(candidate.architecture))
    without = run(replace(EVOLUTION, seed=8, generations=0))
    assert np.mean([score for _, score in scored]) > np.mean([score for _, score in without])


def test_parents_are_the_best_of_all_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """By fitness, then the cheaper, then the architecture; here many scores and costs are equal."""
    scores: dict[Architecture, float] = {}
    parents: list[list[Architecture]] = []

    def propose(
        self: Evolution, generation: int, best: Sequence[Architecture], seen: object, waiting: object
    ) -> Proposal:
        expected = sorted(scores, key=lambda arch: (-scores[arch], TABLE.of(arch), arch))[: EVOLUTION.parents]
        assert list(best) == expected
        parents.append(expected)
        return original(self, generation, best, scores)

    def evaluate(candidates: Sequence[Candidate]) -> list[float]:
        values = [sum(candidate.architecture) % 4 / 4 for candidate in candidates]
        scores.update(zip([candidate.architecture for candidate in candidates], values, strict=True))
        return values

    original = Evolution.propose
    monkeypatch.setattr(Evolution, "propose", propose)
    for _ in EVOLUTION.search(evaluate):
        pass
    assert len(parents) == EVOLUTION.generations + 1


@pytest.mark.parametrize("front", [False, True])
def test_the_first_parent_is_the_winner(front: bool) -> None:
    """Also where the first limit is not on FLOPs: parents and results are ranked by one key."""
    rng, params = np.random.default_rng(7), CostTable(PARAMS, 1, [[1, 2, 3, 4]] * LAYERS)
    coarse = CostTable(FLOPS, 1, [[1, 2, 2, 1]] * LAYERS)
    evolution = replace(EVOLUTION, table=params, main=coarse, front_on=coarse if front else None)
    for _ in range(50):
        archs = [Architecture(tuple(path)) for path in rng.integers(CHOICES, size=(60, LAYERS)).tolist()]
        entries = {
            arch: Entry(
                arch, coarse.of(arch), 1, int(rng.integers(8, 10)) / 10, 1.0, 10, 0, "random", bool(rng.random() < 0.2)
            )
            for arch in archs
        }
        fitness = {arch: entry.fitness for arch, entry in entries.items()}
        expected = [entry.architecture for entry in ranking(entries.values())]
        shuffled = list(fitness)
        rng.shuffle(shuffled)  # type: ignore[arg-type]
        best = evolution.select_best(shuffled, fitness)
        assert best[0] == expected[0] or front
        assert front or best == expected[:5]
        assert best == evolution.select_best(fitness, fitness)  # whichever came earlier


def drawn(evolution: Evolution) -> list[dict[str, Draws]]:
    """By generation and operator."""
    found: list[dict[str, Draws]] = []
    for _ in evolution.search(value, watch=lambda generation, proposal: found.append({**proposal.draws})):
        pass
    return found


def test_draws_are_counted_by_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a count of all that the operators return."""
    calls: dict[str, list[Architecture]] = {"mutate": [], "cross": []}

    def counted(name: str) -> None:
        original = getattr(Evolution, name)

        def operator(self: Evolution, *arguments: object) -> Architecture:
            calls[name].append(original(self, *arguments))
            return calls[name][-1]

        monkeypatch.setattr(Evolution, name, operator)

    counted("mutate")
    counted("cross")
    found = drawn(EVOLUTION)
    scored = run(EVOLUTION)
    assert len(found) == 11
    assert found[0].keys() == {"random"}
    for draws in found:
        for fate in draws.values():
            assert fate.proposed == fate.accepted + fate.duplicate + fate.over_limit
    for origin, name in (("mutation", "mutate"), ("crossover", "cross")):
        total = sum((draws[origin] for draws in found if origin in draws), Draws())
        assert total.accepted == sum(candidate.origin == origin for candidate, _ in scored)
        half = len(calls[name]) // 2  # the search has run twice
        assert total.proposed == half
        assert total.over_limit <= sum(TABLE.of(arch) > 300 for arch in calls[name][:half])
        assert total.over_limit > 0
        assert total.duplicate > 0


def test_random_draws_by_rejection_and_by_enumeration_are_counted() -> None:
    """Under a second limit many are refused; when few are left, they are picked from a list."""
    ((draws,), many) = drawn(replace(several((240, 200)), generations=0)), several((240, 200))
    assert draws["random"].accepted == 20
    assert draws["random"].over_limit > 0
    (generation,) = replace(many, population=5000, generations=0).search(lambda candidates: [0.0] * len(candidates))
    (draws,) = drawn(replace(many, population=5000, generations=0))
    assert draws["random"].accepted == len(generation)


def several(limits: tuple[int, int]) -> Evolution:
    other = CostTable(PARAMS, 10, np.random.default_rng(1).integers(1, 50, (LAYERS, CHOICES)))
    return replace(EVOLUTION, limit=Limit(limits[0]), others=((other, Limit(limits[1])),))


@pytest.mark.parametrize("population", [20, 5000])
def test_candidates_under_several_limits(population: int) -> None:
    """All that are proposed are under both; with a large population they are all that there are."""
    evolution = replace(several((240, 200)), population=population, generations=0)
    ((other, most),) = evolution.others
    every = [Architecture(path) for path in itertools.product(range(CHOICES), repeat=LAYERS)]
    allowed = {arch for arch in every if evolution.table.of(arch) <= 240 and most.allows(other.of(arch))}
    assert 20 < len(allowed) < 5000
    (generation,) = evolution.search(lambda candidates: [0.0] * len(candidates))
    proposed = [candidate.architecture for candidate, _ in generation]
    assert set(proposed) <= allowed
    assert len(proposed) == len(set(proposed)) == min(population, len(allowed))


@pytest.mark.parametrize("digits", [2, 6])
@pytest.mark.parametrize("is_range", [False, True])
def test_an_own_cost_with_decimals_is_kept_exactly(digits: int, is_range: bool) -> None:
    """Draws, mutations and crossovers reach all of what brute force finds, and nothing else."""
    kind, numbers = make_own_kind("energy", "mJ"), np.random.default_rng(3).random((LAYERS, CHOICES)).round(digits)
    own = CostTable(
        kind, kind.from_number(0.5), [[kind.from_number(number) for number in row] for row in numbers.tolist()]
    )
    every = [Architecture(path) for path in itertools.product(range(CHOICES), repeat=LAYERS)]
    exact = [[Decimal(str(number)) for number in row] for row in numbers]
    sums = {arch: Decimal("0.5") + sum(map(operator.getitem, exact, arch)) for arch in every}
    low, high = (sorted(sums.values())[int(share * len(every))] for share in (0.002, 0.01))
    limit = parse_limit(kind, f"{low}-{high}" if is_range else str(high))
    allowed = {arch for arch, cost in sums.items() if cost <= high and (cost >= low or not is_range)}
    evolution = replace(EVOLUTION, table=own, limit=limit, main=TABLE, population=20, mutations=8, crossovers=8)
    found = {
        candidate.architecture: candidate.origin for candidate, _ in run(replace(evolution, generations=len(allowed)))
    }
    assert found.keys() == allowed
    assert {"mutation", "crossover", "random"} <= set(found.values())
    with_flops = replace(evolution, table=TABLE, limit=Limit(270), others=((own, limit),))
    both = {candidate.architecture for candidate, _ in run(with_flops)}
    assert both
    assert both <= {arch for arch in allowed if TABLE.of(arch) <= 270}


RANGES = Limit(280, 220), Limit(240, 190)


def in_ranges() -> Evolution:
    """Ranges of two costs."""
    evolution = several((0, 0))
    return replace(evolution, limit=RANGES[0], others=((evolution.others[0][0], RANGES[1]),))


def list_in_ranges() -> set[Architecture]:
    (other, _), every = in_ranges().others[0], itertools.product(range(CHOICES), repeat=LAYERS)
    archs = map(Architecture, every)
    return {arch for arch in archs if 220 <= TABLE.of(arch) <= 280 and 190 <= other.of(arch) <= 240}


def test_all_operators_respect_ranges_of_two_costs() -> None:
    allowed, scored = list_in_ranges(), run(replace(in_ranges(), mutation_probability=0.3))
    assert 500 < len(allowed) < CHOICES**LAYERS / 10
    assert {candidate.architecture for candidate, _ in scored} <= allowed
    counts = Counter(candidate.origin for candidate, _ in scored)
    assert min(counts[origin] for origin in ("mutation", "crossover", "random")) >= 20
    predicted = run(replace(in_ranges(), predictor="ridge", generations=3))
    assert {candidate.architecture for candidate, _ in predicted} <= allowed
    assert sum(candidate.origin == "predicted" for candidate, _ in predicted) == 48


def test_random_candidates_are_uniform_within_ranges_of_two_costs() -> None:
    allowed, seen = sorted(list_in_ranges()), Counter[Architecture]()
    for seed in range(600):
        evolution = replace(in_ranges(), parents=0, generations=0, seed=seed)
        seen.update(candidate.architecture for candidate, _ in run(evolution))
    assert set(seen) <= set(allowed)
    # In the order of one of the costs, so that a slope would show.
    parts = np.array_split([seen[arch] for arch in sorted(allowed, key=lambda arch: (TABLE.of(arch), arch))], 20)
    expected = np.array([len(part) for part in parts]) * 600 * 20 / len(allowed)
    assert chisquare([part.sum() for part in parts], expected).pvalue > 1e-3


def test_all_of_a_range_is_found() -> None:
    table = CostTable(FLOPS, 0, np.arange(8).reshape(2, 4) + 1)
    small = replace(EVOLUTION, table=table, limit=Limit(10, 8))
    expected = {Architecture(path) for path in itertools.product(range(4), repeat=2) if 8 <= sum(path) + 6 <= 10}
    assert {candidate.architecture for candidate, _ in run(small)} == expected
    best = small.select_best(expected, dict.fromkeys(expected, 0.5), 2)
    assert [table.of(arch) for arch in best] == [8, 8]  # of equal fitness, the cheaper ones


def test_ranges_that_exclude_each_other_are_named() -> None:
    evolution = in_ranges()
    ((other, _),) = evolution.others
    far = replace(evolution, others=((other, Limit(400, 390)),))
    with pytest.raises(LimitError, match=r"220 to 280 FLOPs, 0 have 390 to 400 parameters .* widen a limit"):
        far.require_candidates()
    evolution.require_candidates()
    with pytest.raises(LimitError, match="no architecture has 10 to 20 FLOPs"):
        replace(evolution, limit=Limit(20, 10)).require_candidates()


def test_a_limit_that_starves_the_space_is_named() -> None:
    evolution = several((250, 20))
    with pytest.raises(LimitError, match=r"of 2,000 drawn with at most 250 FLOPs, 0 have at most 20 parameters \(they"):
        evolution.require_candidates()
    several((240, 200)).require_candidates()


def test_what_was_found_once_under_narrow_limits_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where 2,000 tries find one architecture or none, whatever the seed: no search without a candidate."""
    monkeypatch.setattr(evolution_module, "MAX_ENUMERATED", 10)
    found = 0
    for seed in range(12):
        evolution = replace(several((240, 185)), seed=seed, generations=0)
        try:
            evolution.require_candidates()
        except LimitError:
            continue
        found += 1
        (generation,) = evolution.search(lambda candidates: [0.0] * len(candidates))
        assert all(evolution.allows(candidate.architecture) for candidate, _ in generation)
    assert found


def test_costs_that_are_too_fine_to_be_counted_exactly() -> None:
    fine = CostTable(FLOPS, 1, [[1, 10**12 + 7], [3, 10**12], [0, 5]])
    evolution = replace(EVOLUTION, table=fine, limit=None, population=20, generations=0)
    evolution.require_candidates()
    (generation,) = evolution.search(lambda candidates: [0.0] * len(candidates))
    assert {candidate.architecture.choices for candidate, _ in generation} == set(itertools.product(range(2), repeat=3))
    limited = replace(evolution, limit=Limit(10**9))
    (generation,) = limited.search(lambda candidates: [0.0] * len(candidates))
    assert {candidate.architecture.choices for candidate, _ in generation} == {(0, 0, 0), (0, 0, 1)}


def every(layers: int) -> tuple[np.ndarray, np.ndarray]:
    """Cost and value of all architectures of the first layers of the toy space."""
    paths, rows = np.array(list(itertools.product(range(CHOICES), repeat=layers))), range(layers)
    return TABLE.fixed + np.array(TABLE.rows)[rows, paths].sum(1), VALUES[rows, paths].sum(1)


def test_it_finds_the_optimum_in_far_fewer_evaluations_than_random_search() -> None:
    """Of six layers, half of whose 4,096 architectures are under the limit; the same 20 seeds for both."""
    costs, values = every(6)
    limit, most = int(np.median(costs)), 800
    optimum = values[costs <= limit].max()
    table = CostTable(FLOPS, TABLE.fixed, TABLE.rows[:6])
    toy = replace(EVOLUTION, table=table, limit=Limit(limit), generations=most // 20)

    def needed(evolution: Evolution) -> int:
        """Evaluations until the optimum is found; `most` if it takes more, which favours the slower one."""
        scored = (score for generation in evolution.search(value) for _, score in generation)
        return next((number for number, score in enumerate(scored, 1) if score > optimum - 1e-9), most)

    evolved = [needed(replace(toy, seed=seed)) for seed in range(20)]
    at_random = [needed(replace(toy, seed=seed, parents=0)) for seed in range(20)]
    assert max(evolved) < most
    assert np.median(evolved) <= 0.6 * np.median(at_random)


@pytest.mark.parametrize("share", [0.6, None])
def test_a_search_for_the_front_comes_close_to_the_whole_of_it(share: float | None) -> None:
    """500 of 65,536 architectures; the corner is the most expensive allowed and the worst of all: little is given."""
    costs, values = every(LAYERS)
    limit = None if share is None else Limit(int(np.quantile(costs, share)))
    corner = (TABLE.maximum if limit is None else limit.high, float(values.min()))
    exact = hypervolume(costs, values, *corner)

    def volume(evolution: Evolution) -> float:
        scored = run(evolution)
        assert len(scored) == 500
        return hypervolume([TABLE.of(c.architecture) for c, _ in scored], [s for _, s in scored], *corner) / exact

    toy = replace(EVOLUTION, limit=limit, front_on=TABLE, population=50, generations=9, parents=10, mutations=25)
    evolved = [volume(replace(toy, crossovers=25, seed=seed)) for seed in range(10)]
    assert min(evolved) >= 0.95
    assert volume(replace(toy, parents=0)) < 0.9
    best = [volume(replace(toy, crossovers=25, front_on=None, seed=seed)) for seed in range(10)]
    assert np.mean(best) < 0.95  # the best score is another question


def test_parents_of_a_front_are_those_of_nsga2() -> None:
    """By front, then the ends of it, then the less crowded; none that was stopped early."""
    rng, evolution = np.random.default_rng(0), replace(EVOLUTION, front_on=TABLE)
    archs = [Architecture(tuple(path)) for path in rng.integers(CHOICES, size=(60, LAYERS)).tolist()]
    scores = dict(zip(archs, rng.random(60), strict=True))
    cheapest = Architecture(TABLE.cheapest.choices)
    for parents in (1, 5, 30, 80):
        best = replace(evolution, parents=parents).select_best([*archs, cheapest], {**scores, cheapest: -0.3})
        assert len(best) == len(set(best)) == min(parents, 60)
        costs, values = [TABLE.of(arch) for arch in archs], [scores[arch] for arch in archs]
        left = set(best)
        for members in fronts(costs, values):
            chosen = [archs[m] in best for m in members]
            left -= {archs[m] for m in members}
            if not all(chosen):
                distance = crowding(np.take(costs, members), np.take(values, members))
                worst = min((d for d, taken in zip(distance, chosen, strict=True) if taken), default=np.inf)
                assert all(d <= worst for d, taken in zip(distance, chosen, strict=True) if not taken)
                break
        assert not left  # of the fronts behind the one that is cut


def test_a_search_for_the_front_is_replayed_from_its_scores() -> None:
    toy = replace(EVOLUTION, front_on=TABLE)
    assert run(toy) == run(toy)
    assert run(toy) != run(EVOLUTION)
