"""`spos audit`: compare a search with chance, and its ranking with stand-alone trainings."""

from __future__ import annotations

import collections
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from spos_cli.config.schema import Config
from spos_cli.engine import checkpoint
from spos_cli.engine.distributed import Processes
from spos_cli.engine.interrupt import StopRequest, stop_on_signals
from spos_cli.engine.progress import track, warn
from spos_cli.engine.teacher import Teacher
from spos_cli.errors import ConfigError, RunError
from spos_cli.files.quoting import quote_path
from spos_cli.files.writing import write_atomically
from spos_cli.models.counting import Costs
from spos_cli.run.audit_settings import remember_audit, shorten
from spos_cli.run.command import Run
from spos_cli.run.image_comparison import compare_with_supernet
from spos_cli.run.images import Images
from spos_cli.run.own_costs import require_same_tables
from spos_cli.run.search_inputs import make_evaluator, make_evolution, read_costs, read_supernet
from spos_cli.run.search_settings import read_settings, remember_pixels, require_same_classes, require_same_search
from spos_cli.run.stand_alone import train_stand_alone
from spos_cli.run.teacher import read_teacher
from spos_cli.run.training import require_batch
from spos_cli.run.weights_file import Weights
from spos_cli.search import statistics
from spos_cli.search.evolution import Candidate, Draws, Evolution
from spos_cli.search.fidelity import (
    choose_architectures,
    choose_equal_flops,
    compare_rankings,
    compare_with_equals,
    describe_difference,
)
from spos_cli.search.journal import Entry, Journal, Origin
from spos_cli.search.more_images import MAX_COMPARED, estimate_ties
from spos_cli.search.overview import Overview
from spos_cli.search.results import Results, choose_to_rescore
from spos_cli.search.scoring import Scoring
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost_kinds import format_cost


def run(run: Run, processes: Processes, weights: Path | None) -> None:
    """Write `audit/result.json`; resume where an earlier audit was stopped.

    Args:
        weights: the supernet of the search; by default the one in the run folder.

    Raises:
        RunError: there is no complete search with these settings.
        SposError: the supernet or the data do not allow it.
    """
    config, folder = run.config, run.folder.audit
    require_top1(config)
    costs = read_costs(run, config.space.build())
    require_same_tables(run, costs, processes)
    file, digest = read_supernet_of_search(run, processes, weights, costs)
    supernet = file.supernet(config)
    file.require_same_preparation(config)
    require_batch(supernet.space, config.retrain, processes.world_size, "retrain")  # It fails before any work.
    evolution = make_evolution(run, costs)
    lines = Journal(run.folder.search.journal).read_of(supernet.space)
    results, first = Results.of(lines, run.folder.search.outcomes), choose_to_rescore(lines, evolution)
    draws = replay(run, evolution, results, first)
    images = Images(config, processes)
    images.check()
    compare_with_supernet(images, file.trained_on, file.path, scoring=config.search.split == "holdout")
    require_same_classes(run.folder.search, images)
    teacher = read_teacher(config, images, processes)
    with (
        replace(run, fresh=False).working_in(run.folder.search, processes),
        run.working_in(folder, processes),
    ):
        evaluator = make_evaluator(run, run.folder.search, supernet, images, processes)
        remember_pixels(run.folder.search, images, processes)
        remember_audit(run, digest, images, teacher, processes)
        run.record_config(folder, processes)
        journal = Journal(folder.journal)
        if processes.is_main:
            journal.cut_incomplete_line()
        scoring = Scoring(processes, evaluator, costs, journal, parents=0, racing=None, known=results.complete)
        number, limit = config.audit.architectures, config.search.flops_limit
        key = supernet.space.network_key
        archs = choose_architectures(results.complete, number, evolution, costs.flops, limit, key)
        equals = choose_equal_flops(results.ranking[0], config.audit.equal_flops, evolution, costs.flops, key)
        every = list(dict.fromkeys([*archs, *equals]))
        curves = compare_with_chance(run, processes, evolution, results, first, scoring, every)
        more_images, problem = estimate_ties(results, len(evaluator.images))
        if problem and processes.is_main:
            warn(problem)
        scored = [[scoring.entries[arch] for arch in group] for group in (archs, equals)]
        result = {
            **curves,
            "operators": {origin: asdict(counts) for origin, counts in draws.items()},
            "images": more_images,
            "fidelity": compare_with_trainings(run, processes, images, teacher, *scored),
        }
        if processes.is_main:
            write_atomically(folder.result, (json.dumps(result, indent=1) + "\n").encode())
            show(run, result)


