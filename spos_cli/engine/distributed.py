"""Processes and devices: the only file that knows ranks.

A command started plainly is one process. `--devices N` starts N of them on this machine through torch's
elastic launcher, each with the same command line; `torchrun ... -m spos_cli COMMAND` starts them on one or
several machines. Both tell a process its place through the environment, where `join` finds it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from spos_cli.engine import accelerator
from spos_cli.engine.differences import find_differences
from spos_cli.errors import ConfigError

# What gloo and NCCL say of a process that is gone, and of one that does not answer.
PEER_IS_GONE = ("Connection closed by peer", "Connection reset by peer", "remote process exited", "Broken pipe")
PEER_IS_SILENT = ("Timed out", "timed out", "timeout", "Timeout")
RENDEZVOUS_FORGETS = 20.0  # seconds; torchrun takes a machine for alive until three signs, 5 s apart, are missing
LAUNCHED = "SPOS_LAUNCHED"  # a name of the launch, in the processes that `launch` starts
ERRORS = "SPOS_ERRORS"  # the folder where they leave what it is to report
# Multiply-adds of a layer in one pass that are worth a thread. Measured on two cores of an EPYC, quiet: with 3 million
# two threads are as fast as one, with 7 million 1.25 times as fast, with 13 to 26 million 1.4 to 1.5 times.
WORK_OF_A_THREAD = 5_000_000
NO_ACCIDENT = (2, 128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes after which nothing is started again


@dataclass(frozen=True)
class Processes:
    """This process among all: `rank` of `world_size`, computing on `device`; `local_rank` on its machine."""

    rank: int
    world_size: int
    device: torch.device
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process. Goes over the CPU, so it waits for no GPU."""
        if self.world_size == 1:
            return flag
        value = torch.tensor([int(flag)])
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value)

    def gather(self, values: Tensor) -> Tensor:
        """`(n,)` of each process as `(world_size, n)`, in the order of the ranks."""
        if self.world_size == 1:
            return values[None]
        parts = [torch.empty_like(values) for _ in range(self.world_size)]
        dist.all_gather(parts, values)
        return torch.stack(parts)

    def gather_texts(self, text: str) -> list[str]:
        """The text of each process, in the order of the ranks. Goes over the CPU."""
        content = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        sizes = self.gather(torch.tensor([len(content)])).flatten().tolist()
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(content)] = content
        rows = self.gather(padded).numpy()
        return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]

    def agree(self, text: str) -> bool:
        """Tell whether all processes have the same text."""
        return len(set(self.gather_texts(text))) == 1

    def require_same(self, values: Mapping[str, Any]) -> None:
        """Raise ConfigError, the same on every process, if one of them was started with other values than the first."""
        texts = [json.loads(text) for text in self.gather_texts(json.dumps(values))]
        for rank, theirs in enumerate(texts):
            differences = [
                f"{name} is {one!r:.60} on process 0 and {other!r:.60} on process {rank}"
                for name, one, other in find_differences(texts[0], theirs)
            ]
            if differences:
                raise ConfigError(
                    f"the processes were started differently: {'; '.join(differences[:6])}; start all of them with the"
                    " same command, settings and versions"
                )

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites tensors with those of the first process."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    @contextlib.contextmanager
    def one_first(self) -> Iterator[None]:
        """Within, the first process of each machine goes ahead of its others: it may download what they read."""
        if self.local_rank:
            self.barrier()
        yield
        if not self.local_rank:
            self.barrier()

    def barrier(self) -> None:
        """Waits until every process has come here."""
        self.any(False)


def wanted(devices: int | str) -> int:
    """The number of processes that a `devices` setting asks for on this machine."""
    if devices == "cpu":
        return 1
    if devices == "auto":
        return max(1, accelerator.count())
    return int(devices)


def launched() -> bool:
    """Whether a launcher has started this process as one of several."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def processes_here() -> int:
    """Count the processes of this launch on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def processes_in_all() -> int:
    """Count the processes of this launch on all machines."""
    return int(os.environ.get("WORLD_SIZE", 1))


def launch_id() -> str | None:
    """What all processes of a launch have in common, those that were started again included; None without one.

    Under torchrun it is the user's `--rdzv-id`; `none` if that was not given.
    """
    return os.environ.get(LAUNCHED) or os.environ.get("TORCHELASTIC_RUN_ID", "none") if launched() else None


