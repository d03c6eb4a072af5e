"""Compare a supernet's scores, and what searches find with them, with the truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spos_cli import seeding
from spos_cli.search import statistics
from spos_cli.search.evolution import Evolution
from spos_cli.search.fidelity import EQUAL_SHARE, correlate, measure_difference
from spos_cli.search.journal import Entry
from spos_cli.search.truth import Network
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostTable
from spos_cli.space.cost_kinds import format_cost

MIN_BANDS = 5  # The range of FLOPs is divided into at least this many bands, of a round width.
TOP_SHARES = (0.01, 0.05, 0.1)  # of the networks, for the precision at the top
SIMULATED_SEEDS = 5  # searches that are repeated with known scores
TRAINED = 50  # random networks that are each trained stand-alone, as a yardstick for a search

ROUNDING = 1e-9  # Accuracies that differ by less are equal.

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class ScoredNetworks:
    """Networks of a truth with the supernet's score of each; a network with several names has that of its first name.

    Attributes:
        networks: from the truth.
        entries: the scored first name of each network.
    """

    networks: Sequence[Network]
    entries: Sequence[Entry]

    @cached_property
    def truth(self) -> Floats:
        """Mean stand-alone top-1 `(n,)`."""
        return np.array([network.accuracy for network in self.networks])

    @cached_property
    def scores(self) -> Floats:
        """The supernet's top-1 `(n,)`."""
        return np.array([entry.top1 for entry in self.entries])

    @cached_property
    def flops(self) -> Floats:
        """FLOPs `(n,)`."""
        return np.array([entry.flops for entry in self.entries], np.float64)

    @cached_property
    def params(self) -> Floats:
        """Numbers of parameters `(n,)`."""
        return np.array([entry.params for entry in self.entries], np.float64)

    def select(self, mask: Mask) -> ScoredNetworks:
        """Return the networks for which `mask` `(n,)` is true."""
        indices = np.flatnonzero(mask).tolist()
        return ScoredNetworks([self.networks[i] for i in indices], [self.entries[i] for i in indices])

    def __len__(self) -> int:
        return len(self.networks)


def sample_networks(networks: Sequence[Network], number: int | None, seed: int) -> list[Network]:
    """Return a uniform sample of the networks; a larger sample of the same seed contains a smaller one."""
    if number is None or number >= len(networks):
        return list(networks)
    order = seeding.generator(seed, "truth").permutation(len(networks))
    return [networks[index] for index in sorted(order[:number].tolist())]


def compare_subsets(scored: ScoredNetworks, limits: Mapping[str, Mask]) -> list[dict[str, Any]]:
    """Return the agreement of the supernet with the truth among all networks and among parts of them, as plain types.

    Parts of fewer than `MIN_PAIRS` networks are left out.

    Args:
        limits: for each limit, in words, the networks that it allows.
    """
    everything = np.ones(len(scored), bool)
    best = scored.truth >= np.quantile(scored.truth, 0.9)
    parts = {"all": everything, **limits, "best tenth": best, **split_into_bands(scored.flops)}
    large_enough = {name: mask for name, mask in parts.items() if mask.sum() >= statistics.MIN_PAIRS}
    return [{"part": name, **measure_agreement(scored.select(mask))} for name, mask in large_enough.items()]


def split_into_bands(flops: Floats) -> dict[str, Mask]:
    """Return the networks in bands of about equal FLOPs, where FLOPs say little about accuracy."""
    width = choose_band_width(flops.min(), flops.max())
    first, last = math.floor(flops.min() / width), math.floor(flops.max() / width)
    bands = {}
    for number in range(first, last + 1):
        low, high = number * width, (number + 1) * width
        bands[f"{format_cost(low)} to {format_cost(high)} FLOPs"] = (low <= flops) & (flops < high)
    return bands


def choose_band_width(low: float, high: float) -> int:
    """Return the largest of 1, 2, 5, 10, 20, ... that divides a range into at least `MIN_BANDS` bands."""
    steps = [digit * 10**exponent for exponent in range(19) for digit in (1, 2, 5)]
    return max([step for step in steps if MIN_BANDS * step <= high - low], default=1)


def measure_agreement(scored: ScoredNetworks) -> dict[str, Any]:
    """Return rank correlations with the truth, with 95 % intervals: of the supernet, FLOPs and parameters."""
    return {
        "networks": len(scored),
        "kendall": correlate("kendall", scored.scores, scored.truth),
        "spearman": correlate("spearman", scored.scores, scored.truth),
        "kendall_of_flops": correlate("kendall", scored.flops, scored.truth),
        "kendall_of_params": correlate("kendall", scored.params, scored.truth),
        "one_training": compare_trainings(scored.networks),
    }


def compare_trainings(networks: Sequence[Network]) -> float | None:
    """Return Kendall's tau of one stand-alone training of each network with the mean of its others.

    It says how well one training ranks the networks, since trainings differ by their random seeds. A score without that
    noise can agree better. It is the mean over the choice of the one; None if a network was trained once only, or if
    there are too few networks.
    """
    seeds = min((len(network.accuracies) for network in networks), default=0)
    if seeds < 2 or len(networks) < statistics.MIN_PAIRS:
        return None
    trainings = np.array([network.accuracies[:seeds] for network in networks])  # (n, seeds)
    values = [
        statistics.kendall(trainings[:, one], np.delete(trainings, one, axis=1).mean(axis=1)) for one in range(seeds)
    ]
    mean = sum(values) / len(values)
    return mean if math.isfinite(mean) else None


