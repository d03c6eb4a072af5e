"""Processes that are killed, hang or fail, with `--devices N` and under torchrun; and the wish to stop.

torchrun and two machines of torchrun are started as they are installed; so is `--devices N`, with a process that is
killed, by the checks of `tests/gpu` on the CPU. All other launchers here are forks.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from tests.conftest import PROGRAM, Spos
from tests.forks import Fork, environment, errors_of, finish_all, free_port, make_environment

pytestmark = pytest.mark.slow

PATIENCE = 120.0
TORCHRUN = Path(sys.executable).with_name("torchrun")
SMALL = ("--set", "supernet.steps=60", "--set", "supernet.checkpoint_every=5", "--set", "supernet.log_every=5")
ENDLESS = ("--set", "supernet.steps=100000", "--set", "supernet.checkpoint_every=100000")


def until(true: Callable[[], bool], process: Running | None = None) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert process is None or process.poll() is None, "ended too early"
        assert time.monotonic() < end, "the moment never came"
        time.sleep(0.005)


class Running(Protocol):
    """What the tests need of a process, which `subprocess.Popen` and `Fork` have."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float) -> int: ...
    def send_signal(self, number: int) -> None: ...
    def terminate(self) -> None: ...


@contextlib.contextmanager
def started(
    spos: Spos, program: Path, *arguments: object, is_real: bool = False, variables: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Start a program, as a fork or as a user does; none of its processes is left in the end."""
    # torchrun shares a store between its rounds that it does not fill again for a machine that joins later.
    variables = environment() | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} | dict(variables or {})
    words, output = [*map(str, arguments)], spos.folder / "stdout"
    process: Running
    if is_real:
        with output.open("a") as file, errors_of(output).open("a") as errors:
            process = subprocess.Popen(
                [str(program), *words],
                cwd=spos.folder,
                env=variables,
                stdout=file,
                stderr=errors,
                start_new_session=True,
            )
    else:
        process = Fork(words, spos.folder, variables, output=output, program=program.name, forks_workers=True)
    try:
        yield process
    finally:
        for pid in [*workers(process), process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(PATIENCE)


def workers(launcher: Running) -> list[int]:
    """What a launcher has started, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher.pid and (rank := get_local_rank(folder)) is not None:
                found[rank] = int(folder.name)
    return [found[rank] for rank in sorted(found)]


def get_local_rank(folder: Path) -> int | None:
    """Return the rank of a process of a launcher, from its folder in /proc; a fork has it in its name."""
    name, _, rank = (folder / "comm").read_text().partition(" ")
    if name == "rank":
        return int(rank)
    found = re.search(rb"(?:^|\0)LOCAL_RANK=(\d+)", (folder / "environ").read_bytes())
    return int(found[1]) if found else None


def said(spos: Spos) -> str:
    return errors_of(spos.folder / "stdout").read_text()


def logged(spos: Spos, step: int) -> Callable[[], bool]:
    """Whether a line of the metrics is from that step or later."""
    path = spos.run / "supernet" / "metrics.jsonl"

    def reached() -> bool:
        lines = path.read_text().splitlines() if path.exists() else []
        return bool(lines) and lines[-1].endswith("}") and json.loads(lines[-1])["step"] >= step

    return reached


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Spos:
    """A supernet of two processes that nothing has disturbed. Not to be changed."""
    spos = Spos(tmp_path_factory.mktemp("undisturbed"))
    spos("supernet-train", "--devices", 2, *SMALL)
    return spos


def same_supernet(one: Spos, other: Spos) -> bool:
    return (one.run / "supernet" / "last.pt").read_bytes() == (other.run / "supernet" / "last.pt").read_bytes()


def test_torchrun_is_the_same_as_devices(undisturbed: Spos, tmp_path: Path) -> None:
    spos = Spos(tmp_path)
    program = (TORCHRUN, "--standalone", "--nproc-per-node", 2, "-m", "spos_cli")
    spos("supernet-train", *SMALL, program=program)
    assert same_supernet(spos, undisturbed)


def test_two_processes_retrain_and_evaluate(undisturbed: Spos, tmp_path: Path) -> None:
    """What was found in the supernet of two processes."""
    spos = Spos(tmp_path)
    spos.here("search", "--weights", undisturbed.run / "supernet" / "last.pt")
    spos.here("export-arch")
    spos.together("retrain")
    (model,) = spos.run.glob("retrain/*/model.pt")
    one = json.loads(spos.here("evaluate", "--weights", model, "--json").stdout)
    evaluated = spos.together("evaluate", "--weights", model, "--json", "--save-logits", "two.npz")
    two = json.loads(evaluated[0].stdout)
    assert evaluated[1].stdout == ""
    assert {key: one[key] for key in ("top1", "top5", "images")} == {
        key: two[key] for key in ("top1", "top5", "images")
    }
    saved = np.load(spos.folder / "two.npz")
    assert float((saved["logits"].argmax(1) == saved["labels"]).mean()) == two["top1"]
    assert one["top1"] > 0.4


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_starts_again(undisturbed: Spos, tmp_path: Path, rank: int) -> None:
    spos = Spos(tmp_path)
    with started(spos, PROGRAM, "supernet-train", "--devices", 2, *SMALL) as process:
        until(logged(spos, 20), process)
        os.kill(workers(process)[rank], signal.SIGKILL)
        assert process.wait(PATIENCE) == 0, said(spos)
    assert f"process {rank} was ended by SIGKILL: all 2 start again from the last checkpoint (1 of 3" in said(spos)
    assert "resuming at step" in said(spos)
    assert "Traceback" not in said(spos)
    assert same_supernet(spos, undisturbed)


def test_three_processes_of_which_one_is_killed_end_in_the_same_bytes(tmp_path: Path) -> None:
    """With two, any order of summation gives the same bytes; with three it has to be the same order."""
    batch = ("--devices", 3, *SMALL, "--set", "supernet.batch_size=33")
    undisturbed, spos = Spos(tmp_path / "undisturbed"), Spos(tmp_path / "killed")
    undisturbed.together("supernet-train", *batch[2:], processes=3)
    with started(spos, PROGRAM, "supernet-train", *batch) as process:
        until(logged(spos, 20), process)
        os.kill(workers(process)[2], signal.SIGKILL)
        assert process.wait(PATIENCE) == 0, said(spos)
    assert "all 3 start again" in said(spos)
    assert same_supernet(spos, undisturbed)


def test_no_more_restarts_than_allowed(tmp_path: Path) -> None:
    spos = Spos(tmp_path)
    command = ("supernet-train", "--devices", 2, *ENDLESS, "--max-restarts", 1)
    with started(spos, PROGRAM, *command) as process:
        until(logged(spos, 10), process)
        first = workers(process)
        os.kill(first[1], signal.SIGKILL)
        until(lambda: len(set(workers(process)) - set(first)) == 2, process)
        os.kill(workers(process)[1], signal.SIGKILL)
        assert process.wait(PATIENCE) == 128 + signal.SIGKILL
    assert said(spos).count("start again") == 1
    assert said(spos).splitlines()[-1] == "error: process 1 was ended by SIGKILL"


def test_a_process_that_hangs_is_given_up(undisturbed: Spos, tmp_path: Path) -> None:
    """A stopped one cannot even end on SIGTERM; the launcher kills it after 30 seconds."""
    spos = Spos(tmp_path)
    command = ("supernet-train", "--devices", 2, *SMALL, "--set", "timeout_minutes=0.1")
    with started(spos, PROGRAM, *command) as process:
        until(logged(spos, 10), process)
        os.kill(workers(process)[1], signal.SIGSTOP)
        assert process.wait(PATIENCE) == 0, said(spos)
    assert "process 0 has waited 0:00:06 for another one (timeout_minutes), which hangs" in said(spos)
    assert "(1 of 3 restarts)" in said(spos)
    assert same_supernet(spos, undisturbed)


def test_a_search_loses_no_score(finished: Spos, tmp_path: Path) -> None:
    spos = Spos(tmp_path)
    journal = spos.run / "search" / "journal.jsonl"
    weights = ("--weights", finished.run / "supernet" / "last.pt")
    with started(spos, PROGRAM, "search", "--devices", 2, *weights) as process:
        for scored in (2, 8):
            until(lambda scored=scored: journal.exists() and journal.read_bytes().count(b"\n") >= scored, process)
            before = journal.read_bytes()
            pids = workers(process)
            os.kill(pids[1], signal.SIGKILL)
            until(lambda pids=pids: not set(workers(process)) & set(pids) or process.poll() is not None)
            assert journal.read_bytes().startswith(before)
        assert process.wait(PATIENCE) == 0, said(spos)
    assert journal.read_bytes() == (finished.run / "search" / "journal.jsonl").read_bytes()
    assert not list(journal.parent.glob(".scored-*"))


def test_different_failures_are_both_reported(finished: Spos, tmp_path: Path) -> None:
    """Two validation images are broken, one in the share of each process."""
    from PIL import Image
    from skimage import data

    spos = Spos(tmp_path)
    photo = Image.fromarray(data.astronaut())
    for split in ("train", "val"):
        for label in "0123456789":
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(20):
                photo.resize((8, 8)).save(tmp_path / split / label / f"{number:02}.png")
    for label in (0, 9):  # of 200 images in batches of 50, the first and the last
        (tmp_path / "val" / str(label) / "05.png").write_bytes(b"broken")
    (model,) = finished.run.glob("retrain/*/model.pt")
    (spos.folder / "spos.yaml").write_text((spos.folder / "spos.yaml").read_text().replace("digits", "folder"))
    done = spos(
        *("evaluate", "--weights", model, "--config", "spos.yaml", "--set", "data.root=.", "--devices", 2), code=2
    )
    reported = [line for line in done.stderr.splitlines() if line.startswith("error: cannot read the image")]
    assert ["val/0/05.png" in line or "val/9/05.png" in line for line in reported] == [True, True]
    assert "Traceback" not in done.stderr


def disturbed(spos: Spos, disturbance: str, *options: object) -> contextlib.AbstractContextManager[Running]:
    """Start a training, each step of which is followed by a line of Python; `self` is the trainer."""
    (spos.folder / "sitecustomize.py").write_text(
        "import atexit, sys, time\n"
        "def install():\n"
        "    import torch\n"
        "    from spos_cli.engine.trainer import Trainer\n"
        "    update = Trainer.update\n"
        "    def disturbed(self, stream):\n"
        "        update(self, stream)\n"
        f"        {disturbance}\n"
        "    Trainer.update = disturbed\n"
        "if any('spos' in argument for argument in sys.orig_argv): install()\n"
    )
    path = os.pathsep.join(filter(None, (str(spos.folder), os.environ.get("PYTHONPATH"))))
    return started(spos, PROGRAM, "supernet-train", *options, *ENDLESS, variables={"PYTHONPATH": path})


def test_a_bug_in_one_process_is_shown_though_its_interpreter_would_not_end(tmp_path: Path) -> None:
    """As NCCL's destructor may wait for the others until they give up. They are still connected, as with NCCL."""
    spos = Spos(tmp_path)
    leave = "torch.distributed.destroy_process_group = lambda: None"
    bug = f"if self.step == 20 and self.processes.rank: {leave}; atexit.register(time.sleep, 1000); 1 / 0"
    with disturbed(spos, bug, "--devices", 2, "--max-restarts", 0) as process:
        assert process.wait(PATIENCE) == 1, said(spos)
    assert said(spos).count("ZeroDivisionError: division by zero") == 1
    assert said(spos).count("Traceback") == 1


@pytest.mark.parametrize("devices", [1, 2])
def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, devices: int) -> None:
    """The step that the first one waits for never ends, since a process is stopped in it."""
    spos = Spos(tmp_path)
    with disturbed(spos, "if self.step == 20: time.sleep(1000)", "--devices", devices) as process:
        until(logged(spos, 20), process)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        time.sleep(1.0)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130, said(spos)
    assert "Traceback" not in said(spos)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_under_torchrun(tmp_path: Path, number: signal.Signals) -> None:
    """torchrun passes them on; its own exit code is its own."""
    spos = Spos(tmp_path)
    command = ("--nproc-per-node", 2, "--master-port", free_port(), "-m", "spos_cli", "supernet-train", *ENDLESS)
    with started(spos, TORCHRUN, *command) as process:
        until(logged(spos, 20), process)
        process.send_signal(number)
        assert process.wait(25) != 0
    assert f"stopped by {number.name}; everything is saved" in said(spos)
    assert (spos.run / "supernet" / "last.pt").exists()


