"""`spos export-arch`: write the best architectures of a search, or weights in another form, into files."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from spos_cli.engine import checkpoint
from spos_cli.engine.distributed import Processes
from spos_cli.engine.progress import warn
from spos_cli.errors import ConfigError, LimitError, RunError
from spos_cli.files.quoting import quote_path
from spos_cli.files.writing import write_atomically
from spos_cli.models.counting import Costs, count
from spos_cli.official.flops_table import PICKLE_PROTOCOL
from spos_cli.official.weights import to_published
from spos_cli.run.command import Run
from spos_cli.run.inputs import read_settings
from spos_cli.run.weights_file import Weights, network_content, read_weights, supernet_content
from spos_cli.search import ties
from spos_cli.search.journal import Entry, Journal, pareto, ranking
from spos_cli.search.results import exportable, is_own, rows
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import LABELS, CostTable, format_cost
from spos_cli.space.search_space import SearchSpace
from spos_cli.stages.search import percent, read_candidates, rounded

ArchFormat = Literal["yaml", "pkl"]
WeightsFormat = Literal["published", "spos"]


def arch_format(form: str | None) -> ArchFormat:
    """The `--format` of architectures; raises ConfigError if it is one of weights."""
    if form is None or form == "yaml":
        return "yaml"
    if form == "pkl":
        return "pkl"
    raise ConfigError(f"--format {form} is for weights; name them with --weights, or use yaml or pkl")


def weights_format(form: str | None) -> WeightsFormat:
    """The `--format` of weights; raises ConfigError if it is one of architectures."""
    if form is None or form == "published":
        return "published"
    if form == "spos":
        return "spos"
    raise ConfigError(f"--format {form} is for architectures; weights are written as published or spos")


@dataclass(frozen=True)
class Question:
    """Which of the scored candidates are asked for.

    Attributes:
        top: how many; None for one, or with `front` for all of it.
        flops_limit, params_limit: only candidates at or under them are considered.
        smallest: of those that a paired test cannot tell from the best, the cheapest instead of the best.
        front: those that no other one beats in FLOPs and top-1, all of them.

    Raises:
        ConfigError: the parts of the question do not go together.
    """

    top: int | None = None
    flops_limit: int | None = None
    params_limit: int | None = None
    smallest: bool = False
    front: bool = False

    def __post_init__(self) -> None:
        for given, name in ((self.top is not None, "--top"), (self.smallest, "--prefer smallest")):
            if self.front and given:
                raise ConfigError(f"--pareto is the whole front, from small to large; leave {name} away")

    @property
    def limits(self) -> list[tuple[str, int]]:
        """What is limited, by its name in an entry, and how."""
        both = (("flops", self.flops_limit), ("params", self.params_limit))
        return [(name, limit) for name, limit in both if limit is not None]

    def within(self, search: Mapping[str, Any]) -> Question:
        """The same under a search's own limits where this has none: what it was begun with may be over them."""
        flops, params = search.get("flops_limit"), search.get("params_limit")
        return replace(
            self,
            flops_limit=flops if self.flops_limit is None else self.flops_limit,
            params_limit=params if self.params_limit is None else self.params_limit,
        )


def run(run: Run, question: Question, source: Path | None, form: ArchFormat) -> None:
    """Leaves `archs/<id>/arch.yaml` for each candidate that is asked for; nothing is scored again.

    Args:
        source: a journal, or a published search's checkpoint; by default the run folder's journal.
        form: `pkl` writes the published `arch.pkl`, a pickled tuple, beside each.

    Raises:
        RunError: there is no search here, or it is of another space.
        LimitError: no scored candidate is under the limits.
    """
    space = run.config.space.build()
    journal, typed = source or run.folder.search.journal, question.limits
    if source is not None:
        entries, supernet = read_candidates(source, space, count(space)), None
    else:
        entries, supernet = Journal(journal).read_of(space), None
        if entries:
            settings = read_settings(run)
            supernet, question = settings["supernet"], question.within(settings["search"])
    if not entries:
        where, search = source or run.folder.search.path, run.command("search")
        raise RunError(f"there are no scored candidates in {where}; run {search} first")
    for line in idle_limits(typed, entries, space):
        warn(line)
    found, said = answer(question, entries, journal.with_name("outcomes.bits"), space, run.command)
    if source is None and not any(map(is_own, found)):
        said.append("this search has scored no candidate yet: the scores are those of the search that it begins with")
    origin = {"supernet": supernet, "space": space.to_dict()}
    paths = [write(run, entry, origin, form) for entry in found]
    run.record_settings()
    rows = [
        (
            number,
            path,
            format_cost(entry.flops),
            format_cost(entry.params),
            f"{entry.top1:.2%}",
            percent(entry.interval),
        )
        for number, (entry, path) in enumerate(zip(found, paths, strict=True), 1)
    ]
    columns = ["number" if question.front else "rank", "file:", "FLOPs", "params", "one-shot top-1", "95 % interval"]
    run.show("exported", columns, rows)
    for line in said:
        warn(line)
    run.result([{"file": str(path), **entry.to_dict()} for entry, path in zip(found, paths, strict=True)])
    run.next(f"retrain {quote_path(paths[-1] if question.front else paths[0])}")  # the best


