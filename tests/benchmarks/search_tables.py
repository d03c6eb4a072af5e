"""Measure searches on tables of trained networks: `python -m tests.benchmarks.search_tables TABLE[@LIMIT] ...`.

A TABLE is a file of NAS-Bench-Macro (`nas-bench-macro_cifar10.json`) or of Channel-Bench-Macro
(`Results_MobileNet.json`), or the folder of JSON files of Accel-NASBench. A LIMIT is on FLOPs: `table.json@60M`.

A search asks for scores, and the table answers with the accuracy of the network, trained stand-alone, plus the error of
a supernet: normal noise, the same at each question for the same network, of the size that gives a Kendall's tau. The
regret of a search after so many evaluations is the accuracy of the best network under the limit, minus the accuracy of
the network with the best score so far. It is in points.

The networks of Accel-NASBench are a sample of a large space. There, random candidates are drawn from the sample, and a
child is the most similar network of the sample that has no score yet.

`FOLDER@space` is that whole space instead, with at most the median FLOPs of the sample: 5 x 10^10 networks. A kernel
regression on the sample stands for the truth there, and regret is against the best network that any search has scored.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from spos_cli import seeding
from spos_cli.search import statistics
from spos_cli.search.evolution import Candidate, Evolution
from spos_cli.search.predictor import Predictor
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostDistribution, CostTable
from spos_cli.space.cost_kinds import FLOPS, parse_cost
from spos_cli.space.limits import Limit

EVALUATIONS = (50, 100, 200, 300, 500, 1000)
TAUS = (1.0, 0.75, 0.6)  # 1: no noise
NOISE_SAMPLE = 1500  # Networks from which the size of the noise is found.
PAPER = {"population": 50, "parents": 10, "mutations": 25, "crossovers": 25, "mutation_probability": 0.1}
MAX_PREDICTED_EVALUATIONS = 500  # A search with a predictor ends here.
KERNEL_NOISE = 0.02  # Variance of the sample's errors, relative to the kernel's.

# What differs from the paper's evolution.
SEARCHES: dict[str, dict[str, Any]] = {
    "evolution": {},
    "random": {"parents": 0},
    "ridge": {"predictor": "ridge"},
}
PARAMETERS: dict[str, dict[str, Any]] = {
    "population 20": {"population": 20, "mutations": 10, "crossovers": 10},
    "population 25": {"population": 25, "mutations": 12, "crossovers": 12},
    "population 100": {"population": 100, "mutations": 50, "crossovers": 50},
    "parents 5": {"parents": 5},
    "parents 20": {"parents": 20},
    "mutation 0.05": {"mutation_probability": 0.05},
    "mutation 0.2": {"mutation_probability": 0.2},
    "only mutations": {"mutations": 50, "crossovers": 0},
    "only crossovers": {"mutations": 0, "crossovers": 50},
    "a fifth random": {"mutations": 20, "crossovers": 20},
    "ridge, population 20": {"population": 20, "mutations": 10, "crossovers": 10, "predictor": "ridge"},
}


@dataclass(frozen=True)
class Networks:
    """Trained networks, all that are under the limit.

    Attributes:
        archs: their architectures.
        accuracy: `(networks,)`, in percent.
        flops: `(networks,)`.
        counts: number of choices of each layer.
    """

    name: str
    archs: Sequence[Architecture]
    accuracy: NDArray[np.float64]
    flops: NDArray[np.int64]
    counts: Sequence[int]

    @property
    def size(self) -> int:
        """Number of networks that a search can choose from."""
        return len(self.archs)

    @cached_property
    def index(self) -> dict[Architecture, int]:
        """The index of each network."""
        return {arch: index for index, arch in enumerate(self.archs)}

    @cached_property
    def choices(self) -> NDArray[np.int64]:
        """The choices of all networks, `(networks, layers)`."""
        return np.array([arch.choices for arch in self.archs])

    def look_up(self, archs: Sequence[Architecture]) -> NDArray[np.float64]:
        """Return the accuracies of networks, `(archs,)`."""
        return self.accuracy[[self.index[arch] for arch in archs]]

    def draw_errors(self, archs: Sequence[Architecture], seed: int) -> NDArray[np.float64]:
        """Return the errors of a supernet `(archs,)`, of standard deviation 1: the same for each network every time."""
        errors = seeding.generator(seed, "supernet").standard_normal(len(self.archs))
        return errors[[self.index[arch] for arch in archs]]

    def find_noise(self, tau: float) -> float:
        """Return the standard deviation of the noise that gives scores this Kendall's tau with the accuracies."""
        if tau == 1:
            return 0.0
        rng = seeding.generator(0, "noise")
        sample = self.accuracy[rng.permutation(len(self.archs))[:NOISE_SAMPLE]]
        errors, low, high = rng.standard_normal(len(sample)), 0.0, 20 * float(sample.std())
        for _ in range(20):
            middle = (low + high) / 2
            if statistics.kendall(sample, sample + middle * errors) > tau:
                low = middle
            else:
                high = middle
        return low


