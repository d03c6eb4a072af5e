"""What all tests share: a tiny experiment, and the installed `spos` as a user runs it."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from spos_cli import cli
from tests import forks
from tests.forks import Finished, Fork, environment, finish_all, free_port, make_environment

# Seconds of everything. Each test overrides what it is about.
TINY = """
name: tiny
devices: cpu
threads: 1
space:
  image_size: 8
  classes: 10
  stem: {channels: 8, stride: 1}
  stages:
    - {blocks: 2, channels: 16, stride: 2}
    - {blocks: 2, channels: 32, stride: 2}
  head_channels: 32
data:
  source: digits
  preset: standard
  augmentation: {crop: padded, padding: 1, flip: false, jitter: 0}
  holdout_per_class: 10
  workers: 0
supernet: {steps: 100, batch_size: 32, lr: 0.05, sampler: uniform, log_every: 10, checkpoint_every: 10}
search:
  flops_limit: null
  population: 6
  generations: 2
  parents: 3
  mutations: 2
  crossovers: 2
  calibration_images: 128
  calibration_batch_size: 64
  batch_size: 50
retrain: {steps: 100, batch_size: 32, lr: 0.05, ema_decay: 0.9, log_every: 10, checkpoint_every: 10, evaluate_every: 40}
"""

# On a busy machine, threads that wait for each other are many times slower than one; the commands that the tests
# start have `threads: 1` for the same reason.
os.environ.setdefault("OMP_NUM_THREADS", "1")

PROGRAM = Path(sys.executable).with_name("spos")
Mistake = Callable[..., str]


class Spos:
    """The installed `spos` in a working folder with a `spos.yaml` in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "spos.yaml").write_text(TINY)

    def __call__(self, *arguments: object, code: int = 0, program: tuple[object, ...] | None = None) -> Finished:
        """Run a command and check how it ends; a mistake of the user never shows a traceback.

        Args:
            program: what to start instead of a fork of a process that has imported `spos`, such as `(PROGRAM,)`.
        """
        command = [*map(str, program or ("spos",)), *map(str, arguments)]
        if program is None:
            done = self.fork(command[1:])
        else:
            done = subprocess.run(
                command, cwd=self.folder, env=environment(), capture_output=True, text=True, timeout=240, check=False
            )
        assert done.returncode == code, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        if code == 2:
            assert "Traceback" not in done.stderr + done.stdout, done.stderr
        return done

    def fork(self, arguments: list[str]) -> Finished:
        """Run the console script's entry point in a process of its own, which need not import PyTorch again."""
        return self.start(arguments).finish(240)

    def start(self, arguments: Sequence[object]) -> Fork:
        """Start a fork; the processes of `--devices N` are forks, too."""
        words = [*map(str, arguments)]
        return Fork(words, self.folder, environment(), forks_workers="--devices" in words)

    def together(self, *arguments: object, code: int = 0, processes: int = 2) -> list[Finished]:
        """Run a command in several processes that meet over gloo, as a launcher would start them, but sooner."""
        port, command = free_port(), [*map(str, arguments)]
        environments = [environment() | make_environment(rank, processes, port) for rank in range(processes)]
        done = finish_all((Fork(command, self.folder, one) for one in environments), 240)
        for one in done:
            assert one.returncode == code, f"{command} ended with {one.returncode}\n{one.stdout}\n{one.stderr}"
            assert code != 2 or "Traceback" not in one.stderr
        return done

    def here(self, *arguments: object, code: int = 0) -> Finished:
        """The same in this process, from the entry point of the console script.

        It saves seconds of start-up, where it is the command that matters and not its process.
        """
        shown, said, before = io.StringIO(), io.StringIO(), (Path.cwd(), sys.argv)
        os.chdir(self.folder)
        sys.argv = ["spos", *map(str, arguments)]
        try:
            with (
                contextlib.redirect_stdout(shown),
                contextlib.redirect_stderr(said),
                pytest.raises(SystemExit) as ended,
            ):
                cli.main()
        finally:
            os.chdir(before[0])
            sys.argv = before[1]
        done = Finished(arguments, ended.value.code, shown.getvalue(), said.getvalue())  # type: ignore[arg-type]
        assert done.returncode == code, f"{arguments} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        if code == 2:
            assert "Traceback" not in done.stderr + done.stdout, done.stderr
        return done

    def interrupt(self, number: int, when: Callable[[], bool], *arguments: object) -> tuple[int, str]:
        """Start a command, send it a signal as soon as `when` is true; return its exit code and its stderr."""
        process = self.start(arguments)
        end = time.monotonic() + 120
        while not when():
            assert process.poll() is None, f"ended too early: {process.finish(60).stderr}"
            assert time.monotonic() < end, "the moment to interrupt never came"
            time.sleep(0.002)
        process.send_signal(number)
        done = process.finish(60)
        return done.returncode, done.stderr

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "runs" / "tiny"

    def arch(self) -> Path:
        """The one exported architecture."""
        (found,) = self.run.glob("archs/*/arch.yaml")
        return found


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Import the tests without collecting garbage, a third of the time, and never look at what they import again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    """End what commands were forked from."""
    forks.close_server()


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Do not wait for the disk: what a test writes need not survive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def spos(tmp_path: Path) -> Spos:
    """A working folder with nothing done yet."""
    return Spos(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Spos:
    """A working folder in which all commands have run, without a break. Not to be changed.

    One process of pytest-xdist makes it, and all of them copy it.
    """
    base = tmp_path_factory.getbasetemp()
    original = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "original"
    original.mkdir(exist_ok=True)
    with (original / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        if not (original / "done").exists():
            finish(Spos(original / "folder"))
            (original / "done").touch()
    spos = Spos(tmp_path_factory.mktemp("finished"))
    shutil.copytree(original / "folder", spos.folder, dirs_exist_ok=True)
    inputs = spos.run / "search" / "inputs.json"  # It names the supernet by its absolute path.
    inputs.write_text(inputs.read_text().replace(str(original / "folder"), str(spos.folder)))
    return spos


def finish(spos: Spos) -> None:
    """Run all commands. Slow tests start each of them as it is installed, and `test_live.py` compares with these."""
    for command in ("supernet-train", "search", "export-arch", "retrain", "report"):
        spos.here(command)


@pytest.fixture
def mistake(spos: Spos, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Mistake:
    """Runs a command in this process; it must end with 2, and what it says on stderr is the result.

    It starts from the same entry point as the console script, and imports torch only once.
    """

    def call(*arguments: object) -> str:
        monkeypatch.chdir(spos.folder)
        monkeypatch.setattr(sys, "argv", ["spos", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capfd.readouterr()
        assert stopped.value.code == 2, said
        assert "Traceback" not in said.err
        return said.err

    return call
