"""Scores a generation over all processes, and keeps the journal."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spos_cli.data.loaders import chunks
from spos_cli.engine.distributed import Processes
from spos_cli.engine.interrupt import Interrupted, StopRequest
from spos_cli.engine.progress import Task
from spos_cli.errors import RunError
from spos_cli.files.writing import write_atomically
from spos_cli.models.counting import Costs
from spos_cli.search import results, ties
from spos_cli.search.evaluator import Evaluator, Score
from spos_cli.search.evolution import Candidate
from spos_cli.search.journal import Bitmaps, Entry, Journal, ranking
from spos_cli.search.overview import Overview
from spos_cli.search.racing import Race
from spos_cli.space.architecture import Architecture

GROUP = 8  # candidates that a process scores together: so many are lost if it is killed, and in memory at once


COUNTS = 3 * 8  # bytes of what is told of a score beside its outcomes


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
            if self.processes.any(request.is_set):
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
            return not request.is_set

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
                write_atomically(self.kept(arch), _flat([score], 1, self.bitmaps.images).numpy().tobytes())
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
