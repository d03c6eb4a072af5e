"""`spos search`: evolution over the paths of a trained supernet, under a FLOPs limit."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from spos_cli.config.identity import data_recipe
from spos_cli.data.image_store import read_manifest
from spos_cli.engine import checkpoint
from spos_cli.engine.differences import require_same
from spos_cli.engine.distributed import Processes
from spos_cli.engine.interrupt import StopRequest, stop_on_signals
from spos_cli.engine.progress import track, warn
from spos_cli.engine.scalars import Scalars
from spos_cli.engine.timing import timed
from spos_cli.errors import CheckpointError, RunError
from spos_cli.files.digests import file_digest
from spos_cli.files.reading import read_json
from spos_cli.files.writing import write_atomically
from spos_cli.models.counting import Costs, count
from spos_cli.models.supernet import Supernet
from spos_cli.official import search_checkpoint
from spos_cli.run.command import EXPORT, Run
from spos_cli.run.images import Images
from spos_cli.run.inputs import (
    guessing,
    limits_of,
    make_evaluator,
    make_evolution,
    read_settings,
    read_supernet,
)
from spos_cli.run.weights_file import Weights
from spos_cli.search import results, statistics, ties
from spos_cli.search.evolution import Evolution
from spos_cli.search.journal import Bitmaps, Entry, Journal, pareto, ranking
from spos_cli.search.overview import Overview
from spos_cli.search.scoring import Scoring
from spos_cli.space.cost import LABELS, format_cost, format_duration
from spos_cli.space.search_space import SearchSpace
from spos_cli.stages.report import LiveReport

SHOWN = 10
# Settings of a search that no score depends on: what is drawn, and whether a candidate is scored to the end.
STEERING = frozenset(
    (
        *("algorithm", "objective", "population", "parents", "mutations", "crossovers", "mutation_probability"),
        *("flops_limit", "params_limit", "latency_limit", "latency_table", "racing"),
    )
)
STORES = ("scoring.u8", "calibration.u8")  # decoded images, in the folder of a search


def run(run: Run, processes: Processes, weights: Path | None, earlier: Path | None) -> None:
    """Leaves `search/journal.jsonl` and `search/result.yaml`; goes on from the journal if there is one.

    Args:
        weights: the supernet's checkpoint, ours or a published one; by default the one in the run folder.
        earlier: the file of another search, with whose candidates this one begins. It scores the best of them again,
            unless they were scored with the same supernet on the same images.

    Raises:
        LimitError: no architecture is under the limit.
        SposError: the supernet, the data or an earlier journal do not allow it.
    """
    config = run.config
    path = weights or run.folder.supernet.last
    if weights is None and not path.exists():
        train = run.command("supernet-train")
        raise RunError(f"there is no supernet in {run.folder} yet; run {train} first, or give --weights")
    file, supernet_digest = read_supernet(path, processes, run.command("supernet-train") if weights is None else "")
    supernet = file.supernet(config)
    file.require_same_preparation(config)
    costs = count(supernet.space)
    evolution = make_evolution(run, costs)
    evolution.require_candidates()
    if processes.is_main:
        if found := guessing(path.parent, config.space.classes, file.step):
            warn(f"the supernet has {found.verdict}, so scores are hardly more than chance: {found}; train it anew")
        for table, limit in [(evolution.table, evolution.limit), *evolution.others]:
            if limit is not None and (idle := table.idle(limit)):
                warn(f"{idle}; set search.{table.name}_limit lower, or to null for none")
    begin_with = read_candidates(earlier, supernet.space, costs) if earlier else []
    images = Images(config, processes)
    images.check()
    images.compare_with(file.trained_on, path, scoring=config.search.split == "holdout")
    with run.working_in(run.folder.search.path, processes):
        search(run, processes, file, supernet_digest, supernet, evolution, costs, images, earlier, begin_with)


def search(
    run: Run,
    processes: Processes,
    file: Weights,
    supernet_digest: str,
    supernet: Supernet,
    evolution: Evolution,
    costs: Costs,
    images: Images,
    earlier: Path | None,
    begin_with: Sequence[Entry],
) -> None:
    """Scores what the evolution proposes, from the journal's end on, to the end.

    Args:
        earlier: the file of another search to begin with, or None.
        begin_with: all of its scored candidates, in their order.
    """
    settings = remember_settings(run, supernet_digest, images, processes)
    run.record_config(run.folder.search.path, processes)
    if processes.is_main:
        inputs = {"weights": str(file.path.resolve()), "from": None if earlier is None else str(earlier.resolve())}
        write_atomically(run.folder.search.inputs, (json.dumps(inputs) + "\n").encode())
    journal = Journal(run.folder.search.journal)
    if earlier is not None:
        require_begun_with(journal, begin_with, evolution)
    evaluator = make_evaluator(run, supernet, images, processes)
    remember_pixels(run, images, processes)
    if earlier is not None:
        bring_in(run, settings, journal, earlier, begin_with, evolution, len(evaluator.images), processes)
    overview = Overview(evolution.generations)
    scoring = Scoring(processes, evaluator, costs, journal, evolution.parents, run.config.search.racing, overview)
    known, begin = results.known(scoring.used), results.to_rescore(scoring.imported, evolution)
    if processes.is_main:
        journal.cut_incomplete_line()
        if not file.is_complete:
            run.say(f"the supernet is at step {file.step} only; its training is not complete", "yellow")
        if known:
            run.say(
                f"beginning with {len(known):,} candidates of another search, which has scored them with the same"
                " supernet on the same images"
            )
        if scoring.imported:
            again = min(len(begin), evolution.population)
            run.say(
                f"beginning with {len(scoring.imported):,} candidates of another search, which has scored them on other"
                f" images: the {again:,} best under the limits are scored again, the others count as seen",
                "yellow",
            )
    total = evolution.population * (evolution.generations + 1)
    request, quiet, report = StopRequest(), not processes.is_main, LiveReport(run)
    with (
        mirrored(run, processes) as mirror,
        stop_on_signals(request),
        track("search", total, "candidates", quiet=quiet, dashboard=True) as task,
        timed(run.folder.search.path, processes, lambda: scoring.lines, "candidates") as clock,
    ):
        for _ in evolution.search(lambda c: scoring.score(c, request, task), known, begin, overview.begin):
            mirror(overview.generation, overview.summary)
            if processes.is_main and scoring.changed:  # not for each generation that the journal knows
                clock.lap()
                write_result(run, scoring, supernet_digest, complete=False)
                report.update()
    if processes.is_main:
        tie = write_result(run, scoring, supernet_digest, complete=True)
        report.finish()
        show(run, scoring, tie)


@contextlib.contextmanager
def mirrored(run: Run, processes: Processes) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """What takes the numbers of each generation to TensorBoard, if that is wanted."""
    if not (run.tensorboard and processes.is_main):
        yield lambda generation, numbers: None
        return
    with contextlib.closing(Scalars(run.folder.search.tensorboard)) as scalars:
        yield lambda generation, numbers: scalars.add(
            generation, {f"search/{name}": number for name, number in numbers.items()}
        )


def read_candidates(path: Path, space: SearchSpace, costs: Costs) -> list[Entry]:
    """The scored candidates in a file: a journal of ours, or a published search's checkpoint.

    Args:
        costs: of the space.

    Raises:
        RunError: there is no such file, or it is the journal of another space.
        CheckpointError: it is neither a journal nor a published search of this space.
    """
    try:
        with path.open("rb") as file:
            is_journal = file.read(1) == b"{"
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from None
    if is_journal:
        entries = Journal(path).read_of(space)
        for number, entry in enumerate(entries, 1):
            if entry.flops != (here := costs.flops.of(entry.architecture)):
                raise RunError(
                    f"{path}:{number} is a candidate of another space: it has {entry.flops:,} FLOPs there and {here:,}"
                    " here"
                )
        return entries
    content = checkpoint.load(path)
    if not search_checkpoint.is_search(content):
        raise CheckpointError(
            f"{path} holds no search: expected a journal.jsonl, or a published checkpoint with vis_dict"
        )
    return search_checkpoint.entries_of(content, space, costs.flops, costs.params, str(path))


def imported(entries: Sequence[Entry]) -> list[Entry]:
    """Candidates of another search, scored on other images, as lines of this one's journal."""
    return [replace(entry, generation=0, origin="imported", earlier=False) for entry in entries]