@contextlib.contextmanager
def join(
    devices: int | str,
    threads: int | None,
    timeout: timedelta,
    same: Mapping[str, Any] | None = None,
    work: int | None = None,
) -> Iterator[Processes]:
    """Takes this process's place among all, and leaves it at the end.

    With GPUs it does so only where all has ended well: NCCL leaves a group together, and waits for those that have
    not failed. A process that has failed is to say so and to end at once, as `cli.main` does.

    Args:
        devices: `auto`, `cpu` or a number, as in the config.
        threads, work: of this process, for `thread_count`.
        timeout: how long this process waits for another one before it gives up.
        same: plain values that are to be the same on all processes; compared before anything else.

    Raises:
        ConfigError: the processes differ in `same`; there are more of them than GPUs, where there are GPUs; PyTorch
            cannot use these, or NCCL not connect them.
        PeerLost: another process has ended, does not answer, or cannot be reached any more.
    """
    accelerator.require_usable(devices)
    local_size = processes_here()
    device = device_of(devices, local_size, int(os.environ.get("LOCAL_RANK", 0)))
    torch.set_num_threads(thread_count(threads, local_size, work))
    if not launched():
        yield Processes(0, 1, device)
        return
    accelerator.select(device)
    connected = ended_well = False
    try:
        dist.init_process_group(accelerator.backend(device), timeout=timeout)
        processes = Processes(dist.get_rank(), dist.get_world_size(), device, int(os.environ.get("LOCAL_RANK", 0)))
        processes.require_same({"device": device.type, **(same or {})})
        if device.type != "cpu":
            processes.sum(torch.zeros(1, device=device))  # NCCL connects when it is first used
        processes.barrier()  # nobody ends with a mistake while another is still being connected
        connected = True
        yield processes
        processes.barrier()  # nobody leaves while another may still need it
        ended_well = True
    except RuntimeError as error:
        if any(text in str(error) for text in PEER_IS_GONE):
            if int(os.environ["WORLD_SIZE"]) > local_size:
                # A machine that is gone for good must not be counted among those that begin anew. If it is there,
                # torchrun does not wait, but ends this process and starts it again.
                time.sleep(RENDEZVOUS_FORGETS)
            raise PeerLost("another process has ended", silent=False) from error
        if isinstance(error, dist.DistBackendError) and not _has_waited(error):
            said = _last_line(error)
            if not connected:
                raise ConfigError(
                    f"NCCL cannot connect the GPUs: {said}; mend that (NCCL_DEBUG=INFO tells more), or use --devices 1"
                ) from error
            raise PeerLost(f"process {os.environ['RANK']} has lost the others: {said}", silent=True) from error
        if isinstance(error, dist.DistError) or _has_waited(error):
            waited = f"process {os.environ['RANK']} has waited {timeout} for another one (timeout_minutes)"
            raise PeerLost(f"{waited}, which hangs or cannot be reached", silent=True) from error
        raise
    finally:
        if dist.is_initialized() and (ended_well or device.type == "cpu"):
            dist.destroy_process_group()


def _has_waited(error: RuntimeError) -> bool:
    """Whether gloo, NCCL or their store has given up a process that does not answer."""
    # A GPU gives up its own work, too: "CUDA error: the launch timed out and was terminated".
    return "CUDA error" not in str(error) and any(text in str(error) for text in PEER_IS_SILENT)


def _last_line(error: RuntimeError) -> str:
    """What an error of NCCL says in the end, where it is about the cause, without PyTorch's own stack."""
    text, _, _ = str(error).partition("Exception raised from")
    lines = [line.strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line and line != "Last error:"), "it does not say why")


def usable_cores() -> int:
    """The cores that this process may use, which a container or a batch system may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(threads: int | None, local_size: int, work: int | None = None) -> int:
    """Choose the CPU threads of each of `local_size` processes on this machine.

    Small networks get few: OpenMP's threads wait for each other after every operation, spinning, so that one busy
    process beside them makes a training of several threads two to five times slower, and one of one thread hardly at
    all. The choice depends on the work alone, and not on how busy the machine is: sums of other numbers of threads
    differ in their last bits, and a training that is resumed is to end in the same bytes.

    Args:
        threads: as the user wants it; None is OMP_NUM_THREADS, else an even share of the cores, if there is work.
        work: multiply-adds of a layer in one pass; None for as much as there may be.
    """
    if threads:
        return threads
    if "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    share = max(1, usable_cores() // local_size)
    return share if work is None else max(1, min(share, work // WORK_OF_A_THREAD))


def device_of(devices: int | str, local_size: int, local_rank: int) -> torch.device:
    """What one of `local_size` processes on this machine computes on.

    Raises:
        ConfigError: more processes than GPUs, where there are GPUs.
    """
    gpus = accelerator.count()
    if devices == "cpu" or gpus == 0:
        return accelerator.CPU
    if gpus == 1 < local_size and _sees_its_own():
        return accelerator.device(0)
    if local_size > gpus:
        raise ConfigError(f"{local_size} processes for {gpus} GPUs; use --devices {gpus} or --devices cpu")
    return accelerator.device(local_rank)


def _sees_its_own() -> bool:
    """Whether another launcher may have given this process a GPU of its own, and hidden the others.

    `torchrun --virtual-local-rank` and Slurm do so. Where all see the same one, NCCL says so when it connects them.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return LAUNCHED not in os.environ and bool(visible.strip()) and "," not in visible


