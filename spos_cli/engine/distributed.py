"""Processes and devices: the only file that knows ranks.

By default a command is one process. `--devices N` starts N processes on this machine through torch's elastic launcher,
each with the same command line; `torchrun ... -m spos_cli COMMAND` starts them on one or several machines. Both tell a
process its rank through the environment, where `join` reads it.
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

# Parts of the messages of gloo and NCCL if another process has ended, and if it does not answer.
PEER_ENDED_MESSAGES = ("Connection closed by peer", "Connection reset by peer", "remote process exited", "Broken pipe")
PEER_SILENT_MESSAGES = ("Timed out", "timed out", "timeout", "Timeout")
# torchrun considers a machine alive until three heartbeats, which are 5 s apart, are missing.
RENDEZVOUS_TIMEOUT_SECONDS = 20.0
PAUSE_BEFORE_LEAVING_SECONDS = 0.1
LAUNCH_ID_VARIABLE = "SPOS_LAUNCHED"  # Names the launch in the processes that `launch` starts.
ERROR_FOLDER_VARIABLE = "SPOS_ERRORS"  # Names the folder where these processes write their errors for the launcher.
# Multiply-adds of a layer in one pass that justify another thread. Measured on two cores of a quiet EPYC: with 3
# million two threads are as fast as one, with 7 million 1.25 times, with 13 to 26 million 1.4 to 1.5 times as fast.
MULTIPLY_ADDS_PER_THREAD = 5_000_000
# Exit codes of a user's mistake and of a wish to stop, after which nothing is restarted.
FINAL_EXIT_CODES = (2, 128 + signal.SIGINT, 128 + signal.SIGTERM)


@dataclass(frozen=True)
class Processes:
    """This process among all of a launch.

    Attributes:
        rank: number of this process, from 0 to `world_size - 1`.
        world_size: number of all processes.
        device: what this process computes on.
        local_rank: number of this process among those of its machine.
    """

    rank: int
    world_size: int
    device: torch.device
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process. The exchange uses the CPU and waits for no GPU."""
        if self.world_size == 1:
            return flag
        value = torch.tensor([int(flag)])
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value)

    def begin_any(self, flag: bool) -> Callable[[], bool]:
        """Begin `any`, and return what waits for its result. Meanwhile this process can work, also with the others."""
        if self.world_size == 1:
            return lambda: flag
        value = torch.tensor([int(flag)])
        exchange = dist.all_reduce(value, dist.ReduceOp.MAX, async_op=True)

        def wait() -> bool:
            exchange.wait()
            return bool(value)

        return wait

    def gather(self, values: Tensor) -> Tensor:
        """Gather `(n,)` of each process to `(world_size, n)`, in the order of the ranks."""
        if self.world_size == 1:
            return values[None]
        parts = [torch.empty_like(values) for _ in range(self.world_size)]
        dist.all_gather(parts, values)
        return torch.stack(parts)

    def gather_texts(self, text: str) -> list[str]:
        """Gather the text of each process, in the order of the ranks. The exchange uses the CPU."""
        content = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)  # (bytes of the text,)
        sizes = self.gather(torch.tensor([len(content)])).flatten().tolist()
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(content)] = content
        rows = self.gather(padded).numpy()  # (world_size, bytes of the longest text)
        return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]

    def agree(self, text: str) -> bool:
        """Return whether all processes have the same text."""
        return len(set(self.gather_texts(text))) == 1

    def require_same(self, values: Mapping[str, Any]) -> None:
        """Raise the same ConfigError on every process if one was started with other values than the first process."""
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

    def copy_number(self, number: float | None) -> float | None:
        """Return the number of the first process, or None if it has none. The exchange uses the CPU."""
        value = torch.tensor([float("nan") if number is None else number], dtype=torch.float64)
        self.copy_from_main([value])
        return None if value.isnan() else float(value)

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of the first process."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    @contextlib.contextmanager
    def one_first(self) -> Iterator[None]:
        """Let the first process of each machine run the block before the others: it may download what they read."""
        if self.local_rank:
            self.barrier()
        yield
        if not self.local_rank:
            self.barrier()

    def barrier(self) -> None:
        """Wait until every process has arrived here."""
        self.any(False)


