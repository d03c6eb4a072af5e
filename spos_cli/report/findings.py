"""What a report says of a run: plain data in, and the numbers that the page draws out. Nothing is scored here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, get_args

import numpy as np

from spos_cli.search import results
from spos_cli.search.journal import Entry, Origin, ranking
from spos_cli.search.results import is_new, is_own
from spos_cli.search.statistics import front, interval
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.search_space import SearchSpace

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"  # a choice is one of them: MAX_CHOICES
TOP = 10  # whose choices are compared with those of all
CURVE = 1500  # points of a curve that are drawn at most

Number = float | None  # None where a file has none, or one that is not finite


@dataclass(frozen=True)
class Training:
    """The curves of one training, as its metrics have them; `val_*` are of the steps at which it was evaluated."""

    name: str
    steps: Sequence[int]
    loss: Sequence[Number]
    top1: Sequence[Number]
    lr: Sequence[Number]
    val_steps: Sequence[int] = ()
    val_loss: Sequence[Number] = ()
    val_top1: Sequence[Number] = ()


@dataclass(frozen=True)
class Retrained:
    """A network that was trained alone; `right` of `images` validation images."""

    architecture: Architecture
    right: int
    images: int
    steps: int

    @property
    def top1(self) -> float:
        """Share of the validation images."""
        return self.right / self.images


@dataclass(frozen=True)
class Effort:
    """What one stage has cost.

    Attributes:
        work: what was done, in words.
        seconds: of work; None if nothing has kept the time.
        complete: whether `seconds` are of all that was done; a process that is killed leaves no time.
        images_per_second: None if it is not known.
        device: where it ran, in words; empty if it is not known.
    """

    stage: str
    work: str
    seconds: float | None
    complete: bool
    images_per_second: float | None
    device: str


@dataclass(frozen=True)
class Audit:
    """What `spos audit` has found out; each part may be missing.

    Attributes:
        curves: of `random` and `evolution`: for each seed the best top-1 so far, by evaluation.
        operators: by name, how often its children were proposed, accepted, known already, and over a limit.
        one_shot, alone: top-1 of the same architectures in the supernet and trained alone for `fidelity_steps`; without
            the winner, which was picked for its score.
        winner: the same two numbers of the winner; None if they are not known.
        correlations: of the two rankings, by name, the value and its interval; `kendall_of_flops` is FLOPs' with alone.
        images: numbers of search images, with the width of the tie (a share) and how many of the best are in it.
    """

    curves: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    operators: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    fidelity_steps: int | None = None
    one_shot: Sequence[float] = ()
    alone: Sequence[float] = ()
    fidelity_flops: Sequence[int] = ()
    winner: tuple[float, float] | None = None
    correlations: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    images: Sequence[tuple[int, float, int]] = ()

    @property
    def candidates(self) -> int:
        """Of each search that it compares, the run's own one among them; 0 if it has none.

        Random search has fewer where the limits allow no more.
        """
        return max((len(seed) for seeds in self.curves.values() for seed in seeds), default=0)


@dataclass(frozen=True)
class Search:
    """The candidates of a search.

    Attributes:
        entries: the lines of its journal, in their order.
        limits: by cost (`flops`, `params`, `latency` in microseconds); None is no limit.
        winner: the best one.
        ties: the lines that a paired test cannot tell from the winner, with its p-values; None if there is no telling.
        unknown: why no tie is claimed, or not of all, in words; empty if there is nothing to say.
        planned: candidates in all, if no search space ends before; None if it is not known.
        covered: where the whole front was searched for, its hypervolume as a share of the rectangle from no FLOPs to
            the limit, and from top-1 0 to 1; else None.
        exported: the architectures that were written to files.
    """

    entries: Sequence[Entry]
    limits: Mapping[str, int | None]
    winner: Architecture
    ties: Mapping[int, float] | None = None
    unknown: str = ""
    planned: int | None = None
    covered: float | None = None
    exported: frozenset[Architecture] = frozenset()

    @cached_property
    def own(self) -> list[int]:
        """The lines whose scores were found on the images of this search, those among them that were stopped early."""
        return [i for i, entry in enumerate(self.entries) if is_own(entry)]

    @cached_property
    def new(self) -> list[int]:
        """Those of them that this search has scored itself."""
        return [i for i, entry in enumerate(self.entries) if is_new(entry)]

    @cached_property
    def lines(self) -> dict[Architecture, int]:
        """The line of each architecture; of one that was scored again, the line that counts."""
        return {entry.architecture: i for i, entry in enumerate(self.entries)} | results.rows(self.entries)

    @cached_property
    def compared(self) -> list[int]:
        """The lines whose scores can be compared: to the end, on the images of this search."""
        return [i for i in self.own if not self.entries[i].partial]

    @property
    def stopped(self) -> int:
        """How many of these candidates were stopped early."""
        return len(self.own) - len(self.compared)

    @cached_property
    def winner_line(self) -> int:
        """The winner's place in the journal."""
        return self.lines[self.winner]

    @property
    def best(self) -> Entry:
        """The winner's line."""
        return self.entries[self.winner_line]

    @cached_property
    def cheapest(self) -> int:
        """The line of the cheapest candidate that is tied with the winner; the winner's own if there is none."""
        return self.cheapest_first([*(self.ties or ()), self.winner_line])[0]

    def cheapest_first(self, lines: Iterable[int]) -> list[int]:
        """Lines by FLOPs; of those that cost the same the better first, as `export-arch --prefer smallest` has them."""
        return sorted(lines, key=lambda line: (self.entries[line].flops, self.entries[line].rank))

    def front(self, cost: str) -> list[int]:
        """The lines that no other one beats in both top-1 and a cost (`flops` or `params`), by cost."""
        costs = [float(getattr(self.entries[i], cost)) for i in self.compared]
        scores = [self.entries[i].top1 for i in self.compared]
        return [self.compared[i] for i in front(costs, scores)]


