"""`spos audit`: whether a search can be trusted, against chance, its own noise and networks that are trained alone."""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spos_cli import seeding
from spos_cli.config.identity import portable_settings, training_identity
from spos_cli.config.schema import Config
from spos_cli.engine import checkpoint
from spos_cli.engine.differences import require_same
from spos_cli.engine.distributed import Processes
from spos_cli.engine.interrupt import StopRequest, stop_on_signals
from spos_cli.engine.progress import track, warn
from spos_cli.errors import LimitError, RunError
from spos_cli.files.quoting import quote_path
from spos_cli.files.writing import write_atomically
from spos_cli.models.counting import Costs, count
from spos_cli.run.command import Run
from spos_cli.run.images import Images
from spos_cli.run.inputs import make_evaluator, make_evolution, read_settings, read_supernet, require_batch
from spos_cli.search import results, statistics
from spos_cli.search.evolution import Candidate
from spos_cli.search.journal import Bitmaps, Entry, Journal, ranking
from spos_cli.search.overview import Overview
from spos_cli.search.scoring import Scoring
from spos_cli.search.ties import RISK
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import CostTable, format_cost
from spos_cli.stages import retrain
from spos_cli.stages.search import remember_pixels, remembered_images, require_same_search

TRIES = 1000  # of an architecture in a part of the range of FLOPs, under all limits
TIED = 1.96  # standard errors of a difference that the paired test cannot tell from nothing
MORE_IMAGES = (1, 2, 4, 8, 16)  # times the search images
COMPARED = 100  # of the best candidates, for how far their outcomes differ
SHOTS = ("one_shot", "alone")

Correlation = Callable[[NDArray[np.float64], NDArray[np.float64]], float]


def run(run: Run, processes: Processes, weights: Path | None) -> None:
    """Leaves `audit/result.json`; goes on where it was stopped.

    Args:
        weights: the supernet of the search; by default the one in the run folder.

    Raises:
        RunError: there is no complete search with these settings.
        SposError: the supernet or the data do not allow it.
    """
    config, path = run.config, weights or run.folder.supernet.last
    if not (run.folder.search.journal).exists():
        raise RunError(f"there is no search in {run.folder} yet; run {run.command('search')} first")
    if weights is None and not path.exists():
        raise RunError(f"there is no supernet in {run.folder}; name that of the search with --weights")
    file, digest = read_supernet(path, processes, run.command("supernet-train") if weights is None else "")
    if read_settings(run)["supernet"] != digest:
        raise RunError(f"{path} is not the supernet of the search in {run.folder}; name that with --weights")
    try:
        require_same_search(run, digest)
    except RunError as error:
        raise RunError(f"{error}. spos audit {quote_path(run.folder.root)} takes the search's own settings") from None
    supernet = file.supernet(config)
    file.require_same_preparation(config)
    require_batch(supernet.space, config.retrain, processes.world_size, "retrain")  # fails before any work
    costs = count(supernet.space)
    found = Found(run, costs)
    images = Images(config, processes)
    images.check()
    images.compare_with(file.trained_on, path, scoring=config.search.split == "holdout")
    remembered_images(run, images)
    with (
        replace(run, fresh=False).working_in(run.folder.search.path, processes),
        run.working_in(run.folder.audit.path, processes),
    ):
        evaluator = make_evaluator(run, supernet, images, processes)
        remember_pixels(run, images, processes)
        remember(run, digest, images, processes)
        run.record_config(run.folder.audit.path, processes)
        journal = Journal(run.folder.audit.journal)
        if processes.is_main:
            journal.cut_incomplete_line()
        scoring = Scoring(processes, evaluator, costs, journal, parents=0, racing=None)
        scoring.entries = {**found.complete, **scoring.entries}
        archs = chosen(run, found, costs.flops)
        result: dict[str, Any] = {
            **control(run, processes, found, scoring, archs),
            "operators": {origin: asdict(draws) for origin, draws in found.draws.items()},
            "images": more_images(run, processes, found, len(evaluator.images)),
            "fidelity": fidelity(run, processes, images, scoring, archs),
        }
        if processes.is_main:
            text = json.dumps(result, indent=1) + "\n"
            write_atomically(run.folder.audit.result, text.encode())
            show(run, result)


