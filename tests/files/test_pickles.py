"""Pickles of plain values are read; whatever else a pickle can do is refused, and nothing of it is done."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spos_cli.errors import ArchitectureError, CheckpointError
from spos_cli.files import pickles
from spos_cli.official import flops_table
from spos_cli.space.architecture import read

ATOMS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
FLAT = ATOMS | st.lists(ATOMS, max_size=5).map(tuple)
PLAIN = st.recursive(
    FLAT,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(FLAT, inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(value=PLAIN, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_come_back(value: Any, protocol: int) -> None:
    """Python's own pickler is the oracle."""
    assert pickles.loads(pickle.dumps(value, protocol), "x") == value


def test_texts_of_python_2_are_read() -> None:
    assert pickles.loads(b"\x80\x02}q\x00U\x05conv1q\x01K\x07s.", "x") == {"conv1": 7}
    assert pickles.loads(b"(dp0\nS'conv1'\np1\nL7L\ns.", "x") == {"conv1": 7}


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


class Builds:
    def __setstate__(self, state: Any) -> None:
        raise AssertionError("code of a class was run")


def hostile(marker: Path) -> dict[str, bytes]:
    """Pickles that would run something, import something, or never end."""
    path = str(marker).encode()
    nested = b"\x80\x02)" + b"\x85" * 100_000 + b"."
    laughs = b"\x80\x02)" + b"".join(b"q%c0h%ch%c\x86" % ((i,) * 3) for i in range(60)) + b"K\x01s."
    return {
        **{f"reduce {protocol}": pickle.dumps(Runs(marker), protocol) for protocol in range(6)},
        "inside a table": pickle.dumps({"conv1": {(3, 16): Runs(marker)}}),
        "global": b"cposix\nmkdir\n(S'" + path + b"'\ntR.",
        "inst": b"(S'" + path + b"'\niposix\nmkdir\n.",
        "obj": b"(cposix\nmkdir\nS'" + path + b"'\no.",
        "stack global": b"\x80\x04\x8c\x05posix\x8c\x05mkdir\x93(\x8c" + bytes([len(path)]) + path + b"tR.",
        "new object": pickle.dumps(Builds(), 2),
        "build": pickle.dumps(Path("x")),
        "persistent id": b"Psome id\n.",
        "binary persistent id": b"K\x01Q.",
        "extension": b"\x80\x02\x82\x01.",
        "a class alone": pickle.dumps(Builds),
        "a function alone": pickle.dumps(os.system),
        "NumPy": pickle.dumps(np.arange(3)),
        "a NumPy number": pickle.dumps({"a": np.float64(1)}),
        "ordered dict": pickle.dumps(collections.OrderedDict(a=1)),
        "a set": pickle.dumps({1, 2}),
        "bytes": pickle.dumps(b"x"),
        "a list in itself": b"\x80\x02]q\x00h\x00a.",
        "a dict in itself": b"\x80\x02}q\x00K\x01h\x00s.",
        "nested without end as a key": b"}" + nested[2:-1] + b"K\x01s.",
        "doubled sixty times as a key": b"}" + laughs[2:],
        "a hundred million places": b"K\x01r\xff\xff\xff\x7f0.",
        "a text of 2**62 bytes": b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"x.",
        "a number of a million digits": b"L" + b"9" * 10**6 + b"L\n.",
        "nothing": b".",
        "a mark": b"(.",
        "two values": b"K\x01K\x02.",
        "no end": b"K\x01",
        "too few keys": b"\x80\x02}(K\x01u.",
        "an append to a number": b"K\x01K\x02a.",
        "a mark in a tuple": b"((K\x01\x86.",
        "memory that was never written": b"h\x07.",
        "no pickle": b"GIF89a",
    }


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", hostile(Path("/x")))
def test_hostile_pickles_run_nothing(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    content = hostile(marker)[name]
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        pickles.read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 160
    with pytest.raises(CheckpointError):
        flops_table.read_table(path)
    with pytest.raises(ArchitectureError):
        read(str(path))
    assert not marker.exists()


def test_the_hostile_set_is_hostile(tmp_path: Path) -> None:
    """Python's own unpickler runs them: the test above would see it if ours did."""
    ran = 0
    for name in ("reduce 0", "reduce 2", "reduce 5", "global", "inst", "obj", "stack global"):
        marker = tmp_path / name
        pickle.loads(hostile(marker)[name])
        ran += marker.exists()
    assert ran == 7


def test_every_instruction_is_known_or_refused() -> None:
    """Of all instructions that there are, only these make values here."""
    known = {
        *pickles.ATOMS,
        *pickles.EMPTY,
        *pickles.SHORT_TUPLES,
        *pickles.PUTS,
        *pickles.GETS,
        *("MARK", "TUPLE", "LIST", "DICT", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "MEMOIZE"),
        *("PROTO", "FRAME", "STOP"),
    }
    for opcode in pickletools.opcodes:
        machine = pickles._Machine()
        if opcode.name not in known:
            with pytest.raises(pickles._Refused):
                machine.step(opcode.name, None)
    assert known < {opcode.name for opcode in pickletools.opcodes}


@settings(deadline=None)
@given(content=st.binary(max_size=60))
def test_any_bytes_are_a_value_or_an_error(content: bytes) -> None:
    with contextlib.suppress(CheckpointError):
        pickles.loads(content, "x")


def test_a_table_of_a_hundred_thousand_entries_is_read() -> None:
    table = {"shufflenet_3x3_stride_1": {(i, i, i, 7, 7, 1): i for i in range(100_000)}}
    assert pickles.loads(pickle.dumps(table), "x") == table


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        pickles.read(tmp_path / "nothing.pkl")
