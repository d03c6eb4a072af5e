"""Measure two processes on this machine: scoring candidates, and what a training step sends."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from spos_cli.engine.distributed import Processes
from spos_cli.engine.parallel import SUPPORTED_ARGUMENTS, wrap
from spos_cli.models.counting import count
from spos_cli.models.skeleton import initialize
from spos_cli.models.supernet import Supernet
from spos_cli.search.evaluator import CalibrationSet, Evaluator
from spos_cli.space.sampling import CostBinSampler
from spos_cli.space.search_space import OFFICIAL_SPACE
from tests.benchmarks.candidates import draw_candidates
from tests.benchmarks.comparison import Comparison

STEP_SIZE, STEP_BATCH, STEPS = 32, 32, 12  # pixels, images of a process, steps of each side


def run_in_processes(number: int, work: Any) -> Any:
    """Run `work(rank, number)` in some processes of one thread each; return the result of the first one."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_worker, (number, work, folder), nprocs=number)  # type: ignore[no-untyped-call]
        return torch.load(Path(folder) / "result.pt")


def _worker(rank: int, number: int, work: Any, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=number, timeout=timedelta(minutes=10)
    )
    result = work(rank, number)
    if rank == 0:
        torch.save(result, Path(folder) / "result.pt")
    dist.barrier()
    os._exit(0)


def score_groups(rank: int, number: int) -> list[float]:
    """Return the seconds in which the processes score eight groups of candidates together, one value a turn."""
    supernet = Supernet(OFFICIAL_SPACE)
    initialize(supernet, 0)
    images = torch.randint(0, 256, (32, 3, 224, 224), dtype=torch.uint8)
    evaluator = Evaluator(
        supernet,
        lambda pixels: pixels.flip(1).float(),
        calibration=CalibrationSet(images, 32),
        images=images,
        labels=torch.zeros(32, dtype=torch.int64),
        batch=32,
        device=torch.device("cpu"),
        amp="bf16",
    )
    groups = [group[:2] for group in draw_candidates()] + [group[2:4] for group in draw_candidates()]
    seconds = []
    for turn in range(6):
        dist.barrier()
        begin = time.perf_counter()
        for group in groups[:8][rank::number]:
            evaluator.score(group)
        dist.barrier()
        if turn:
            seconds.append(time.perf_counter() - begin)
    return seconds


def compare_scoring() -> Comparison:
    """Compare candidates per second of one process on one core with two processes on two cores."""
    one, two = ([16 / second for second in run_in_processes(number, score_groups)] for number in (1, 2))
    return Comparison("candidate evaluation with 2 processes", "candidates/s", one, two, "1 process")


def train_steps(rank: int, number: int) -> tuple[list[float], list[float], float, float]:
    """Return steps per second with plain DistributedDataParallel and with ours, and the MB that each sends in a step.

    Neither sends buffers, since a baseline that broadcasts them would do more work.
    """
    sampler = CostBinSampler(count(OFFICIAL_SPACE).flops, 290_000_000, 360_000_000, 10_000_000, seed=0)
    images = torch.randn(STEP_BATCH, 3, STEP_SIZE, STEP_SIZE).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (STEP_BATCH,))
    criterion = nn.CrossEntropyLoss()
    models = []
    for _ in range(2):
        model = Supernet(OFFICIAL_SPACE)
        initialize(model, 0)
        models.append(model.to(memory_format=torch.channels_last))
    without_buffers = {
        "forward_sync_buffers" if "forward_sync_buffers" in SUPPORTED_ARGUMENTS else "broadcast_buffers": False
    }
    plain = DistributedDataParallel(models[0], find_unused_parameters=True, **without_buffers)
    ours = wrap(models[1], Processes(rank, number, torch.device("cpu")))
    assert isinstance(ours, DistributedDataParallel)
    sent = [0, 0]
    for side, wrapped in enumerate((plain, ours)):

        def hook(group, bucket, side=side):  # type: ignore[no-untyped-def]  # PyTorch looks at the annotations
            sent[side] += bucket.buffer().numel() * bucket.buffer().element_size()
            return allreduce_hook(dist.group.WORLD, bucket)

        wrapped.register_comm_hook(None, hook)
    rates: tuple[list[float], list[float]] = ([], [])
    for step in range(STEPS + 2):
        for side, wrapped in enumerate((plain, ours)):
            dist.barrier()
            begin = time.perf_counter()
            criterion(wrapped(images, sampler.draw(step)), labels).backward()
            if step >= 2:
                rates[side].append(1 / (time.perf_counter() - begin))
            wrapped.zero_grad(set_to_none=True)
    theirs, mine = (total / (STEPS + 2) / 1e6 for total in sent)
    return *rates, theirs, mine


def compare_gradients() -> list[Comparison]:
    """Compare the steps of two processes at 32 px, and the bytes sent, with plain DistributedDataParallel."""
    theirs, ours, whole, sent = run_in_processes(2, train_steps)
    return [
        Comparison("forward and backward, 2 processes, 32 px", "steps/s", theirs, ours, "plain DDP"),
        Comparison("gradients sent in a step", "steps/MB", [1 / whole], [1 / sent], "plain DDP"),
    ]


def lines(full: bool) -> Iterator[Comparison]:
    """Compare scoring and training."""
    yield compare_scoring()
    yield from compare_gradients()