class Sample(Networks):
    """A sample of the networks of a space."""


@dataclass(frozen=True)
class Space(Networks):
    """The whole space of a sample, with a kernel regression on the sample as the truth.

    Attributes:
        weights: `(networks,)`, of the kernel of each network of the sample.
        table: FLOPs, as a sum over layers that is fitted to those of the sample.
    """

    weights: NDArray[np.float64]
    table: CostTable

    def look_up(self, archs: Sequence[Architecture]) -> NDArray[np.float64]:
        kernel = measure_similarity(np.array([arch.choices for arch in archs]), self.choices)
        return np.asarray(self.accuracy.mean() + kernel @ self.weights)

    def draw_errors(self, archs: Sequence[Architecture], seed: int) -> NDArray[np.float64]:
        return np.array([seeding.generator(seed, "supernet", *arch.choices).standard_normal() for arch in archs])

    @property
    def size(self) -> int:
        return self.table.distribution().count(None, self.limit)

    @cached_property
    def limit(self) -> int:
        """The median FLOPs of the sample."""
        return int(np.median([self.table.of(arch) for arch in self.archs]))


def measure_similarity(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return a kernel `(n, m)` of choices `(n, layers)` and `(m, layers)`: exp(-share of layers that differ)."""
    equal = np.zeros((len(one), len(other)))
    for layer in range(one.shape[1]):
        equal += one[:, None, layer] == other[:, layer]
    return np.exp(equal / one.shape[1] - 1)


def fit_space(sample: Networks) -> Space:
    """Fit accuracy and FLOPs of a whole space to a sample of it."""
    kernel = measure_similarity(sample.choices, sample.choices) + KERNEL_NOISE * np.eye(len(sample.archs))
    weights = np.linalg.solve(kernel, sample.accuracy - sample.accuracy.mean())
    one_hot = np.concatenate(
        [np.eye(count)[column] for count, column in zip(sample.counts, sample.choices.T, strict=True)], 1
    )
    effects = np.linalg.lstsq(np.column_stack([np.ones(len(one_hot)), one_hot]), sample.flops, rcond=None)[0]
    rows = np.split(effects[1:], np.cumsum(sample.counts)[:-1])
    kiloflops = [np.round((row - row.min()) / 1e3).astype(int).tolist() for row in rows]
    name = f"the space of {sample.name}"
    return Space(
        name, sample.archs, sample.accuracy, sample.flops, sample.counts, weights, CostTable(FLOPS, 1, kiloflops)
    )


def read_networks(argument: str) -> Networks:
    """Read a table, with its limit if there is one."""
    name, _, limit = argument.partition("@")
    path = Path(name)
    if path.is_dir():
        if limit == "space":
            return fit_space(_read_sample(path))
        networks = _read_sample(path)
    else:
        rows = json.loads(path.read_text())
        choices = np.array([[int(digit) for digit in key] for key in rows])
        choices -= choices.min()
        accuracy = [row["mean_acc"] if "mean_acc" in row else row["mean"] for row in rows.values()]
        flops = [row["flops"] for row in rows.values()]
        networks = Networks(path.stem, *_to_fields(choices, accuracy, flops))
    if not limit:
        return networks
    under = np.flatnonzero(networks.flops <= parse_cost(limit))
    archs = [networks.archs[index] for index in under]
    accuracy, flops = networks.accuracy[under], networks.flops[under]
    return replace(networks, name=f"{networks.name}, {limit}", archs=archs, accuracy=accuracy, flops=flops)


def _read_sample(path: Path) -> Sample:
    rows = [json.loads(file.read_text()) for file in sorted(path.glob("*.json"))]
    names = sorted(rows[0]["architecture"])
    values = [[row["architecture"][name] for name in names] for row in rows]
    options = [sorted({row[layer] for row in values}) for layer in range(len(names))]
    choices = np.array([[layer.index(value) for layer, value in zip(options, row, strict=True)] for row in values])
    accuracy = [row["metrics"]["val_top1"] for row in rows]
    flops = [round(row["model_info"]["macs"] * 1e6) for row in rows]
    choices, first = np.unique(choices, axis=0, return_index=True)
    return Sample(path.name, *_to_fields(choices, np.take(accuracy, first), np.take(flops, first)))


def _to_fields(choices: NDArray[np.int64], accuracy: Sequence[float], flops: Sequence[int]) -> tuple[Any, ...]:
    """Return the fields of `Networks` after the name."""
    archs = [Architecture(tuple(row)) for row in choices.tolist()]
    return archs, np.array(accuracy, np.float64), np.array(flops, np.int64), (choices.max(0) + 1).tolist()


class KnownCost(CostTable):
    """A cost that is looked up for each network, instead of added up over its layers.

    Args:
        counts: number of choices of each layer.
        costs: by network; networks without a cost have `MISSING`, more than any other.
    """

    MISSING = 2**62

    def __init__(self, counts: Sequence[int], costs: Mapping[Architecture, int]) -> None:
        super().__init__("flops", 0, [[0] * count for count in counts])
        self.costs = costs

    def of(self, arch: Architecture) -> int:
        return self.costs.get(arch, self.MISSING)


class SampleDistribution(CostDistribution):
    """Draws from the networks of a sample, whatever the range of costs."""

    def __init__(self, table: CostTable, archs: Sequence[Architecture]) -> None:
        super().__init__(table)
        self.archs = archs

    def count(self, low: int | None, high: int | None) -> int:
        return len(self.archs)

    def draw(self, rng: np.random.Generator, low: int | None, high: int | None) -> Architecture:
        return self.archs[int(rng.integers(len(self.archs)))]

    def enumerate(self, low: int | None, high: int | None) -> Iterator[Architecture]:
        return iter(self.archs)


class SampleCost(CostTable):
    """The cost of a sample of a space: nothing."""

    def __init__(self, networks: Networks) -> None:
        super().__init__("flops", 0, [[0] * count for count in networks.counts])
        self.sampled = SampleDistribution(self, networks.archs)

    def distribution(self) -> CostDistribution:
        return self.sampled


@dataclass(frozen=True)
class SampleEvolution(Evolution):
    """An evolution in a sample of a space: a child becomes the most similar network that has no score yet.

    Attributes:
        networks: the sample.
        is_scored: `(networks,)`, filled by the one who scores.
    """

    networks: Networks | None = None
    is_scored: NDArray[np.bool_] | None = None

    def mutate(self, parent: Architecture, rng: np.random.Generator) -> Architecture:
        return self.find_nearest(super().mutate(parent, rng))

    def cross(self, one: Architecture, other: Architecture, rng: np.random.Generator) -> Architecture:
        return self.find_nearest(super().cross(one, other, rng))

    def find_nearest(self, arch: Architecture) -> Architecture:
        """Return the network without a score that differs in the fewest layers; of several, the first."""
        assert self.networks is not None
        assert self.is_scored is not None
        differences = (self.networks.choices != arch.choices).sum(1)
        return self.networks.archs[int(np.argmin(np.where(self.is_scored, len(arch) + 1, differences)))]

    def search_predicted(
        self, predictor: Predictor, seen: Iterable[Architecture], number: int, rng: np.random.Generator
    ) -> list[Architecture]:
        """Rank the whole sample."""
        assert self.networks is not None
        known = set(seen)
        new = [arch for arch in self.networks.archs if arch not in known]
        predicted = dict(zip(new, predictor.predict(new), strict=True))
        return self.select_best(predicted, predicted, number)


def make_evolution(
    networks: Networks, is_scored: NDArray[np.bool_], seed: int, changes: Mapping[str, Any]
) -> Evolution:
    """Make the paper's evolution of 1,000 evaluations, but for `changes`."""
    settings = {**PAPER, "seed": seed, **changes}
    evaluations = MAX_PREDICTED_EVALUATIONS if "predictor" in changes else EVALUATIONS[-1]
    settings["generations"] = -(-evaluations // settings["population"]) - 1
    if isinstance(networks, Space):
        return Evolution(networks.table, Limit(networks.limit), **settings)
    flops = KnownCost(networks.counts, dict(zip(networks.archs, networks.flops.tolist(), strict=True)))
    if isinstance(networks, Sample):
        table = SampleCost(networks)
        return SampleEvolution(table, None, main=flops, networks=networks, is_scored=is_scored, **settings)
    table = CostTable(FLOPS, 0, flops.rows)
    return Evolution(table, None, main=flops, others=((flops, Limit(KnownCost.MISSING - 1)),), **settings)


def search(networks: Networks, noise: float, seed: int, changes: Mapping[str, Any]) -> NDArray[np.float64]:
    """Run one search; return for each evaluation the accuracy of its network, and of the leader: `(evaluations, 2)`."""
    is_scored, accuracy, scores = np.zeros(len(networks.archs), bool), [], []

    def evaluate(candidates: Sequence[Candidate]) -> list[float]:
        archs = [candidate.architecture for candidate in candidates]
        truth = networks.look_up(archs)
        values = truth + noise * networks.draw_errors(archs, seed) if noise else truth
        accuracy.extend(truth.tolist())
        scores.extend(values.tolist())
        is_scored[[networks.index[arch] for arch in archs if arch in networks.index]] = True
        return values.tolist()

    collections.deque(make_evolution(networks, is_scored, seed, changes).search(evaluate), maxlen=0)
    best_so_far = np.maximum.accumulate(scores)
    leaders = np.maximum.accumulate(np.where(scores == best_so_far, np.arange(len(scores)), 0))
    return np.column_stack([accuracy, np.take(accuracy, leaders)])


def count_needed(curve: NDArray[np.float64], regret: float, population: int) -> str:
    """Return after which generation a regret `(evaluations,)` is at most another for the first time, in evaluations."""
    reached = np.flatnonzero(curve[population - 1 :: population] <= regret)
    return f"{population * (1 + int(reached[0])):,}" if len(reached) else f"more than {len(curve):,}"


def measure(networks: Networks, tau: float, searches: Mapping[str, Mapping[str, Any]], seeds: int) -> Table:
    """Return the table of one problem: a row for each search, the paper's evolution first."""
    noise = networks.find_noise(tau)
    runs = {name: [search(networks, noise, s, changes) for s in range(seeds)] for name, changes in searches.items()}
    best = networks.accuracy.max()
    if isinstance(networks, Space):
        best = max(run[:, 0].max() for found in runs.values() for run in found)
    title = f"{networks.name}: {networks.size:,} networks, tau {tau:g} (noise of {noise:.2f} points)"
    table = Table("search", *(f"{number:,}" for number in EVALUATIONS), "evaluations", title=title)
    target = math.nan
    for name, found in runs.items():
        end = min(EVALUATIONS[-1], *map(len, found))
        low, median, high = np.quantile([best - run[:end, 1] for run in found], [0.25, 0.5, 0.75], axis=0)
        if name == "evolution":
            target = float(median[-1])
        cells = [
            f"{median[number - 1]:.2f} ({low[number - 1]:.2f}-{high[number - 1]:.2f})" if number <= end else ""
            for number in EVALUATIONS
        ]
        population = int(searches[name].get("population", PAPER["population"]))
        table.add_row(name, *cells, count_needed(median, target, population))
    return table


def main() -> None:
    """Measure all problems of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.search_tables")
    parser.add_argument("tables", nargs="+", metavar="TABLE[@LIMIT]", help="as above")
    parser.add_argument("--parameters", action="store_true", help="the evolution's own parameters, too")
    parser.add_argument("--tau", type=float, action="append", help=f"of the scores; by default {TAUS}")
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    searches = SEARCHES | (PARAMETERS if arguments.parameters else {})
    console = Console(width=170)
    for argument in arguments.tables:
        networks = read_networks(argument)
        for tau in arguments.tau or TAUS:
            console.print(measure(networks, tau, searches, arguments.seeds))


if __name__ == "__main__":
    main()
