"""Score a generation over all processes, and write the journal."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable, Sequence
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
from spos_cli.search.balance import Balance
from spos_cli.search.evaluator import Evaluator, GoOn, Score
from spos_cli.search.evaluator_by_size import EvaluatorBySize
from spos_cli.search.evolution import Candidate
from spos_cli.search.journal import Entry, Journal
from spos_cli.search.outcomes import OutcomesFile
from spos_cli.search.overview import Overview
from spos_cli.search.racing import Race
from spos_cli.search.results import Results, is_counted
from spos_cli.space.architecture import Architecture, Option

GROUP_SIZE = 8  # Candidates that a process scores together: more would need more memory, and a kill would lose more.
HEADER_BYTES = 3 * 8  # Three 64-bit counts before the outcomes of a packed score.


class Scoring:
    """Score the generations of a search over all processes, and write the journal.

    Args:
        journal: its candidates are not scored again.
        parents: number of best candidates from which the next generation is made.
        balanced: whether the fitness is balanced accuracy; without races only.
        racing: risk of a race against the last parent, over all of its interim checks; None for no races.
        overview: receives all scores, for the dashboard of a search.
        known: more candidates that are not scored again, from elsewhere.
        group_size: candidates that a process scores together.

    Attributes:
        imported: candidates of another search, scored on other images.
        entries: all candidates that are not scored again, by architecture.
        used: scored candidates that the search has asked for so far, after those that an earlier search has scored on
            the same images.
        rows: the line of each candidate in the journal, from 0.
        lines: number of lines in the journal.
        changed: whether the last generation had candidates that were not in the journal.
    """

    def __init__(
        self,
        processes: Processes,
        evaluator: Evaluator | EvaluatorBySize,
        costs: Costs,
        journal: Journal,
        *,
        parents: int,
        racing: float | None,
        balanced: bool = False,
        overview: Overview | None = None,
        known: Iterable[Entry] = (),
        group_size: int = GROUP_SIZE,
    ) -> None:
        self.processes, self.evaluator, self.costs, self.journal = processes, evaluator, costs, journal
        assert not (balanced and racing), "a race compares top-1"
        self.parents, self.racing, self.overview = parents, racing, overview or Overview(0)
        self.balance = Balance(evaluator.labels.cpu().numpy()) if balanced else None
        lines = journal.read_of(evaluator.supernet.space)
        before = Results.of(lines)
        self.imported = [entry for entry in lines if not is_counted(entry)]
        self.entries = {entry.architecture: entry for entry in [*known, *before.candidates]}
        self.rows, self.lines = dict(before.rows), len(lines)
        self.outcomes = OutcomesFile(journal.path.with_name("outcomes.bits"), len(evaluator.images))
        self.used = [entry for entry in before.candidates if entry.earlier]
        self.overview.add(self.used)
        self.group_size = group_size
        self.changed = False

    @property
    def results(self) -> Results:
        """The candidates that the search has used so far."""
        return Results(self.used, self.rows, self.outcomes.path)

    def score(self, candidates: Sequence[Candidate], request: StopRequest, task: Task) -> list[float]:
        """Return the fitness of each candidate; those in the journal are not scored again.

        Neighbours of one image size are scored together, since they have most in common. The journal has them in this
        order, however many processes there are.

        Raises:
            Interrupted: on a signal; the journal has all scores so far.
        """
        pending = [candidate for candidate in candidates if candidate.architecture not in self.entries]
        task.skip(len(candidates) - len(pending))
        self.changed = bool(pending)
        self.overview.add(self.entries[c.architecture] for c in candidates if c.architecture in self.entries)
        task.phase, task.rows = self.overview.phase, self.overview.rows
        race = self._make_race() if pending else None
        neighbours = sorted(pending, key=lambda candidate: order_key(candidate.architecture))
        for group in chunks(neighbours, self.group_size * self.processes.world_size):
            if self.processes.any(request.is_set):
                raise Interrupted(request.number or signal.SIGTERM)
            self._score_group(group, race, request, task)
            self.overview.add(self.entries[candidate.architecture] for candidate in group)
            task.rows = self.overview.rows
            generation = f"generation {group[0].generation}, " if self.overview.generations else ""
            best = self.overview.best
            task.advance(len(group), note=generation + (f"best {best.score_name} {best.score:.2%}" if best else ""))
        entries = [self.entries[candidate.architecture] for candidate in candidates]
        self.used += entries
        return [entry.fitness for entry in entries]

    def _make_race(self) -> Race | None:
        """Return the race against the last parent, the same for a whole generation; None without enough parents."""
        if self.racing is None or not self.parents:
            return None
        results = self.results
        if len(results.complete) < self.parents:
            return None
        last = results.ranking[self.parents - 1]
        row = torch.zeros(1 + self.outcomes.images, dtype=torch.uint8)  # whether the outcomes are known, then these
        if self.processes.is_main:  # Others may not see yet what the first process has written.
            rival = self.outcomes.read(self.rows[last.architecture])
            if rival is not None and int(rival.sum()) == last.right:  # Otherwise the row was lost.
                row[0], row[1:] = 1, torch.from_numpy(rival)
        row = row.to(self.processes.device)
        self.processes.copy_from_main([row])
        is_known, outcomes = bool(row[0]), row[1:].cpu().numpy().astype(bool)
        return Race(outcomes, self.racing) if is_known else None

    def _score_group(self, group: Sequence[Candidate], race: Race | None, request: StopRequest, task: Task) -> None:
        """Score a share of a group in each process, and write the whole group to the journal, in its order.

        Raises:
            Interrupted: on a signal while a process was scoring.
        """
        share, images = -(-len(group) // self.processes.world_size), self.outcomes.images
        mine = [candidate.architecture for candidate in group[self.processes.rank * share :][:share]]
        note = task.note

        def go_on(done: float) -> bool:
            task.under_way = len(group) * done
            task.advance(0, note=f"{note}, {done:.0%} of {len(group)} more" if note else "")
            return not request.is_set

        scores = self._score_share(mine, race, go_on)
        task.note, task.under_way = note, 0.0
        gathered = self.processes.gather(pack(scores, share, images).to(self.processes.device)).cpu()
        for candidate, score in zip(group, unpack(gathered, images), strict=False):
            if score is None:
                raise Interrupted(request.number or signal.SIGTERM)
            self._write(candidate, score)

    def _score_share(self, archs: Sequence[Architecture], race: Race | None, go_on: GoOn) -> list[Score | None]:
        """Score candidates in this process; None for those that a signal has stopped.

        Of several processes, each keeps its scores in files until the first process has written them to the journal,
        so that they are not lost if another process is killed.
        """
        if self.processes.world_size == 1:
            scores_here = self.evaluator.score(archs, race, go_on)
            return [None] * len(archs) if scores_here is None else [*scores_here]
        scores = {arch: score for arch in archs if (score := self._read_waiting(arch)) is not None}
        missing = [arch for arch in archs if arch not in scores]
        new_scores = self.evaluator.score(missing, race, go_on) if missing else []
        for arch, score in zip(missing, new_scores or [], strict=False):
            with contextlib.suppress(RunError):  # With a full disk, a kill may lose this score.
                write_atomically(self._waiting_path(arch), pack([score], 1, self.outcomes.images).numpy().tobytes())
            scores[arch] = score
        return [scores.get(arch) for arch in archs]

    def _write(self, candidate: Candidate, score: Score) -> None:
        """Note a score in all processes; the first one writes it to the journal."""
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
            partial=score.stopped_early,
            costs={name: table.of(arch) for name, table in self.costs.others.items()},
            balanced=None if self.balance is None else self.balance.accuracy(score.top1),
            effective_images=None if self.balance is None else self.balance.effective_images(score.top1),
        )
        if self.processes.is_main:
            self.outcomes.write(self.lines, score.top1)
            self.journal.append(entry)
            self._waiting_path(arch).unlink(missing_ok=True)
        self.rows[arch], self.lines = self.lines, self.lines + 1
        self.entries[arch] = entry

    def _waiting_path(self, arch: Architecture) -> Path:
        """Return the file in which a score waits until it is in the journal."""
        return self.journal.path.with_name(f".scored-{arch.id}.bits")

    def _read_waiting(self, arch: Architecture) -> Score | None:
        """Read a waiting score; None if there is none, or only a torn one."""
        try:
            content = self._waiting_path(arch).read_bytes()
        except OSError:
            return None
        if len(content) != HEADER_BYTES + self.outcomes.images:
            return None
        return unpack(torch.frombuffer(bytearray(content), dtype=torch.uint8), self.outcomes.images)[0]


def order_key(arch: Architecture) -> tuple[int, tuple[Option, ...]]:
    """Return the key by which candidates are sorted so that neighbours have much in common."""
    return arch.image_size, arch.options


def remove_waiting_scores(folder: Path) -> None:
    """Remove scores that wait for the journal in a search's folder: they were found with other settings or images."""
    for path in folder.glob(".scored-*.bits"):
        path.unlink()


def pack(scores: Sequence[Score | None], size: int, images: int) -> Tensor:
    """Pack `size` scores as bytes `(size * (HEADER_BYTES + images),)`, to send or to store; zeros for None."""
    rows = np.zeros((size, HEADER_BYTES + images), np.uint8)
    for row, score in zip(rows, scores, strict=False):
        if score is not None:
            header = np.array([score.images, score.top5_count, score.stopped_early], "<i8")
            row[:HEADER_BYTES] = np.frombuffer(header.tobytes(), np.uint8)
            row[HEADER_BYTES:][: score.images] = score.top1
    return torch.from_numpy(rows.reshape(-1))


def unpack(packed: Tensor, images: int) -> list[Score | None]:
    """Return the scores that one process, or several, have packed."""
    scores: list[Score | None] = []
    for row in packed.numpy().reshape(-1, HEADER_BYTES + images):
        seen, top5_count, stopped_early = np.frombuffer(row[:HEADER_BYTES].tobytes(), "<i8").tolist()
        top1 = row[HEADER_BYTES:][:seen].astype(bool)  # (seen,)
        scores.append(Score(top1, top5_count, bool(stopped_early)) if seen else None)
    return scores