class PeerLost(Exception):
    """This process is in order, but cannot go on without another one.

    Attributes:
        silent: whether this one has to say it; else the other one has ended, and will have said why.
    """

    def __init__(self, message: str, *, silent: bool) -> None:
        super().__init__(message)
        self.silent = silent


class WorkersFailed(Exception):
    """Processes that `launch` started did not end well.

    Attributes:
        messages: what they said, without repetition; nothing of those that have printed a traceback.
        exit_code: that of the first one that failed; 128 plus the number where a signal ended it.
    """

    def __init__(self, messages: list[str], exit_code: int) -> None:
        super().__init__("; ".join(messages))
        self.messages = messages
        self.exit_code = exit_code


def launch(count: int, arguments: Sequence[str], max_restarts: int, say: Callable[[str], object]) -> None:
    """Runs this command line in `count` processes on this machine and waits for them.

    If one of them is killed or breaks down, all are started again; they go on from their last checkpoint. A mistake
    of the user and a wish to stop end them for good.

    Args:
        max_restarts: how often they are started again.
        say: is told of each restart, in a sentence.

    Raises:
        WorkersFailed: some of them did not end well.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    logging.getLogger("torch.distributed.run").setLevel(logging.CRITICAL)
    os.environ[LAUNCHED] = uuid.uuid4().hex
    for restarts in itertools.count():
        try:
            _launch_once(count, arguments)
        except WorkersFailed as failed:
            if failed.exit_code in NO_ACCIDENT or restarts >= max_restarts:
                raise
            what = "; ".join(failed.messages) or "a process has broken down"
            say(f"{what}: all {count} start again from the last checkpoint ({restarts + 1} of {max_restarts} restarts)")
        else:
            return


def _launch_once(count: int, arguments: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:  # where failed processes leave their errors
        os.environ[ERRORS] = folder
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id="spos",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "spos_cli", *arguments)
        except SignalException as error:
            raise WorkersFailed([], 128 + int(error.sigval)) from None
        except ChildFailedError as error:
            raise _failed(error, Path(folder)) from None


def _failed(error: ChildFailedError, folder: Path) -> WorkersFailed:
    """What is to be said of failed processes: of all that have left an error, not only of the first."""
    said = {int(path.stem): path.read_text(encoding="utf-8") for path in folder.glob("*.error")}
    failures = [failure for _, failure in sorted(error.failures.items())]
    # The launcher ends those that are left with SIGTERM; that is no failure of theirs.
    failures = [failure for failure in failures if failure.exitcode != -signal.SIGTERM] or failures
    for failure in failures:
        if failure.exitcode < 0:
            said[failure.local_rank] = f"process {failure.local_rank} was ended by {failure.signal_name()}"
    # Those that have something to say come before those that only lost a peer.
    first = min(failures, key=lambda failure: (failure.local_rank not in said, failure.timestamp))
    code = first.exitcode if first.exitcode >= 0 else 128 - first.exitcode
    return WorkersFailed(list(dict.fromkeys(said[rank] for rank in sorted(said))), code)


def report_failure(error: BaseException) -> bool:
    """Hands an error of this process to `launch`; False if that did not start it, or the disk has no room for it.

    Not by PyTorch's own file for it, whose reader breaks down when it was torn.
    """
    if ERRORS not in os.environ or not launched():
        return False
    path = Path(os.environ[ERRORS], f"{os.environ['LOCAL_RANK']}.error")
    part = path.with_suffix(".part")
    try:
        part.write_text(str(error), encoding="utf-8")
        part.replace(path)
    except OSError:
        return False
    return True
