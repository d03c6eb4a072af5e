"""The section `costs`: costs of the user's own, each with a name and a table."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field

from spos_cli.config.section import Section
from spos_cli.config.units import PathText
from spos_cli.files.quoting import quote_value
from spos_cli.space.choices import OWN_CODE
from spos_cli.space.cost_kinds import COST_KINDS, OWN_NAME, CostKind, make_own_kind

MAX_UNIT_LETTERS = 16


def _require_free_name(name: str) -> str:
    """Raise ValueError if a name is not that of an own cost, or if it is that of a built-in one."""
    if not OWN_NAME.fullmatch(name):
        raise ValueError(
            f"should be a name of at most 32 lower-case letters, digits and underscores, such as energy, not"
            f" {quote_value(name)}"
        )
    if name in COST_KINDS:
        raise ValueError(f"{name} is a built-in cost; choose a name other than {', '.join(COST_KINDS)}")
    return name


def _require_table(table: str) -> str:
    if not (table.strip() and table.isprintable()):
        raise ValueError("should be a CSV file or package.module:function")
    return table


def _require_unit(unit: str) -> str:
    if not (unit.strip() == unit and unit.isprintable() and 0 < len(unit) <= MAX_UNIT_LETTERS):
        raise ValueError(f"should be 1 to {MAX_UNIT_LETTERS} printable letters, such as mJ, not {quote_value(unit)}")
    return unit


class CostConfig(Section):
    """A cost of the user's own."""

    name: Annotated[str, AfterValidator(_require_free_name)] = Field(
        description="Name of the cost, such as energy: at most 32 lower-case letters, digits and underscores."
    )
    table: Annotated[PathText, AfterValidator(_require_table)] = Field(
        description="CSV file with the cost of each choice of each layer, which flops-table --cost-template NAME writes"
        " to fill in; or package.module:function, your own code, which returns these numbers."
    )
    unit: Annotated[str, AfterValidator(_require_unit)] | None = Field(
        None, description="Text behind the numbers, such as mJ. null: none."
    )

    @property
    def kind(self) -> CostKind:
        """How the cost is called and written."""
        return make_own_kind(self.name, self.unit or "")

    @property
    def is_own_code(self) -> bool:
        """Whether the table is an import path, not a file."""
        return OWN_CODE.fullmatch(self.table) is not None


def suggest_cost(name: str, known: Iterable[str]) -> str:
    """Return what is wrong with the name of a cost that does not exist, and what may be meant."""
    similar = difflib.get_close_matches(name, known, n=1)
    listed = ", ".join(known)
    hint = f"did you mean {similar[0]!r}?" if similar else f"known: {listed or 'none'}; own ones are named in costs"
    return f"there is no cost {quote_value(name)}; {hint}"
