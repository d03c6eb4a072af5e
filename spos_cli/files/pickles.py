"""Read pickled files of plain values without running code.

A pickle is a program for a stack machine, and some of its instructions import and call things. This reader knows only
the instructions that make numbers, texts, tuples, lists and dicts. `pickletools` splits the file into instructions, and
any other one is refused. The result is a tree: only numbers, texts and short flat tuples may be mentioned twice, so
that a small file cannot stand for a value that is endless or too large for the memory.
"""

from __future__ import annotations

import pickletools
from pathlib import Path
from typing import Any

from spos_cli.errors import CheckpointError
from spos_cli.files.os_errors import os_errors_as

MAX_BYTES = 64 * 2**20
MAX_FLAT = 64  # elements of a tuple that may be a key or be mentioned twice

ATOMS = (
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE"),
    *("SHORT_BINUNICODE", "BINUNICODE8"),
)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
GETS = ("GET", "BINGET", "LONG_BINGET")
MARK = object()


def is_pickle(content: bytes) -> bool:
    """Tell whether a file's content looks like a pickle: it ends with STOP, and begins like a plain value."""
    return content[-1:] == b"." and content[:1] in (b"\x80", b"(", b"]", b"}", b")")


def read(path: Path) -> Any:
    """Return the value in a pickled file.

    Raises:
        CheckpointError: the file cannot be read, is torn or too large, or holds more than plain values.
    """
    with os_errors_as(CheckpointError, f"cannot read {path}"), path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    return loads(content, str(path))


def loads(content: bytes, name: str) -> Any:
    """Return the value in a pickle's bytes; `name` is for messages.

    Raises:
        CheckpointError: the pickle is torn or too large, or holds more than plain values.
    """
    if len(content) > MAX_BYTES:
        raise CheckpointError(f"{name} is larger than {MAX_BYTES >> 20} MiB, too large for a file of plain values")
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(content):
            machine.step(opcode.name, argument)
        value = machine.pop()
        if machine.stack:
            raise ValueError("values are left over")
    except _Refused as reason:
        raise CheckpointError(
            f"{name} is not read: it {reason}; only numbers, texts, tuples, lists and dicts are allowed"
        ) from None
    # pickletools raises these for a torn file, and the stack for a program that takes more than it has put there.
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError):
        raise CheckpointError(f"{name} is not a pickled file of plain values, or is torn") from None
    return value


class _Refused(Exception):
    """An instruction that does not make a plain value; the text says what it does."""


class _Machine:
    """The stack and the memory of an unpickling."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Run one instruction."""
        stack = self.stack
        if name in ATOMS:
            stack.append(CONSTANTS.get(name, argument))
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name == "MARK":
            stack.append(MARK)
        elif name in SHORT_TUPLES:
            stack.append(tuple(self.pop() for _ in range(SHORT_TUPLES[name]))[::-1])
        elif name == "TUPLE":
            stack.append(tuple(self.pop_to_mark()))
        elif name == "LIST":
            stack.append(self.pop_to_mark())
        elif name == "DICT":
            stack.append(_fill({}, self.pop_to_mark()))
        elif name in ("APPEND", "APPENDS"):
            items = [self.pop()] if name == "APPEND" else self.pop_to_mark()
            _expect(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [self.pop(), self.pop()][::-1] if name == "SETITEM" else self.pop_to_mark()
            _fill(_expect(stack[-1], dict), items)
        elif name in PUTS or name == "MEMOIZE":
            self.memory[len(self.memory) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in GETS:
            if not _is_flat(self.memory[argument]):
                raise _Refused("mentions a value twice")
            stack.append(self.memory[argument])
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise _Refused(f"would run code ({name})" if name in CALLS else f"holds a {name.lower()}")

    def pop(self) -> Any:
        """Take the topmost value off the stack."""
        value = self.stack.pop()
        if value is MARK:
            raise ValueError("a mark where a value was expected")
        return value

    def pop_to_mark(self) -> list[Any]:
        """Take the topmost mark and the values above it off the stack, and return the values."""
        items = []
        while (value := self.stack.pop()) is not MARK:
            items.append(value)
        return items[::-1]


# Instructions that import or call something.
CALLS = (
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"),
    *("PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4"),
)


def _is_flat(value: Any) -> bool:
    """Tell whether a value is a number, a text or a short tuple of them, which are all cheap to compare."""
    if isinstance(value, tuple):
        return len(value) <= MAX_FLAT and not any(isinstance(item, tuple | list | dict) for item in value)
    return not isinstance(value, list | dict)


def _fill(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    """Put alternating keys and values into a dict."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not _is_flat(key):
            raise _Refused("has a key that is not a number, a text or a flat tuple")
        target[key] = value
    return target


def _expect(value: Any, kind: type) -> Any:
    """Return a value, or raise ValueError if it is not of a kind."""
    if not isinstance(value, kind):
        raise ValueError(f"a {kind.__name__} was expected")
    return value