def taken_over(entries: Sequence[Entry], evolution: Evolution) -> list[Entry]:
    """Candidates of another search, scored on the same images; those over the limits of this one would not count."""
    return [replace(entry, generation=0, earlier=True) for entry in entries if evolution.allows(entry.architecture)]


def require_begun_with(journal: Journal, theirs: Sequence[Entry], evolution: Evolution) -> None:
    """Raises RunError if there is a journal that has not begun with these candidates of another search."""
    if journal.path.exists():
        first = [entry for entry in journal.read() if not results.is_new(entry)]
        allowed = [imported(results.exportable(theirs))]
        if own := results.own(theirs):
            allowed.append(taken_over(own, evolution))
        if first not in allowed:
            raise RunError(f"{journal.path} has begun without the candidates of --from; use --fresh to start over")


def bring_in(
    run: Run,
    settings: dict[str, Any],
    journal: Journal,
    path: Path,
    theirs: Sequence[Entry],
    evolution: Evolution,
    images: int,
    processes: Processes,
) -> None:
    """Begins a journal with the candidates of another search, all at once; one that has begun stays as it is.

    Scores that are comparable come with their outcomes by image.

    Args:
        settings: what the scores of this search depend on; its images are beside the journal.
        path: of the other search's file.
        theirs: all of its lines.
        images: that are scored.
    """
    processes.barrier()
    if processes.is_main and not journal.path.exists():
        own, lines = results.own(theirs), imported(results.exportable(theirs))
        whole = all(entry.partial or entry.images == images for entry in own)
        if own and whole and is_comparable(run, settings, path.parent):
            lines, rows = taken_over(own, evolution), results.rows(theirs)
            outcomes = Bitmaps(path.with_name("outcomes.bits"), images).rows([rows[e.architecture] for e in lines])
            write_atomically(journal.path.with_name("outcomes.bits"), outcomes)
        write_atomically(journal.path, "".join(entry.to_line() for entry in lines).encode())
    processes.barrier()


