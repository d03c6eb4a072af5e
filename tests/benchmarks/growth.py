"""How cost grows: with the candidates in the journal, the size of the space, loader workers and the batch."""

from __future__ import annotations

import functools
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import numpy as np

from spos_cli.data.folder_set import FolderSet
from spos_cli.data.loaders import training_batches
from spos_cli.data.transforms import Augmentation, TrainTransform
from spos_cli.models.counting import Costs, count
from spos_cli.search.evolution import Candidate, Evolution
from spos_cli.search.journal import Entry, Journal
from spos_cli.search.results import Results
from spos_cli.space import choices as choices_module
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.limits import Limit
from spos_cli.space.sampling import CostBinSampler
from spos_cli.space.search_space import OFFICIAL_SPACE, SearchSpace, Stage
from tests.benchmarks import photographs
from tests.benchmarks.comparison import measure_spread
from tests.benchmarks.measure import Cost, Row, measure_cost, run_in_child

CANDIDATES = (100, 1_000, 10_000)
LAYERS, CHOICES = (20, 50, 100), (4, 20)
WORKERS = (1, 2, 4)
LIMIT, OTHER_LIMIT = 330_000_000, 320_000_000  # FLOPs
POPULATION = 50  # as in the official code
DRAWS = 2_000
JOURNAL_TARGET, DRAW_TARGET = "under 2 s", "under 50 us"


# The journal


@functools.cache
def count_costs() -> Costs:
    """Count the costs of the official space once; counting is measured in a line of its own."""
    return count(OFFICIAL_SPACE)


def make_evolution(candidates: int) -> Evolution:
    """Make a search with the official sizes that ends after a number of candidates."""
    return Evolution(
        table=count_costs().flops,
        limit=Limit(LIMIT),
        population=POPULATION,
        generations=candidates // POPULATION - 1,
        parents=10,
        mutations=25,
        crossovers=25,
        mutation_probability=0.1,
        seed=0,
    )


def invent_score(arch: Architecture) -> float:
    """Return a top-1 for a candidate: a hash, coarse enough that some scores are equal."""
    return int(hashlib.sha256(str(arch).encode()).hexdigest()[:8], 16) % 8_000 / 8_000


def write_journal(path: Path, candidates: int) -> None:
    """Write the journal of such a search."""
    with path.open("w") as file:
        for generation in make_evolution(candidates).search(lambda new: [invent_score(c.architecture) for c in new]):
            for new, top1 in generation:
                arch = new.architecture
                flops, params = count_costs().flops.of(arch), count_costs().params.of(arch)
                entry = Entry(arch, flops, params, top1, top1, 8_000, new.generation, new.origin)
                file.write(entry.to_line())


class EndOfJournal(Exception):
    """Raised at the first candidate without a score."""


def resume(path: Path, candidates: int) -> None:
    """Do what a search does before it scores again: read the journal, and propose the same candidates as before."""
    known = {entry.architecture: entry.top1 for entry in Journal(path).read()}

    def scores(new: Sequence[Candidate]) -> list[float]:
        if not all(candidate.architecture in known for candidate in new):
            raise EndOfJournal
        return [known[candidate.architecture] for candidate in new]

    try:
        for _ in make_evolution(candidates + POPULATION).search(scores):
            pass
    except EndOfJournal:
        return
    raise AssertionError("the journal holds more than it should")


def export(path: Path, candidates: int) -> None:
    """Do what `export-arch` does: read all entries, check them, and rank those under a limit."""
    entries = Journal(path).read()
    assert len(entries) == candidates
    for entry in entries:
        OFFICIAL_SPACE.validate(entry.architecture)
    assert Results.to_export(entries).within({"flops": Limit(OTHER_LIMIT)}).ranking


def search_again(path: Path, candidates: int) -> None:
    """Do what a search under another limit does: take over the scores that fit, and propose a generation."""
    known = {entry.architecture: entry.top1 for entry in Journal(path).read() if entry.flops <= OTHER_LIMIT}
    next(iter(make_evolution(candidates).search(lambda new: [0.0] * len(new), known)))


JOURNAL_WORK: dict[str, Callable[[Path, int], None]] = {
    "resume a search": resume,
    "export-arch": export,
    "search under another limit": search_again,
}


