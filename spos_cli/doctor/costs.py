"""Check that costs are counted correctly, and that limits fit the space."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import torch

from spos_cli.doctor.finding import Finding, Findings, attempt, judge
from spos_cli.doctor.setup import Setup
from spos_cli.doctor.wording import percent
from spos_cli.errors import LimitError, RunError
from spos_cli.files.quoting import plural
from spos_cli.models.counting import count, count_flops_at
from spos_cli.official import golden
from spos_cli.run.latency_table import read_latency
from spos_cli.run.own_costs import read_own_tables
from spos_cli.run.training import make_sampler
from spos_cli.space.cost import CostTable
from spos_cli.space.cost_kinds import FLOPS, format_cost
from spos_cli.space.limits import Limit, explain_idle_limit, format_limit, get_bounds
from spos_cli.space.sampling import CostBinSampler
from spos_cli.space.search_space import OFFICIAL_SPACE, SearchSpace

# CPU vector units and GPU tensor cores process channels in groups of this size.
CHANNEL_MULTIPLE = 8
MIN_SHARE_WITHIN_LIMIT = 0.01  # share of the space
MAX_LISTED_NUMBERS = 5


def check(setup: Setup) -> Findings:
    """Check the official space's costs, then the limits, the shape and the sampler of this experiment's space."""
    return [
        attempt("official costs", check_official_costs),
        attempt("search space", lambda: check_limits(setup), "change the space"),
        attempt("space shape", lambda: check_shape(setup), "change the space"),
        attempt("path sampler", lambda: check_sampler(setup)),
    ]


def check_official_costs() -> Finding:
    """Check that FLOPs and parameters of the official space are counted as in the official code, and by PyTorch."""
    costs, size = count(OFFICIAL_SPACE), OFFICIAL_SPACE.image_size
    counts = {
        "FLOPs of the official architecture": (costs.flops.of(golden.WINNER), golden.WINNER_FLOPS),
        "the same as PyTorch counts them": (
            count_flops_at(OFFICIAL_SPACE, golden.WINNER, size, size),
            golden.WINNER_FLOPS,
        ),
        "its parameters": (costs.params.of(golden.WINNER), golden.WINNER_PARAMS),
        "fewest FLOPs of the official space": (costs.flops.minimum, golden.MIN_FLOPS),
        "most FLOPs of the official space": (costs.flops.maximum, golden.MAX_FLOPS),
    }
    wrong = [
        f"{name} {ours:,} instead of {official:,}" for name, (ours, official) in counts.items() if ours != official
    ]
    if wrong:
        advice = f"costs and limits are wrong with PyTorch {torch.__version__}: install another version"
        return Finding("official costs", "fail", ", ".join(wrong), advice)
    seen = f"the official architecture has {golden.WINNER_FLOPS:,} FLOPs and {golden.WINNER_PARAMS:,} parameters"
    return Finding("official costs", "ok", f"{seen}, as expected")


def check_limits(setup: Setup) -> Finding:
    """Compute the share of the space within each limit of the search."""
    flops = setup.costs.flops
    seen = f"{setup.space.size:,} architectures of {format_cost(flops.minimum)} to {format_cost(flops.maximum)} FLOPs"
    limits = read_limits(setup)
    if not limits:
        return Finding("search space", "ok", f"{seen}; no limit is set")
    impossible, advice = [], []
    for table, limit in limits:
        name, share = table.kind.setting, table.distribution().share(*get_bounds(limit))
        where, wider = ("within", "widen") if limit.is_range else ("at or under", "raise")
        seen += f"; {percent(share)} are {where} {name} ({format_limit(table.kind, limit)})"
        if empty := explain_empty_limit(table, limit):
            impossible.append(f"{empty}: change {name}" if limit.is_range else f"raise {name} to {empty} or more")
        elif idle := explain_idle_limit(table, limit):
            advice.append(f"{idle}; {'narrow' if limit.is_range else 'lower'} {name}, or set it to null")
        elif share < MIN_SHARE_WITHIN_LIMIT:
            advice.append(f"less than {percent(MIN_SHARE_WITHIN_LIMIT)} of the space is left to search: {wider} {name}")
    if impossible:
        return Finding("search space", "fail", seen, "; ".join(impossible))
    return judge("search space", seen, advice)


def explain_empty_limit(table: CostTable, limit: Limit) -> str:
    """Say which costs a limit without architectures misses: the smallest one, or those around a range; else `""`."""
    if not limit.is_range:
        # A rounded number may be below the cheapest architecture.
        return "" if limit.high >= table.minimum else table.kind.write(table.minimum)
    try:
        table.distribution().draw(np.random.default_rng(0), *get_bounds(limit))
    except LimitError as error:
        return str(error)
    return ""


def read_limits(setup: Setup) -> list[tuple[CostTable, Limit]]:
    """Return the search's limits, each with the costs that it applies to; the tables of all own costs must be there."""
    limits, tables = setup.config.search.cost_limits, dict(setup.costs.tables)
    tables |= {table.name: table for table in read_own_tables(setup.run, setup.space)}
    if "latency" in limits:
        with contextlib.suppress(RunError):  # The latency may be measured later; the search asks for it.
            tables["latency"] = read_latency(setup.run)
    return [(tables[name], limit) for name, limit in limits.items() if name in tables]


