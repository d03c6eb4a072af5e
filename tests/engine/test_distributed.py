"""How a process joins the others and leaves them. GPUs are fakes: nothing here needs one."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from spos_cli import cli, exits
from spos_cli.config import loading
from spos_cli.engine import distributed
from spos_cli.engine.distributed import PeerLost, Processes
from spos_cli.errors import ConfigError
from tests.conftest import Spos
from tests.forks import free_port, make_environment

HOUR = timedelta(hours=1)


def make_failing(error: BaseException) -> Callable[..., None]:
    """Return a function that raises an error."""

    def fail(*args: Any, **options: Any) -> None:
        raise error

    return fail


class Group:
    """A fake of PyTorch's process group, which records what is done with it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    @property
    def is_joined(self) -> bool:
        return "join" in self.done and "leave" not in self.done


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    """This process is the second of two, on a machine with two GPUs."""
    group = Group()
    variables = {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "OMP_NUM_THREADS": 1}
    variables |= {"MASTER_ADDR": "localhost", "MASTER_PORT": 1}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv(distributed.ERROR_FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(dist, "init_process_group", lambda *args, **options: group.done.append("join"))
    monkeypatch.setattr(dist, "is_initialized", lambda: group.is_joined)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: group.done.append("leave"))
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda *args, **options: None)
    monkeypatch.setattr(Processes, "require_same", lambda self, values: None)
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, device=None: zeros(*size))
    return group


def test_processes_leave_the_group_if_all_ended_well(group: Group) -> None:
    with distributed.join("auto", 1, HOUR) as processes:
        assert processes == Processes(1, 2, torch.device("cuda", 1), 1)
    assert group.done == ["join", "leave"]


@pytest.mark.parametrize("error", [ConfigError("one"), ZeroDivisionError("two"), OSError("three"), KeyboardInterrupt()])
def test_a_process_that_fails_does_not_wait_for_nccl(group: Group, error: BaseException) -> None:
    with pytest.raises(type(error)), distributed.join("auto", 1, HOUR):
        raise error
    assert group.is_joined


def test_a_process_that_lost_another_does_not_wait_for_nccl(group: Group) -> None:
    with pytest.raises(PeerLost, match="has ended"), distributed.join("auto", 1, HOUR):
        raise RuntimeError("NCCL error: remote process exited or there was a network error")
    assert group.is_joined


NCCL = "NCCL error in: ProcessGroupNCCL.cpp:94, {}, NCCL version 2.27.7\n{}\nLast error:\n{}"
NO_ROOM = "Error while creating shared memory segment /dev/shm/nccl-a (size 9), error: No space left on device (28)"
TWICE = "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000"
SYSTEM = "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error."


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (NCCL.format("unhandled system error", SYSTEM, NO_ROOM), NO_ROOM),
        (NCCL.format("invalid usage", "ncclInvalidUsage: wrong.", TWICE), TWICE),
        (NCCL.format("unhandled system error", SYSTEM, "\nException raised from one at two (most recent):"), SYSTEM),
        ("", "it does not say why"),
    ],
    ids=["no room", "a GPU twice", "no last error", "nothing"],
)
@pytest.mark.parametrize("function", ["init_process_group", "all_reduce"])
def test_the_message_names_nccls_reason_when_it_cannot_connect(
    group: Group, monkeypatch: pytest.MonkeyPatch, function: str, message: str, reason: str
) -> None:
    monkeypatch.setattr(dist, function, make_failing(dist.DistBackendError(message)))
    with pytest.raises(ConfigError) as mistake, distributed.join("auto", 1, HOUR):
        raise AssertionError("it is not connected")
    assert str(mistake.value).startswith(f"NCCL cannot connect the GPUs: {reason}; fix that")


