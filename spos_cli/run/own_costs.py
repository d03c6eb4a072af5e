"""Tables of the user's own costs: read from CSV files, or computed by the user's code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from spos_cli.config.costs import CostConfig
from spos_cli.engine.distributed import Processes
from spos_cli.errors import ConfigError, RunError
from spos_cli.files.own_code import call_own_code
from spos_cli.files.quoting import quote_value
from spos_cli.models.counting import Costs
from spos_cli.run.command import Run
from spos_cli.space.cost import CostTable
from spos_cli.space.cost_csv import name_option, read_costs, require_sensible_unit
from spos_cli.space.cost_kinds import MAX_OWN_COST, CostKind
from spos_cli.space.search_space import SearchSpace

FORM = "a mapping with fixed, a number, and table, for each layer a list with a number for each option"


def read_own_tables(run: Run, space: SearchSpace) -> list[CostTable]:
    """Read the tables of all own costs in the settings of a run. Only its user's own settings may come here.

    Raises:
        RunError: a file cannot be read, is of another space, or has a mistake.
        ConfigError: the user's code fails, or returns something else than costs.
    """
    return [read_own_table(run, cost, space) for cost in run.config.costs]


def read_own_table(run: Run, cost: CostConfig, space: SearchSpace) -> CostTable:
    """Read or compute the table of one own cost; raise errors as `read_own_tables`."""
    if not cost.is_own_code:
        path, template = Path(cost.table), run.command(f"flops-table --cost-template {cost.name}")
        if not path.exists():
            raise RunError(f"costs: {cost.name} has no table, since there is no {path}; run {template} and fill it in")
        return read_costs(path, space, cost.kind, template).table
    returned = call_own_code(cost.table, f"costs: cannot compute {cost.name} with {cost.table}", space)
    table = _check_table(returned, cost.kind, space, f"costs: {cost.table}")
    require_sensible_unit(table, f"costs: {cost.table}")
    return table


def digest_tables(tables: Iterable[CostTable]) -> dict[str, str]:
    """Return a digest of the numbers in each table, by the name of the cost."""
    contents = {table.name: json.dumps([table.fixed, table.rows]) for table in tables}
    return {name: hashlib.sha256(content.encode()).hexdigest()[:16] for name, content in contents.items()}


def require_same_tables(run: Run, costs: Costs, processes: Processes) -> None:
    """Raise RunError if not all processes have the same tables of own costs."""
    tables = [costs.tables[cost.name] for cost in run.config.costs]
    if not processes.agree(json.dumps(digest_tables(tables))):
        names = ", ".join(table.name for table in tables)
        raise RunError(f"not all processes have the same tables of {names}; copy the same files to all machines")


def _check_table(returned: Any, kind: CostKind, space: SearchSpace, where: str) -> CostTable:
    """Return what the user's code has returned as a table.

    Raises:
        ConfigError: it has another form, or a number is not a cost; the message names its layer and option.
    """
    if not isinstance(returned, Mapping) or returned.keys() != {"fixed", "table"}:
        keys = f" with {', '.join(map(str, returned))}" if isinstance(returned, Mapping) else ""
        raise ConfigError(f"{where} returns what is {_name(returned)}{keys}; it must return {FORM}")
    fixed = _to_cost(returned["fixed"], kind, f"{where}: fixed")
    layers = _list(returned["table"], space.num_layers, "layers", f"{where}: table")
    rows = []
    for costs, layer, options in zip(layers, space.layers, space.options.by_layer, strict=True):
        numbers = _list(costs, len(options), "options", f"{where}: layer {layer.index}")
        rows.append(
            [
                _to_cost(number, kind, f"{where}: {name_option(layer, option)}")
                for number, option in zip(numbers, options, strict=True)
            ]
        )
    return CostTable(kind, fixed, rows, space.options)


def _list(values: Any, length: int, things: str, where: str) -> Sequence[Any]:
    """Return values as a list; raise ConfigError if they are not one, or have another length."""
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__") or not hasattr(values, "__iter__"):
        raise ConfigError(f"{where} is {_name(values)}; it must be a list of {length} {things}")
    if len(values) != length:
        raise ConfigError(f"{where} has {len(values)} values; the space has {length} {things} there")
    return list(values)


def _to_cost(number: Any, kind: CostKind, where: str) -> int:
    """Return a number of the user's code as a cost, in millionths of its unit."""
    largest = MAX_OWN_COST // kind.scale
    is_number = isinstance(number, Real) and not isinstance(number, bool)
    if is_number and 0 <= number <= largest:  # This is false for NaN.
        return round(float(number) * kind.scale)
    raise ConfigError(f"{where} is {quote_value(number)}; it must be a number from 0 to {largest:,}")


def _name(value: Any) -> str:
    return f"of type {type(value).__name__}"