class Found:
    """What the search of a run has found.

    Attributes:
        evolution: as it was searched.
        best: the best score after each candidate, in the order of the journal.
        draws: by operator, over all generations.
        known: scores of another search that it began with, found on the same images.
        begin: architectures that another search had scored on other images, the most promising first.
        complete: candidates that it has scored to the end itself.
        winner: the best of them.

    Raises:
        RunError: the search is not at its end, or had other settings.
    """

    def __init__(self, run: Run, costs: Costs) -> None:
        self.evolution = make_evolution(run, costs)
        self.lines = Journal(run.folder.search.journal).read_of(run.config.space.build())
        own, new = results.own(self.lines), results.new(self.lines)
        entries = {entry.architecture: entry for entry in own}
        self.known, self.begin = results.known(self.lines), results.to_rescore(self.lines, self.evolution)
        overview = Overview(self.evolution.generations)
        try:
            replay = self.evolution.search(
                lambda candidates: [entries[candidate.architecture].fitness for candidate in candidates],
                self.known,
                self.begin,
                overview.begin,
            )
            collections.deque(replay, maxlen=0)
        except KeyError:
            total = self.evolution.population * (self.evolution.generations + 1)
            raise RunError(
                f"the search in {run.folder} is not at its end, or had other settings: {len(new)} candidates of"
                f" {total} are there, and others than these would come next; run {run.command('search')}, then audit it"
            ) from None
        self.draws = overview.draws
        self.complete = {entry.architecture: entry for entry in own if not entry.partial}
        if not self.complete:
            raise RunError(f"the search in {run.folder} has scored no candidate of its own; there is nothing to audit")
        self.best = results.best_so_far(self.lines)
        self.winner = ranking(own)[0].architecture


def remember(run: Run, digest: str, images: Images, processes: Processes) -> None:
    """Keeps what the audit depends on beside its files.

    Raises:
        RunError: what is there was made with other settings or images.
    """
    config, path = run.config, run.folder.audit.settings
    ours = {
        "supernet": digest,
        "search": portable_settings(config)["search"],
        "training": training_identity(short(config), "retrain"),
        "architectures": config.audit.architectures,  # but more searches may be added
    }
    if path.exists():
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            theirs = {}
        theirs, what = theirs if isinstance(theirs, dict) else {}, f"{run.folder.audit.path} holds an audit"
        require_same(ours, theirs, what)
        # Accuracies of networks are compared with each other, once there are any.
        images.require_same(theirs.get("alone_on"), what, val=any(run.folder.audit.stand_alone.glob("*/model.pt")))
    searched = read_settings(run)
    ours |= {name: searched.get(name) for name in ("images", "pixels")}
    ours["alone_on"] = images.remembered(val=True)
    processes.barrier()
    if processes.is_main:
        write_atomically(path, (json.dumps(ours, indent=1) + "\n").encode())