@pytest.mark.parametrize(
    "error",
    [
        dist.DistBackendError(
            "[1] is setting up NCCL communicator, but store->get('0') got error: wait timeout after 9ms"
        ),
        dist.DistBackendError("NCCL operation timed out"),
        dist.DistStoreError("Timed out after 9 seconds waiting for clients. 1/2 clients joined."),
        dist.DistNetworkError("failed to connect to any network address"),
        RuntimeError("[../gloo/unbound_buffer.cc:81] Timed out waiting 9ms for recv operation to complete"),
    ],
    ids=lambda error: str(error)[:20],
)
def test_a_silent_process_is_given_up_after_the_timeout(
    group: Group, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    waited = r"process 1 has waited 1:00:00 for another one \(timeout_minutes\)"
    with pytest.raises(PeerLost, match=waited) as during, distributed.join("auto", 1, HOUR):
        raise error
    monkeypatch.setattr(dist, "all_reduce", make_failing(error))
    with pytest.raises(PeerLost, match=waited) as before, distributed.join("auto", 1, HOUR):
        raise AssertionError("it is not connected")
    assert during.value.silent
    assert before.value.silent


def test_a_connection_that_breaks_later_loses_the_peer(group: Group) -> None:
    error = dist.DistBackendError(NCCL.format("unhandled system error", SYSTEM, "ibv_poll_cq failed"))
    with (
        pytest.raises(PeerLost, match="process 1 has lost the others: ibv_poll_cq failed") as lost,
        distributed.join("auto", 1, HOUR),
    ):
        raise error
    assert lost.value.silent


def test_a_gpu_that_times_out_is_not_a_lost_peer(group: Group) -> None:
    with pytest.raises(RuntimeError, match="launch timed out"), distributed.join("auto", 1, HOUR):
        raise RuntimeError("CUDA error: the launch timed out and was terminated")


def test_a_failed_process_leaves_gloo_at_once(group: Group) -> None:
    with pytest.raises(ConfigError), distributed.join("cpu", 1, HOUR):
        raise ConfigError("a mistake")
    assert group.done == ["join", "leave"]


class Ended(BaseException):
    """Raised in place of `os._exit`, with the exit code."""

    def __init__(self, code: int) -> None:
        self.code = code


@pytest.fixture
def catch_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(exits.os, "_exit", end)


@pytest.mark.usefixtures("group", "catch_exit")
@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ZeroDivisionError("a bug"), 1, "ZeroDivisionError: a bug"),
        (ConfigError("a mistake"), 2, "error: a mistake"),
        (OSError(28, "No space left on device", "a file"), 2, "error: No space left on device: a file"),
        (PeerLost("nothing is heard", silent=True), 1, "error: nothing is heard"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(7), 7, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_a_launched_process_reports_its_error_and_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: BaseException, code: int, message: str
) -> None:
    monkeypatch.setattr(exits.sys, "argv", ["spos", "supernet-train", "--config", "demo"])
    monkeypatch.setattr(cli, "run_across_processes", make_failing(error))
    with pytest.raises(Ended) as ended:
        cli.main()
    assert ended.value.code == code
    output = capfd.readouterr().err
    assert message in output
    assert ("Traceback" in output) == (code == 1 and isinstance(error, ZeroDivisionError))


def test_a_bug_of_a_single_process_has_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(exits.sys, "argv", ["spos", "supernet-train", "--config", "demo"])
    monkeypatch.setattr(cli, "run_across_processes", make_failing(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main()


LAUNCH_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.mark.parametrize(
    ("variables", "phrase"),
    [
        ({"RANK": "0", "WORLD_SIZE": "1"}, "but MASTER_ADDR and MASTER_PORT are not"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, "but MASTER_PORT is not"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "", "MASTER_PORT": "1"}, "but MASTER_ADDR is not"),
        ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "RANK must be a number"),
        ({"RANK": "", "WORLD_SIZE": "x", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "RANK must be a number"),
    ],
)
def test_variables_left_from_another_launch(
    spos: Spos, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], phrase: str
) -> None:
    for name in LAUNCH_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    command = ("supernet-train", "--set", "supernet.steps=1")
    monkeypatch.setattr(os, "_exit", sys.exit)  # A launched process ends so.
    said = spos.here(*command, code=2).stderr
    assert phrase in said
    (advice,) = re.findall(r"run unset ([A-Z_ ]+) for", said)
    for name in advice.split():
        monkeypatch.delenv(name)
    spos.here(*command)


def test_variables_of_a_part_of_a_launch_have_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCH_VARIABLES:
        monkeypatch.setenv(name, "7")
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name)
        assert distributed.count_all_processes() == distributed.count_local_processes() == 1
        assert distributed.get_local_rank() == 0
        monkeypatch.setenv(name, "7")


FULL = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 1 has a total capacity of 23.69 GiB of which 17.06 MiB is"
    " free. Including non-PyTorch memory, this process has 23.66 GiB memory in use. See the documentation."
)


