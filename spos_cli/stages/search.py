"""`spos search`: evolution over the paths of a trained supernet, under a FLOPs limit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from spos_cli import seeding
from spos_cli.data import datasets
from spos_cli.data.loaders import BadImages, ImageStore, chunks, file_digest, read_recipe
from spos_cli.data.transforms import EvalTransform, TrainTransform
from spos_cli.engine import checkpoint
from spos_cli.engine.differences import require_same
from spos_cli.engine.distributed import Processes
from spos_cli.engine.interrupt import Interrupted, StopRequest, stop_on_signals
from spos_cli.engine.progress import Task, track, warn
from spos_cli.engine.scalars import Scalars
from spos_cli.engine.timing import timed
from spos_cli.errors import CheckpointError, ConfigError, RunError
from spos_cli.models.counting import Costs, count
from spos_cli.models.supernet import Supernet
from spos_cli.search import published, results, statistics, ties
from spos_cli.search.evaluator import Calibration, Evaluator, Score
from spos_cli.search.evolution import Candidate, Evolution
from spos_cli.search.journal import Bitmaps, Entry, Journal, pareto, ranking
from spos_cli.search.overview import Overview
from spos_cli.search.racing import Race
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import LABELS, format_cost, format_duration
from spos_cli.space.search_space import SearchSpace
from spos_cli.stages.common import Images, Run, data_recipe, guessing, read_settings
from spos_cli.stages.flops_table import LATENCY_TABLE, read_latency
from spos_cli.stages.report import LiveReport
from spos_cli.stages.run_folder import EXPORT, INPUTS, read_json
from spos_cli.stages.weights_file import Weights, read_weights

SHOWN = 10
GROUP = 8  # candidates that a process scores together: so many are lost if it is killed, and in memory at once
# Settings of a search that no score depends on: what is drawn, and whether a candidate is scored to the end.
STEERING = frozenset(
    (
        *("algorithm", "objective", "population", "parents", "mutations", "crossovers", "mutation_probability"),
        *("flops_limit", "params_limit", "latency_limit", "latency_table", "racing"),
    )
)
STORES = ("scoring.u8", "calibration.u8")  # decoded images, in the folder of a search
COUNTS = 3 * 8  # bytes of what is told of a score beside its outcomes


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
    path = weights or run.supernet_folder / "last.pt"
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
    with run.working_in(run.search_folder, processes):
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
    run.record_config(run.search_folder, processes)
    if processes.is_main:
        inputs = {"weights": str(file.path.resolve()), "from": None if earlier is None else str(earlier.resolve())}
        checkpoint.write_atomically(run.search_folder / INPUTS, (json.dumps(inputs) + "\n").encode())
    journal = Journal(run.search_folder / "journal.jsonl")
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
        timed(run.search_folder, processes, lambda: scoring.lines, "candidates") as clock,
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
    with contextlib.closing(Scalars(run.search_folder / "tensorboard")) as scalars:
        yield lambda generation, numbers: scalars.add(
            generation, {f"search/{name}": number for name, number in numbers.items()}
        )


def read_supernet(path: Path, processes: Processes, train: str) -> tuple[Weights, str]:
    """Reads a supernet's file, and its digest; `train` is the command that repairs the run folder's own one.

    Raises:
        RunError: a training writes it anew meanwhile, or not all processes see the same.
    """
    try:
        before = file_digest(path) if path.is_file() else ""
        file = read_weights(path)
    except CheckpointError as error:
        if not train:
            raise
        raise CheckpointError(f"{error}; {train} goes on from the checkpoint before it") from None
    after = file_digest(path)
    if processes.any(before != after) or not processes.agree(after):
        raise RunError(
            f"{path} is being written; search when its training has ended, or name a step-*.pt with --weights"
        )
    return file, after


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
    if not published.is_search(content):
        raise CheckpointError(
            f"{path} holds no search: expected a journal.jsonl, or a published checkpoint with vis_dict"
        )
    return published.entries_of(content, space, costs.flops, costs.params, str(path))


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
            checkpoint.write_atomically(journal.path.with_name("outcomes.bits"), outcomes)
        checkpoint.write_atomically(journal.path, "".join(entry.to_line() for entry in lines).encode())
    processes.barrier()


def is_comparable(run: Run, settings: dict[str, Any], folder: Path) -> bool:
    """Whether the scores in another search's folder were found in the way of this run's, on the very same images.

    A folder that is this run's own has made room for the new search: what lies there is of that.
    """
    theirs = read_json(folder / "settings.json")
    if folder.resolve() == run.search_folder.resolve() or not isinstance(theirs.get("search"), dict):
        return False
    ours, other = (
        [*map(found.get, ("supernet", "space", "data")), {**found["search"], **dict.fromkeys(STEERING)}]
        for found in (settings, theirs)
    )
    return ours == other and all(
        (mine := digest(run.search_folder / name)) is not None and mine == digest(folder / name) for name in STORES
    )


def digest(store: Path) -> str | None:
    """What tells the images and labels of a store from others; None if it is not whole."""
    recipe = read_recipe(store)
    if recipe is None:
        return None
    told = json.dumps([recipe.get(key) for key in ("sha256", "labels", "shape")])
    return hashlib.sha256(told.encode()).hexdigest()


def make_evolution(run: Run, costs: Costs) -> Evolution:
    """The sizes of the search, from the config; the random baseline has no parents.

    Candidates are drawn exactly under the limit that leaves least of the space.

    Raises:
        RunError: there is a limit on the latency, but no table of latencies.
    """
    search = run.config.search
    limits = [(costs.flops, search.flops_limit), (costs.params, search.params_limit)]
    if search.latency_limit is not None:
        limits.append((read_latency(run), search.latency_limit))
    given = [(table, limit) for table, limit in limits if limit is not None]
    given.sort(key=lambda pair: pair[0].distribution().share(None, pair[1]))
    table, limit = given[0] if given else (costs.flops, None)
    return Evolution(
        table=table,
        limit=limit,
        others=tuple(given[1:]),
        population=search.population,
        generations=search.generations,
        parents=search.parents if search.algorithm == "evolution" else 0,
        mutations=search.mutations,
        crossovers=search.crossovers,
        mutation_probability=search.mutation_probability,
        seed=run.config.seed,
        flops=costs.flops,
        front_on=costs.flops if search.objective == "pareto" else None,
    )


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
        search["latency_table"] = file_digest(run.folder / LATENCY_TABLE)
    if (run.search_folder / "journal.jsonl").exists():
        theirs = read_settings(run)
        theirs.setdefault("space", settings["space"])  # it came later
        require_same(ours, theirs, f"{run.search_folder} holds a search")
    return ours


def remembered_images(run: Run, images: Images) -> dict[str, Any]:
    """What a search was begun with, of images, for its settings.

    Raises:
        RunError: there is a journal already, of images of other classes.
    """
    remembered = images.remembered(val=run.config.search.split == "val")
    if (run.search_folder / "journal.jsonl").exists():
        images.require_same_classes(read_settings(run).get("images"), f"{run.search_folder} holds a search")
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
    settings, found = read_settings(run), {name: digest(run.search_folder / name) for name in STORES}
    processes.barrier()
    if not (run.search_folder / "journal.jsonl").exists():
        if processes.is_main and settings.get("pixels") != found:
            forget_kept(run.search_folder)
            text = json.dumps({**settings, "pixels": found}, indent=1) + "\n"
            checkpoint.write_atomically(run.search_folder / "settings.json", text.encode())
    elif settings.get("pixels") != found:
        raise RunError(
            f"{run.search_folder} holds a search that has scored on other images{images.said_to_differ(settings)};"
            " restore those, use another --run-dir, or --fresh to start over"
        )
    processes.barrier()


def remember_settings(run: Run, supernet_digest: str, images: Images, processes: Processes) -> dict[str, Any]:
    """Keeps what the scores depend on beside the journal, and returns it.

    Raises:
        RunError: the journal there was made with other settings or images.
    """
    ours, folder = require_same_search(run, supernet_digest), run.search_folder
    ours["images"] = remembered_images(run, images)
    begun = (folder / "journal.jsonl").exists()
    processes.barrier()
    if processes.is_main and not begun:
        settings_file, text = folder / "settings.json", json.dumps(ours, indent=1) + "\n"
        theirs = {name: value for name, value in read_json(settings_file).items() if name != "pixels"}
        if theirs != json.loads(text):
            forget_kept(folder)
            checkpoint.write_atomically(settings_file, text.encode())
    processes.barrier()
    return ours


def make_evaluator(run: Run, supernet: Supernet, images: Images, processes: Processes) -> Evaluator:
    """Scores on the search split, or on the validation set if that was asked for by name."""
    search = run.config.search
    if search.split == "holdout":
        image_set, scored = images.train, images.splits[1]
    else:
        image_set, scored = images.val, datasets.interleave(images.val)
    path = run.search_folder / "scoring.u8"
    scoring = decode(run, path, image_set, scored[: search.images], images.evaluation, None, processes)
    calibration = decode_calibration(run, run.search_folder, images, processes)
    return Evaluator(
        supernet,
        images.preprocess,
        calibration=Calibration(calibration.images, search.calibration_batch_size, search.calibration_momentum),
        images=scoring.images,
        labels=scoring.labels,
        batch=search.batch_size,
        device=processes.device,
        amp=search.amp,
    )


def decode_calibration(run: Run, folder: Path, images: Images, processes: Processes) -> ImageStore:
    """The training images that BatchNorm statistics are computed from, the same for every candidate."""
    path, chosen = folder / "calibration.u8", calibration_indices(run, images)
    transform, seed = images.augmented, run.config.seed
    return decode(run, path, images.to_augment, chosen, transform, seed, processes, images.bad_images)


def kept_calibration(run: Run, images: Images) -> ImageStore | None:
    """The same as the run's search has left them, if it has."""
    path, chosen = run.search_folder / "calibration.u8", calibration_indices(run, images)
    if not ImageStore.matches(path, images.to_augment, chosen, images.augmented, seed=run.config.seed):
        return None
    return ImageStore.open(path)