def check_shape(setup: Setup) -> Finding:
    """Look for weaknesses of a space: 1x1 feature maps, layers of equal cost, slow numbers of channels."""
    space, cost = setup.space, setup.costs.main
    problems = []
    last = space.layers[-space.stages[-1].blocks]
    if last.in_size == 1:
        first = next(layer for layer in space.layers if layer.in_size == 1)
        problems.append(f"feature maps are 1x1 pixels from layer {first.index} on, before the last network stage")
    alike, label = [i for i, row in enumerate(cost.rows) if len(row) > 1 and len(set(row)) == 1], cost.kind.label
    if alike:
        same = f"all choices of layers {_list(alike)} cost the same {label}"
        problems.append(f"{same}, so no {label} limit separates them")
    odd = sorted(number for number in convolved_channels(space) if number % CHANNEL_MULTIPLE)
    if odd:
        problems.append(f"convolutions of {_list(odd)} channels are slow: use multiples of {CHANNEL_MULTIPLE}")
    if problems:
        return Finding("space shape", "warn", "; ".join(problems), "change space.stages, space.choices or space.widths")
    seen = f"feature maps are {last.in_size}x{last.in_size} pixels before the last network stage"
    return Finding("space shape", "ok", seen)


def convolved_channels(space: SearchSpace) -> set[int]:
    """Return all numbers of channels that a space's convolutions make."""
    channels = {layer.out_channels // 2 if layer.split else layer.out_channels for layer in space.layers}
    hidden = {
        layer.hidden_channels(choice, width)
        for layer in space.layers
        for choice in layer.choices
        if choice.is_scalable
        for width in space.widths
    }
    return {*channels, *hidden, space.head_channels}


def _list(numbers: Sequence[int]) -> str:
    """List the first few of many numbers."""
    more = ", ..." if len(numbers) > MAX_LISTED_NUMBERS else ""
    return ", ".join(map(str, numbers[:MAX_LISTED_NUMBERS])) + more


def check_sampler(setup: Setup) -> Finding:
    """Check that the sampler can draw paths, and that it draws paths within the search's limit.

    Raises:
        LimitError: a FLOPs bin is empty.
    """
    supernet, limit = setup.config.supernet, setup.config.search.flops_limit
    sampler = make_sampler(setup.run, setup.space)
    sampler.paths(0)
    if supernet.sampler != "flops_bins":
        kinds = {
            "uniform": "uniform over the space",
            "sandwich": "the largest path, the smallest one and two random ones in each step",
        }
        return Finding("path sampler", "ok", kinds[supernet.sampler])
    bins = supernet.flops_bins
    share = setup.costs.flops.distribution().share(bins.low, bins.high)
    seen = (
        f"uniform over {plural((bins.high - bins.low) // bins.width, 'FLOPs bin')} from {format_cost(bins.low)} to"
        f" {format_cost(bins.high)}, which hold {percent(share)} of the space"
    )
    if limit is not None and limit.high < bins.low:
        advice = (
            f"no path at or under search.flops_limit ({format_cost(limit.high)}) is trained: lower"
            " supernet.flops_bins.low, or raise the limit"
        )
        return Finding("path sampler", "warn", seen, advice)
    if limit is not None and limit.low is not None and limit.low > bins.high:
        advice = (
            f"no path within search.flops_limit ({format_limit(FLOPS, limit)}) is trained: raise"
            " supernet.flops_bins.high, or lower the limit"
        )
        return Finding("path sampler", "warn", seen, advice)
    idle = sampler.explain_unreachable_bins() if isinstance(sampler, CostBinSampler) else ""
    return judge("path sampler", seen, [f"{idle}; change supernet.flops_bins"] if idle else [])