def require_top1(config: Config) -> None:
    """Raise ConfigError if the search is for another number than the trainings of the audit measure."""
    if config.search.fitness != "top1":
        raise ConfigError(
            f"spos audit compares the top-1 of a search with chance and with stand-alone trainings, but search.fitness"
            f" is {config.search.fitness}; use search.fitness: top1 and another --run-dir for a search to audit"
        )


def read_supernet_of_search(run: Run, processes: Processes, weights: Path | None, costs: Costs) -> tuple[Weights, str]:
    """Return the supernet that the run's search has used, and its digest.

    Raises:
        RunError: there is no search, it had other settings, or this is not its supernet.
    """
    path = weights or run.folder.supernet.last
    if not run.folder.search.journal.exists():
        raise RunError(f"there is no search in {run.folder} yet; run {run.command('search')} first")
    if weights is None and not path.exists():
        raise RunError(f"there is no supernet in {run.folder}; name the supernet of the search with --weights")
    file, digest = read_supernet(path, processes, run.command("supernet-train") if weights is None else "")
    if read_settings(run.folder.search)["supernet"] != digest:
        raise RunError(f"{path} is not the supernet of the search in {run.folder}; name that with --weights")
    try:
        require_same_search(run, digest, costs)
    except RunError as error:
        raise RunError(f"{error}. spos audit {quote_path(run.folder.root)} takes the search's own settings") from None
    return file, digest


def replay(run: Run, evolution: Evolution, results: Results, first: Sequence[Architecture]) -> dict[Origin, Draws]:
    """Replay the search with the scores in its journal; return what became of each operator's draws.

    Args:
        first: the architectures that generation 0 scores again.

    Raises:
        RunError: the search has not ended, had other settings, or has scored no candidate.
    """
    fitness = {entry.architecture: entry.fitness for entry in results.candidates}
    overview = Overview(evolution.generations)
    try:
        generations = evolution.search(
            lambda candidates: [fitness[candidate.architecture] for candidate in candidates],
            results.known,
            first,
            overview.begin,
        )
        collections.deque(generations, maxlen=0)
    except KeyError:
        total = evolution.population * (evolution.generations + 1)
        raise RunError(
            f"the search in {run.folder} is not at its end, or had other settings: {len(results.new)} of {total}"
            f" candidates are there, and the next ones are not in its journal; run {run.command('search')} first"
        ) from None
    if not results.complete:
        raise RunError(f"the search in {run.folder} has scored no candidate of its own; there is nothing to audit")
    return overview.draws


def compare_with_chance(
    run: Run,
    processes: Processes,
    evolution: Evolution,
    results: Results,
    first: Sequence[Architecture],
    scoring: Scoring,
    archs: Sequence[Architecture],
) -> dict[str, list[dict[str, Any]]]:
    """Return the best score after each candidate, of evolutions and of random searches of as many candidates, by seed.

    All searches share the images and the scores of the run's search, which is the first curve of its kind, and begin
    with the same candidates. The architectures of the stand-alone trainings are scored, too.
    """
    seeds, chance = range(evolution.seed, evolution.seed + run.config.audit.seeds), replace(evolution, parents=0)
    own = "evolution" if evolution.parents else "random"
    searches = [("random", replace(chance, seed=seed)) for seed in (seeds if evolution.parents else seeds[1:])]
    searches += [("evolution", replace(evolution, seed=seed)) for seed in (seeds[1:] if evolution.parents else ())]
    best_so_far = results.best_so_far
    curves: dict[str, list[dict[str, Any]]] = {"random": [], "evolution": []}
    curves[own].append({"seed": seeds[0], "best": best_so_far})
    total, request = len(searches) * len(best_so_far) + len(archs), StopRequest()
    with (
        stop_on_signals(request),
        track("audit: searches", total, "candidates", quiet=not processes.is_main) as task,
    ):
        for name, search in searches:
            scores: list[float] = []
            for generation in search.search(lambda c: scoring.score(c, request, task), results.known, first):
                scores += [score for _, score in generation]
            best = itertools.accumulate(scores, max, initial=max(results.known.values(), default=-1.0))
            curves[name].append({"seed": search.seed, "best": list(best)[1:]})
        scoring.score([Candidate(arch, 0, "random") for arch in archs], request, task)
    return curves


