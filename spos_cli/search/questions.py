"""Which scored candidates to export: the best ones, the cheapest tied one, or the front."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spos_cli.errors import ConfigError, LimitError
from spos_cli.models.counting import Costs
from spos_cli.search.journal import Entry
from spos_cli.search.results import Results
from spos_cli.space.cost_kinds import COST_KINDS, CostKind, get_kind
from spos_cli.space.limits import Limit, describe_all, explain_idle_limit, format_limit, parse_limit, write_option


@dataclass(frozen=True)
class Question:
    """Which of the scored candidates to export.

    Attributes:
        top: how many; None for one, or with `front` for all of it.
        limits: by the name of their cost; only candidates within them are considered.
        smallest: instead of the best, the cheapest of those that are statistically tied with it.
        front: the whole Pareto front, a cost against top-1.
        pareto_cost: the cost of the front; None for that of the search, or FLOPs.

    Raises:
        ConfigError: the parts of the question contradict each other.
    """

    top: int | None = None
    limits: Mapping[str, Limit] = field(default_factory=dict)
    smallest: bool = False
    front: bool = False
    pareto_cost: str | None = None

    def __post_init__(self) -> None:
        for given, name in ((self.top is not None, "--top"), (self.smallest, "--prefer smallest")):
            if self.front and given:
                raise ConfigError(f"--pareto exports the whole front, cheapest first; do not pass {name} with it")
        if self.pareto_cost is not None and not self.front:
            raise ConfigError("--pareto-cost is the cost of the front; pass --pareto, too")

    @property
    def needed_costs(self) -> set[str]:
        """The names of the costs that the answer depends on."""
        return {*self.limits, *([self.pareto_cost] if self.pareto_cost else [])}

    def within(self, search: Mapping[str, Any]) -> Question:
        """Return this question with the limits and the front of the search where it has none of its own.

        A search may hold candidates outside of its limits: those of an earlier search that it began with.

        Args:
            search: the settings of the search, as recorded.

        Raises:
            ConfigError: a recorded limit cannot be read.
        """
        recorded = {name: search.get(f"{name}_limit") for name in COST_KINDS}
        if isinstance(own := search.get("limits"), dict):
            recorded |= own
        limits = {name: parse_limit(get_kind(name), value) for name, value in recorded.items() if value is not None}
        limits |= self.limits
        cost = self.pareto_cost or search.get("pareto_cost")
        in_order = {name: limits[name] for name in {**COST_KINDS, **limits} if name in limits}
        return replace(self, limits=in_order, pareto_cost=cost if self.front else None)


def answer(
    question: Question,
    entries: Sequence[Entry],
    bits: Path,
    count_costs: Callable[[], Costs],
    kinds: Mapping[str, CostKind],
    command: Callable[[str], str],
) -> tuple[list[Entry], list[str]]:
    """Return the candidates to export, at least one, and notes about them for people.

    Args:
        entries: a whole journal. If all its scores are imported, these are considered.
        bits: the `outcomes.bits` beside the journal.
        count_costs: returns the costs of the space that was searched, as far as they are known.
        kinds: how each cost is written, by its name.
        command: completes a command with the options that lead to the settings of the run.

    Raises:
        LimitError: there is no such candidate.
    """
    scored = Results.to_export(entries, bits)
    allowed = scored.within(question.limits)
    if not allowed.candidates:
        raise LimitError(_describe_unreachable(question, scored.candidates, count_costs(), kinds, command))
    best, notes = allowed.ranking, []
    if question.front:
        chosen = allowed.front(question.pareto_cost or "flops")
        if not chosen:
            raise LimitError("no candidate was scored to the end, so there is no front")
    elif question.smallest:
        comparison = allowed.comparison
        tied = sorted((one for one in best if one.architecture in comparison.tied), key=lambda entry: entry.main_cost)
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
    limits: Mapping[str, Limit], entries: Sequence[Entry], count_costs: Callable[[], Costs]
) -> list[str]:
    """Return a sentence for each limit that excludes nothing of the space."""
    # Counting may call the user's code. It is needed only for a limit that excludes no candidate.
    idle = {
        name: limit for name, limit in limits.items() if all(limit.allows(entry.get_cost(name)) for entry in entries)
    }
    if not idle:
        return []
    tables = count_costs().tables
    return [
        text for name, limit in idle.items() if name in tables and (text := explain_idle_limit(tables[name], limit))
    ]


def _describe_unreachable(
    question: Question,
    entries: Sequence[Entry],
    costs: Costs,
    kinds: Mapping[str, CostKind],
    command: Callable[[str], str],
) -> str:
    """Say why no candidate is within the limits, and which command may find one."""
    ranges, minima, maxima = [], [], []
    for name, limit in question.limits.items():
        kind, values = kinds.get(name) or get_kind(name), [entry.get_cost(name) for entry in entries]
        number_within = sum(map(limit.allows, values))
        allowed = f"{'' if limit.is_range else 'at most '}{format_limit(kind, limit)}"
        several = f" ({number_within:,} of them {allowed})" if len(question.limits) > 1 else ""
        ranges.append(f"{kind.format(min(values))} to {kind.format(max(values))} {kind.label}{several}")
        table = costs.tables.get(name)
        if table is not None and table.minimum > limit.high:
            minima.append(f"{kind.format_exactly(table.minimum)} {kind.label}")
        elif table is not None and limit.low is not None and table.maximum < limit.low:
            maxima.append(f"{kind.format_exactly(table.maximum)} {kind.label}")
    limits = [(kinds.get(name) or get_kind(name), limit) for name, limit in question.limits.items()]
    text = f"no scored candidate has {describe_all(limits)}; they have {' and '.join(ranges)}"
    if minima or maxima:
        impossible = [f"less than {' and '.join(minima)}"] if minima else []
        impossible += [f"more than {' and '.join(maxima)}"] if maxima else []
        return f"{text}, and no architecture of the space has {' or '.join(impossible)}"
    options = " ".join(write_option(kind, limit) for kind, limit in limits)
    return f"{text}; {command(f'search --fresh {options}')} may find some"
