"""`spos audit --truth FILE`: compare the supernet's scores with known stand-alone accuracies."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spos_cli.engine.distributed import Processes
from spos_cli.engine.interrupt import StopRequest, stop_on_signals
from spos_cli.engine.progress import track, warn
from spos_cli.engine.timing import record_time
from spos_cli.errors import LimitError, RunError
from spos_cli.files.writing import write_atomically
from spos_cli.models.counting import Costs
from spos_cli.run.command import Run
from spos_cli.run.image_comparison import compare_with_supernet
from spos_cli.run.images import Images
from spos_cli.run.search_inputs import (
    describe_limits,
    make_evaluator,
    make_evolution,
    read_costs,
    read_searched_supernet,
)
from spos_cli.run.search_settings import read_settings, remember_pixels, remember_truth_settings
from spos_cli.search.evolution import Candidate, Evolution
from spos_cli.search.fidelity import EQUAL_SHARE, describe_difference
from spos_cli.search.journal import Journal
from spos_cli.search.results import Results
from spos_cli.search.scoring import Scoring
from spos_cli.search.statistics import MIN_PAIRS
from spos_cli.search.truth import Network, Truth, read_truth
from spos_cli.search.truth_comparison import (
    SIMULATED_SEEDS,
    ScoredNetworks,
    compare_at_equal_flops,
    compare_picks,
    compare_subsets,
    measure_images,
    measure_top,
    sample_networks,
)
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostTable
from spos_cli.space.search_space import SearchSpace

# Neighbours in the space that a process scores together. Of a whole space of 3^8 architectures, 27 share all layers but
# three, so that 10,692 blocks are computed; one tree of all would have 9,840, but would not fit into memory.
GROUP_SIZE = 27


def run(run: Run, processes: Processes, weights: Path | None, truth_file: Path, sample: int | None) -> None:
    """Write `truth/result.json`; resume where an earlier comparison was stopped.

    Args:
        weights: the supernet; by default the one in the run folder.
        truth_file: stand-alone accuracies, see `read_truth`.
        sample: number of networks to score. None: all, under all of their names, so that searches can be repeated.

    Raises:
        SposError: the supernet, the truth or the data do not allow it.
    """
    config, folder = run.config, run.folder.truth
    file, digest = read_searched_supernet(run, processes, weights)
    supernet = file.supernet(config)
    file.require_same_preparation(config)
    costs = read_costs(run, supernet.space)
    evolution = make_evolution(run, costs)
    truth = read_truth(truth_file, supernet.space)
    networks = sample_networks(truth.networks, sample, config.seed)
    require_networks(networks, evolution, describe_limits(run))
    if processes.is_main:
        compare_flops(truth, costs)
    images = Images(config, processes)
    images.check()
    compare_with_supernet(images, file.trained_on, file.path, scoring=config.search.split == "holdout")
    with run.working_in(folder, processes):
        remember_truth_settings(run, digest, images, processes)
        if processes.is_main:
            write_atomically(folder.config, config.to_yaml().encode())
        evaluator = make_evaluator(run, folder, supernet, images, processes)
        remember_pixels(folder, images, processes)
        journal = Journal(folder.journal)
        if processes.is_main:
            journal.cut_incomplete_line()
        # The journal stays as it is under other limits and with other tables of latencies, so it has no latencies.
        counted = Costs({table.name: table for table in (costs.flops, costs.params)})
        scoring = Scoring(processes, evaluator, counted, journal, parents=0, racing=None, group_size=GROUP_SIZE)
        score(scoring, networks, all_names=len(networks) == len(truth.networks))
        if processes.is_main:
            winner = read_winner(run, supernet.space, digest)
            result = compare(run, truth, networks, scoring, evolution, winner, costs.flops)
            content = {"supernet": digest, "truth": {"file": str(truth.path), "digest": truth.digest}, **result}
            write_atomically(folder.result, (json.dumps(content) + "\n").encode())
            show(run, content)


def require_networks(networks: Sequence[Network], evolution: Evolution, limits: str) -> None:
    """Raise an error if the truth has too few networks, or if the limits of the search exclude all of them."""
    if len(networks) < MIN_PAIRS:
        raise RunError(f"the truth has {len(networks)} networks; a rank correlation needs {MIN_PAIRS} or more")
    if not any(evolution.allows(network.names[0]) for network in networks):
        raise LimitError(
            f"none of the {len(networks):,} networks of the truth is {limits}; set another limit, such as --set"
            " search.flops_limit=null"
        )


def compare_flops(truth: Truth, costs: Costs) -> None:
    """Warn if the FLOPs in the truth are not those of this space: the truth may be of another one."""
    other = {arch: flops for arch, flops in truth.flops.items() if flops != costs.flops.of(arch)}
    if other:
        arch, flops = next(iter(other.items()))
        warn(
            f"{truth.path} has other FLOPs than this space for {len(other):,} of {len(truth.flops):,} architectures:"
            f" {arch} has {flops:,} there and {costs.flops.of(arch):,} here; check that it is of the same space"
        )


def score(scoring: Scoring, networks: Sequence[Network], *, all_names: bool) -> None:
    """Score each network under its first name, or under all of its names, in the order of the space.

    Raises:
        Interrupted: on a signal; all scores so far are kept.
    """
    archs = [arch for network in networks for arch in (network.names if all_names else network.names[:1])]
    processes, request = scoring.processes, StopRequest()
    with (
        stop_on_signals(request),
        track("audit: truth", len(archs), "architectures", quiet=not processes.is_main) as task,
        record_time(scoring.journal.path.parent, processes, lambda: scoring.lines, "architectures"),
    ):
        scoring.score([Candidate(arch, 0, "random") for arch in archs], request, task)


def read_winner(run: Run, space: SearchSpace, digest: str) -> Architecture | None:
    """Return the best architecture that the run's search has found so far with this supernet; None without one."""
    folder = run.folder.search
    if not folder.journal.exists():
        return None
    with contextlib.suppress(RunError):
        if read_settings(folder)["supernet"] == digest:
            winner = Results.of(Journal(folder.journal).read_of(space)).winner
            return None if winner is None else winner.architecture
    return None


