"""Show what choices, architectures and whole spaces cost, as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

from spos_cli.models.counting import Costs
from spos_cli.run.command import Run
from spos_cli.run.output import arrange_by_choice
from spos_cli.space.architecture import Architecture, format_width
from spos_cli.space.bits import format_bits
from spos_cli.space.cost import CostTable
from spos_cli.space.cost_kinds import FLOPS, format_cost
from spos_cli.space.limits import Limit, format_limit, get_bounds, parse_limit, write_limit
from spos_cli.space.search_space import SearchSpace

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the FLOPs of all architectures


def show_architectures(run: Run, costs: Costs, architectures: Sequence[Architecture], limit: Limit | None) -> None:
    """Show the costs of architectures, and whether each is within a limit of FLOPs."""
    values = [(arch, costs.flops.of(arch), costs.params.of(arch)) for arch in architectures]
    others = [{name: table.of(arch) for name, table in costs.others.items()} for arch in architectures]
    columns = ["architecture:", "FLOPs (multiply-adds)", "parameters"]
    columns += [table.kind.title for table in costs.others.values()]
    rows = [
        [arch, f"{flops:,}", f"{params:,}", *(costs.tables[name].kind.format_cell(cost) for name, cost in more.items())]
        for (arch, flops, params), more in zip(values, others, strict=True)
    ]
    if limit is not None:
        columns.append(f"{'' if limit.is_range else 'at or under '}{format_limit(FLOPS, limit)}:")
        for row, arch in zip(rows, architectures, strict=True):
            row.append("yes" if limit.allows(costs.flops.of(arch)) else "no")
    run.show("costs", columns, rows)
    run.result(
        [
            {"architecture": arch.to_list(), "flops": flops, "params": params, **_name_costs(costs, more)}
            for (arch, flops, params), more in zip(values, others, strict=True)
        ]
    )


def _name_costs(costs: Costs, values: Mapping[str, int]) -> dict[str, Any]:
    """Return costs besides FLOPs and parameters as files keep them; nothing if there are none."""
    numbers = {name: costs.tables[name].kind.to_number(cost) for name, cost in values.items()}
    return {"costs": numbers} if numbers else {}


def summarize_space(space: SearchSpace, costs: Costs, limit: Limit | None) -> dict[str, Any]:
    """Return the costs of all choices and the distribution of FLOPs over the space, as plain values for a file.

    Args:
        limit: on FLOPs; the summary then has the share of architectures within it.
    """
    flops, distribution, options = costs.flops, costs.flops.distribution(), space.options
    named = {} if options.has_choices_only else {"options": [list(map(str, layer)) for layer in options.by_layer]}
    summary = {
        "space": space.to_dict(),
        **named,
        "fixed": flops.fixed,
        "table": [list(row) for row in flops.rows],
        "params": {"fixed": costs.params.fixed, "table": [list(row) for row in costs.params.rows]},
        "architectures": space.size,
        "minimum": flops.minimum,
        "maximum": flops.maximum,
        "mean": flops.mean,
        "quantiles": {f"{q:g}": distribution.quantile(q) for q in QUANTILES},
    }
    if costs.others:
        summary["costs"] = {name: _summarize_table(table) for name, table in costs.others.items()}
    if limit is not None:
        share = "share_within_limit" if limit.is_range else "share_under_limit"
        summary |= {"limit": write_limit(FLOPS, limit), share: distribution.share(*get_bounds(limit))}
    return summary


def _summarize_table(table: CostTable) -> dict[str, Any]:
    """Return a table of another cost than FLOPs and parameters as plain values, in the user's unit."""
    write = table.kind.to_number
    return {
        "fixed": write(table.fixed),
        "table": [list(map(write, row)) for row in table.rows],
        "minimum": write(table.minimum),
        "maximum": write(table.maximum),
    }