def calibration_indices(run: Run, images: Images) -> NDArray[np.int64]:
    """Which training images they are.

    Raises:
        ConfigError: there are fewer of them than one calibration batch.
    """
    config, search = run.config, run.config.search
    training, _ = images.splits
    order = seeding.generator(config.seed, "calibration").permutation(len(training))
    chosen = training[order[: search.calibration_images]]
    if len(chosen) < search.calibration_batch_size:
        raise ConfigError(
            f"search.calibration_batch_size is {search.calibration_batch_size}, but there are {len(chosen)}"
            " training images; lower it"
        )
    return chosen


def decode(
    run: Run,
    path: Path,
    images: datasets.ImageSet,
    indices: NDArray[np.int64],
    transform: EvalTransform | TrainTransform,
    seed: int | None,
    processes: Processes,
    bad_images: BadImages | None = None,
) -> ImageStore:
    """Decodes images once, for all candidates and processes; broken ones are an error, or counted and replaced."""
    if processes.is_main and not ImageStore.matches(path, images, indices, transform, seed=seed):
        with track(f"decoding {path.stem} images", len(indices), "images", quiet=run.as_json) as task:
            ImageStore.build(
                path,
                images,
                indices,
                transform,
                seed=seed,
                workers=run.config.data.workers,
                progress=task.advance,
                bad_images=bad_images,
            )
    processes.barrier()
    return ImageStore.open(path)