def measure_journal(what: str, path: Path, candidates: int) -> Cost:
    """Measure a piece of work on a journal; call it in a new process."""
    count_costs().flops.distribution()
    return measure_cost(lambda: JOURNAL_WORK[what](path, candidates), 3)


def journals() -> Iterator[Row]:
    """Measure seconds and memory by the number of candidates."""
    with tempfile.TemporaryDirectory() as folder:
        for candidates in CANDIDATES:
            path = Path(folder) / f"{candidates}.jsonl"
            write_journal(path, candidates)
            target = JOURNAL_TARGET if candidates == max(CANDIDATES) else ""
            for what in JOURNAL_WORK:
                cost = run_in_child(measure_journal, what, path, candidates)
                yield Row(f"journal: {what}", f"{candidates:,}", cost.median, "s", cost.above_rest, target, cost.spread)


# The space


def make_space(layers: int, choices: int) -> SearchSpace:
    """Make the official space deeper in its proportions, with larger kernels as more choices.

    The largest kernel is 31, which allows 16 choices; here the limit is lifted for 20 choices.
    """
    stages = tuple(Stage(stage.blocks * layers // 20, stage.channels) for stage in OFFICIAL_SPACE.stages)
    kernels = [Choice("shuffle", (("kernel", 2 * index + 3),)) for index in range(choices - 1)]
    with mock.patch.object(choices_module, "MAX_KERNEL", 2 * choices + 1):
        return SearchSpace(stages, (*kernels, Choice("shuffle_xception")), 224, 1000, 16, 2, 1024)


def measure_space(layers: int, choices: int) -> tuple[Cost, Cost, Cost]:
    """Measure counting, the distribution of costs, and drawing; call it in a new process.

    Paths are drawn in five turns of `DRAWS`, from the four bins around the middle of the space's costs. The random
    generator of each draw is included.
    """
    space = make_space(layers, choices)
    counting = measure_cost(lambda: count(space), 1)
    table = count(space).flops
    distribution = measure_cost(table.distribution, 1)
    width = (table.maximum - table.minimum) // 25
    low = (table.maximum + table.minimum) // 2 - 2 * width
    sampler = CostBinSampler(table, low, low + 4 * width, width, seed=0)
    draws = measure_cost(lambda: [sampler.draw(step) for step in range(DRAWS)], 5, warm_up=1)
    return counting, distribution, draws


def spaces(full: bool) -> Iterator[Row]:
    """Measure seconds and memory by layers and choices.

    The largest space takes minutes and gigabytes, so it is measured in full runs only.
    """
    for choices in CHOICES:
        for layers in LAYERS:
            if not full and (layers, choices) == (LAYERS[-1], CHOICES[-1]):
                continue
            size = f"{layers} layers, {choices} choices"
            counting, distribution, draws = run_in_child(measure_space, layers, choices)
            yield Row("space: cost tables", size, counting.median, "s", counting.above_rest)
            yield Row("space: distribution of costs", size, distribution.median, "s", distribution.above_rest)
            target = DRAW_TARGET if (layers, choices) == (LAYERS[0], CHOICES[0]) else ""
            yield Row("space: path in a FLOPs bin", size, draws.median / DRAWS * 1e6, "us", None, target, draws.spread)


# The loader


def loaders(full: bool) -> Iterator[Row]:
    """Measure images per second of the training loader on JPEG files, by number of workers."""
    number, batch = (1024, 64) if full else (384, 32)
    transform = TrainTransform("spos", 224, Augmentation())
    with tempfile.TemporaryDirectory() as name:
        photographs.write(Path(name), number)
        images = FolderSet(Path(name))
        for workers in WORKERS:
            rates = []
            for turn in range(3):
                batches = training_batches(
                    images,
                    np.arange(len(images)),
                    transform,
                    seed=turn,
                    batch_size=batch,
                    first_step=0,
                    last_step=number // batch,
                    workers=workers,
                )
                next(batches)  # Now the workers have started.
                begin = time.perf_counter()
                seen = sum(len(loaded[-1]) for loaded in batches)
                rates.append(seen / (time.perf_counter() - begin))
            rate, spread = statistics.median(rates), measure_spread(rates)
            yield Row("training loader, JPEG 500x375", f"{workers} workers", rate, "images/s", spread=spread)