def compare_with_trainings(
    run: Run,
    processes: Processes,
    images: Images,
    teacher: Teacher | None,
    entries: Sequence[Entry],
    equals: Sequence[Entry],
) -> dict[str, Any]:
    """Train each architecture from scratch, and compare the rankings, and the winner with others of equal FLOPs.

    Args:
        teacher: of all these trainings, as of a retraining.
        entries: the winner, and architectures from all over the range of FLOPs.
        equals: random architectures of about the winner's FLOPs.
    """
    winner, seed, steps = entries[0].architecture, run.config.seed, shorten(run.config).retrain.steps
    again = [(winner, seed + number) for number in range(1, run.config.audit.winner_seeds)]
    trainings = list(dict.fromkeys([*((entry.architecture, seed) for entry in [*entries, *equals]), *again]))
    top1 = {
        (arch, seed): train(run, processes, images, teacher, arch, seed, f"{number} of {len(trainings)}")
        for number, (arch, seed) in enumerate(trainings, 1)
    }
    of_winner = [value for (arch, _), value in top1.items() if arch == winner]
    rankings = compare_rankings(entries, [top1[entry.architecture, seed] for entry in entries])
    rankings["winner"] |= {"alone": sum(of_winner) / len(of_winner), "trainings": of_winner}
    of_equals = [top1[entry.architecture, seed] for entry in equals]
    return {"steps": steps, **rankings, "equal_flops": compare_with_equals(of_winner, equals, of_equals)}


def train(
    run: Run,
    processes: Processes,
    images: Images,
    teacher: Teacher | None,
    arch: Architecture,
    seed: int,
    position: str,
) -> float:
    """Train an architecture from scratch, unless an earlier audit has done so; return its top-1.

    Args:
        seed: of the training. What is held out follows from the seed of the run.
        position: of this training among all, for the message.
    """
    config = shorten(run.config)
    name = arch.id if seed == run.config.seed else f"{arch.id}-seed-{seed}"
    folder = run.folder.stand_alone(name)
    if not folder.model.exists():
        if processes.is_main:
            with_seed = "" if seed == run.config.seed else f" with seed {seed}"
            run.say(f"stand-alone training of {arch}{with_seed} ({position})")
        alone = replace(run, config=config.model_copy(update={"seed": seed}), as_json=True)
        train_stand_alone(alone, processes, arch, images.at_size(arch.image_size), folder, teacher=teacher)
    processes.barrier()
    return float(checkpoint.load(folder.model)["metrics"]["top1"])


def show(run: Run, result: dict[str, Any]) -> None:
    """Show what an audit has found, in tables."""
    searches = [
        (name, curve["seed"], len(curve["best"]), f"{curve['best'][-1]:.2%}")
        for name in ("evolution", "random")
        for curve in result[name]
    ]
    run.show("the best score of a search, and of chance", ["search:", "seed", "candidates", "best top-1"], searches)
    draws = [
        (origin, f"{one['proposed']:,}", *(_share(one, kind) for kind in ("accepted", "duplicate", "over_limit")))
        for origin, one in result["operators"].items()
    ]
    run.show("the draws of each operator", ["operator:", "drawn", "new", "seen before", "outside a limit"], draws)
    images = [(f"{row['images']:,}", f"{100 * row['tie_width']:.2f} points", row["tied"]) for row in result["images"]]
    if images:
        title = f"statistically tied of the {MAX_COMPARED} best, including the winner, with more search images"
        run.show(title, ["images", "distinguishable beyond", "tied"], images)
    show_fidelity(run, result["fidelity"])
    run.result(result)
    run.say(f"written to {run.folder.audit.result}")
    run.next("report")


