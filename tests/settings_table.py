"""`make docs`: write the tables of all settings into configs/README.md, from the sections in `spos_cli/config`.

python -m tests.settings_table
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from spos_cli.config.data import SOURCES, TORCHVISION, AspectRatios, Source
from spos_cli.config.schema import Config
from spos_cli.config.section import Section
from spos_cli.config.units import (
    BitopsLimit,
    BitPair,
    ChannelDeviations,
    ChannelMeans,
    ClassWeights,
    Cost,
    CostReference,
    Devices,
    FlopsLimit,
    LatencyLimit,
    OwnLimits,
    ParamsLimit,
    ValueRange,
)
from spos_cli.space.limits import Limit

PAGE = Path(__file__).parents[1] / "configs" / "README.md"
BEGIN = "<!-- Written by `make docs`. Change the descriptions in spos_cli/config instead. -->\n"
END = "<!-- End of what `make docs` writes. -->\n"
LARGE = 10**9  # The tables leave out upper bounds from here on: they only catch typing errors.

# Names for types whose Python name says little to a reader of YAML.
NAMES: list[tuple[Any, str]] = [
    (Cost, "size, such as `330M`"),
    (FlopsLimit, "size `330M`, range `250M-330M`"),
    (BitopsLimit, "size `6G`, range `4G-6G`"),
    (ParamsLimit, "size `3M`, range `2M-3M`"),
    (LatencyLimit, "time `12ms`, range `8ms-12ms`"),
    (OwnLimits, "names and limits"),
    (CostReference, "`flops`, `params`, `bitops`, `latency` or the name of an own cost"),
    (Devices, "`auto`, `cpu` or a whole number, 1 to 10,000"),
    (ClassWeights, "`balanced`, list of numbers above 0, or `null`"),
    (ValueRange, "`auto`, `dtype` or `[low, high]`"),
    (AspectRatios, "`[low, high]`"),
    (ChannelMeans, "list of numbers, 0 to 1, or `null`"),
    (ChannelDeviations, "list of numbers, 0.001 to 1, or `null`"),
    (Source, ", ".join(f"`{name}`" for name in (*SOURCES, f"{TORCHVISION}NAME")) + " or `package.module:name`"),
]
PLAIN = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text", type(None): "`null`"}


def tables() -> str:
    """Return a Markdown table for each section of the config, in the order of the file."""
    seen: dict[type[Section], str] = {}
    parts = [_table("The run", "Settings at the top level of the file.", _rows(Config, "", seen, nested=False))]
    for name, field in Config.model_fields.items():
        if _is_section(field.annotation):
            section: type[Section] = field.annotation  # type: ignore[assignment]
            parts.append(_table(f"`{name}`", section.__doc__ or "", _rows(section, f"{name}.", seen)))
    return "\n".join(parts)


def replace_tables(page: str) -> str:
    """Return the page with its tables replaced by those of the config."""
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def _table(title: str, about: str, rows: Iterator[tuple[str, str, str, str]]) -> str:
    lines = [f"### {title}", "", about, "", "| setting | values | default | what it is |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _rows(
    section: type[Section], prefix: str, seen: dict[type[Section], str], nested: bool = True
) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, values, default and description of each field; the fields of an inner section follow it.

    Args:
        seen: the first setting that each section has described, extended here; it is not described again.
    """
    hints = get_type_hints(section, include_extras=True)
    for name, field in section.model_fields.items():
        key, inner = prefix + name, _inner_section(hints[name])
        if _is_section(field.annotation):
            if nested:
                seen[inner] = key
                yield from _rows(inner, f"{key}.", seen)
            continue
        values = _describe_inner(hints[name], inner, seen) if inner else _values(hints[name], field)
        yield (
            f"`{key}`",
            values,
            _default(field, values.startswith("size,")),
            (field.description or "").replace("<", "&lt;").replace("|", "\\|"),
        )
        if inner and inner not in seen:
            yield from _rows(inner, f"{key}." if _is_optional(hints[name]) else f"{key}.N.", seen)


