"""Measure what racing saves and changes: `python -m tests.benchmarks.racing RUN`.

RUN is the folder of a trained supernet. Each search runs twice from one seed, with races and without. Every candidate
is scored on all images once, so races can be simulated with the known outcomes. The result is the share of images that
races save, and the generations whose ten best differ from those without races.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from spos_cli.config import loading
from spos_cli.engine.distributed import Processes
from spos_cli.models.counting import count
from spos_cli.run.command import Run
from spos_cli.run.images import Images
from spos_cli.run.search_inputs import make_evaluator, make_evolution
from spos_cli.run.weights_file import read_weights
from spos_cli.search.evaluator import Evaluator, Score
from spos_cli.search.evolution import Candidate, Evolution
from spos_cli.search.racing import Race, list_interim_checks
from spos_cli.search.scoring import GROUP_SIZE
from spos_cli.space.architecture import Architecture

Best = list[set[Architecture]]  # the ten best architectures after each generation


class CachedSearch:
    """Runs searches over one supernet without scoring a candidate twice."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.known: dict[Architecture, Score] = {}

    def score(self, archs: Sequence[Architecture]) -> None:
        """Score the architectures that are new, on all images."""
        new = sorted({arch for arch in archs if arch not in self.known})
        for begin in range(0, len(new), GROUP_SIZE):
            group = new[begin : begin + GROUP_SIZE]
            self.known |= dict(zip(group, self.evaluator.score(group) or [], strict=True))

    def search(self, evolution: Evolution, risk: float | None) -> tuple[Best, int, int]:
        """Return the ten best after each generation, the number of scored images, and the number without races."""
        total, scored, possible = len(self.evaluator.images), 0, 0
        complete: dict[Architecture, float] = {}
        best: Best = []

        def rank(arch: Architecture) -> tuple[float, int, Architecture]:
            return -complete[arch], (evolution.main or evolution.table).of(arch), arch

        def evaluate(candidates: Sequence[Candidate]) -> list[float]:
            nonlocal scored, possible
            archs = [candidate.architecture for candidate in candidates]
            self.score(archs)
            parents = sorted(complete, key=rank)[: evolution.parents]
            race = None
            if risk is not None and len(parents) == evolution.parents:
                race = Race(self.known[parents[-1]].top1, risk)
            scores = []
            for arch in archs:
                outcomes = self.known[arch].top1
                stop = next((end for end in self.list_interim_checks() if race and race.is_lost(outcomes[:end])), None)
                scored, possible = scored + (stop or total), possible + total
                if stop is None:
                    complete[arch] = float(outcomes.mean())
                    scores.append(complete[arch])
                else:
                    scores.append(float(outcomes[:stop].mean()) - 1)
            best.append(set(sorted(complete, key=rank)[:10]))
            return scores

        for _ in evolution.search(evaluate):
            pass
        return best, scored, possible

    def list_interim_checks(self) -> list[int]:
        """List the numbers of images after which the evaluator checks races: at the ends of its batches."""
        batch, total = self.evaluator.batch, len(self.evaluator.images)
        ends = [min(total, end) for end in range(batch, total + batch, batch)]
        marks = [next(end for end in ends if end >= check) for check in list_interim_checks(total)]
        return sorted(set(marks) - {total})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--generations", type=int, default=6)
    options = parser.parse_args()
    sizes = {"population": 50, "parents": 10, "mutations": 25, "crossovers": 25, "generations": options.generations}
    config = loading.load(
        options.run / "config.yaml",
        [f"run_dir={options.run}", *(f"search.{name}={value}" for name, value in sizes.items())],
    )
    processes = Processes(0, 1, torch.device("cpu"))
    supernet = read_weights(options.run / "supernet" / "last.pt").supernet(config)
    run = Run(config)
    cached_search = CachedSearch(make_evaluator(run, run.folder.search, supernet, Images(config, processes), processes))
    evolution = make_evolution(run, count(supernet.space))
    table = Table("risk", "seed", "images scored", "generations with other ten best", "of the last ten best, other")
    for seed in range(options.seeds):
        of_seed = replace(evolution, seed=seed)
        whole, _, _ = cached_search.search(of_seed, None)
        for risk in (0.3, 0.1, 0.01):
            best, scored, possible = cached_search.search(of_seed, risk)
            changed = sum(one != other for one, other in zip(best, whole, strict=True))
            cells = (f"{scored / possible:.1%}", f"{changed} of {len(whole)}", len(best[-1] - whole[-1]))
            table.add_row(str(risk), str(seed), *map(str, cells))
            print(risk, seed, *cells, flush=True)
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)


if __name__ == "__main__":
    main()