@dataclass(frozen=True)
class Findings:
    """All that a report can be made of; what a run has not done yet is empty or None."""

    name: str
    space: SearchSpace | None
    search: Search | None
    trainings: Sequence[Training] = ()
    retrained: Sequence[Retrained] = ()
    efforts: Sequence[Effort] = ()
    audit: Audit | None = None


@lru_cache(maxsize=2**16)
def score_interval(right: int, images: int) -> tuple[float, float]:
    """The 95 % interval of a score; many candidates have the same."""
    return interval(right, images)


def best_so_far(scores: Sequence[Number]) -> tuple[list[int], list[float]]:
    """Where the largest score so far changes, counted from 1, and what it is then; the last place at the end.

    Those that are None count, but are never the largest; with nothing else, there is no place.
    """
    places: list[int] = []
    values: list[float] = []
    for place, score in enumerate(scores, 1):
        if score is not None and (not values or score > values[-1]):
            places.append(place)
            values.append(score)
    if places and places[-1] < len(scores):
        places.append(len(scores))
        values.append(values[-1])
    return places, values


def ops_of(space: SearchSpace) -> list[Choice]:
    """The choices of all layers, each once, in the order in which they come; identity last."""
    choices = dict.fromkeys(choice for layer in space.layers for choice in layer.choices)
    return sorted(choices, key=lambda choice: choice.op == "identity")


def choice_shares(space: SearchSpace, archs: Sequence[Architecture]) -> list[list[Number]]:
    """By op (as `ops_of` has them) and layer, the share of the architectures that have it; None where there is none."""
    ops, count = ops_of(space), max(1, len(archs))
    choices = np.array([arch.choices for arch in archs], np.int64).reshape(len(archs), space.num_layers)
    shares: list[list[Number]] = [[None] * space.num_layers for _ in ops]
    for layer in space.layers:
        counts = np.bincount(choices[:, layer.index], minlength=len(layer.choices))
        for choice, number in zip(layer.choices, counts.tolist(), strict=False):
            shares[ops.index(choice)][layer.index] = number / count
    return shares


def width_shares(widths: Sequence[int], archs: Sequence[Architecture], layers: int) -> list[list[Number]]:
    """By width (thousandths) and layer, the share of the architectures that have it."""
    table = np.array([arch.widths or (0,) * layers for arch in archs], np.int64).reshape(len(archs), layers)
    return [((table == width).mean(axis=0) if len(archs) else np.zeros(layers)).tolist() for width in widths]


def stages_of(space: SearchSpace) -> list[int]:
    """By layer, the number of its stage, from 0."""
    return [number for number, stage in enumerate(space.stages) for _ in range(stage.blocks)]


def thinned(training: Training) -> Training:
    """The same curves with at most `CURVE` points, the last among them."""
    stride = math.ceil(len(training.steps) / CURVE)
    if stride <= 1:
        return training
    keep = slice((len(training.steps) - 1) % stride, None, stride)
    values = (training.steps[keep], training.loss[keep], training.top1[keep], training.lr[keep])
    return Training(training.name, *values, training.val_steps, training.val_loss, training.val_top1)


