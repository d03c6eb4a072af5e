"""Freed memory stays in the process, where the C library is glibc."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

COUNT_BLOCKS = """
import ctypes, os, sys, torch
from spos_cli.data.workers import begin_worker
from spos_cli.engine.accelerator import CPU, select

begin = {"training": lambda: select(CPU), "worker": lambda: begin_worker(0)}[sys.argv[1]]

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    _fields_ = [(name, ctypes.c_size_t) for name in names]

def count_system_blocks():
    read = ctypes.CDLL(None).mallinfo2
    read.restype = Info
    return read().hblks

def count_new_blocks():
    before = count_system_blocks()
    tensors = [torch.empty(2**24) for _ in range(3)]
    return count_system_blocks() - before

for name in [name for name in os.environ if name.startswith("MALLOC_")]:
    del os.environ[name]
os.environ["MALLOC_ARENA_MAX"] = "8"
begin()
users = count_new_blocks()
del os.environ["MALLOC_ARENA_MAX"]
begin()
print(users, count_new_blocks())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize("process", ["training", "worker"])
def test_large_tensors_take_no_blocks_of_the_system_of_their_own(process: str) -> None:
    """glibc counts the blocks that it has mapped; settings of the user's own stay."""
    command = [sys.executable, "-c", COUNT_BLOCKS, process]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3 0"