def _describe_inner(hint: Any, inner: type[Section], seen: dict[type[Section], str]) -> str:
    """Describe the values of a list of sections, or of a section that may be null."""
    if not _is_optional(hint):
        return f"list of {inner.__name__.removesuffix('Config').lower()}s"
    return f"settings as of `{seen[inner]}`, or `null`" if inner in seen else "the settings below, or `null`"


def _is_optional(hint: Any) -> bool:
    return type(None) in get_args(hint)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _inner_section(hint: Any) -> Any:
    """Return the section of a field that is a section or a list of sections; None for other fields."""
    return next((kind for kind in (hint, *get_args(hint)) if _is_section(kind)), None)


def _values(hint: Any, field: FieldInfo) -> str:
    """Describe the values that a field may have."""
    text = _type_name(hint)
    bounds = _bounds([*_metadata(hint), *field.metadata])
    if not bounds:
        return text
    first, *rest = text.split(" or ")  # In `number or null`, the number has the bounds.
    return "; or ".join([f"{first}, {bounds}", *rest])


def _type_name(hint: Any) -> str:
    for known, name in NAMES:
        if hint == known:
            return name
    if get_origin(hint) is Annotated:
        return _type_name(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return _either(_literals(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return _either([name for kind in get_args(hint) for name in _literals(kind) or [_type_name(kind)]])
    if get_origin(hint) is tuple:
        if get_args(hint)[0] == BitPair:
            return "list of pairs such as `w2a4`"
        return "list of ops" if str in get_args(get_args(hint)[0]) else f"list of {_type_name(get_args(hint)[0])}s"
    return PLAIN[hint]


def _literals(hint: Any) -> list[str]:
    """Return the values of a Literal; none for other types."""
    return [f"`{value}`" for value in get_args(hint)] if get_origin(hint) is Literal else []


def _either(names: list[str]) -> str:
    """Join alternatives: `a`, `b` or `c`."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def _metadata(hint: Any) -> list[Any]:
    """Return the annotations of a type, and of its alternatives or items."""
    if get_origin(hint) is Annotated:
        kind, *extras = get_args(hint)
        flat = [item for extra in extras for item in (extra.metadata if isinstance(extra, FieldInfo) else [extra])]
        return [*_metadata(kind), *flat]
    if get_origin(hint) in (Union, types.UnionType, tuple):
        return [item for kind in get_args(hint) for item in _metadata(kind)]
    return []


def _bounds(metadata: list[Any]) -> str:
    """Describe the numbers that are allowed."""
    low = high = ""
    for item in metadata:
        if isinstance(item, Ge):
            low = f"{item.ge:,} or more"
        elif isinstance(item, Gt):
            low = f"above {item.gt:,}"
        elif isinstance(item, Le) and item.le < LARGE:
            high = f"at most {item.le:,}"
        elif isinstance(item, Lt) and item.lt < LARGE:
            high = f"below {item.lt:,}"
    if low.endswith(" or more") and high.startswith("at most "):
        return f"{low.removesuffix(' or more')} to {high.removeprefix('at most ')}"
    return ", ".join(filter(None, (low, high)))


def _default(field: FieldInfo, cost: bool) -> str:
    """Return a default as YAML writes it; empty if the file must have a value."""
    if field.default is PydanticUndefined:
        return ""
    value = field.default
    if value == "off":
        return "`off`"  # YAML would quote it, but `Off` also reads it without quotes.
    if isinstance(value, Limit):
        cost, value = True, value.high
    if cost and value:
        return f"`{value // 10**6}M`"
    if isinstance(value, tuple):
        value = [item.model_dump(exclude_unset=True) if isinstance(item, Section) else item for item in value]
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return f"`{text.removesuffix(chr(10)).removesuffix('...').strip()}`"


def main() -> None:
    """Write the page."""
    PAGE.write_text(replace_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"written to {PAGE}")


if __name__ == "__main__":
    main()