@pytest.mark.parametrize("killed", [0, 1])
def test_one_of_two_machines_is_lost(undisturbed: Spos, tmp_path: Path, killed: int) -> None:
    """Two machines on two loopback addresses with a common run folder; one dies as a whole and comes back.

    The one that stays starts its process again by itself; if the lost one was the host of the rendezvous, the user
    stops the other one and starts both anew.
    """
    spos = Spos(tmp_path)
    port = free_port()

    def machine(number: int) -> contextlib.AbstractContextManager[Running]:
        rendezvous = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "two")
        rendezvous += ("--rdzv-conf", f"is_host={number == 0}")
        place = ("--nnodes", 2, "--nproc-per-node", 1, "--local-addr", f"127.0.0.{number + 1}", "--max-restarts", 3)
        command = (*rendezvous, *place, "-m", "spos_cli", "supernet-train", *SMALL)
        return started(spos, TORCHRUN, *command, is_real=killed == 1)

    with contextlib.ExitStack() as stack:
        machines = [stack.enter_context(machine(number)) for number in range(2)]
        until(logged(spos, 20))
        lost = machines[killed]
        for pid in [lost.pid, *workers(lost)]:
            os.kill(pid, signal.SIGKILL)
        lost.wait(PATIENCE)
        if killed == 0:
            machines[1].terminate()
            machines[1].wait(PATIENCE)
            machines = [stack.enter_context(machine(number)) for number in range(2)]
        else:
            machines[1] = stack.enter_context(machine(1))
        assert [one.wait(PATIENCE) for one in machines] == [0, 0], said(spos)
    assert "resuming at step" in said(spos)
    assert same_supernet(spos, undisturbed)