def compare(
    run: Run,
    truth: Truth,
    networks: Sequence[Network],
    scoring: Scoring,
    evolution: Evolution,
    winner: Architecture | None,
    flops: CostTable,
) -> dict[str, Any]:
    """Return how far the scores agree with the truth, and what searches find with them, as plain types."""
    entries = [scoring.entries[network.names[0]] for network in networks]
    scored = ScoredNetworks(networks, entries)
    allowed = np.array([evolution.allows(network.names[0]) for network in networks])
    limits = describe_limits(run)
    rows = [scoring.outcomes.read(scoring.rows[entry.architecture]) for entry in entries]
    outcomes = [row for row in rows if row is not None]
    # The journal may know more: from a larger sample, or from another truth.
    names = [arch for network in networks for arch in network.names]
    fitness = {arch: scoring.entries[arch].fitness for arch in names if arch in scoring.entries}
    return {
        "names": sum(len(network.names) for network in truth.networks),
        "networks": len(truth.networks),
        "scored": len(networks),
        "trainings": min(len(network.accuracies) for network in networks),
        "candidates": evolution.population * (evolution.generations + 1),
        "images": scoring.outcomes.images,
        "limits": limits,
        "agreement": compare_subsets(scored, {limits: allowed} if limits and not allowed.all() else {}),
        "top": measure_top(scored),
        "fewer_images": measure_images(np.stack(outcomes), scored.truth) if len(outcomes) == len(rows) else [],
        "equal_flops": None if winner is None else compare_at_equal_flops(truth.networks, flops, winner),
        "choices": compare_picks(scored.select(allowed), fitness, evolution, winner),
        "scores": {
            "architecture": [str(entry.architecture) for entry in entries],
            "one_shot": [entry.top1 for entry in entries],
            "stand_alone": scored.truth.tolist(),
            "flops": [entry.flops for entry in entries],
        },
    }


