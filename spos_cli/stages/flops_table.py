"""`spos flops-table`: what each choice, or each architecture, costs."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

from spos_cli import seeding
from spos_cli.engine import accelerator
from spos_cli.engine.distributed import Processes
from spos_cli.engine.progress import track, warn
from spos_cli.files.writing import write_atomically
from spos_cli.models import latency
from spos_cli.models.counting import Costs, count
from spos_cli.models.latency import OUTLIER, ROUNDS, WARM_UP
from spos_cli.official import flops_table
from spos_cli.run.command import Run
from spos_cli.run.output import in_columns
from spos_cli.search import statistics
from spos_cli.space.architecture import Architecture, format_width, read
from spos_cli.space.cost import CostTable, format_cost, format_duration
from spos_cli.space.search_space import SearchSpace

CHECKED = 20  # whole networks that a table of latencies is fitted to
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def run(run: Run, archs: Sequence[str], limit: int | None, form: Literal["json", "pkl"]) -> None:
    """Shows the costs of architectures; without any, writes and shows the table of the whole space.

    Args:
        archs: each a literal or a file.
        limit: FLOPs; the table then says what share of the space, or which architectures, are under it.
        form: of the file: `json`, or `pkl` for the published `op_flops_dict.pkl`.

    Raises:
        ArchitectureError: one of them cannot be read, or the space does not have it.
    """
    space = run.config.space.build()
    architectures = [read(arch) for arch in archs]
    for arch in architectures:
        space.validate(arch)
    costs = count(space)
    if limit is not None and (idle := costs.flops.explain_idle_limit(limit)):
        warn(idle)
    if architectures:
        show_architectures(run, costs, architectures, limit)
        return
    summary = summarize(space, costs, limit)
    if form == "pkl":
        path = run.folder.official_flops_table
        table = flops_table.of(space, costs.flops)
        write_atomically(path, pickle.dumps(table, flops_table.PICKLE_PROTOCOL))
    else:
        path = run.folder.flops_table
        write_atomically(path, (json.dumps(summary, indent=1) + "\n").encode())
    run.record_settings()
    show_space(run, space, costs, summary)
    run.say(f"written to {path}")
    run.next("supernet-train")


def compare(run: Run, path: Path) -> None:
    """Compares a published table of FLOPs with what is measured here, and lists every difference.

    Its entries for other widths of the middle channels go to `flops_widths.json`.

    Raises:
        CheckpointError: it is no such table, or holds more than plain values.
    """
    space = run.config.space.build()
    theirs = flops_table.read(path)
    result = flops_table.compare(theirs, flops_table.of(space, count(space).flops))
    file = run.folder.flops_of_widths
    write_atomically(file, (json.dumps(result.others) + "\n").encode())
    run.record_settings()
    rows = [(d["op"], d["key"], _number(d["theirs"]), _number(d["measured"])) for d in result.differences]
    if rows:
        run.show("differences", ["op:", "in, out, middle channels, height, width, stride:", "theirs", "measured"], rows)
    verdict = f"{len(rows)} of {result.compared} entries of this space differ from what is measured here"
    run.say(f"{path}: {verdict}", "yellow" if rows else "green")
    run.say(f"{len(result.others)} entries for other channels or sizes are kept in {file}")
    run.result({"compared": result.compared, "differences": result.differences, "kept": len(result.others)})


def measure_latency(run: Run, processes: Processes, batch: int) -> None:
    """Measures the latency of every choice on this device, and how far sums of them agree with whole networks.

    Leaves `latency_table.json`, which `--latency-limit` of a search uses.
    """
    space, device = run.config.space.build(), processes.device
    flops = count(space).flops
    rng = seeding.generator(run.config.seed, "latency")
    checked = [flops.distribution().draw(rng, None, None) for _ in range(CHECKED)]
    with track("measuring latencies", WARM_UP + ROUNDS, "rounds", quiet=run.as_json) as task:
        timed = partial(accelerator.seconds_of, device)
        named = {"name": accelerator.name(device), "dtype": accelerator.float32_name(device)}
        found = latency.measure(space, device, batch, checked, task.advance, timed, **named)
    spearman = statistics.spearman(*zip(*(pair[1:] for pair in found.whole), strict=True))
    summary = {
        "space": space.digest,
        "conditions": asdict(found.conditions),
        "fixed": found.table.fixed,
        "table": [list(row) for row in found.table.rows],
        "spread": found.spread,
        "fitted": f"to {len(found.whole)} whole networks; held_out is what the fit to the others says of each",
        "whole": [
            {"architecture": arch.to_list(), "measured": one, "added": other, "held_out": round(predicted, 1)}
            for (arch, one, other), predicted in zip(found.whole, found.held_out, strict=True)
        ],
        "spearman": spearman,
        "error": found.error,
    }
    path = run.folder.latency_table
    write_atomically(path, (json.dumps(summary) + "\n").encode())
    run.record_settings()
    cells = [[span(costs, format_duration) for costs in layer] for layer in by_choice(found.table)]
    show_table(run, "latency of each choice", space, cells)
    outliers = sum(spread > OUTLIER for row in found.spread for spread in row)
    conditions, whole = found.conditions, [measured for _, measured, _ in found.whole]
    facts = [
        ("device", f"{conditions.device}, {conditions.threads} threads, {conditions.dtype}, batch {conditions.batch}"),
        ("measured", f"medians of {ROUNDS} rounds, after {WARM_UP} to warm up"),
        ("outliers", f"{outliers} of {sum(space.options.counts)} have a call of {OUTLIER} times the median or more"),
        ("the table reaches", f"{format_duration(found.table.minimum)} to {format_duration(found.table.maximum)}"),
        (f"{CHECKED} whole networks", f"{format_duration(min(whole))} to {format_duration(max(whole))}"),
        ("Spearman's rank correlation with them", f"{spearman:.3f}"),
        ("mean error of a network that the fit has not seen", f"{found.error:.1%}"),
    ]
    run.show("how far the table can be trusted", ["what:", "value:"], facts)
    run.result(summary)
    run.say(f"written to {path}")
    run.next(f"search --latency-limit {format_duration(sorted(whole)[len(whole) // 2])}")


def _number(value: float | None) -> str:
    return "missing" if value is None else f"{value:,}"


def show_architectures(run: Run, costs: Costs, architectures: Sequence[Architecture], limit: int | None) -> None:
    """FLOPs and parameters of each, and whether it is under a limit."""
    values = [(arch, costs.flops.of(arch), costs.params.of(arch)) for arch in architectures]
    run.result([{"architecture": arch.to_list(), "flops": flops, "params": params} for arch, flops, params in values])
    columns = ["architecture:", "FLOPs (multiply-adds)", "parameters"]
    rows = [[arch, f"{flops:,}", f"{params:,}"] for arch, flops, params in values]
    if limit is not None:
        columns.append(f"at or under {format_cost(limit)}:")
        for row, (_, flops, _) in zip(rows, values, strict=True):
            row.append("yes" if flops <= limit else "no")
    run.show("costs", columns, rows)


def summarize(space: SearchSpace, costs: Costs, limit: int | None) -> dict[str, Any]:
    """The tables and the distribution of FLOPs over the whole space, as plain values."""
    flops, distribution = costs.flops, costs.flops.distribution()
    summary = {
        "space": space.to_dict(),
        **({"options": [list(map(str, options)) for options in space.options.by_layer]} if space.widths else {}),
        "fixed": flops.fixed,
        "table": [list(row) for row in flops.rows],
        "params": {"fixed": costs.params.fixed, "table": [list(row) for row in costs.params.rows]},
        "architectures": space.size,
        "minimum": flops.minimum,
        "maximum": flops.maximum,
        "mean": flops.mean,
        "quantiles": {f"{q:g}": distribution.quantile(q) for q in QUANTILES},
    }
    if limit is not None:
        summary |= {"limit": limit, "share_under_limit": distribution.share(None, limit)}
    return summary


def show_table(run: Run, title: str, space: SearchSpace, cells: Sequence[Sequence[str]]) -> None:
    """What each choice of each layer costs, under the names of the choices; the number in front is its index."""
    titles, rows = in_columns(space, [[f"{index}: {text}" for index, text in enumerate(texts)] for texts in cells])
    sizes = [f"{a.in_channels}→{a.out_channels}, {a.in_size}→{a.out_size} px" for a in space.layers]
    table = [[index, size, *row] for index, (size, row) in enumerate(zip(sizes, rows, strict=True))]
    run.show(title, ["layer", "size:", *titles], table)


def by_choice(table: CostTable) -> list[list[list[int]]]:
    """The costs of a table by layer, choice and width."""
    found: list[list[list[int]]] = [[[] for _ in range(count)] for count in table.options.choices]
    for layer, options, row in zip(found, table.options.by_layer, table.rows, strict=True):
        for option, cost in zip(options, row, strict=True):
            layer[option.choice].append(cost)
    return found


def span(costs: Sequence[int], written: Callable[[int], str] = format_cost) -> str:
    """The cost of a choice; of one with widths the least and the most."""
    least, most = written(min(costs)), written(max(costs))
    return least if least == most else f"{least} to {most}"


def show_space(run: Run, space: SearchSpace, costs: Costs, summary: dict[str, Any]) -> None:
    """The table per layer and choice, then the distribution."""
    tables = zip(by_choice(costs.flops), by_choice(costs.params), strict=True)
    cells = [[f"{span(f)} / {span(p)}" for f, p in zip(flops, params, strict=True)] for flops, params in tables]
    show_table(run, "FLOPs / parameters of each choice", space, cells)
    fixed = f"{format_cost(summary['fixed'])} / {format_cost(summary['params']['fixed'])}"
    facts = [
        ("architectures", f"{summary['architectures']:,}"),
        *([("widths of middle channels", ", ".join(map(format_width, space.widths)))] if space.widths else []),
        ("FLOPs, least and most", f"{format_cost(summary['minimum'])} to {format_cost(summary['maximum'])}"),
        ("mean", format_cost(round(summary["mean"]))),
        ("FLOPs / parameters of stem and head", fixed),
        *((f"{float(q):.0%} are at or under", format_cost(value)) for q, value in summary["quantiles"].items()),
    ]
    if "limit" in summary:
        facts.append((f"share at or under {format_cost(summary['limit'])}", f"{summary['share_under_limit']:.1%}"))
    run.show("the whole space", ["what:", "value"], facts)
    run.result(summary)
