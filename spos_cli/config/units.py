"""How a setting's value is written: sizes, durations, ranges, devices, `off`.

Each type below is an annotation for a field of `schema.py`: pydantic passes the raw YAML value to its converter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from spos_cli.errors import SposError
from spos_cli.files.home import expand_home
from spos_cli.files.quoting import quote_value
from spos_cli.space.architecture import WIDTH_UNIT
from spos_cli.space.bits import format_bits, parse_bits
from spos_cli.space.cost_kinds import BITOPS, COST_KINDS, FLOPS, LATENCY, PARAMS, CostKind, get_kind, parse_cost
from spos_cli.space.limits import Limit, parse_limit, write_limit
from spos_cli.space.search_space import parse_width

MAX_PROCESSES = 10_000
MIN_DEVIATION = 0.001  # of a channel, where white is 1: a quarter of a grey level
MAX_NUMBER = 1e39  # just above the largest 32-bit floating-point number


def as_value_error(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Wrap a function so that it raises ValueError, which pydantic collects, where it raises an error of ours."""

    def convert(value: Any) -> Any:
        try:
            return function(value)
        except SposError as error:
            raise ValueError(str(error)) from None

    return convert


def _refuse_switch(value: Any) -> Any:
    """Raise ValueError for YAML's `yes` and `true`, which Python would count as 1."""
    if isinstance(value, bool):
        raise ValueError(f"should be a number, not {str(value).lower()}")
    return value


def _read_off(value: Any) -> Any:
    """Return `off` for false, which is how YAML reads an unquoted `off`."""
    return "off" if value is False else value


def _read_limit(kind: CostKind) -> BeforeValidator:
    """Return the reader of a limit on a cost; defaults are limits already."""
    read = as_value_error(partial(parse_limit, kind))
    return BeforeValidator(lambda value: value if isinstance(value, Limit) else read(value))


def _write_limit(kind: CostKind) -> PlainSerializer:
    """Return what writes a limit on a cost into the resolved settings."""
    return PlainSerializer(partial(write_limit, kind))


def _read_own_limits(value: Any) -> Any:
    """Read limits on the user's own costs, by name; null is no limit."""
    if not isinstance(value, Mapping):
        raise ValueError(
            f"should be a mapping of costs and limits, such as {{energy: 12.5, memory: 3-8}}, not {quote_value(value)}"
        )
    limits = {}
    for name, limit in sorted(value.items(), key=lambda item: str(item[0])):
        if name in COST_KINDS:
            kind = COST_KINDS[name]
            raise ValueError(f"{name} has a limit of its own: {kind.setting}, or {kind.option.strip()}")
        try:
            if limit is not None:
                limits[name] = limit if isinstance(limit, Limit) else parse_limit(get_kind(str(name)), limit)
        except SposError as error:
            raise ValueError(f"{name}: {error}") from None
    return limits


def _write_own_limits(limits: Mapping[str, Limit]) -> dict[str, int | float | str]:
    """Return limits on the user's own costs for the resolved settings."""
    return {name: write_limit(get_kind(name), limit) for name, limit in limits.items()}


def _read_width(value: Any) -> float:
    """Read an entry of `space.widths`: a multiple of 0.001."""
    return parse_width(value) / WIDTH_UNIT


def _read_bits(value: Any) -> str:
    """Read an entry of `space.bits`, such as `w2a4`."""
    return format_bits(parse_bits(value))


def _read_devices(value: Any) -> int | str:
    """Read `auto`, `cpu` or a number of processes."""
    if value in ("auto", "cpu"):
        return str(value)
    if type(value) in (int, str) and str(value).isdecimal() and 1 <= int(value) <= MAX_PROCESSES:
        return int(value)
    raise ValueError(f"should be auto, cpu or a number of processes, not {quote_value(value)}")


def _read_value_range(value: Any) -> str | tuple[int | float, ...]:
    """Read `auto`, `dtype`, or the pixel values of black and white."""
    if value in ("auto", "dtype"):
        return str(value)
    if isinstance(value, (list, tuple)) and len(value) == 2:
        low, high = map(_read_number, value)
        if low < high:  # This is false for NaN.
            return tuple(int(bound) if bound.is_integer() else bound for bound in (low, high))
    raise ValueError(
        f"should be auto, dtype or two numbers, [black, white], such as [0, 4095], not {quote_value(value)}"
    )


def _read_class_weights(value: Any) -> str | tuple[float, ...] | None:
    """Read null, `balanced`, or a list of weights, one for each class."""
    if value is None or value == "balanced":
        return None if value is None else "balanced"
    if isinstance(value, (list, tuple)) and value:
        weights = tuple(map(_read_number, value))
        if all(weight > 0 for weight in weights):  # This is false for NaN.
            return weights
    raise ValueError(
        f"should be null, balanced or a list of positive numbers, one for each class, not {quote_value(value)}"
    )


def _read_channels(value: Any, least: float) -> tuple[float, ...] | None:
    """Read null, or a number for each channel from `least` to 1."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)) and value:
        numbers = tuple(map(_read_number, value))
        if all(least <= number <= 1 for number in numbers):  # This is false for NaN.
            return numbers
    raise ValueError(
        f"should be null or a list of numbers from {least:g} to 1, one for each channel, of pixels scaled from 0 to 1,"
        f" not {quote_value(value)}"
    )


def _read_number(value: Any) -> float:
    """Return a number; NaN for what is not a number, or beyond `MAX_NUMBER`."""
    if isinstance(value, bool):
        return float("nan")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")
    return number if abs(number) < MAX_NUMBER else float("nan")


Off = BeforeValidator(_read_off)
PathText = Annotated[str, AfterValidator(expand_home)]
Number = Annotated[int, BeforeValidator(_refuse_switch)]
Count = Annotated[Number, Field(ge=1, le=10**12)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Cost = Annotated[int, BeforeValidator(as_value_error(parse_cost))]
FlopsLimit = Annotated[Limit, _read_limit(FLOPS), _write_limit(FLOPS)]
ParamsLimit = Annotated[Limit, _read_limit(PARAMS), _write_limit(PARAMS)]
BitopsLimit = Annotated[Limit, _read_limit(BITOPS), _write_limit(BITOPS)]
LatencyLimit = Annotated[Limit, _read_limit(LATENCY), _write_limit(LATENCY)]  # microseconds
CostReference = Annotated[str, Field(max_length=32)]  # a name of `Config.cost_kinds`
OwnLimits = Annotated[Mapping[str, Limit], BeforeValidator(_read_own_limits), PlainSerializer(_write_own_limits)]
Width = Annotated[float, BeforeValidator(as_value_error(_read_width))]
BitPair = Annotated[str, BeforeValidator(as_value_error(_read_bits))]
Devices = Annotated[int | str, BeforeValidator(_read_devices)]
ClassWeights = Annotated[Literal["balanced"] | tuple[float, ...] | None, BeforeValidator(_read_class_weights)]
ChannelMeans = Annotated[tuple[float, ...] | None, BeforeValidator(partial(_read_channels, least=0))]
ChannelDeviations = Annotated[tuple[float, ...] | None, BeforeValidator(partial(_read_channels, least=MIN_DEVIATION))]
ValueRange = Annotated[Literal["auto", "dtype"] | tuple[int | float, int | float], BeforeValidator(_read_value_range)]