def chosen(run: Run, found: Found, flops: CostTable) -> list[Architecture]:
    """The architectures to be trained alone: the winner, and one out of each equal part of the range of FLOPs.

    A part in which none is found under all limits is left out.
    """
    parts, limit = run.config.audit.architectures - 1, run.config.search.flops_limit
    reach = min(flops.maximum, flops.maximum if limit is None else limit) - flops.minimum
    archs = [found.winner]
    for part in range(parts):
        low, high = (flops.minimum + reach * end // parts for end in (part, part + 1))
        rng = seeding.generator(run.config.seed, "audit", part)
        with contextlib.suppress(LimitError):
            drawn = (flops.distribution().draw(rng, low, high) for _ in range(TRIES))
            archs += itertools.islice((a for a in drawn if found.evolution.allows(a) and a not in archs), 1)
    return archs


def control(
    run: Run, processes: Processes, found: Found, scoring: Scoring, archs: Sequence[Architecture]
) -> dict[str, list[dict[str, Any]]]:
    """The best score after each candidate of evolutions and of random searches of as many candidates, by seed.

    They share the images and the scores of the run's search, which is the first of its kind, and begin with what it
    began with. The architectures to be trained alone are scored, too.
    """
    evolution, seeds = found.evolution, range(run.config.seed, run.config.seed + run.config.audit.seeds)
    own, chance = "evolution" if evolution.parents else "random", replace(evolution, parents=0)
    searches = [("random", replace(chance, seed=seed)) for seed in (seeds if evolution.parents else seeds[1:])]
    searches += [("evolution", replace(evolution, seed=seed)) for seed in (seeds[1:] if evolution.parents else ())]
    curves: dict[str, list[dict[str, Any]]] = {"random": [], "evolution": []}
    curves[own].append({"seed": seeds[0], "best": found.best})
    total = len(searches) * len(found.best) + len(archs)
    request, quiet = StopRequest(), not processes.is_main
    with stop_on_signals(request), track("audit: searches", total, "candidates", quiet=quiet) as task:
        for name, search in searches:
            scores: list[float] = []
            for generation in search.search(
                lambda candidates: scoring.score(candidates, request, task), found.known, found.begin
            ):
                scores += [score for _, score in generation]
            best = itertools.accumulate(scores, max, initial=max(found.known.values(), default=-1.0))
            curves[name].append({"seed": search.seed, "best": list(best)[1:]})
        scoring.score([Candidate(arch, 0, "random") for arch in archs], request, task)
    return curves


def fidelity(
    run: Run, processes: Processes, images: Images, scoring: Scoring, archs: Sequence[Architecture]
) -> dict[str, Any]:
    """Trains architectures alone, the winner first, and compares the ranking of the others with the supernet's."""
    alone = []
    for number, arch in enumerate(archs, 1):
        if processes.is_main and not model_of(run, arch).exists():
            run.say(f"training {arch} alone ({number} of {len(archs)})")
        alone.append(train_alone(run, processes, images, arch))
    return {"steps": short(run.config).retrain.steps, **compared([scoring.entries[arch] for arch in archs], alone)}


def compared(entries: Sequence[Entry], alone: Sequence[float]) -> dict[str, Any]:
    """The winner, and the rank correlations of the others, as plain types.

    The winner was picked for its score, so it is high in both rankings more often than one that was not picked: with
    it, a correlation of 0.33 between twelve looks like 0.41.

    Args:
        entries: the winner first, then architectures that were picked whatever their scores.
        alone: of each the top-1 when it is trained alone.
    """
    rows = [
        {"architecture": entry.architecture.to_list(), "flops": entry.flops, "one_shot": entry.top1, "alone": top1}
        for entry, top1 in zip(entries, alone, strict=True)
    ]
    shots, flops = [entry.top1 for entry in entries[1:]], [entry.flops for entry in entries[1:]]
    return {
        "winner": rows[0],
        "architectures": rows[1:],
        "kendall": agreement(statistics.kendall, shots, alone[1:]),
        "spearman": agreement(statistics.spearman, shots, alone[1:]),
        "kendall_of_flops": agreement(statistics.kendall, flops, alone[1:]),
    }


def agreement(statistic: Correlation, one: Sequence[float], other: Sequence[float]) -> dict[str, float | None]:
    """A rank correlation with its bootstrap interval; None for too few pairs, or if all values are equal."""
    if len(one) < statistics.ENOUGH:
        return dict.fromkeys(("value", "low", "high"))
    low, high = statistics.bootstrap(statistic, one, other, np.random.default_rng(0))
    values = {"value": statistic(np.asarray(one, float), np.asarray(other, float)), "low": low, "high": high}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def short(config: Config) -> Config:
    """The settings of a stand-alone training of the audit: the run's, but for its budget."""
    training = config.retrain
    steps = config.audit.steps or max(1, training.steps // 10)
    changes = {
        "steps": steps,
        "warmup_steps": training.warmup_steps * steps // training.steps,
        "evaluate_every": steps,
        "milestone_every": None,
    }
    return config.model_copy(update={"retrain": training.model_copy(update=changes)})


def model_of(run: Run, arch: Architecture) -> Path:
    """The file of an architecture that was trained alone."""
    return run.folder.stand_alone(arch.id).model


def train_alone(run: Run, processes: Processes, images: Images, arch: Architecture) -> float:
    """Top-1 on the validation images of an architecture that was trained from scratch; trained once only."""
    model = model_of(run, arch)
    if not model.exists():
        silent = replace(run, config=short(run.config), as_json=True)
        retrain.train(silent, processes, arch, images, model.parent)
    processes.barrier()
    return float(checkpoint.load(model)["metrics"]["top1"])


def more_images(run: Run, processes: Processes, found: Found, images: int) -> list[dict[str, Any]]:
    """How the tie with the winner would shrink with more search images, if differences stayed as they are.

    Of each of the best, the images that only it or only the winner gets right are as many times more, and the paired
    test is asked again. Two that disagree on a share d of n images are told apart from `TIED` times sqrt(d / n) on.
    Empty if the winner's outcomes are lost, or all others; said if any are.
    """
    bitmaps = Bitmaps(run.folder.search.outcomes, images)
    rows = results.rows(found.lines)
    best = [entry for entry in ranking(found.complete.values())[: COMPARED + 1] if entry.images == images]
    row = rows[found.winner]
    right, both = bitmaps.overlaps(row, [row, *(rows[entry.architecture] for entry in best[1:])])
    # A row that was lost, and filled with zeros since, does not have as many as the journal says.
    whole = right == np.array([found.complete[found.winner].right, *(entry.right for entry in best[1:])])
    if processes.is_main and not whole.all():
        few = f"{np.count_nonzero(~whole)} of the best: what more images would do is told of the others"
        which = few if whole[0] else "the best: what more images would do cannot be told"
        warn(f"{bitmaps.path} does not have the outcomes of {which}")
    if not (whole[0] and whole[1:].any()):
        return []
    (winner, _), *kept = zip(right[whole].tolist(), both[whole].tolist(), strict=True)
    pairs = [(winner - common, one - common) for one, common in kept]
    disagreement = np.median([sum(pair) / images for pair in pairs])
    return [
        {
            "images": images * times,
            "tie_width": float(TIED * np.sqrt(disagreement / (images * times))),
            "tied": 1 + sum(statistics.mcnemar(one * times, other * times) > RISK for one, other in pairs),
        }
        for times in MORE_IMAGES
    ]


def show(run: Run, result: dict[str, Any]) -> None:
    """What an audit says, in tables."""
    searches = [
        (name, curve["seed"], len(curve["best"]), f"{curve['best'][-1]:.2%}")
        for name in ("evolution", "random")
        for curve in result[name]
    ]
    run.show("the best score of a search, and of chance", ["search:", "seed", "candidates", "best top-1"], searches)
    draws = [
        (origin, f"{one['proposed']:,}", _share(one, "accepted"), _share(one, "duplicate"), _share(one, "over_limit"))
        for origin, one in result["operators"].items()
    ]
    run.show(
        "what became of each operator's draws", ["operator:", "drawn", "new", "seen before", "over a limit"], draws
    )
    images = [(f"{row['images']:,}", f"{100 * row['tie_width']:.2f} points", row["tied"]) for row in result["images"]]
    if images:
        title = f"tied, the winner among them, of the {COMPARED} best, if there were more search images"
        run.show(title, ["images", "told apart beyond", "tied"], images)
    found = result["fidelity"]
    winner, others = found["winner"], found["architectures"]
    rows = [
        (
            Architecture.from_list(one["architecture"]),
            format_cost(one["flops"]),
            *(f"{one[k]:.2%}" for k in SHOTS),
            "winner" if one is winner else "",
        )
        for one in sorted([winner, *others], key=lambda one: -one["alone"])
    ]
    title = f"trained alone for {found['steps']:,} steps"
    run.show(title, ["architecture:", "FLOPs", "one-shot top-1", "top-1 alone", "picked as:"], rows)
    correlations = [
        ("Kendall's tau, supernet and alone", *_interval(found["kendall"])),
        ("Spearman's rho, supernet and alone", *_interval(found["spearman"])),
        ("Kendall's tau, FLOPs and alone", *_interval(found["kendall_of_flops"])),
    ]
    title = f"whether the rankings of {len(others)} agree, without the winner, which was picked for its score"
    run.show(title, ["what:", "value", "95 % interval"], correlations)
    if len(others) < statistics.ENOUGH:
        run.say(
            f"{len(others)} architectures beside the winner are too few for a rank correlation, which takes"
            f" {statistics.ENOUGH}: rankings of fewer agree by chance too often; raise audit.architectures to"
            f" {statistics.ENOUGH + 1} or more",
            "yellow",
        )
    run.result(result)
    run.say(f"written to {run.folder.audit.path / 'result.json'}")
    run.next("report")


def _share(draws: dict[str, int], name: str) -> str:
    return f"{draws[name] / draws['proposed']:.0%}" if draws["proposed"] else "-"


def _interval(found: dict[str, float | None]) -> tuple[str, str]:
    value, low, high = (found[name] for name in ("value", "low", "high"))
    written = "none" if value is None else f"{value:.2f}"
    return written, "none" if low is None or high is None else f"{low:.2f} to {high:.2f}"