def show_fidelity(run: Run, fidelity: dict[str, Any]) -> None:
    """Show the stand-alone trainings, and whether the rankings agree."""
    winner, others, equals = fidelity["winner"], fidelity["architectures"], fidelity["equal_flops"]["architectures"]
    chosen = [
        *((one, "range of FLOPs") for one in others),
        *((one, "equal FLOPs") for one in equals),
        (winner, f"winner, mean of {len(winner['trainings'])}"),
    ]
    rows = [
        (
            Architecture.from_list(one["architecture"]),
            format_cost(one["flops"]),
            f"{one['one_shot']:.2%}",
            f"{one['alone']:.2%}",
            kind,
        )
        for one, kind in sorted(chosen, key=lambda pair: -pair[0]["alone"])
    ]
    title = f"stand-alone trainings of {fidelity['steps']:,} steps"
    run.show(title, ["architecture:", "FLOPs", "one-shot top-1", "stand-alone top-1", "selected as:"], rows)
    show_rankings(run, f"{len(others)} architectures; without the winner, selected for its score", fidelity)
    if len(equals) < run.config.audit.equal_flops:
        run.say(f"only {len(equals)} other architectures have about the winner's FLOPs under the limits", "yellow")
    if equals:
        show_rankings(run, f"{len(equals)} of about the winner's FLOPs", fidelity["equal_flops"])
        show_difference(run, fidelity)
    if len(others) < statistics.MIN_PAIRS:
        run.say(
            f"{len(others)} architectures beside the winner are too few for a rank correlation, which needs"
            f" {statistics.MIN_PAIRS}: rankings of fewer agree by chance too often; raise audit.architectures to"
            f" {statistics.MIN_PAIRS + 1} or more",
            "yellow",
        )


def show_rankings(run: Run, title: str, rankings: dict[str, Any]) -> None:
    """Show how far the supernet, and FLOPs, rank architectures as their stand-alone trainings do."""
    correlations = [
        ("Kendall's tau, supernet and stand-alone", *_interval(rankings["kendall"])),
        ("Spearman's rho, supernet and stand-alone", *_interval(rankings["spearman"])),
        ("Kendall's tau, FLOPs and stand-alone", *_interval(rankings["kendall_of_flops"])),
    ]
    run.show(f"agreement of both rankings, {title}", ["what:", "value", "95 % interval"], correlations)


def show_difference(run: Run, fidelity: dict[str, Any]) -> None:
    """Show how much better the winner is than random architectures of about its FLOPs."""
    equals = [one["alone"] for one in fidelity["equal_flops"]["architectures"]]
    winner = fidelity["winner"]["trainings"]
    rows = [
        ("winner", len(winner), f"{np.mean(winner):.2%}", f"{min(winner):.2%} to {max(winner):.2%}"),
        ("random ones", len(equals), f"{np.mean(equals):.2%}", f"{min(equals):.2%} to {max(equals):.2%}"),
    ]
    columns = ["networks:", "trainings", "mean top-1", "from the lowest to the highest"]
    run.show("the winner and random networks of about its FLOPs", columns, rows)
    run.say(describe_difference(fidelity["equal_flops"]["difference"]))


def _share(draws: dict[str, int], name: str) -> str:
    return f"{draws[name] / draws['proposed']:.0%}" if draws["proposed"] else "-"


def _interval(correlation: dict[str, float | None]) -> tuple[str, str]:
    value, low, high = (correlation[name] for name in ("value", "low", "high"))
    written = "none" if value is None else f"{value:.2f}"
    return written, "none" if low is None or high is None else f"{low:.2f} to {high:.2f}"
