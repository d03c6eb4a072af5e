"""Bits of a block's weights and activations: how they are written and read.

A pair of bits is one whole number, so that an architecture keeps it as it keeps a width: the tens are the bits of the
weights, the ones those of the activations. 24 is written `w2a4`; 0 stands for full precision.
"""

from __future__ import annotations

import re
from typing import Any

from spos_cli.errors import ConfigError
from spos_cli.files.quoting import quote_value

BIT_WIDTHS = (1, 2, 3, 4, 8)
WRITTEN_BITS = r"w[12348]a[12348]"
BITS_SYNTAX = "w and a, each with 1, 2, 3, 4 or 8, such as w2a4"

_WRITTEN_BITS = re.compile(WRITTEN_BITS)


def split_bits(bits: int) -> tuple[int, int]:
    """Return the bits of the weights and those of the activations; 0 and 0 for full precision."""
    weights, activations = divmod(bits, 10)
    return weights, activations


def format_bits(bits: int) -> str:
    """Write a pair of bits: `w2a4`."""
    return "w{}a{}".format(*split_bits(bits))


def parse_bits(value: Any) -> int:
    """Read `w2a4`.

    Raises:
        ConfigError: the value is not a pair of bits.
    """
    if not isinstance(value, str) or not _WRITTEN_BITS.fullmatch(value):
        raise ConfigError(f"bits: {quote_value(value)} is not a pair of bits; write {BITS_SYNTAX}")
    return int(value[1] + value[3])


def check_bits(bits: tuple[int, ...]) -> None:
    """Raise ConfigError if a pair is listed twice, or is of other bits than `BIT_WIDTHS`."""
    for pair in bits:
        if not set(split_bits(pair)) <= set(BIT_WIDTHS):
            raise ConfigError(f"bits: {format_bits(pair)} is not a pair of bits; write {BITS_SYNTAX}")
    if len(set(bits)) < len(bits):
        raise ConfigError(f"bits must be different pairs, got {', '.join(map(format_bits, bits))}")
