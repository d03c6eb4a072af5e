"""Which scored candidates to export: the best ones, the cheapest tied one, or the front."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spos_cli.errors import ConfigError, LimitError
from spos_cli.models.counting import Costs, count
from spos_cli.search.journal import Entry
from spos_cli.search.results import Results
from spos_cli.space.cost import LABELS, CostName, CostTable, format_as
from spos_cli.space.limits import Limit, describe_all, explain_idle_limit, format_limit, parse_limit, write_limit
from spos_cli.space.search_space import SearchSpace


@dataclass(frozen=True)
class Question:
    """Which of the scored candidates to export.

    Attributes:
        top: how many; None for one, or with `front` for all of it.
        flops_limit, params_limit: only candidates within them are considered.
        smallest: instead of the best, the cheapest of those that are statistically tied with it.
        front: the whole Pareto front, a cost against top-1.
        pareto_cost: the cost of the front; None for that of the search, or FLOPs.
        latency_limit: of the search.

    Raises:
        ConfigError: the parts of the question contradict each other.
    """

    top: int | None = None
    flops_limit: Limit | None = None
    params_limit: Limit | None = None
    smallest: bool = False
    front: bool = False
    pareto_cost: CostName | None = None
    latency_limit: Limit | None = None

    def __post_init__(self) -> None:
        for given, name in ((self.top is not None, "--top"), (self.smallest, "--prefer smallest")):
            if self.front and given:
                raise ConfigError(f"--pareto exports the whole front, cheapest first; do not pass {name} with it")
        if self.pareto_cost is not None and not self.front:
            raise ConfigError("--pareto-cost is the cost of the front; pass --pareto, too")

    @property
    def limits(self) -> list[tuple[str, Limit]]:
        """The limits that were given: the name of the cost in an entry, and what it may be."""
        limits = {"flops": self.flops_limit, "params": self.params_limit, "latency": self.latency_limit}
        return [(name, limit) for name, limit in limits.items() if limit is not None]

    @property
    def needs_latency(self) -> bool:
        """Whether the answer depends on the latency of each candidate."""
        return self.pareto_cost == "latency" or self.latency_limit is not None

    def within(self, search: Mapping[str, Any]) -> Question:
        """Return this question with the limits and the front of the search where it has none of its own.

        A search may hold candidates outside of its limits: those of an earlier search that it began with.

        Args:
            search: the settings of the search, as recorded.

        Raises:
            ConfigError: a recorded limit cannot be read.
        """
        flops, params, latency = (
            None if search.get(f"{name}_limit") is None else parse_limit(name, search[f"{name}_limit"])
            for name in ("flops", "params", "latency")
        )
        cost = self.pareto_cost or search.get("pareto_cost")
        return replace(
            self,
            flops_limit=flops if self.flops_limit is None else self.flops_limit,
            params_limit=params if self.params_limit is None else self.params_limit,
            pareto_cost=cost if self.front else None,
            latency_limit=latency,
        )


def answer(
    question: Question, entries: Sequence[Entry], bits: Path, space: SearchSpace, command: Callable[[str], str]
) -> tuple[list[Entry], list[str]]:
    """Return the candidates to export, at least one, and notes about them for people.

    Args:
        entries: a whole journal. If all its scores are imported, these are considered.
        bits: the `outcomes.bits` beside the journal.
        space: the space that was searched.
        command: completes a command with the options that lead to the settings of the run.

    Raises:
        LimitError: there is no such candidate.
    """
    scored = Results.to_export(entries, bits)
    allowed = scored.within(question.limits)
    if not allowed.candidates:
        raise LimitError(_describe_unreachable(question, scored.candidates, count(space), command))
    best, notes = allowed.ranking, []
    if question.front:
        chosen = allowed.front(question.pareto_cost or "flops")
        if not chosen:
            raise LimitError("no candidate was scored to the end, so there is no front")
    elif question.smallest:
        comparison = allowed.comparison
        tied = sorted((one for one in best if one.architecture in comparison.tied), key=lambda entry: entry.flops)
        if comparison.problem:
            notes.append(comparison.problem + ("" if tied else "; exporting the best"))
        if tied:
            notes.append(f"chosen from {len(tied):,} that are statistically tied with the best, cheapest first")
        chosen = (tied or best[:1])[: question.top or 1]
    else:
        chosen = best[: question.top or 1]
    if stopped := sum(entry.partial for entry in chosen):
        notes.append(f"{stopped:,} of these stopped early: scored on the first images only")
    return chosen, notes


def describe_idle_limits(
    limits: Sequence[tuple[str, Limit]], entries: Sequence[Entry], space: SearchSpace
) -> list[str]:
    """Return a sentence for each limit that excludes nothing of the space."""
    # Counting costs takes long. It is needed only for a limit that excludes no candidate.
    idle = [(name, limit) for name, limit in limits if all(limit.allows(getattr(entry, name)) for entry in entries)]
    if not idle:
        return []
    costs = count(space)
    return [text for name, limit in idle if (text := explain_idle_limit(getattr(costs, name), limit))]


def _describe_unreachable(
    question: Question, entries: Sequence[Entry], costs: Costs, command: Callable[[str], str]
) -> str:
    """Say why no candidate is within the limits, and which command may find one."""
    ranges, minima, maxima = [], [], []
    for name, limit in question.limits:
        values = [getattr(entry, name) for entry in entries]
        number_within, label = sum(map(limit.allows, values)), LABELS[name]
        allowed = f"{'' if limit.is_range else 'at most '}{format_limit(name, limit)}"
        several = f" ({number_within:,} of them {allowed})" if len(question.limits) > 1 else ""
        ranges.append(f"{format_as(name, min(values))} to {format_as(name, max(values))} {label}{several}")
        table: CostTable | None = getattr(costs, name)
        if table is not None and table.minimum > limit.high:
            minima.append(f"{table.format_exactly(table.minimum)} {label}")
        elif table is not None and limit.low is not None and table.maximum < limit.low:
            maxima.append(f"{table.format_exactly(table.maximum)} {label}")
    text = f"no scored candidate has {describe_all(question.limits)}; they have {' and '.join(ranges)}"
    if minima or maxima:
        impossible = [f"less than {' and '.join(minima)}"] if minima else []
        impossible += [f"more than {' and '.join(maxima)}"] if maxima else []
        return f"{text}, and no architecture of the space has {' or '.join(impossible)}"
    options = " ".join(f"--{name}-limit {_write_option(name, limit)}" for name, limit in question.limits)
    return f"{text}; {command(f'search --fresh {options}')} may find some"


def _write_option(name: str, limit: Limit) -> str:
    """Return a limit as its option takes it."""
    written = str(write_limit(name, limit))
    return f"{written}us" if name == "latency" and not limit.is_range else written