def page_data(findings: Findings) -> dict[str, Any]:
    """What the page's script draws, in plain types and short: 20,000 candidates take about a megabyte."""
    data: dict[str, Any] = {"trainings": [_curves(thinned(training)) for training in findings.trainings]}
    if findings.space is not None and findings.search is not None:
        data["space"] = _space(findings.space)
        data["search"] = _search(findings.space, findings.search)
    if findings.audit is not None:
        data["audit"] = _audit(findings.audit)
    return data


def _curves(training: Training) -> dict[str, Any]:
    return {
        "name": training.name,
        "step": list(training.steps),
        "loss": _rounded(training.loss),
        "top1": _rounded(training.top1),
        "lr": _rounded(training.lr),
        "val_step": list(training.val_steps),
        "val_loss": _rounded(training.val_loss),
        "val_top1": _rounded(training.val_top1),
    }


def _space(space: SearchSpace) -> dict[str, Any]:
    ops = ops_of(space)
    return {
        "ops": [choice.name for choice in ops],
        "identity": [i for i, choice in enumerate(ops) if choice.op == "identity"],
        "layers": [[ops.index(choice) for choice in layer.choices] for layer in space.layers],
        "stages": stages_of(space),
    }


def _search(space: SearchSpace, search: Search) -> dict[str, Any]:
    entries, widths = search.entries, space.widths
    archs = [entry.architecture for entry in entries]
    intervals = [score_interval(entry.right, entry.images) for entry in entries]
    origins = list(get_args(Origin))
    compared = search.compared
    top = [entry.architecture for entry in ranking(entries[i] for i in compared)[:TOP]]
    places, values = best_so_far([score if score >= 0 else None for score in results.best_so_far(entries)])
    data = {
        # One character a layer, one candidate after another.
        "archs": "".join(DIGITS[choice] for arch in archs for choice in arch),
        "flops": [entry.flops for entry in entries],
        "params": [entry.params for entry in entries],
        "top1": _rounded(entry.top1 for entry in entries),
        "top5": _rounded(entry.top5 for entry in entries),
        "low": _rounded(low for low, _ in intervals),
        "high": _rounded(high for _, high in intervals),
        "images": _same([entry.images for entry in entries]),
        "generation": [entry.generation for entry in entries],
        "origins": origins,
        "origin": [origins.index(entry.origin) for entry in entries],
        "partial": [i for i, entry in enumerate(entries) if entry.partial],
        "earlier": [i for i, entry in enumerate(entries) if entry.earlier],
        "tied": sorted(search.ties or ()),
        "exported": sorted(line for arch, line in search.lines.items() if arch in search.exported),
        "winner": search.winner_line,
        "front": {cost: search.front(cost) for cost in ("flops", "params")},
        "limits": dict(search.limits),
        "best": {"at": places, "top1": _rounded(values)},
        "shares": {
            "all": _matrix(choice_shares(space, [archs[i] for i in compared])),
            "top": _matrix(choice_shares(space, top)),
        },
    }
    if widths:
        base = len(DIGITS)
        codes = {width: DIGITS[code // base] + DIGITS[code % base] for code, width in enumerate([0, *widths])}
        data["widths"] = [0, *widths]
        data["width_codes"] = "".join(  # two characters a layer
            codes[width] for arch in archs for width in arch.widths or (0,) * space.num_layers
        )
        data["width_shares"] = {
            "all": _matrix(width_shares(widths, [archs[i] for i in compared], space.num_layers)),
            "top": _matrix(width_shares(widths, top, space.num_layers)),
        }
    return data


def _audit(audit: Audit) -> dict[str, Any]:
    curves = {}
    for kind, seeds in audit.curves.items():
        changes = [best_so_far(seed) for seed in seeds]
        curves[kind] = [{"at": places, "top1": _rounded(values)} for places, values in changes]
    return {
        "curves": curves,
        "one_shot": _rounded(audit.one_shot),
        "alone": _rounded(audit.alone),
        "winner": _rounded(audit.winner or ()),
        "flops": list(audit.fidelity_flops),
        "images": [list(row) for row in audit.images],
    }


def _rounded(values: Any) -> list[Number]:
    """Five digits are more than a screen shows."""
    return [None if value is None or not math.isfinite(value) else float(f"{value:.5g}") for value in values]


def _matrix(rows: Sequence[Sequence[Number]]) -> list[list[Number]]:
    return [_rounded(row) for row in rows]


def _same(values: Sequence[int]) -> int | list[int]:
    """One number if all are equal."""
    return values[0] if len(set(values)) == 1 else list(values)