def is_comparable(run: Run, settings: dict[str, Any], folder: Path) -> bool:
    """Whether the scores in another search's folder were found in the way of this run's, on the very same images.

    A folder that is this run's own has made room for the new search: what lies there is of that.
    """
    theirs = read_json(folder / "settings.json")
    if folder.resolve() == run.folder.search.path.resolve() or not isinstance(theirs.get("search"), dict):
        return False
    ours, other = (
        [*map(found.get, ("supernet", "space", "data")), {**found["search"], **dict.fromkeys(STEERING)}]
        for found in (settings, theirs)
    )
    return ours == other and all(
        (mine := digest(run.folder.search.path / name)) is not None and mine == digest(folder / name) for name in STORES
    )


def digest(store: Path) -> str | None:
    """What tells the images and labels of a store from others; None if it is not whole."""
    manifest = read_manifest(store)
    if manifest is None:
        return None
    told = json.dumps([manifest.get(key) for key in ("sha256", "labels", "shape")])
    return hashlib.sha256(told.encode()).hexdigest()


def require_same_search(run: Run, supernet_digest: str) -> dict[str, Any]:
    """What the scores of this run's search depend on.

    Raises:
        RunError: there is a journal already, and it was made with other settings.
    """
    settings = run.config.portable()
    search = {key: value for key, value in settings["search"].items() if key != "generations"}
    ours = {
        "seed": run.config.seed,
        "supernet": supernet_digest,
        "space": settings["space"],  # published weights do not say for what size of images they are
        "data": data_recipe(run.config),
        "search": search,
    }
    if run.config.search.latency_limit is not None:
        search["latency_table"] = file_digest(run.folder.latency_table)
    if (run.folder.search.journal).exists():
        theirs = read_settings(run)
        theirs.setdefault("space", settings["space"])  # it came later
        require_same(ours, theirs, f"{run.folder.search.path} holds a search")
    return ours


def remembered_images(run: Run, images: Images) -> dict[str, Any]:
    """What a search was begun with, of images, for its settings.

    Raises:
        RunError: there is a journal already, of images of other classes.
    """
    remembered = images.remembered(val=run.config.search.split == "val")
    if (run.folder.search.journal).exists():
        images.require_same_classes(read_settings(run).get("images"), f"{run.folder.search.path} holds a search")
    return remembered


def forget_kept(folder: Path) -> None:
    """Removes scores that processes have kept with other settings or images, before the journal had begun."""
    for kept in folder.glob(".scored-*.bits"):
        kept.unlink()


def remember_pixels(run: Run, images: Images, processes: Processes) -> None:
    """Keeps digests of the images that candidates are calibrated and scored on, which are all that scores depend on.

    Raises:
        RunError: the journal there was made with other pixels.
    """
    settings, found = read_settings(run), {name: digest(run.folder.search.path / name) for name in STORES}
    processes.barrier()
    if not (run.folder.search.journal).exists():
        if processes.is_main and settings.get("pixels") != found:
            forget_kept(run.folder.search.path)
            text = json.dumps({**settings, "pixels": found}, indent=1) + "\n"
            write_atomically(run.folder.search.settings, text.encode())
    elif settings.get("pixels") != found:
        raise RunError(
            f"{run.folder.search.path} holds a search that has scored on other images{images.said_to_differ(settings)};"
            " restore those, use another --run-dir, or --fresh to start over"
        )
    processes.barrier()