def show_other_costs(run: Run, space: SearchSpace, costs: Costs) -> None:
    """Show what each choice of each layer costs besides FLOPs and parameters, then the range of each cost."""
    for table in costs.others.values():
        cells = [[format_range(group, table.kind.format_cell) for group in row] for row in group_by_choice(table)]
        show_choices(run, f"{table.kind.title} of each choice", space, cells)
    facts = []
    for table in costs.others.values():
        minimum, maximum = map(table.kind.format, (table.minimum, table.maximum))
        facts.append((f"{table.kind.noun}, minimum and maximum", f"{minimum} to {maximum}"))
    if facts:
        run.show("other costs of the whole space", ["what:", "value"], facts)


def show_space(run: Run, space: SearchSpace, costs: Costs, summary: dict[str, Any]) -> None:
    """Show what each choice of each layer costs, then the distribution of FLOPs over the space."""
    flops, params = group_by_choice(costs.flops), group_by_choice(costs.params)
    cells = [
        [f"{format_range(one)} / {format_range(other)}" for one, other in zip(*layer, strict=True)]
        for layer in zip(flops, params, strict=True)
    ]
    show_choices(run, "FLOPs / parameters of each choice", space, cells)
    # The first and the last layer's costs have what larger images and wider stages add to stem and head.
    grows = space.output_widths or space.image_sizes
    stem_and_head = f"FLOPs / parameters of stem and head{', at least' if grows else ''}"
    fixed = f"{format_cost(summary['fixed'])} / {format_cost(summary['params']['fixed'])}"
    facts = [
        ("architectures", f"{summary['architectures']:,}"),
        *_list_dimensions(space),
        ("FLOPs, minimum and maximum", f"{format_cost(summary['minimum'])} to {format_cost(summary['maximum'])}"),
        ("mean", format_cost(round(summary["mean"]))),
        (stem_and_head, fixed),
        *((f"{float(q):.0%} are at or under", format_cost(value)) for q, value in summary["quantiles"].items()),
    ]
    if "limit" in summary:
        limit = parse_limit(FLOPS, summary["limit"])
        within = format_limit(FLOPS, limit)
        if limit.is_range:
            facts.append((f"share of {within}", f"{summary['share_within_limit']:.1%}"))
        else:
            facts.append((f"share at or under {within}", f"{summary['share_under_limit']:.1%}"))
    run.show("the whole space", ["what:", "value"], facts)


def _list_dimensions(space: SearchSpace) -> list[tuple[str, str]]:
    """List what is searched besides choices, and its values."""
    dimensions = [
        ("widths of hidden channels", list(map(format_width, space.widths))),
        ("widths of network stages", list(map(format_width, space.output_widths))),
        ("bits of weights and activations", list(map(format_bits, space.bits))),
        ("sides of images, in pixels", list(map(str, space.image_sizes))),
    ]
    return [(name, ", ".join(values)) for name, values in dimensions if values]


def show_choices(run: Run, title: str, space: SearchSpace, cells: Sequence[Sequence[str]]) -> None:
    """Show a text for each choice of each layer, after the choice's index, in a column for each name of a choice."""
    titles, rows = arrange_by_choice(
        space, [[f"{index}: {text}" for index, text in enumerate(texts)] for texts in cells]
    )
    sizes = [f"{layer.in_channels}→{layer.out_channels}, {layer.in_size}→{layer.out_size} px" for layer in space.layers]
    table = [[index, size, *row] for index, (size, row) in enumerate(zip(sizes, rows, strict=True))]
    run.show(title, ["layer", "size:", *titles], table)


def group_by_choice(table: CostTable) -> list[list[list[int]]]:
    """Return the costs in a table by layer and choice, for all that may be searched besides."""
    groups: list[list[list[int]]] = [[[] for _ in range(count)] for count in table.options.choice_counts]
    for layer, options, row in zip(groups, table.options.by_layer, table.rows, strict=True):
        for option, cost in zip(cycle(options), row, strict=False):
            layer[option.choice].append(cost)
    return groups


def format_range(costs: Sequence[int], form: Callable[[int], str] = format_cost) -> str:
    """Return the cost of a choice as text; for a choice with several options, the minimum and the maximum."""
    low, high = form(min(costs)), form(max(costs))
    return low if low == high else f"{low} to {high}"