def answer(
    question: Question, entries: Sequence[Entry], bits: Path, space: SearchSpace, command: Callable[[str], str]
) -> tuple[list[Entry], list[str]]:
    """The candidates that are asked for, at least one, and what is to be said of them.

    Args:
        entries: a whole journal. Where another search's scores are all that it has, these are asked.
        bits: the outcomes beside it.
        space: that was searched.
        command: with the options that lead to the settings of the run.

    Raises:
        LimitError: there is none.
    """
    counting = exportable(entries)
    allowed = [entry for entry in counting if all(getattr(entry, name) <= limit for name, limit in question.limits)]
    if not allowed:
        raise LimitError(unreachable(question, counting, count(space), command))
    said = []
    if question.front:
        found = pareto(allowed)
        if not found:
            raise LimitError(f"none of {len(allowed):,} candidates was scored to the end, so there is no front")
    elif question.smallest:
        tie = ties.find(allowed, rows(entries), bits)
        best = ranking(allowed)
        found = sorted((entry for entry in best if entry.architecture in tie.tied), key=lambda entry: entry.flops)
        if tie.unknown:
            said.append(tie.unknown + ("" if found else "; exported is the best"))
        if found:
            said.append(f"of {len(found):,} that a paired test cannot tell from the best, by FLOPs")
        found = (found or best[:1])[: question.top or 1]
    else:
        found = ranking(allowed)[: question.top or 1]
    if lost := sum(entry.partial for entry in found):
        said.append(f"{lost:,} of these lost a race: their scores are of the first images only")
    return found, said


def idle_limits(limits: Sequence[tuple[str, int]], entries: Sequence[Entry], space: SearchSpace) -> list[str]:
    """What to say of limits that are above the whole space; costs are counted only where no candidate is over one."""
    idle = [(name, limit) for name, limit in limits if all(getattr(entry, name) <= limit for entry in entries)]
    if not idle:
        return []
    costs = count(space)
    return [said for name, limit in idle if (said := getattr(costs, name).explain_idle_limit(limit))]


def unreachable(question: Question, entries: Sequence[Entry], costs: Costs, command: Callable[[str], str]) -> str:
    """Why no candidate is under the limits, and what could be."""
    asked, ranges, beyond = [], [], []
    for name, limit in question.limits:
        found = [getattr(entry, name) for entry in entries]
        under, label = sum(cost <= limit for cost in found), LABELS[name]
        asked.append(f"{format_cost(limit)} {label}")
        several = f" ({under:,} of them at most {format_cost(limit)})" if len(question.limits) > 1 else ""
        ranges.append(f"{format_cost(min(found))} to {format_cost(max(found))} {label}{several}")
        table: CostTable = getattr(costs, name)
        if table.minimum > limit:
            beyond.append(f"{table.format_exactly(table.minimum)} {label}")
    said = f"no scored candidate has at most {' and '.join(asked)}; they have {' and '.join(ranges)}"
    if beyond:
        return f"{said}, and no architecture of the space less than {' and '.join(beyond)}"
    under = " ".join(f"--{name}-limit {limit}" for name, limit in question.limits)
    return f"{said}; {command(f'search --fresh {under}')} may find some"


def write(run: Run, entry: Entry, origin: dict[str, Any], form: ArchFormat) -> str:
    """Writes one `arch.yaml`, with what the search was made on, and returns its path, or that of the `arch.pkl`."""
    content = {
        "architecture": entry.architecture.to_list(),
        "flops": entry.flops,
        "params": entry.params,
        "fitness": {"top1": entry.top1, "top5": entry.top5, "images": entry.images, "interval": rounded(entry)},
        "found": {
            "generation": entry.generation,
            "origin": entry.origin,
            **({"earlier": True} if entry.earlier else {}),
        },
        **origin,
    }
    path = run.folder.arch(entry.architecture.id)
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)
    write_atomically(path, text.encode())
    if form == "pkl":
        path = path.with_name("arch.pkl")
        write_atomically(path, pickle.dumps(tuple(entry.architecture.to_list()), PICKLE_PROTOCOL))
    return str(path)


def export_weights(run: Run, path: Path, form: WeightsFormat, output: Path | None) -> None:
    """Writes a weights file in another form; every tensor keeps its bytes.

    Args:
        path: of a supernet's checkpoint or a network, ours or published.
        form: `published` is what the published scripts load with `strict=True`; `spos` is what ours do.
        output: the file to write; by default one in the run folder, which must not be there yet.

    Raises:
        CheckpointError: the file is torn, foreign, or of another space.
        RunError: there is a file already.
    """
    weights = read_weights(path)
    if weights.kind == "supernet":
        weights.supernet(run.config)  # fails if it is of another space
        architecture = None
        ours = run.folder.supernet.last
    else:
        architecture = weights.network(run.config).arch
        ours = run.folder.retrain(architecture.id).model
    if form == "published":
        name = "supernet" if architecture is None else architecture.id
        output = output or run.folder.root / "published" / f"{name}.pth.tar"
    elif weights.config is not None:
        raise ConfigError(f"{path} is a weights file of spos already")
    else:
        output = output or ours
    if output.exists():
        raise RunError(f"there is a file {output} already; name another with --output")
    if form == "published":
        write_atomically(output, checkpoint.serialize(to_published(weights.state)))
    else:
        checkpoint.save(output, our_content(run, weights, architecture))
    if output == ours and form == "spos":  # there is no training that has left its settings
        run.record_config(ours.parent, Processes(0, 1, torch.device("cpu")))
    elif run.folder.root in output.parents:
        run.record_settings()
    run.show(
        "exported",
        ["what:", "value:"],
        [
            ("weights", path),
            ("kind", weights.kind),
            ("architecture", architecture or "all of the space"),
            ("tensors", len(weights.state)),
            ("written to", output),
        ],
    )
    run.result({"file": str(output), "kind": weights.kind, "architecture": architecture and architecture.to_list()})


def our_content(run: Run, weights: Weights, architecture: Architecture | None) -> dict[str, Any]:
    """A published file's tensors with the settings of this run, which the file does not have."""
    if architecture is None:
        return supernet_content(run.config, weights.state)
    return network_content(run.config, architecture, weights.state, weights.classes, {})
