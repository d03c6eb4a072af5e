"""What a report says of a run, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from spos_cli.engine.mistakes import Mistakes
from spos_cli.search import statistics
from spos_cli.search.journal import Entry
from spos_cli.search.results import Results, is_counted, is_new
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost_kinds import BITOPS, COST_KINDS, FLOPS, CostKind
from spos_cli.space.limits import Limit
from spos_cli.space.search_space import SearchSpace

Number = float | None  # None where a file has no number, or one that is not finite


@dataclass(frozen=True)
class Training:
    """The curves of one training, from its metrics.

    Attributes:
        steps: the steps at which the loss, top-1 and learning rate were logged.
        val_steps: the steps at which the model was validated.
    """

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
    """A network that was trained stand-alone; `right` of `images` validation images are classified correctly.

    Attributes:
        steps: of its training.
        planned_steps: of a training that has ended early; else None.
        evaluations: during its training, on the same images. Its weights were chosen as the best of them; 0 if they are
            the last weights.
    """

    architecture: Architecture
    right: int
    images: int
    steps: int
    planned_steps: int | None = None
    evaluations: int = 0

    @property
    def top1(self) -> float:
        """Share of the validation images that are classified correctly."""
        return self.right / self.images


@dataclass(frozen=True)
class Effort:
    """What one stage has cost.

    Attributes:
        work: what was done, in words.
        seconds: wall time of the work; None if it was not recorded.
        complete: whether `seconds` cover all of the work; a process that is killed records no time.
        images_per_second: None if unknown.
        device: in words; empty if unknown.
    """

    stage: str
    work: str
    seconds: float | None
    complete: bool
    images_per_second: float | None
    device: str


@dataclass(frozen=True)
class EqualFlops:
    """Random architectures of about the winner's FLOPs, beside the winner.

    Attributes:
        one_shot, stand_alone: top-1 of each in the supernet and after stand-alone training.
        kendall: tau of the supernet's ranking with the stand-alone ranking, and its interval; None if undefined.
        difference: the winner's mean stand-alone top-1 minus theirs, and its interval; None if undefined.
    """

    one_shot: Sequence[float]
    stand_alone: Sequence[float]
    kendall: tuple[float, float, float] | None
    difference: tuple[float, float, float] | None


@dataclass(frozen=True)
class Audit:
    """The result of `spos audit`; each part may be missing.

    Attributes:
        curves: for `random` and `evolution`, one curve per seed: the best top-1 so far after each candidate.
        operators: for each operator, how many children it proposed, and how many of them were accepted, were
            duplicates, or were outside of a limit.
        fidelity_steps: steps of each stand-alone training.
        one_shot, stand_alone: top-1 of the same architectures in the supernet and after stand-alone training. Without
            the winner, because it was selected for its score.
        fidelity_flops: FLOPs of these architectures, or empty.
        winner: the winner's one-shot and stand-alone top-1.
        equal_flops: architectures of about the winner's FLOPs; None if there are none.
        correlations: value and interval of each rank correlation with the stand-alone ranking; `kendall_of_flops`
            compares it with the ranking by FLOPs.
        images: for each number of search images, the smallest difference (a share) that the paired test would detect,
            and the number of candidates that would be statistically tied.
    """

    curves: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    operators: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    fidelity_steps: int | None = None
    one_shot: Sequence[float] = ()
    stand_alone: Sequence[float] = ()
    fidelity_flops: Sequence[int] = ()
    winner: tuple[float, float] | None = None
    equal_flops: EqualFlops | None = None
    correlations: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    images: Sequence[tuple[int, float, int]] = ()

    @property
    def candidates(self) -> int:
        """Candidates in the longest of the compared searches; 0 if there is none.

        A random search is shorter where the limits allow fewer candidates.
        """
        return max((len(seed) for seeds in self.curves.values() for seed in seeds), default=0)


@dataclass(frozen=True)
class Agreement:
    """How far the supernet's scores of some networks agree with their known stand-alone accuracies.

    Attributes:
        part: which networks, in words.
        networks: how many.
        kendall: tau of the supernet, and the ends of its interval.
        kendall_of_flops: tau of FLOPs; None if it is not defined.
        one_training: tau of one training with others of the same networks; None if they were trained once.
    """

    part: str
    networks: int
    kendall: tuple[float, float, float]
    kendall_of_flops: float | None
    one_training: float | None


@dataclass(frozen=True)
class Pick:
    """What a way of choosing a network finds: its known top-1, its regret, and the share of networks that are worse."""

    choice: str
    accuracy: float
    regret: float
    better_than: float


@dataclass(frozen=True)
class TruthComparison:
    """The result of `spos audit --truth`.

    Attributes:
        networks, scored: how many networks the truth has, and how many of them were scored.
        limits: of the search, in words; empty without limits.
        agreement: of all networks, and of parts of them.
        picks: the best first.
        points: of each network its one-shot top-1, its known stand-alone top-1 and its FLOPs.
    """

    networks: int
    scored: int
    limits: str
    agreement: Sequence[Agreement]
    picks: Sequence[Pick]
    points: Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class ConfidentMistake:
    """An image that a network gets wrong although it gives the wrong class a high probability, its `confidence`.

    Attributes:
        path: names the image.
        label, predicted: indices of its class, and of the class that the network predicts.
        picture: a data URI; empty if there is none.
    """

    path: str
    label: int
    predicted: int
    confidence: float
    picture: str


@dataclass(frozen=True)
class Evaluation:
    """The result of `spos evaluate --details`.

    Attributes:
        weights, architecture: of the network, in words.
        images_of: names the set of images.
        mistakes: what the network gets wrong.
        most_confident: the mistakes with the highest confidence, the highest first.
        is_outdated: whether the weights file has changed since, as by another training.
        other_size: of the images, in words, if it is not that of the training; else empty.
    """

    weights: str
    architecture: str
    images_of: str
    mistakes: Mistakes
    most_confident: Sequence[ConfidentMistake] = ()
    is_outdated: bool = False
    other_size: str = ""


@dataclass(frozen=True)
class Search:
    """The candidates of a search. A `line` is an index into `entries`.

    Attributes:
        entries: the lines of the journal, in order.
        limits: by the name of the cost; None is no limit.
        winner: the best candidate.
        ties: p-values of the lines that are statistically tied with the winner; None if the test was not possible.
        ties_unknown: why the test was not possible, or not for all candidates, in words; else empty.
        planned: how many candidates the search scores in all, unless the space is exhausted first; None if unknown.
        front_cost: the cost of the front that the search was for; `flops` if it was for the best top-1.
        hypervolume: of a search for the Pareto front: the area below the front as a share of the rectangle from 0 to
            the limit on its cost and from top-1 0 to 1; else None.
        kinds: how each cost is written, by its name.
        latency_of: where the latencies are from, in words; empty if the search has none.
        exported: architectures that were written to files.
    """

    entries: Sequence[Entry]
    limits: Mapping[str, Limit | None]
    winner: Architecture
    ties: Mapping[int, float] | None = None
    ties_unknown: str = ""
    planned: int | None = None
    front_cost: str = "flops"
    hypervolume: float | None = None
    kinds: Mapping[str, CostKind] = field(default_factory=lambda: COST_KINDS)
    latency_of: str = ""
    exported: frozenset[Architecture] = frozenset()

    @cached_property
    def counted(self) -> list[int]:
        """Lines that were scored on the images of this search, including those that were stopped early."""
        return [line for line, entry in enumerate(self.entries) if is_counted(entry)]

    @cached_property
    def new(self) -> list[int]:
        """Lines that this search has scored itself."""
        return [line for line, entry in enumerate(self.entries) if is_new(entry)]

    @cached_property
    def line_of(self) -> dict[Architecture, int]:
        """The line of each architecture; if it was scored twice, the line that counts."""
        return {entry.architecture: line for line, entry in enumerate(self.entries)} | dict(
            Results.of(self.entries).rows
        )

    @cached_property
    def comparable(self) -> list[int]:
        """Lines whose scores can be compared: on the images of this search, and not stopped early."""
        return [line for line in self.counted if not self.entries[line].partial]

    @property
    def stopped_early(self) -> int:
        """How many candidates were stopped early."""
        return len(self.counted) - len(self.comparable)

    @cached_property
    def winner_line(self) -> int:
        """The line of the winner."""
        return self.line_of[self.winner]

    @property
    def best(self) -> Entry:
        """The entry of the winner."""
        return self.entries[self.winner_line]

    @cached_property
    def cheapest_tied(self) -> int:
        """The line of the cheapest candidate that is statistically tied with the winner, or the winner's own."""
        return self.sort_by_cost([*(self.ties or ()), self.winner_line])[0]

    def sort_by_cost(self, lines: Iterable[int]) -> list[int]:
        """Sort lines by `main_cost`; at equal costs the better one is first, as in `export-arch --prefer smallest`."""
        return sorted(lines, key=lambda line: (self.entries[line].main_cost, self.entries[line].rank))

    @cached_property
    def costs(self) -> list[CostKind]:
        """The costs that are known of every candidate."""
        return [kind for name, kind in self.kinds.items() if all(name in entry.known_costs for entry in self.entries)]

    @property
    def shown_cost(self) -> CostKind:
        """The cost on the axis of the chart at first: that of the front if it is known."""
        return next((kind for kind in self.costs if kind.name == self.front_cost), FLOPS)

    @property
    def main_cost(self) -> CostKind:
        """The cost that ranks candidates of equal scores: BitOPs in a space with bits, else FLOPs."""
        return BITOPS if BITOPS in self.costs else FLOPS

    def front(self, cost: str) -> list[int]:
        """Return the Pareto front of the score against a cost that is known: its lines, sorted by cost."""
        costs = [float(self.entries[line].get_cost(cost)) for line in self.comparable]
        scores = [self.entries[line].score for line in self.comparable]
        return [self.comparable[index] for index in statistics.front(costs, scores)]


@dataclass(frozen=True)
class Findings:
    """Everything a report shows; what a run does not have yet is empty or None."""

    name: str
    space: SearchSpace | None
    search: Search | None
    trainings: Sequence[Training] = ()
    retrained: Sequence[Retrained] = ()
    efforts: Sequence[Effort] = ()
    audit: Audit | None = None
    truth: TruthComparison | None = None
    evaluation: Evaluation | None = None


@lru_cache(maxsize=2**16)
def score_interval(right: int, images: int) -> tuple[float, float]:
    """Return the 95 % interval of a score. Cached, because many candidates have equal scores."""
    return statistics.interval(right, images)