class Scoring:
    """Scores generations over all processes, and keeps the journal.

    Args:
        parents: candidates of a generation that the next one is made of.
        racing: risk of a race against the last of them, over all of its checks; None for no races.
        overview: is told of all scores, for the dashboard of a search.
    """

    def __init__(
        self,
        processes: Processes,
        evaluator: Evaluator,
        costs: Costs,
        journal: Journal,
        parents: int,
        racing: float | None,
        overview: Overview | None = None,
    ) -> None:
        self.processes, self.evaluator, self.costs, self.journal = processes, evaluator, costs, journal
        self.parents, self.racing, self.overview = parents, racing, overview or Overview(0)
        lines = journal.read_of(evaluator.supernet.space)
        self.imported = [entry for entry in lines if not results.is_own(entry)]
        self.entries = {entry.architecture: entry for entry in results.own(lines)}
        self.rows, self.lines = results.rows(lines), len(lines)
        self.bitmaps = Bitmaps(journal.path.with_name("outcomes.bits"), len(evaluator.images))
        self.used = [entry for entry in self.entries.values() if entry.earlier]
        self.overview.add(self.used)
        self.changed = False  # whether the last generation had candidates that were not in the journal

    def score(self, candidates: Sequence[Candidate], request: StopRequest, task: Task) -> list[float]:
        """A score of each candidate, the higher the better; those in the journal are not scored again.

        Neighbours are scored together, since they have most in common. Their order is that of the journal, however
        many processes there are.

        Raises:
            Interrupted: on a signal; the journal has all scores so far.
        """
        pending = [candidate for candidate in candidates if candidate.architecture not in self.entries]
        task.skip(len(candidates) - len(pending))
        self.changed = bool(pending)
        self.overview.add(self.entries[c.architecture] for c in candidates if c.architecture in self.entries)
        task.phase, task.rows = self.overview.phase, self.overview.rows
        race = self.race() if pending else None
        neighbours = sorted(pending, key=lambda candidate: candidate.architecture.options)
        for together in chunks(neighbours, GROUP * self.processes.world_size):
            if self.processes.any(request.made):
                raise Interrupted(request.number or signal.SIGTERM)
            self.overview.add(self.score_together(together, race, request, task))
            task.rows = self.overview.rows
            best = self.overview.best
            note = f"generation {together[0].generation}" + (f", best top-1 {best.top1:.2%}" if best else "")
            task.advance(len(together), note=note)
        entries = [self.entries[candidate.architecture] for candidate in candidates]
        self.used += entries
        return [entry.fitness for entry in entries]

    def tied(self) -> ties.Ties:
        """What is tied with the best so far."""
        return ties.find(self.used, self.rows, self.bitmaps.path)

    def race(self) -> Race | None:
        """Against the last of the parents, if there are enough of them; the same for a whole generation."""
        if self.racing is None or not self.parents:
            return None
        complete = [entry for entry in ranking(self.used) if not entry.partial]
        if len(complete) < self.parents:
            return None
        last = complete[self.parents - 1]
        row = self.rows[last.architecture]
        rival = self.bitmaps.read(row) if self.processes.is_main else None  # only the one that writes has it for sure
        told = torch.zeros(1 + self.bitmaps.images, dtype=torch.uint8)
        if rival is not None and int(rival.sum()) == last.right:  # else the row was lost
            told[0], told[1:] = 1, torch.from_numpy(rival)
        told = told.to(self.processes.device)
        self.processes.copy_from_main([told])
        is_known, outcomes = bool(told[0]), told[1:].cpu().numpy().astype(bool)
        return Race(outcomes, self.racing) if is_known else None

    def score_together(
        self, candidates: Sequence[Candidate], race: Race | None, request: StopRequest, task: Task
    ) -> list[Entry]:
        """A share of them per process; the first one writes them all, in their order.

        Raises:
            Interrupted: on a signal in the midst of it.
        """
        size = -(-len(candidates) // self.processes.world_size)
        mine = candidates[self.processes.rank * size :][:size]
        note, before, first_half = task.note, 0.0, True

        def go_on(done: float) -> bool:
            nonlocal before, first_half
            first_half = first_half and done > before  # of the calibration; then it begins anew, of the scoring
            task.under_way, before = len(candidates) * (done if first_half else 1 + done) / 2, done
            task.advance(0, note=f"{note}, {done:.0%} of {len(candidates)} more" if note else "")
            return not request.made

        found = self.scores_of([candidate.architecture for candidate in mine], race, go_on)
        task.note, task.under_way = note, 0.0
        rows = self.processes.gather(_flat(found, size, self.bitmaps.images).to(self.processes.device)).cpu()
        for candidate, score in zip(candidates, _scores(rows, self.bitmaps.images), strict=False):
            if score is None:
                raise Interrupted(request.number or signal.SIGTERM)
            self.write(candidate, score)
        return [self.entries[candidate.architecture] for candidate in candidates]

    def write(self, candidate: Candidate, score: Score) -> None:
        """Adds a score to the journal, from the first process."""
        arch = candidate.architecture
        entry = Entry(
            architecture=arch,
            flops=self.costs.flops.of(arch),
            params=self.costs.params.of(arch),
            top1=score.top1_count / score.images,
            top5=score.top5_count / score.images,
            images=score.images,
            generation=candidate.generation,
            origin=candidate.origin,
            partial=score.partial,
        )
        if self.processes.is_main:
            self.bitmaps.write(self.lines, score.top1)
            self.journal.append(entry)
            self.kept(arch).unlink(missing_ok=True)
        self.rows[arch], self.lines = self.lines, self.lines + 1
        self.entries[arch] = entry

    def scores_of(
        self, archs: Sequence[Architecture], race: Race | None, go_on: Callable[[float], bool]
    ) -> list[Score | None]:
        """The scores of candidates, from this process; None for those that a signal came before.

        Of several processes, each keeps what it has found until the first one has it in the journal: the scores of
        those that are whole outlive one that is killed.
        """
        if self.processes.world_size == 1:
            found = self.evaluator.score(archs, race, go_on)
            return [None] * len(archs) if found is None else [*found]
        kept = {arch: score for arch in archs if (score := self.read_kept(arch)) is not None}
        left = [arch for arch in archs if arch not in kept]
        scores = self.evaluator.score(left, race, go_on) if left else []
        for arch, score in zip(left, scores or [], strict=False):
            with contextlib.suppress(RunError):  # a full disk costs only this safety
                checkpoint.write_atomically(self.kept(arch), _flat([score], 1, self.bitmaps.images).numpy().tobytes())
            kept[arch] = score
        return [kept.get(arch) for arch in archs]

    def read_kept(self, arch: Architecture) -> Score | None:
        """A score that a process has kept; None if there is none that is whole."""
        try:
            content = self.kept(arch).read_bytes()
        except OSError:
            return None
        empty = _flat([None], 1, self.bitmaps.images)
        if len(content) != empty.numel():
            return None
        return _scores(torch.frombuffer(bytearray(content), dtype=torch.uint8), self.bitmaps.images)[0]

    def kept(self, arch: Architecture) -> Path:
        """Where a score waits for its place in the journal."""
        return self.journal.path.with_name(f".scored-{arch.id}.bits")


def _flat(scores: Sequence[Score | None], size: int, images: int) -> Tensor:
    """`size` scores of up to `images` images as bytes: of each the counts, then the outcomes."""
    rows = np.zeros((size, images + COUNTS), np.uint8)
    for row, score in zip(rows, scores, strict=False):
        if score is not None:
            counts = np.array([score.images, score.top5_count, score.partial], "<i8")
            row[:COUNTS] = np.frombuffer(counts.tobytes(), np.uint8)
            row[COUNTS:][: score.images] = score.top1
    return torch.from_numpy(rows.reshape(-1))


def _scores(flat: Tensor, images: int) -> list[Score | None]:
    """The inverse of `_flat`, of one process or of several."""
    scores: list[Score | None] = []
    for row in flat.numpy().reshape(-1, images + COUNTS):
        seen, top5, partial = np.frombuffer(row[:COUNTS].tobytes(), "<i8").tolist()
        scores.append(Score(row[COUNTS:][:seen].astype(bool), top5, bool(partial)) if seen else None)
    return scores


def limits_of(run: Run) -> dict[str, int | None]:
    """The limits on candidates: that on FLOPs, and others where they are given."""
    search = run.config.search
    others = {"params": search.params_limit, "latency": search.latency_limit}
    return {"flops": search.flops_limit, **{name: limit for name, limit in others.items() if limit is not None}}


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
    checkpoint.write_atomically(run.search_folder / "result.yaml", text.encode())
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
