"""How a process joins the others and leaves them, with GPUs that are played: nothing here needs one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

from spos_cli import cli
from spos_cli.engine import distributed
from spos_cli.engine.distributed import PeerLost, Processes
from spos_cli.errors import ConfigError

HOUR = timedelta(hours=1)


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
    monkeypatch.setattr(Processes, "any", lambda self, flag: flag)
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
    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(cli.sys, "argv", ["spos", "supernet-train", "--config", "demo"])
    monkeypatch.setattr(cli, "across_processes", fail)
    with pytest.raises(Ended) as ended:
        cli.main()
    assert ended.value.code == code
    shown = capfd.readouterr().err
    assert said in shown
    assert ("Traceback" in shown) == (code == 1 and isinstance(error, ZeroDivisionError))


def test_a_bug_of_a_single_process_is_pythons_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(cli.sys, "argv", ["spos", "supernet-train", "--config", "demo"])
    monkeypatch.setattr(cli, "across_processes", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main()
