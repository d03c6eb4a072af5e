"""How a process joins the others and leaves them, with GPUs that are played: nothing here needs one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from spos_cli import cli
from spos_cli.config import loading
from spos_cli.engine import distributed
from spos_cli.engine.distributed import PeerLost, Processes
from spos_cli.errors import ConfigError

HOUR = timedelta(hours=1)


def raising(error: BaseException) -> Callable[..., None]:
    """A function that does nothing but that."""

    def fail(*args: Any, **options: Any) -> None:
        raise error

    return fail


class Group:
    """Stands for the process group of PyTorch, and writes down what is done with it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    @property
    def is_there(self) -> bool:
        return "join" in self.done and "leave" not in self.done


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    """This process is the second of two, on a machine with two GPUs."""
    group = Group()
    places = {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "OMP_NUM_THREADS": 1}
    for name, value in places.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv(distributed.ERRORS, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(dist, "init_process_group", lambda *args, **options: group.done.append("join"))
    monkeypatch.setattr(dist, "is_initialized", lambda: group.is_there)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: group.done.append("leave"))
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda *args, **options: None)
    monkeypatch.setattr(Processes, "require_same", lambda self, values: None)
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, device=None: zeros(*size))
    return group


def test_all_leave_the_group_where_all_ended_well(group: Group) -> None:
    with distributed.join("auto", 1, HOUR) as processes:
        assert processes == Processes(1, 2, torch.device("cuda", 1), 1)
    assert group.done == ["join", "leave"]


@pytest.mark.parametrize("error", [ConfigError("one"), ZeroDivisionError("two"), OSError("three"), KeyboardInterrupt()])
def test_a_process_that_fails_alone_does_not_wait_for_nccl(group: Group, error: BaseException) -> None:
    with pytest.raises(type(error)), distributed.join("auto", 1, HOUR):
        raise error
    assert group.is_there


def test_a_process_that_lost_another_does_not_wait_for_nccl(group: Group) -> None:
    with pytest.raises(PeerLost, match="has ended"), distributed.join("auto", 1, HOUR):
        raise RuntimeError("NCCL error: remote process exited or there was a network error")
    assert group.is_there


NCCL = "NCCL error in: ProcessGroupNCCL.cpp:94, {}, NCCL version 2.27.7\n{}\nLast error:\n{}"
NO_ROOM = "Error while creating shared memory segment /dev/shm/nccl-a (size 9), error: No space left on device (28)"
TWICE = "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000"
SYSTEM = "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error."


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (NCCL.format("unhandled system error", SYSTEM, NO_ROOM), NO_ROOM),
        (NCCL.format("invalid usage", "ncclInvalidUsage: wrong.", TWICE), TWICE),
        (NCCL.format("unhandled system error", SYSTEM, "\nException raised from one at two (most recent):"), SYSTEM),
        ("", "it does not say why"),
    ],
    ids=["no room", "a GPU twice", "no last error", "nothing"],
)
@pytest.mark.parametrize("place", ["init_process_group", "all_reduce"])
def test_what_nccl_says_when_it_cannot_connect_is_said(
    group: Group, monkeypatch: pytest.MonkeyPatch, place: str, message: str, said: str
) -> None:
    monkeypatch.setattr(dist, place, raising(dist.DistBackendError(message)))
    with pytest.raises(ConfigError) as mistake, distributed.join("auto", 1, HOUR):
        raise AssertionError("it is not connected")
    assert str(mistake.value).startswith(f"NCCL cannot connect the GPUs: {said}; mend that")


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
def test_a_process_that_does_not_answer_has_been_waited_for(
    group: Group, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    waited = r"process 1 has waited 1:00:00 for another one \(timeout_minutes\)"
    with pytest.raises(PeerLost, match=waited) as during, distributed.join("auto", 1, HOUR):
        raise error
    monkeypatch.setattr(dist, "all_reduce", raising(error))
    with pytest.raises(PeerLost, match=waited) as before, distributed.join("auto", 1, HOUR):
        raise AssertionError("it is not connected")
    assert during.value.silent
    assert before.value.silent


def test_a_network_that_breaks_down_later_can_be_tried_again(group: Group) -> None:
    error = dist.DistBackendError(NCCL.format("unhandled system error", SYSTEM, "ibv_poll_cq failed"))
    said = "process 1 has lost the others: ibv_poll_cq failed"
    with pytest.raises(PeerLost, match=said) as lost, distributed.join("auto", 1, HOUR):
        raise error
    assert lost.value.silent


def test_a_gpu_that_gives_up_is_not_taken_for_another_process(group: Group) -> None:
    with pytest.raises(RuntimeError, match="launch timed out"), distributed.join("auto", 1, HOUR):
        raise RuntimeError("CUDA error: the launch timed out and was terminated")


def test_gloo_waits_for_nobody(group: Group) -> None:
    with pytest.raises(ConfigError), distributed.join("cpu", 1, HOUR):
        raise ConfigError("a mistake")
    assert group.done == ["join", "leave"]


class Ended(BaseException):
    """The process has ended, with that exit code, and nothing of it runs any more."""

    def __init__(self, code: int) -> None:
        self.code = code


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(cli.os, "_exit", end)


@pytest.mark.usefixtures("group", "ends")
@pytest.mark.parametrize(
    ("error", "code", "said"),
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
def test_a_launched_process_speaks_and_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    monkeypatch.setattr(cli.sys, "argv", ["spos", "supernet-train", "--config", "demo"])
    monkeypatch.setattr(cli, "across_processes", raising(error))
    with pytest.raises(Ended) as ended:
        cli.main()
    assert ended.value.code == code
    shown = capfd.readouterr().err
    assert said in shown
    assert ("Traceback" in shown) == (code == 1 and isinstance(error, ZeroDivisionError))


def test_a_bug_of_a_single_process_is_pythons_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(cli.sys, "argv", ["spos", "supernet-train", "--config", "demo"])
    monkeypatch.setattr(cli, "across_processes", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main()


FULL = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 1 has a total capacity of 23.69 GiB of which 17.06 MiB is"
    " free. Including non-PyTorch memory, this process has 23.66 GiB memory in use. See the documentation."
)


@pytest.mark.usefixtures("group", "ends")
@pytest.mark.parametrize(
    ("command", "stage", "advice"),
    [
        ("supernet-train", "supernet_train.run", "raise supernet.accumulate: the batch of a step stays as it is"),
        ("search", "search.run", "lower search.batch_size and search.calibration_batch_size"),
        ("retrain", "retrain.run", "raise retrain.accumulate: the batch of a step stays as it is"),
        ("flops-table --latency --devices 1", "flops_table.measure_latency", "lower --latency-batch"),
    ],
)
def test_a_gpu_that_is_too_small_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: str, stage: str, advice: str
) -> None:
    monkeypatch.setattr(cli.sys, "argv", ["spos", *command.split(), "--config", "demo"])
    monkeypatch.setattr(f"spos_cli.stages.{stage}", raising(torch.OutOfMemoryError(FULL)))
    with pytest.raises(Ended) as ended:
        cli.main()
    assert ended.value.code in distributed.NO_ACCIDENT
    said = capfd.readouterr().err
    assert said.startswith("error: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 1 has a total capacity of 23.69")
    assert f"17.06 MiB is free; {advice}" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("gpus", [1, 8])
@pytest.mark.parametrize("command", ["supernet-train", "search", "retrain 0", "evaluate --weights x.pt"])
@pytest.mark.usefixtures("group", "ends")
def test_gpus_that_are_counted_and_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: str, gpus: int
) -> None:
    from spos_cli.run import weights_file

    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cli.sys, "argv", ["spos", *command.split(), "--config", "imagenet"])
    content = SimpleNamespace(config=loading.load(loading.find_config("imagenet"), []).model_dump(mode="json"))
    monkeypatch.setattr(weights_file, "read_weights", lambda path: content)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capfd.readouterr().err
    assert said.startswith(f"error: there {'is a GPU' if gpus == 1 else 'are 8 GPUs'}, but this PyTorch")
    assert said.endswith("update the driver, install another build of PyTorch, or use --devices cpu\n")