def count_processes(devices: int | str) -> int:
    """Return how many processes a `devices` setting asks for on this machine."""
    if devices == "cpu":
        return 1
    if devices == "auto":
        return max(1, accelerator.count())
    return int(devices)


def is_launched() -> bool:
    """Return whether a launcher has started this process as one of several."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def require_whole_launch() -> None:
    """Raise ConfigError if RANK and WORLD_SIZE are set, but not as a launcher sets them: they are left from another."""
    if not is_launched():
        return
    rank, world_size = (os.environ[name] for name in ("RANK", "WORLD_SIZE"))
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        problem = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not"
    elif not (rank.isdecimal() and world_size.isdecimal() and int(rank) < int(world_size)):
        problem = "RANK must be a number from 0 to WORLD_SIZE - 1"
    else:
        return
    raise ConfigError(
        f"RANK={rank:.20} and WORLD_SIZE={world_size:.20} are set in the environment, as for one of several processes,"
        f" but {problem}; run unset RANK WORLD_SIZE for a command of its own, or start all processes with torchrun"
    )


def count_local_processes() -> int:
    """Count the processes of this launch on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if is_launched() else 1


def get_local_rank() -> int:
    """Return the position of this process among those of this launch on this machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) if is_launched() else 0


def count_all_processes() -> int:
    """Count the processes of this launch on all machines.

    Raises:
        ConfigError: as `require_whole_launch`.
    """
    require_whole_launch()
    return int(os.environ["WORLD_SIZE"]) if is_launched() else 1


def get_launch_id() -> str | None:
    """Return the name that all processes of a launch share, restarted ones included; None without a launcher.

    Under torchrun it is the user's `--rdzv-id`, or `none` if that was not given.
    """
    if not is_launched():
        return None
    return os.environ.get(LAUNCH_ID_VARIABLE) or os.environ.get("TORCHELASTIC_RUN_ID", "none")


@contextlib.contextmanager
def join(
    devices: int | str,
    threads: int | None,
    timeout: timedelta,
    same: Mapping[str, Any] | None = None,
    work: int | None = None,
) -> Iterator[Processes]:
    """Join the other processes of the launch, and leave them at the end.

    With GPUs, a process leaves only if all processes have ended well: NCCL leaves a group together, and would wait for
    those that have not failed. A process that has failed must report its error and end at once, as
    `exits.run_and_exit` does.

    Args:
        devices: `auto`, `cpu` or a number, as in the config.
        threads, work: for `choose_threads`.
        timeout: how long this process waits for another one before it gives up.
        same: plain values that must be equal on all processes; they are compared first.

    Raises:
        ConfigError: the processes differ in `same`; there are GPUs, but fewer than processes; PyTorch cannot use the
            GPUs, or NCCL cannot connect them.
        PeerLost: another process has ended, does not answer, or cannot be reached any more.
    """
    accelerator.require_usable(devices)
    local_size = count_local_processes()
    device = choose_device(devices, local_size, get_local_rank())
    torch.set_num_threads(choose_threads(threads, local_size, work))
    if not is_launched():
        yield Processes(0, 1, device)
        return
    accelerator.select(device)
    is_connected = has_ended_well = False
    try:
        dist.init_process_group(accelerator.choose_backend(device), timeout=timeout)
        processes = Processes(dist.get_rank(), dist.get_world_size(), device, get_local_rank())
        processes.require_same({"device": device.type, **(same or {})})
        if device.type != "cpu":
            processes.sum(torch.zeros(1, device=device))  # NCCL connects when it is first used.
        processes.barrier()  # No process may end with an error while another is still connecting.
        is_connected = True
        yield processes
        processes.barrier()  # No process may leave while another may still need it.
        has_ended_well = True
    except RuntimeError as error:
        if any(text in str(error) for text in PEER_ENDED_MESSAGES) and int(os.environ["WORLD_SIZE"]) > local_size:
            # A machine that is gone for good must not be counted in a restart. If the machine is still there, torchrun
            # does not wait for this pause, but ends this process and restarts it.
            time.sleep(RENDEZVOUS_TIMEOUT_SECONDS)
        translated = _translate_error(error, is_connected, timeout)
        if translated is None:
            raise
        raise translated from error
    finally:
        if dist.is_initialized() and (has_ended_well or device.type == "cpu"):
            # A thread of gloo that lets go of a tensor needs Python's lock. The end of the group holds the lock while
            # it waits for its threads, so with PyTorch 2.6 a process could hang here for good. They finish meanwhile.
            time.sleep(PAUSE_BEFORE_LEAVING_SECONDS)
            dist.destroy_process_group()


def _translate_error(error: RuntimeError, is_connected: bool, timeout: timedelta) -> ConfigError | PeerLost | None:
    """Return the ConfigError or PeerLost that an error of PyTorch stands for; None if it is about something else."""
    if any(text in str(error) for text in PEER_ENDED_MESSAGES):
        return PeerLost("another process has ended", silent=False)
    rank = os.environ["RANK"]
    if isinstance(error, dist.DistBackendError) and not _is_timeout(error):
        reason = _find_reason(error)
        if not is_connected:
            return ConfigError(
                f"NCCL cannot connect the GPUs: {reason}; fix that (NCCL_DEBUG=INFO tells more), or use --devices 1"
            )
        return PeerLost(f"process {rank} has lost the others: {reason}", silent=True)
    if isinstance(error, dist.DistError) or _is_timeout(error):
        waited = f"process {rank} has waited {timeout} for another one (timeout_minutes)"
        return PeerLost(f"{waited}, which hangs or cannot be reached", silent=True)
    return None


def _is_timeout(error: RuntimeError) -> bool:
    """Return whether gloo, NCCL or their store has stopped waiting for a process that does not answer."""
    # A GPU can also stop its own work: "CUDA error: the launch timed out and was terminated".
    return "CUDA error" not in str(error) and any(text in str(error) for text in PEER_SILENT_MESSAGES)


def _find_reason(error: RuntimeError) -> str:
    """Return the last line of NCCL's message, which names the cause, without PyTorch's own stack."""
    text, _, _ = str(error).partition("Exception raised from")
    lines = [line.strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line and line != "Last error:"), "it does not say why")


def count_usable_cores() -> int:
    """Count the cores that this process may use, which a container or a batch system may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_threads(threads: int | None, local_size: int, work: int | None = None) -> int:
    """Choose the number of CPU threads of each of `local_size` processes on this machine.

    Small networks get few threads. OpenMP's threads spin while they wait for each other after every operation, so that
    one busy process beside them makes a training with several threads two to five times slower, but hardly slows one
    with a single thread. The choice depends on the work alone, not on how busy the machine is: with another number of
    threads sums differ in their last bits, and a resumed training must end in the same bytes.

    Args:
        threads: what the user has set. None: OMP_NUM_THREADS if it is set, else an even share of the cores, or fewer if
            there is little work.
        work: multiply-adds of a layer in one pass; None for unlimited work.
    """
    if threads:
        return threads
    if "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    share = max(1, count_usable_cores() // local_size)
    return share if work is None else max(1, min(share, work // MULTIPLY_ADDS_PER_THREAD))


def choose_device(devices: int | str, local_size: int, local_rank: int) -> torch.device:
    """Choose what one of `local_size` processes on this machine computes on.

    Raises:
        ConfigError: there are GPUs, but fewer than processes.
    """
    gpus = accelerator.count()
    if devices == "cpu" or gpus == 0:
        return accelerator.CPU
    if gpus == 1 < local_size and _has_own_gpu():
        return accelerator.get_device(0)
    if local_size > gpus:
        raise ConfigError(f"{local_size} processes for {gpus} GPUs; use --devices {gpus} or --devices cpu")
    return accelerator.get_device(local_rank)


def _has_own_gpu() -> bool:
    """Return whether another launcher may have given this process its own GPU and hidden the others.

    `torchrun --virtual-local-rank` and Slurm do so. If all processes see the same GPU instead, NCCL reports it when it
    connects them.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return LAUNCH_ID_VARIABLE not in os.environ and bool(visible.strip()) and "," not in visible


class PeerLost(Exception):
    """This process works, but cannot continue without another one.

    Attributes:
        silent: whether this process must report it, since the other one cannot. If false, the other process has ended
            and has reported its own error.
    """

    def __init__(self, message: str, *, silent: bool) -> None:
        super().__init__(message)
        self.silent = silent


class WorkersFailed(Exception):
    """Processes that `launch` started have failed.

    Attributes:
        messages: their errors, each once, except of processes that have printed a traceback.
        exit_code: of the process that failed first; 128 plus the signal's number if a signal ended it.
    """

    def __init__(self, messages: list[str], exit_code: int) -> None:
        super().__init__("; ".join(messages))
        self.messages = messages
        self.exit_code = exit_code


def launch(count: int, arguments: Sequence[str], max_restarts: int, say: Callable[[str], object]) -> None:
    """Run this command line in `count` processes on this machine and wait for them.

    If a process is killed or crashes, all are restarted and continue from their last checkpoint. After a mistake of the
    user or a wish to stop, nothing is restarted.

    Args:
        max_restarts: how many restarts are allowed.
        say: is called with a sentence at each restart.

    Raises:
        WorkersFailed: a process has failed, and nothing is restarted any more.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    logging.getLogger("torch.distributed.run").setLevel(logging.CRITICAL)
    os.environ[LAUNCH_ID_VARIABLE] = uuid.uuid4().hex
    for restarts in itertools.count():
        try:
            _launch_once(count, arguments)
        except WorkersFailed as failed:
            if failed.exit_code in FINAL_EXIT_CODES or restarts >= max_restarts:
                raise
            reason = "; ".join(failed.messages) or "a process has crashed"
            number = f"{restarts + 1} of {max_restarts} restarts"
            say(f"{reason}: all {count} start again from the last checkpoint ({number})")
        else:
            return


def _launch_once(count: int, arguments: Sequence[str]) -> None:
    """Run the processes once; raise WorkersFailed if one fails."""
    with tempfile.TemporaryDirectory() as folder:  # for the errors of failed processes
        os.environ[ERROR_FOLDER_VARIABLE] = folder
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
            raise _collect_errors(error, Path(folder)) from None


def _collect_errors(error: ChildFailedError, folder: Path) -> WorkersFailed:
    """Collect the errors of all processes that have written one, not only of the first one that failed."""
    messages = {int(path.stem): path.read_text(encoding="utf-8") for path in folder.glob("*.error")}  # by local rank
    failures = [failure for _, failure in sorted(error.failures.items())]
    # The launcher ends the remaining processes with SIGTERM, which is not their failure.
    failures = [failure for failure in failures if failure.exitcode != -signal.SIGTERM] or failures
    for failure in failures:
        if failure.exitcode < 0:
            messages[failure.local_rank] = f"process {failure.local_rank} was ended by {failure.signal_name()}"
    # A process with an error of its own comes before one that only lost a peer.
    first = min(failures, key=lambda failure: (failure.local_rank not in messages, failure.timestamp))
    code = first.exitcode if first.exitcode >= 0 else 128 - first.exitcode
    return WorkersFailed(list(dict.fromkeys(messages[rank] for rank in sorted(messages))), code)


def report_failure(error: BaseException) -> bool:
    """Write an error of this process for `launch`; return False if `launch` did not start it, or if writing fails.

    PyTorch has a file of its own for this, but its reader crashes on a torn file.
    """
    if ERROR_FOLDER_VARIABLE not in os.environ or not is_launched():
        return False
    path = Path(os.environ[ERROR_FOLDER_VARIABLE], f"{os.environ['LOCAL_RANK']}.error")
    part = path.with_suffix(".part")
    try:
        part.write_text(str(error), encoding="utf-8")
        part.replace(path)
    except OSError:
        return False
    return True
