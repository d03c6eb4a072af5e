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

from spos_cli.data.datasets import FolderSet
from spos_cli.data.loaders import training_batches
from spos_cli.data.transforms import Augmentation, TrainTransform
from spos_cli.models.counting import Costs, count
from spos_cli.search.evolution import Candidate, Evolution
from spos_cli.search.journal import Entry, Journal, ranking
from spos_cli.space import search_space
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.sampling import CostBinSampler
from spos_cli.space.search_space import OFFICIAL_SPACE, SearchSpace, Stage
from tests.benchmarks import photographs
from tests.benchmarks.measure import Cost, Row, cost_of, in_child

CANDIDATES = (100, 1_000, 10_000)
LAYERS, CHOICES = (20, 50, 100), (4, 20)
WORKERS = (1, 2, 4)
LIMIT, OTHER_LIMIT = 330_000_000, 320_000_000  # FLOPs
POPULATION = 50  # as published
DRAWS = 2_000
JOURNAL_TARGET, DRAW_TARGET = "under 2 s", "under 50 us"


# The journal


@functools.cache
def costs() -> Costs:
    """Of the published space; measuring them has a line of its own."""
    return count(OFFICIAL_SPACE)


def evolution(candidates: int) -> Evolution:
    """A search of the published sizes that ends after so many candidates."""
    return Evolution(
        table=costs().flops,
        limit=LIMIT,
        population=POPULATION,
        generations=candidates // POPULATION - 1,
        parents=10,
        mutations=25,
        crossovers=25,
        mutation_probability=0.1,
        seed=0,
    )


def made_up_score(arch: Architecture) -> float:
    """A top-1 for a candidate: a hash of it, coarse enough that some are equal."""
    return int(hashlib.sha256(str(arch).encode()).hexdigest()[:8], 16) % 8_000 / 8_000


def write_journal(path: Path, candidates: int) -> None:
    """The journal of such a search."""
    with path.open("w") as file:
        for generation in evolution(candidates).search(lambda new: [made_up_score(c.architecture) for c in new]):
            for new, top1 in generation:
                arch = new.architecture
                flops, params = costs().flops.of(arch), costs().params.of(arch)
                entry = Entry(arch, flops, params, top1, top1, 8_000, new.generation, new.origin)
                file.write(entry.to_line())


class EndOfJournal(Exception):
    """The first candidate that has no score yet."""


def resume(path: Path, candidates: int) -> None:
    """What a search does before it scores again: reads all, and proposes what it has proposed before."""
    known = {entry.architecture: entry.top1 for entry in Journal(path).read()}

    def scores(new: Sequence[Candidate]) -> list[float]:
        if not all(candidate.architecture in known for candidate in new):
            raise EndOfJournal
        return [known[candidate.architecture] for candidate in new]

    try:
        for _ in evolution(candidates + POPULATION).search(scores):
            pass
    except EndOfJournal:
        return
    raise AssertionError("the journal holds more than it should")


def export(path: Path, candidates: int) -> None:
    """What `export-arch` does: reads all, checks them, and ranks those under a limit."""
    entries = Journal(path).read()
    assert len(entries) == candidates
    for entry in entries:
        OFFICIAL_SPACE.validate(entry.architecture)
    assert ranking(entries, OTHER_LIMIT)


def ask_again(path: Path, candidates: int) -> None:
    """What a search under another limit does with a journal: takes over what fits, and proposes a generation."""
    known = {entry.architecture: entry.top1 for entry in Journal(path).read() if entry.flops <= OTHER_LIMIT}
    next(iter(evolution(candidates).search(lambda new: [0.0] * len(new), known)))


JOURNAL_WORK: dict[str, Callable[[Path, int], None]] = {
    "resume a search": resume,
    "export-arch": export,
    "search under another limit": ask_again,
}


def journal_cost(what: str, path: Path, candidates: int) -> Cost:
    """To be called in a process of its own."""
    costs().flops.distribution()
    return cost_of(lambda: JOURNAL_WORK[what](path, candidates), 3)


def journals() -> Iterator[Row]:
    """Seconds and memory by the number of candidates."""
    with tempfile.TemporaryDirectory() as folder:
        for candidates in CANDIDATES:
            path = Path(folder) / f"{candidates}.jsonl"
            write_journal(path, candidates)
            target = JOURNAL_TARGET if candidates == max(CANDIDATES) else ""
            for what in JOURNAL_WORK:
                cost = in_child(journal_cost, what, path, candidates)
                yield Row(f"journal: {what}", f"{candidates:,}", cost.median, "s", cost.above_rest, target)


# The space


def space_of(layers: int, choices: int) -> SearchSpace:
    """The published space, made deeper in its proportions; more choices are larger kernels.

    Kernels end at 31, which makes 16 of them; for 20 choices the limit is lifted here.
    """
    stages = tuple(Stage(stage.blocks * layers // 20, stage.channels) for stage in OFFICIAL_SPACE.stages)
    kernels = [Choice("shuffle", (("kernel", 2 * place + 3),)) for place in range(choices - 1)]
    with mock.patch.object(search_space, "MAX_KERNEL", 2 * choices + 1):
        return SearchSpace(stages, (*kernels, Choice("shuffle_xception")), 224, 1000, 16, 2, 1024)


def space_costs(layers: int, choices: int) -> tuple[Cost, Cost, Cost]:
    """Of counting on the meta device, of the distribution, and of drawing; to be called in a process of its own.

    Paths are drawn in five turns of `DRAWS`, from the four bins around the middle of the space's costs, with the
    generator of each draw.
    """
    space = space_of(layers, choices)
    counting = cost_of(lambda: count(space), 1)
    table = count(space).flops
    distribution = cost_of(table.distribution, 1)
    width = (table.maximum - table.minimum) // 25
    low = (table.maximum + table.minimum) // 2 - 2 * width
    sampler = CostBinSampler(table, low, low + 4 * width, width, seed=0)
    draws = cost_of(lambda: [sampler.draw(step) for step in range(DRAWS)], 5, warm_up=1)
    return counting, distribution, draws


def spaces(full: bool) -> Iterator[Row]:
    """Seconds and memory by layers and choices; the largest needs minutes and gigabytes, so only in full."""
    for choices in CHOICES:
        for layers in LAYERS:
            if not full and (layers, choices) == (LAYERS[-1], CHOICES[-1]):
                continue
            size = f"{layers} layers, {choices} choices"
            counting, distribution, draws = in_child(space_costs, layers, choices)
            yield Row("space: cost tables, meta device", size, counting.median, "s", counting.above_rest)
            yield Row("space: distribution of costs", size, distribution.median, "s", distribution.above_rest)
            target = DRAW_TARGET if (layers, choices) == (LAYERS[0], CHOICES[0]) else ""
            yield Row("space: path in a FLOPs bin", size, draws.median / DRAWS * 1e6, "us", None, target)


# The loader


def loaders(full: bool) -> Iterator[Row]:
    """Images per second of our training loader over JPEG files, by workers; nothing else runs meanwhile."""
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
                next(batches)  # the workers are there
                begin = time.perf_counter()
                seen = sum(len(loaded[-1]) for loaded in batches)
                rates.append(seen / (time.perf_counter() - begin))
            yield Row("training loader, JPEG 500x375", f"{workers} workers", statistics.median(rates), "images/s")
