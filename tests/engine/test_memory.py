"""Freed memory stays in the process, where the C library is glibc."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

COUNT_BLOCKS = """
import ctypes, torch
from spos_cli.engine.accelerator import CPU, select

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    _fields_ = [(name, ctypes.c_size_t) for name in names]

def count_system_blocks():
    read = ctypes.CDLL(None).mallinfo2
    read.restype = Info
    return read().hblks

select(CPU)
before = count_system_blocks()
tensors = [torch.empty(2**24) for _ in range(3)]
print(count_system_blocks() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize(("own", "expected"), [({}, "0"), ({"MALLOC_ARENA_MAX": "8"}, "3")], ids=["ours", "the user's"])
def test_large_tensors_take_no_blocks_of_the_system_of_their_own(own: dict[str, str], expected: str) -> None:
    """glibc counts the blocks that it has mapped; settings of the user's own stay."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", COUNT_BLOCKS]
    done = subprocess.run(command, env=environment | own, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
