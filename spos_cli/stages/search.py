"""`spos search`: evolve paths of a trained supernet under limits."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from spos_cli.engine.distributed import Processes
from spos_cli.engine.interrupt import StopRequest, stop_on_signals
from spos_cli.engine.mirrors import Mirrors
from spos_cli.engine.progress import track, warn
from spos_cli.engine.timing import record_time
from spos_cli.files.quoting import plural
from spos_cli.files.writing import write_atomically
from spos_cli.report.live import LiveReport
from spos_cli.run.candidates import EarlierSearch, read_candidates
from spos_cli.run.command import Run
from spos_cli.run.image_comparison import compare_with_supernet
from spos_cli.run.images import Images
from spos_cli.run.latency_table import describe_latency, uses_latency
from spos_cli.run.output import EXPORT_COMMANDS
from spos_cli.run.own_costs import require_same_tables
from spos_cli.run.recorded_config import read_recorded_config
from spos_cli.run.search_inputs import (
    describe_limits,
    list_limits,
    make_evaluator,
    make_evolution,
    read_costs,
    read_searched_supernet,
)
from spos_cli.run.search_settings import remember_pixels, remember_settings
from spos_cli.run.training import read_guessing
from spos_cli.run.weights_file import Weights
from spos_cli.search.evolution import Evolution
from spos_cli.search.journal import Journal
from spos_cli.search.overview import Overview
from spos_cli.search.results import Results, choose_to_rescore, format_interval, with_costs
from spos_cli.search.scoring import Scoring
from spos_cli.space.cost_kinds import COST_KINDS, FLOPS
from spos_cli.space.limits import explain_idle_limit, write_limit

MAX_SHOWN = 10  # The best candidates that the result and the table list.


def run(run: Run, processes: Processes, weights: Path | None, earlier: Path | None) -> None:
    """Write `search/journal.jsonl` and `search/result.yaml`; resume from the journal if there is one.

    Args:
        weights: the supernet's checkpoint, ours or an official one; by default the one in the run folder.
        earlier: the file of another search, with whose candidates this one begins. It scores the best of them again,
            unless they were scored with the same supernet on the same images.

    Raises:
        LimitError: no architecture is under the limits.
        SposError: the supernet, the data, the table of latencies or an earlier journal do not allow it.
    """
    config, folder = run.config, run.folder.search
    file, digest = read_searched_supernet(run, processes, weights)
    supernet = file.supernet(config)
    file.require_same_preparation(config)
    costs = read_costs(run, supernet.space)
    require_same_tables(run, costs, processes)
    evolution = make_evolution(run, costs)
    evolution.require_candidates()
    if processes.is_main:
        warn_of_poor_inputs(run, file, evolution)
    earlier_search = None
    if earlier is not None:
        candidates = with_costs(read_candidates(earlier, supernet.space, costs), costs.others)
        earlier_search = EarlierSearch(earlier, candidates)
    images = Images(config, processes)
    images.check()
    compare_with_supernet(images, file.trained_on, file.path, scoring=config.search.split == "holdout")
    with run.working_in(folder, processes):
        settings = remember_settings(run, digest, costs, images, processes)
        run.record_config(folder, processes)
        if processes.is_main:
            inputs = {"weights": str(file.path.resolve()), "from": None if earlier is None else str(earlier.resolve())}
            write_atomically(folder.inputs, (json.dumps(inputs) + "\n").encode())
        journal = Journal(folder.journal)
        if earlier_search is not None:
            earlier_search.require_begun(journal, evolution)
        evaluator = make_evaluator(run, folder, supernet, images, processes)
        remember_pixels(folder, images, processes)
        if earlier_search is not None:
            earlier_search.begin(run, journal, evolution, settings, len(evaluator.images), processes)
        overview, racing = Overview(evolution.generations), config.search.racing
        scoring = Scoring(
            processes,
            evaluator,
            costs,
            journal,
            parents=evolution.parents,
            racing=racing,
            balanced=config.search.fitness == "balanced",
            overview=overview,
        )
        if processes.is_main and not file.is_complete:
            run.say(f"the supernet is at step {file.step} only; its training is not complete", "yellow")
        origin = {"latency_of": describe_latency(run)} if uses_latency(config.search) else {}
        search(run, processes, evolution, scoring, {"supernet": digest, **origin})


def warn_of_poor_inputs(run: Run, file: Weights, evolution: Evolution) -> None:
    """Warn if the supernet is no better than guessing, or if a limit allows every architecture."""
    folder = file.path.parent
    trained_with = read_recorded_config(folder) or run.config
    if guessing := read_guessing(folder, run.config.space.classes, trained_with.supernet.loss, file.step):
        warn(f"the supernet has {guessing.verdict}, so scores are hardly more than chance: {guessing}; train it again")
    for table, limit in [(evolution.table, evolution.limit), *evolution.others]:
        if limit is not None and (idle := explain_idle_limit(table, limit)):
            advice = "narrower" if limit.is_range else "lower"
            warn(f"{idle}; set {table.kind.setting} {advice}, or to null for none")


def search(run: Run, processes: Processes, evolution: Evolution, scoring: Scoring, origin: Mapping[str, str]) -> None:
    """Score what the evolution proposes, generation by generation, and write and show the result.

    Args:
        origin: what the scores, and the latencies if there are any, are from.
    """
    known, first = scoring.results.known, choose_to_rescore(scoring.imported, evolution)
    if processes.is_main:
        scoring.journal.cut_incomplete_line()
        say_what_it_begins_with(run, scoring, len(known), min(len(first), evolution.population))
    total, overview = evolution.population * (evolution.generations + 1), scoring.overview
    request, report = StopRequest(), LiveReport(run)
    with (
        contextlib.closing(Mirrors(run.mirrors if processes.is_main else (), run.folder.search.path)) as mirrors,
        stop_on_signals(request),
        track("search", total, "candidates", quiet=not processes.is_main, dashboard=True) as task,
        record_time(run.folder.search.path, processes, lambda: scoring.lines, "candidates") as clock,
    ):
        for _ in evolution.search(lambda c: scoring.score(c, request, task), known, first, overview.begin):
            mirrors.log(overview.generation, {f"search/{name}": value for name, value in overview.summary.items()})
            if processes.is_main and scoring.changed:  # Not while a resumed search replays its journal.
                clock.lap()
                write_result(run, scoring, scoring.results, origin, complete=False)
                report.update()
    if processes.is_main:
        results = scoring.results
        write_result(run, scoring, results, origin, complete=True)
        report.finish()
        show(run, results, scoring.outcomes.images, overview)


def say_what_it_begins_with(run: Run, scoring: Scoring, known: int, rescored: int) -> None:
    """Say how many candidates of another search are there, and whether their scores count."""
    if known:
        run.say(
            f"beginning with {known:,} candidates of another search, which has scored them with the same supernet on"
            " the same images"
        )
    if scoring.imported:
        run.say(
            f"beginning with {len(scoring.imported):,} candidates of another search, which has scored them on other"
            f" images: the {rescored:,} best under the limits are scored again, the others count as seen",
            "yellow",
        )


def write_result(run: Run, scoring: Scoring, results: Results, origin: Mapping[str, str], *, complete: bool) -> None:
    """Write `result.yaml`: the best candidates so far or the front, and what they were found with.

    Args:
        origin: what the scores, and the latencies if there are any, are from.
        complete: whether the search has ended.
    """
    search = run.config.search
    front = {}
    if search.objective == "pareto":
        # The hypervolume is counted up to the limit on the front's cost, or else up to the largest cost of the space.
        limit = search.cost_limits.get(search.pareto_cost)
        corner = scoring.costs.tables[search.pareto_cost].maximum if limit is None else limit.high
        front = results.front_to_dict(search.pareto_cost, corner)
    content = {
        "candidates": len(results.candidates),
        "partial": len(results.candidates) - len(results.complete),
        "tied": results.comparison.count,
        "generations": results.candidates[-1].generation,
        "planned": search.generations,
        "complete": complete,
        **({"fitness": search.fitness} if search.fitness != "top1" else {}),
        **{f"{name}_limit": limit and write_limit(COST_KINDS[name], limit) for name, limit in list_limits(run).items()},
        **({"limits": search.model_dump()["limits"]} if search.limits else {}),
        **origin,
        "space": run.config.space.build().to_dict(),
        "best": [{"rank": rank, **results.to_dict(one)} for rank, one in enumerate(results.ranking[:MAX_SHOWN], 1)],
        **front,
    }
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)
    write_atomically(run.folder.search.result, text.encode())


def show(run: Run, results: Results, images: int, overview: Overview) -> None:
    """Show the best candidates or the front, what is tied, how good predictions were, and the next command."""
    settings, comparison = run.config.search, results.comparison
    is_front, is_balanced = settings.objective == "pareto", settings.fitness == "balanced"
    best = results.front(settings.pareto_cost) if is_front else results.ranking[:MAX_SHOWN]
    kinds = [kind for name, kind in run.config.cost_kinds.items() if name in best[0].known_costs]
    rows = [
        (
            rank,
            entry.architecture,
            *(kind.format_cell(entry.get_cost(kind.name)) for kind in kinds),
            *([f"{entry.score:.2%}"] if is_balanced else []),
            f"{entry.top1:.2%}",
            format_interval(entry.interval),
            "yes" if comparison.is_tied(entry.architecture) else "",
            entry.origin,
        )
        for rank, entry in enumerate(best, 1)
    ]
    limits = describe_limits(run)
    under = f" {limits}" if limits else ""
    candidates = len(results.candidates)
    stopped = candidates - len(results.complete)
    front_cost = run.config.cost_kinds[settings.pareto_cost]
    front = "front" if front_cost == FLOPS else f"front ({front_cost.noun})"
    title = f"the {front if is_front else 'best'} of {candidates} candidates{under}, scored on {images:,} images"
    columns = ["number" if is_front else "rank", "architecture:", *(kind.title for kind in kinds)]
    columns += [*(["balanced accuracy"] if is_balanced else []), "top-1", "95 % interval", "tied:", "origin:"]
    run.show(title + (f"; {stopped} of them stopped early" if stopped else ""), columns, rows)
    if comparison.problem:
        run.say(comparison.problem, "yellow")
    if comparison.count:
        run.say(f"statistically tied: {plural(comparison.count, 'candidate')}, including the best (paired test, 5 %)")
    if (tau := overview.tau) is not None:
        run.say(
            f"predictions against scores of the last {len(overview.pairs):,} candidates: Kendall's tau {tau:.2f} (1 is"
            " the same ranking, 0 is chance)"
        )
    run.result([results.to_dict(entry) for entry in best])
    run.next(EXPORT_COMMANDS[settings.objective])