def test_gpus_that_cannot_be_used_end_a_launched_process_before_all_else(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="cannot use them"), distributed.join(2, 1, HOUR):
        raise AssertionError("it has joined")
    with distributed.join("cpu", 1, HOUR) as processes:
        assert processes.device == torch.device("cpu")
    assert group.done == ["join", "leave"]


def test_a_gpu_for_each_process_alone(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """`torchrun --virtual-local-rank` and Slurm show each process one GPU; `spos` itself shows all of them to all."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv(distributed.LAUNCHED, raising=False)
    for visible in ("3", "GPU-0a1b"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        with distributed.join("auto", 1, HOUR) as processes:
            assert processes.device == torch.device("cuda", 0)
        group.done.clear()

    for visible, launch in (("3", "by spos"), (None, None), ("3,4", None)):
        for name, value in (("CUDA_VISIBLE_DEVICES", visible), (distributed.LAUNCHED, launch)):
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match="2 processes for 1 GPUs"), distributed.join("auto", 1, HOUR):
            raise AssertionError("it has joined")


@pytest.fixture
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of sixteen cores, whose user has not said how many threads to use."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(distributed, "usable_cores", lambda: 16)


def threads_of(recipe: str, processes: int = 1) -> int:
    """Threads of each process that trains the supernet of a shipped recipe."""
    settings = loading.load(loading.shipped_recipes()[recipe])
    work = settings.space.build().work_per_layer * settings.supernet.batch_size // processes
    return distributed.thread_count(None, processes, work)


@pytest.mark.usefixtures("sixteen")
def test_small_networks_take_few_threads() -> None:
    """With several, one busy process beside it makes the training of the demo four times slower."""
    assert threads_of("demo") == 1
    assert 2 <= threads_of("fashion_mnist") <= 8
    assert threads_of("cifar10") == threads_of("imagenet") == 16
    assert threads_of("imagenet", processes=8) == 2


@pytest.mark.usefixtures("sixteen")
@pytest.mark.parametrize("work", [1, 10**6, 10**9, None])
def test_threads_are_never_more_than_a_share_and_never_none(work: int | None) -> None:
    for processes in (1, 3, 16, 40):
        assert 1 <= distributed.thread_count(None, processes, work) <= max(1, 16 // processes)
    assert distributed.thread_count(7, 16, work) == 7


def test_what_the_user_has_told_openmp_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as PyTorch was imported with, here
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert distributed.thread_count(None, 1, 10**9) == 3