def remember_settings(run: Run, supernet_digest: str, images: Images, processes: Processes) -> dict[str, Any]:
    """Keeps what the scores depend on beside the journal, and returns it.

    Raises:
        RunError: the journal there was made with other settings or images.
    """
    ours, folder = require_same_search(run, supernet_digest), run.folder.search.path
    ours["images"] = remembered_images(run, images)
    begun = (folder / "journal.jsonl").exists()
    processes.barrier()
    if processes.is_main and not begun:
        settings_file, text = folder / "settings.json", json.dumps(ours, indent=1) + "\n"
        theirs = {name: value for name, value in read_json(settings_file).items() if name != "pixels"}
        if theirs != json.loads(text):
            forget_kept(folder)
            write_atomically(settings_file, text.encode())
    processes.barrier()
    return ours


def with_error(entry: Entry, tie: ties.Ties) -> dict[str, Any]:
    """A candidate for files: with its score's interval, and whether it is tied with the best."""
    return {**entry.to_dict(), "interval": rounded(entry), "tied": tie.has(entry.architecture)}


def rounded(entry: Entry) -> list[float]:
    """The interval of its score, for files."""
    return [round(end, 6) for end in entry.interval]


def percent(interval: tuple[float, float]) -> str:
    """An interval as people write it."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def write_result(run: Run, scoring: Scoring, supernet_digest: str, complete: bool) -> ties.Ties:
    """`result.yaml`: the best so far, and what they were found with; what is tied with the best.

    Args:
        complete: whether the search has ended.
    """
    tie = scoring.tied()
    best = [{"rank": rank, **with_error(entry, tie)} for rank, entry in enumerate(ranking(scoring.used)[:SHOWN], 1)]
    result = {
        "candidates": len(scoring.used),
        "partial": sum(entry.partial for entry in scoring.used),
        "tied": tie.count,
        "generations": scoring.used[-1].generation,
        "planned": run.config.search.generations,
        "complete": complete,
        **{f"{name}_limit": limit for name, limit in limits_of(run).items()},
        "supernet": supernet_digest,
        "space": run.config.space.build().to_dict(),
        "best": best,
        **(front_of(run, scoring, tie) if run.config.search.objective == "pareto" else {}),
    }
    text = yaml.safe_dump(result, sort_keys=False, default_flow_style=None, width=120)
    write_atomically(run.folder.search.result, text.encode())
    return tie


def front_of(run: Run, scoring: Scoring, tie: ties.Ties) -> dict[str, Any]:
    """The front, for files, with its hypervolume (FLOPs times top-1) and the corner that this reaches to."""
    found, limit = pareto(scoring.used), run.config.search.flops_limit
    corner = scoring.costs.flops.maximum if limit is None else limit
    area = statistics.hypervolume([entry.flops for entry in found], [entry.top1 for entry in found], corner)
    return {
        "front": [with_error(entry, tie) for entry in found],
        "hypervolume": area,
        "reference": {"flops": corner, "top1": 0.0},
    }


def show(run: Run, scoring: Scoring, tie: ties.Ties) -> None:
    """The table of the best, or of the front, and what comes next."""
    is_front = run.config.search.objective == "pareto"
    best = pareto(scoring.used) if is_front else ranking(scoring.used)[:SHOWN]
    rows = [
        (
            rank,
            entry.architecture,
            format_cost(entry.flops),
            format_cost(entry.params),
            f"{entry.top1:.2%}",
            percent(entry.interval),
            "yes" if tie.has(entry.architecture) else "",
            entry.origin,
        )
        for rank, entry in enumerate(best, 1)
    ]
    limits = {name: limit for name, limit in limits_of(run).items() if limit is not None}
    written = [
        format_duration(limit) if name == "latency" else f"{format_cost(limit)} {LABELS[name]}"
        for name, limit in limits.items()
    ]
    under = f" at or under {' and '.join(written)}" if written else ""
    lost = sum(entry.partial for entry in scoring.used)
    stopped = f"; {lost} of them stopped early" if lost else ""
    which = "front" if is_front else "best"
    images = f"{scoring.bitmaps.images:,} images{stopped}"
    title = f"the {which} of {len(scoring.used)} candidates{under}, scored on {images}"
    columns = ["number" if is_front else "rank", "architecture:", "FLOPs", "params"]
    run.show(title, [*columns, "top-1", "95 % interval", "tied:", "origin:"], rows)
    if tie.unknown:
        run.say(tie.unknown, "yellow")
    if tie.count:
        run.say(f"tied: {tie.count:,} candidates, the best among them, that a paired test does not tell from it")
    run.result([with_error(entry, tie) for entry in best])
    run.next(EXPORT[run.config.search.objective])