def show(run: Run, result: dict[str, Any]) -> None:
    """Show the comparison, in tables."""
    show_agreement(run, result)
    show_top(run, result["top"])
    counts = [(f"{row['images']:,}", *format_correlation(row["kendall"])) for row in result["fewer_images"]]
    run.show("agreement with fewer images to score on", ["images", "Kendall's tau", "95 % interval"], counts)
    show_choices(run, result)
    show_equals(run, result["equal_flops"])
    run.result({name: value for name, value in result.items() if name != "scores"})
    run.say(f"written to {run.folder.truth.result}")
    run.next("report")


def show_agreement(run: Run, result: dict[str, Any]) -> None:
    """Show the rank correlations of all networks and of parts of them."""
    title = (
        f"agreement of the supernet with the truth: {result['scored']:,} of {result['networks']:,} networks"
        f" ({result['names']:,} architectures), scored on {result['images']:,} images"
    )
    columns = ["networks:", "number", "Kendall's tau", "95 % interval", "Spearman's rho"]
    columns += ["tau of FLOPs", "of parameters", "of one training"]
    rows = [
        (
            row["part"],
            f"{row['networks']:,}",
            *format_correlation(row["kendall"]),
            format_correlation(row["spearman"])[0],
            format_correlation(row["kendall_of_flops"])[0],
            format_correlation(row["kendall_of_params"])[0],
            format_number(row["one_training"]),
        )
        for row in result["agreement"]
    ]
    run.show(title, columns, rows)


def show_top(run: Run, top: Sequence[dict[str, Any]]) -> None:
    """Show how many of the networks with the highest scores are truly among the best."""
    columns = ["highest scores:", "among the truly best", "with FLOPs as score", "mean accuracy", "of the truly best"]
    rows = [
        (
            f"{row['networks']:,} ({row['share']:.0%})",
            f"{row['precision']:.0%}",
            f"{row['precision_of_flops']:.0%}",
            f"{row['mean_accuracy']:.2%}",
            f"{row['mean_accuracy_of_best']:.2%}",
        )
        for row in top
    ]
    run.show("precision at the top", columns, rows)


def show_choices(run: Run, result: dict[str, Any]) -> None:
    """Show what each way of choosing a network finds, and how much better the best one is."""
    rows = [
        (
            row["choice"],
            f"{row['accuracy']:.2%}",
            f"{row['low']:.2%} to {row['high']:.2%}" if row["seeds"] > 1 else "",
            f"{100 * row['regret']:.2f} points",
            f"{row['better_than']:.1%}",
        )
        for row in result["choices"]
    ]
    under = f", {result['limits']}" if result["limits"] else ""
    columns = ["choice:", "stand-alone top-1", f"of {SIMULATED_SEEDS} seeds", "regret", "better than"]
    searches = f"searches of at most {result['candidates']:,} candidates"
    run.show(f"what each way of choosing a network finds{under}; {searches}", columns, rows)
    if not any(row["seeds"] > 1 for row in result["choices"]):
        run.say("searches are repeated only if all architectures under the limits are in the truth and are scored")


def show_equals(run: Run, equals: dict[str, Any] | None) -> None:
    """Show how the winner of the run's search compares with networks of about its FLOPs, if it is known."""
    if equals is not None:
        run.say(
            f"the winner of this run's search has {equals['accuracy']:.2%}, better than {equals['better_than']:.0%}"
            f" of the {equals['networks']:,} other networks within {EQUAL_SHARE:.0%} of its FLOPs"
            f" ({equals['mean_accuracy']:.2%} on average); {describe_difference(equals['difference'])}"
        )


def format_correlation(correlation: dict[str, float | None]) -> tuple[str, str]:
    """Write a correlation and its interval."""
    low, high = correlation["low"], correlation["high"]
    interval = "" if low is None or high is None else f"{low:.2f} to {high:.2f}"
    return format_number(correlation["value"]), interval


def format_number(value: float | None) -> str:
    """Write a correlation; `none` where it is not defined."""
    return "none" if value is None else f"{value:.2f}"
