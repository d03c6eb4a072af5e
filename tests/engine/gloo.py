"""Start processes that communicate over gloo, as `torchrun` would, for tests."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp

from spos_cli.engine import distributed
from spos_cli.engine.distributed import Processes
from tests.forks import free_port, make_environment

Work = Callable[[Processes, Path], None]


def run_together(world_size: int, works: Sequence[Work], folder: Path) -> None:
    """Run each function in all processes, one after another, each in its own folder: processes start slowly."""
    for work in works:
        (folder / work.__name__).mkdir()
    arguments: tuple[Any, ...] = (world_size, works, str(folder), free_port())
    # They are forked from a process that has imported everything.
    multiprocessing.set_forkserver_preload(["spos_cli.engine.trainer", "spos_cli.models.supernet", "torchvision"])
    mp.start_processes(_run, arguments, nprocs=world_size, start_method="forkserver")  # type: ignore[no-untyped-call]


def _run(rank: int, world_size: int, works: Sequence[Work], folder: str, port: int) -> None:
    os.environ |= make_environment(rank, world_size, port)
    with distributed.join("cpu", 1, timedelta(minutes=5)) as processes:
        for work in works:
            work(processes, Path(folder) / work.__name__)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # Launched processes end like this: a thread of gloo can abort the interpreter's shutdown.