TRAIN = ("supernet-train",)
ALIKE = ("--set", "supernet.steps=4", "--set", "supernet.checkpoint_every=2")


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (TRAIN, (*TRAIN, "--set", "supernet.lr=0.5"), "supernet.lr is 0.05 on process 0 and 0.5 on process 1"),
        (TRAIN, (*TRAIN, "--seed", 3), "seed is 0 on process 0 and 3 on process 1"),
        (TRAIN, (*TRAIN, "--fresh"), "arguments.fresh is False on process 0 and True on process 1"),
        (("retrain", "0,0,0,0"), ("retrain", "0,0,0,1"), "arguments.arch is '0,0,0,0' on process 0 and '0,0,0,1' on"),
        (TRAIN, ("retrain", "0,0,0,0"), "command is 'supernet-train' on process 0 and 'retrain' on process 1"),
    ],
    ids=["a setting", "the seed", "an option", "the architecture", "the command"],
)
def test_two_machines_that_were_started_differently(
    tmp_path: Path, one: tuple[object, ...], other: tuple[object, ...], said: str
) -> None:
    """Each on a loopback address of its own, with a run folder in common; one line on both, and nothing is trained."""
    spos, port = Spos(tmp_path), free_port()
    forks = []
    for rank, command in enumerate((one, other)):
        variables = environment() | make_environment(rank, 2, port) | {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        forks.append(Fork([*map(str, (*command, *ALIKE))], spos.folder, variables))
    for done in finish_all(forks, PATIENCE):
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert said in done.stderr
        assert "start all of them with the same command, settings and versions" in done.stderr
    assert not spos.run.exists()