@pytest.mark.usefixtures("group", "catch_exit")
@pytest.mark.parametrize(
    ("command", "stage", "advice"),
    [
        ("supernet-train", "supernet_train.run", "raise supernet.accumulate: the batch of a step stays as it is"),
        ("search", "search.run", "lower search.batch_size and search.calibration_batch_size"),
        ("retrain", "retrain.run", "raise retrain.accumulate: the batch of a step stays as it is"),
        ("flops-table --latency --devices 1", "flops_table.measure_latency", "lower --latency-batch"),
    ],
)
def test_too_little_gpu_memory_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: str, stage: str, advice: str
) -> None:
    monkeypatch.setattr(exits.sys, "argv", ["spos", *command.split(), "--config", "demo"])
    monkeypatch.setattr(f"spos_cli.stages.{stage}", make_failing(torch.OutOfMemoryError(FULL)))
    with pytest.raises(Ended) as ended:
        cli.main()
    assert ended.value.code in distributed.FINAL_EXIT_CODES
    output = capfd.readouterr().err
    assert output.startswith(
        "error: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 1 has a total capacity of 23.69"
    )
    assert f"17.06 MiB is free; {advice}" in output
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize("gpus", [1, 8])
@pytest.mark.parametrize("command", ["supernet-train", "search", "retrain 0", "evaluate --weights x.pt"])
@pytest.mark.usefixtures("group", "catch_exit")
def test_gpus_that_pytorch_cannot_use_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: str, gpus: int
) -> None:
    from spos_cli.run import weights_file

    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(exits.sys, "argv", ["spos", *command.split(), "--config", "imagenet"])
    content = SimpleNamespace(config=loading.load(loading.find_config("imagenet"), []).model_dump(mode="json"))
    monkeypatch.setattr(weights_file, "read_weights", lambda path: content)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    output = capfd.readouterr().err
    assert output.startswith(f"error: there {'is a GPU' if gpus == 1 else 'are 8 GPUs'}, but this PyTorch")
    assert output.endswith("update the driver, install another build of PyTorch, or use --devices cpu\n")


def test_unusable_gpus_end_a_launched_process_before_it_joins(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="cannot use them"), distributed.join(2, 1, HOUR):
        raise AssertionError("it has joined")
    with distributed.join("cpu", 1, HOUR) as processes:
        assert processes.device == torch.device("cpu")
    assert group.done == ["join", "leave"]


def test_each_process_may_see_only_its_own_gpu(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """`torchrun --virtual-local-rank` and Slurm show each process one GPU; `spos` shows all GPUs to all processes."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv(distributed.LAUNCH_ID_VARIABLE, raising=False)
    for visible in ("3", "GPU-0a1b"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        with distributed.join("auto", 1, HOUR) as processes:
            assert processes.device == torch.device("cuda", 0)
        group.done.clear()

    for visible, launch in (("3", "by spos"), (None, None), ("3,4", None)):
        for name, value in (("CUDA_VISIBLE_DEVICES", visible), (distributed.LAUNCH_ID_VARIABLE, launch)):
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match="2 processes for 1 GPUs"), distributed.join("auto", 1, HOUR):
            raise AssertionError("it has joined")


@pytest.fixture
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with sixteen cores, whose user has not set a number of threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(distributed, "count_usable_cores", lambda: 16)


def choose_recipe_threads(recipe: str, processes: int = 1) -> int:
    """Choose the threads of each process that trains the supernet of a shipped recipe."""
    settings = loading.load(loading.list_recipes()[recipe])
    work = settings.space.build().work_per_layer * settings.supernet.batch_size // processes
    return distributed.choose_threads(None, processes, work)


@pytest.mark.usefixtures("sixteen_cores")
def test_small_networks_take_few_threads() -> None:
    """With several threads, one busy process beside it makes the training of the demo four times slower."""
    assert choose_recipe_threads("demo") == 1
    assert 2 <= choose_recipe_threads("fashion_mnist") <= 8
    assert choose_recipe_threads("cifar10") == choose_recipe_threads("imagenet") == 16
    assert choose_recipe_threads("imagenet", processes=8) == 2


@pytest.mark.usefixtures("sixteen_cores")
@pytest.mark.parametrize("work", [1, 10**6, 10**9, None])
def test_threads_are_at_least_one_and_at_most_a_share_of_the_cores(work: int | None) -> None:
    for processes in (1, 3, 16, 40):
        assert 1 <= distributed.choose_threads(None, processes, work) <= max(1, 16 // processes)
    assert distributed.choose_threads(7, 16, work) == 7


def test_omp_num_threads_overrules_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # Here it was also set when PyTorch was imported.
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert distributed.choose_threads(None, 1, 10**9) == 3


def leave_often(rank: int, ports: list[int]) -> None:
    for port in ports:
        os.environ |= make_environment(rank, 2, port)
        with distributed.join("cpu", 1, timedelta(seconds=60)) as processes:
            processes.any(False)
    os._exit(0)


def test_a_group_ends_right_after_an_exchange() -> None:
    """With PyTorch 2.6 a process hung here, where its end met a thread of gloo that had a tensor to let go of."""
    ports = [free_port() for _ in range(25)]
    mp.start_processes(leave_often, (ports,), nprocs=2, start_method="forkserver")  # type: ignore[no-untyped-call]