def measure_top(scored: ScoredNetworks) -> list[dict[str, Any]]:
    """Return how many of the networks with the highest scores are among those with the highest truth."""
    by_truth = np.argsort(-scored.truth, kind="stable")
    by_score = np.lexsort((scored.flops, -scored.scores))  # as `Entry.rank`
    by_flops = np.argsort(-scored.flops, kind="stable")
    rows = []
    for share in TOP_SHARES:
        number = max(1, round(share * len(scored)))
        best = set(by_truth[:number].tolist())
        rows.append(
            {
                "networks": number,
                "share": share,
                "precision": len(best & set(by_score[:number].tolist())) / number,
                "precision_of_flops": len(best & set(by_flops[:number].tolist())) / number,
                "mean_accuracy": float(scored.truth[by_score[:number]].mean()),
                "mean_accuracy_of_best": float(scored.truth[by_truth[:number]].mean()),
            }
        )
    return rows


def compare_picks(
    scored: ScoredNetworks, fitness: Mapping[Architecture, float], evolution: Evolution, winner: Architecture | None
) -> list[dict[str, Any]]:
    """Return what each way of choosing a network under the limits of a search finds, the best first.

    Each row has the mean accuracy of what it finds, its regret (the best accuracy under the limits minus this one, as a
    share), and the share of the networks under the limits that are worse. Searches are repeated with several seeds,
    which costs nothing, if the scores of all architectures under the limits are known; then the row has the median.

    Args:
        scored: the networks under the limits, at least one.
        fitness: the score of each scored architecture, under all of its names.
        evolution: the run's search.
        winner: what the run's own search has found; None if there is none, or it is not in the truth.
    """
    truth, accuracy_of = scored.truth, {}
    for network in scored.networks:
        accuracy_of.update(dict.fromkeys(network.names, network.accuracy))
    found: dict[str, list[float]] = {
        "the best of all": [float(truth.max())],
        "the highest score of all": [float(truth[np.lexsort((scored.flops, -scored.scores))[0]])],
        f"the best of {TRAINED} random ones, each trained": [expect_best(truth, TRAINED)],
        "the most FLOPs": [float(truth[scored.flops == scored.flops.max()].mean())],
        "a random one": [float(truth.mean())],
    }
    if winner in accuracy_of:
        found["the winner of the search in this run"] = [accuracy_of[winner]]
    best_first = replace(evolution, front_on=None, predictor="off")
    searches = {"random search": replace(best_first, parents=0)}
    if evolution.parents:
        searches |= {"evolution": best_first, "evolution with a predictor": replace(best_first, predictor="ridge")}
    for name, search in searches.items():
        winners = repeat_search(search, fitness)
        if winners:
            found[name] = [accuracy_of[arch] for arch in winners]
    rows = []
    for name, accuracies in found.items():
        median = float(np.median(accuracies))
        rows.append(
            {
                "choice": name,
                "accuracy": median,
                "regret": max(0.0, float(truth.max()) - median),
                "better_than": float((truth < median - ROUNDING).mean()),
                "seeds": len(accuracies),
                "low": min(accuracies),
                "high": max(accuracies),
            }
        )
    return sorted(rows, key=lambda row: -row["accuracy"])


def compare_at_equal_flops(
    networks: Sequence[Network], flops: CostTable, winner: Architecture
) -> dict[str, Any] | None:
    """Compare the winner of a search with all other networks of about its FLOPs, by their known accuracies.

    Args:
        networks: all of the truth.
        winner: what the search has found.

    Returns:
        Number and mean accuracy of these networks, the winner's accuracy, the difference with its interval (Welch), and
        the share of them that are worse. None if the truth does not have the winner, or nothing of its FLOPs.
    """
    own = flops.of(winner)
    near = [one for one in networks if abs(flops.of(one.names[0]) - own) <= EQUAL_SHARE * own]
    found = [one for one in near if winner in one.names]
    equals = np.array([one.accuracy for one in near if one not in found])
    if not found or not len(equals):
        return None
    return {
        "networks": len(equals),
        "mean_accuracy": float(equals.mean()),
        "accuracy": found[0].accuracy,
        "difference": measure_difference(found[0].accuracies, equals.tolist()),
        "better_than": float((equals < found[0].accuracy - ROUNDING).mean()),
    }


def repeat_search(evolution: Evolution, fitness: Mapping[Architecture, float]) -> list[Architecture]:
    """Return the winner of a search with each of `SIMULATED_SEEDS` seeds, from known scores.

    There is none if one of the searches asks for an architecture without a known score.
    """
    winners = []
    for seed in range(SIMULATED_SEEDS):
        search = replace(evolution, seed=seed)
        scores: dict[Architecture, float] = {}
        try:
            for generation in search.search(lambda candidates: [fitness[one.architecture] for one in candidates]):
                scores |= {candidate.architecture: score for candidate, score in generation}
        except KeyError:
            return []
        winners += search.select_best(scores, scores, 1)
    return winners


def expect_best(accuracies: Floats, number: int) -> float:
    """Return the expected accuracy of the best of some networks, drawn at random with replacement."""
    ascending = np.sort(accuracies)
    shares = np.arange(len(ascending) + 1) / len(ascending)
    return float((ascending * np.diff(shares**number)).sum())


def measure_images(outcomes: NDArray[np.bool_], truth: Floats) -> list[dict[str, Any]]:
    """Return Kendall's tau of scores on fewer images, to tell whether more images would help.

    Args:
        outcomes: `(n, images)`, whether each network got each image right.
        truth: `(n,)`.
    """
    counts, images = [], outcomes.shape[1]
    for share in (8, 4, 2, 1):
        if images // share:
            scores = outcomes[:, : images // share].mean(axis=1)
            counts.append({"images": images // share, "kendall": correlate("kendall", scores, truth)})
    return counts
