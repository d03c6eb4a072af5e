"""`spos flops-table`: show what each choice, or each architecture, costs."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

from spos_cli import seeding
from spos_cli.config.costs import suggest_cost
from spos_cli.config.schema import Config
from spos_cli.engine import accelerator
from spos_cli.engine.distributed import Processes
from spos_cli.engine.progress import track, warn
from spos_cli.errors import ConfigError, RunError
from spos_cli.export import onnx_latency
from spos_cli.files.quoting import quote_path
from spos_cli.files.writing import write_atomically
from spos_cli.models import latency
from spos_cli.models.counting import count
from spos_cli.models.latency import MEASURED_ROUNDS, OUTLIER_RATIO, WARM_UP_ROUNDS, Latencies
from spos_cli.official import flops_table
from spos_cli.run.command import Run, use_one_device
from spos_cli.run.costs import (
    format_range,
    group_by_choice,
    show_architectures,
    show_choices,
    show_other_costs,
    show_space,
    summarize_space,
)
from spos_cli.run.latency_table import RUNTIMES, UNNAMED_DEVICE, describe_origin, summarize_import
from spos_cli.run.own_costs import read_own_tables
from spos_cli.search import statistics
from spos_cli.space.architecture import read
from spos_cli.space.cost import CostTable
from spos_cli.space.cost_csv import make_template, read_costs
from spos_cli.space.cost_kinds import LATENCY, CostKind, format_duration
from spos_cli.space.limits import Limit, explain_idle_limit
from spos_cli.space.search_space import SearchSpace

FITTED_NETWORKS = 20  # The sums of a table of latencies are fitted to so many whole networks.


def require_one_question(
    archs: Sequence[str], given: Mapping[str, object], runtime: str | None, of_table: Mapping[str, object]
) -> None:
    """Raise ConfigError if several options are given that are about the whole space, or one and architectures.

    Args:
        archs: architectures, which are a question of their own.
        given: by option, its value; None or False if it was not given.
        runtime: a part of the question of `--latency`.
        of_table: by option, its value; these are for the table of costs, or for architectures.
    """
    if runtime is not None and not given["--latency"]:
        raise ConfigError(f"--runtime {runtime} says what measures latencies; give it with --latency")
    options = [name for name, value in given.items() if value]
    if len(options) > 1:
        raise ConfigError(f"{' and '.join(options)} do different things; give one of them")
    unused = [name for name, value in of_table.items() if value and options]
    if unused:
        raise ConfigError(f"{unused[0]} is for the table of FLOPs; do not pass it with {options[0]}")
    if archs and options:
        raise ConfigError(f"{options[0]} is about the whole space; do not pass architectures with {options[0]}")


def run(
    run: Run,
    archs: Sequence[str],
    limit: Limit | None,
    form: Literal["json", "pkl"],
    *,
    official: Path | None,
    measured: Path | None,
    template: Path | None,
    cost: str | None,
) -> None:
    """Show costs, or do with a file what its option asks for. (`measure_latency` is called in a process of its own.)

    Args:
        archs, limit, form: for `show_costs`.
        official: for `compare_with_official`.
        measured: for `import_latency`.
        template: for `write_latency_template`.
        cost: for `write_cost_template`.
    """
    if official is not None:
        compare_with_official(run, official)
    elif measured is not None:
        import_latency(run, measured)
    elif template is not None:
        write_latency_template(run, template)
    elif cost is not None:
        write_cost_template(run, cost)
    else:
        show_costs(run, archs, limit, form)


def show_costs(run: Run, archs: Sequence[str], limit: Limit | None, form: Literal["json", "pkl"]) -> None:
    """Show the costs of architectures; if there are none, write and show the table of the whole space.

    Args:
        archs: each a literal or a file.
        limit: on FLOPs; the table then says what share of the space, or which architectures, are within it.
        form: of the file: `json`, or `pkl` for the official `op_flops_dict.pkl`.

    Raises:
        ArchitectureError: an architecture cannot be read, or is not in the space.
    """
    space = run.config.space.build()
    architectures = [read(arch) for arch in archs]
    for arch in architectures:
        space.validate(arch)
    costs = count(space).with_tables(read_own_tables(run, space))
    if limit is not None and (idle := explain_idle_limit(costs.flops, limit)):
        warn(idle)
    if architectures:
        show_architectures(run, costs, architectures, limit)
        return
    summary = summarize_space(space, costs, limit)
    if form == "pkl":
        path = run.folder.official_flops_table
        content = pickle.dumps(flops_table.make_table(space, costs.flops), flops_table.PICKLE_PROTOCOL)
    else:
        path = run.folder.flops_table
        content = (json.dumps(summary, indent=1) + "\n").encode()
    write_atomically(path, content)
    run.record_config_unless_begun()
    show_space(run, space, costs, summary)
    show_other_costs(run, space, costs)
    run.result(summary)
    run.say(f"written to {path}")
    run.next("search" if run.folder.supernet.last.exists() else "supernet-train")


def compare_with_official(run: Run, path: Path) -> None:
    """Compare an official table of FLOPs with the FLOPs counted here, and list every difference.

    Its entries for other widths of the hidden channels are written to `flops_widths.json`.

    Raises:
        CheckpointError: the file is not such a table, or holds more than plain values.
    """
    space = run.config.space.build()
    result = flops_table.compare_tables(flops_table.read_table(path), flops_table.make_table(space, count(space).flops))
    file = run.folder.flops_of_widths
    write_atomically(file, (json.dumps(result.others) + "\n").encode())
    run.record_config_unless_begun()
    rows = [(d["op"], d["key"], _format_flops(d["theirs"]), _format_flops(d["measured"])) for d in result.differences]
    if rows:
        key = "in, out, hidden channels, height, width, stride:"
        run.show("differences", ["op:", key, "official", "counted here"], rows)
    verdict = f"{len(rows)} of {result.compared} entries of this space differ from what is counted here"
    run.say(f"{path}: {verdict}", "yellow" if rows else "green")
    run.say(f"{len(result.others)} entries for other channels or sizes are kept in {file}")
    run.result({"compared": result.compared, "differences": result.differences, "kept": len(result.others)})


def _format_flops(value: float | None) -> str:
    return "missing" if value is None else f"{value:,}"


def use_measured_device(settings: Config, runtime: str | None) -> Config:
    """Return settings that measure latencies on one device; ONNX Runtime is measured on the CPU.

    Raises:
        ConfigError: the settings ask for several processes.
    """
    on_one_device = use_one_device(settings, "--latency measures")
    return on_one_device if runtime in (None, "torch") else on_one_device.model_copy(update={"devices": "cpu"})


def measure_latency(
    run: Run, processes: Processes, batch: int, runtime: Literal["torch", "onnxruntime", "onnxruntime-int8"]
) -> None:
    """Measure the latency of every choice on this device, and how well sums of them predict whole networks.

    Writes `latency_table.json`, which `spos search --latency-limit` uses.

    Args:
        batch: images per measured call.
        runtime: what computes. For ONNX Runtime, blocks and networks are exported first.

    Raises:
        ConfigError: a package is missing, a user's own block cannot be exported, or blocks are quantized.
    """
    space, device = run.config.space.build(), processes.device
    if space.bits:
        raise ConfigError(
            "quantized blocks are computed with floats here, so their latencies say nothing; measure them on your"
            " device, and give them with --import-latency FILE"
        )
    # Draw whole networks that the sums are fitted to and checked with.
    distribution = count(space).flops.distribution()
    rng = seeding.generator(run.config.seed, "latency")
    networks = [distribution.draw(rng, None, None) for _ in range(FITTED_NETWORKS)]
    # Measure every choice and these networks.
    int8 = runtime == "onnxruntime-int8"
    make_call = None if runtime == "torch" else partial(onnx_latency.make_call, int8=int8)
    if make_call is not None:
        run.say(f"exporting every choice and {FITTED_NETWORKS} networks for {RUNTIMES[runtime]}, which takes a while")
    with track("measuring latencies", WARM_UP_ROUNDS + MEASURED_ROUNDS, "rounds", quiet=run.as_json) as task:
        timer = partial(accelerator.time_call, device)
        dtype = "int8" if int8 else accelerator.describe_float32(device)
        names = {"name": accelerator.get_name(device), "dtype": dtype}
        latencies = latency.measure(
            space, device, batch, networks, task.advance, timer, make_call, **names, runtime=runtime
        )
    # Write the table.
    summary = summarize_latencies(space, latencies)
    path = run.folder.latency_table
    write_atomically(path, (json.dumps(summary) + "\n").encode())
    run.record_config_unless_begun()
    # Show it, and how far it can be trusted.
    show_latencies(run, space, latencies.table, describe_latencies(latencies, summary["spearman"]))
    run.result(summary)
    run.say(f"written to {path}")
    median = sorted(measured for _, measured, _ in latencies.whole)[len(latencies.whole) // 2]
    run.next(f"search --latency-limit {format_duration(median)}")


def write_latency_template(run: Run, path: Path) -> None:
    """Write the CSV file in which latencies that are measured elsewhere are filled in.

    Raises:
        ConfigError: a latency depends on more than its option.
        RunError: the file exists, or it cannot be written.
    """
    _write_template(run, path, LATENCY, "name another file")
    run.say(f"written to {path}; fill in the device and the milliseconds of every row")
    run.next(f"flops-table --import-latency {quote_path(path)}")


def write_cost_template(run: Run, name: str) -> None:
    """Write the CSV file in which an own cost is filled in: the one that its table names.

    Raises:
        ConfigError: the settings have no such cost, or it is computed by the user's code.
        RunError: the file exists, or it cannot be written.
    """
    costs = {cost.name: cost for cost in run.config.costs}
    if name not in costs:
        raise ConfigError(f"--cost-template {name}: {suggest_cost(name, costs)}")
    cost = costs[name]
    if cost.is_own_code:
        raise ConfigError(f"--cost-template {name}: {cost.table} computes this cost, so there is no file to fill in")
    _write_template(run, Path(cost.table), cost.kind, "move it away first")
    run.say(f"written to {cost.table}; fill in the cost of every row")
    run.next("flops-table")


def _write_template(run: Run, path: Path, kind: CostKind, advice: str) -> None:
    """Write a template of costs; raise RunError with `advice` if the file exists."""
    if path.exists():
        raise RunError(f"{path} already exists, and may have been filled in; {advice}")
    write_atomically(path, make_template(run.config.space.build(), kind).encode())
    run.result({"file": str(path)})


def import_latency(run: Run, path: Path) -> None:
    """Make latencies that were measured elsewhere the latency table of the run.

    Writes `latency_table.json`, which `spos search --latency-limit` uses.

    Args:
        path: a filled template.

    Raises:
        ConfigError: a latency depends on more than its option.
        RunError: the file has a mistake, or is of another space.
    """
    space = run.config.space.build()
    latencies = read_costs(path, space, LATENCY, run.command("flops-table --latency-template FILE"))
    summary = summarize_import(space, latencies)
    write_atomically(run.folder.latency_table, (json.dumps(summary) + "\n").encode())
    run.record_config_unless_begun()
    table = latencies.table
    facts = [
        ("device", latencies.device or UNNAMED_DEVICE),
        ("imported from", str(path)),
        ("stem and head", format_duration(table.fixed)),
        ("range of the table", f"{format_duration(table.minimum)} to {format_duration(table.maximum)}"),
        ("whole networks", "not compared: measure some on the device, and compare them with their sums"),
    ]
    show_latencies(run, space, table, facts)
    run.result(summary)
    run.say(f"written to {run.folder.latency_table}")
    run.next(f"search --latency-limit {format_duration(table.distribution().quantile(0.5))}")


def show_latencies(run: Run, space: SearchSpace, table: CostTable, facts: Sequence[tuple[str, str]]) -> None:
    """Show what each choice takes, then facts on the whole table."""
    cells = [[format_range(costs, format_duration) for costs in layer] for layer in group_by_choice(table)]
    show_choices(run, "latency of each choice", space, cells)
    run.show("how far the table can be trusted", ["what:", "value:"], facts)


def summarize_latencies(space: SearchSpace, latencies: Latencies) -> dict[str, Any]:
    """Return latencies as plain values for `latency_table.json`; all are microseconds per call."""
    return {
        "space": space.digest,
        "conditions": asdict(latencies.conditions),
        "fixed": latencies.table.fixed,
        "table": [list(row) for row in latencies.table.rows],
        "spread": latencies.spread,
        "fitted": f"to {len(latencies.whole)} whole networks; held_out is what the fit to the others says of each",
        "whole": [
            {"architecture": arch.to_list(), "measured": measured, "added": added, "held_out": round(predicted, 1)}
            for (arch, measured, added), predicted in zip(latencies.whole, latencies.held_out, strict=True)
        ],
        "spearman": statistics.spearman(*zip(*(pair[1:] for pair in latencies.whole), strict=True)),
        "error": latencies.error,
    }


def describe_latencies(latencies: Latencies, spearman: float) -> list[tuple[str, str]]:
    """Return names and values that say under which conditions latencies were measured, and how good the table is."""
    conditions, table = latencies.conditions, latencies.table
    measured = [value for _, value, _ in latencies.whole]
    outliers = sum(spread > OUTLIER_RATIO for row in latencies.spread for spread in row)
    return [
        ("device", describe_origin({"conditions": asdict(conditions)})),
        ("measured", f"medians of {MEASURED_ROUNDS} rounds, after {WARM_UP_ROUNDS} rounds to warm up"),
        (
            "outliers",
            f"{outliers} of {sum(map(len, latencies.spread))} have a call of {OUTLIER_RATIO} times the median or more",
        ),
        ("range of the table", f"{format_duration(table.minimum)} to {format_duration(table.maximum)}"),
        (f"{len(measured)} whole networks", f"{format_duration(min(measured))} to {format_duration(max(measured))}"),
        ("Spearman's rank correlation with them", f"{spearman:.3f}"),
        ("mean error on networks that were not fitted", f"{latencies.error:.1%}"),
    ]
