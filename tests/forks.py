"""Commands of `spos` in processes of their own, forked from one that has imported everything already.

Importing PyTorch takes a command seconds, and the tests run hundreds of commands. A fork is a process as any other:
with its own working folder, environment, output, signals and exit code, and with the interpreter's normal end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[1]
# What the commands import when they run. None of it starts a thread, which a fork would miss.
STAGES = "audit doctor evaluate export_arch flops_table report retrain search status supernet_train"
Finished = subprocess.CompletedProcess[str]


class Forks:
    """Processes that were started together.

    Attributes:
        pids: their process numbers.
    """

    def __init__(
        self, server: Server, arguments: Sequence[str], folder: Path, environments: Sequence[Mapping[str, str]]
    ):
        self.server, self.arguments = server, list(arguments)
        self.outputs = tempfile.TemporaryDirectory()
        self.files = [Path(self.outputs.name, str(number)) for number in range(len(environments))]
        starts = [
            {"arguments": self.arguments, "folder": str(folder), "environment": dict(one), "output": str(file)}
            for one, file in zip(environments, self.files, strict=True)
        ]
        self.pids: list[int] = server.ask(starts)

    def kill(self, number: int) -> None:
        """Send a signal to all of them."""
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def have_ended(self) -> bool:
        """Tell whether one of them has ended already."""
        return any(" Z " in Path(f"/proc/{pid}/stat").read_text() for pid in self.pids)

    def wait(self, timeout: float) -> list[Finished]:
        """Wait for all of them; exit codes are negative for signals, as those of `subprocess` are.

        Args:
            timeout: seconds after which they are killed.

        Raises:
            subprocess.TimeoutExpired: they were.
        """
        is_late = threading.Event()
        timer = threading.Timer(timeout, lambda: (is_late.set(), self.kill(signal.SIGKILL)))
        timer.start()
        try:
            states: list[int] = self.server.ask([])
        finally:
            timer.cancel()
        if is_late.is_set():
            raise subprocess.TimeoutExpired(["spos", *self.arguments], timeout)
        with self.outputs:
            return [
                Finished(
                    self.arguments, os.waitstatus_to_exitcode(state), file.read_text(), errors_of(file).read_text()
                )
                for state, file in zip(states, self.files, strict=True)
            ]


class Server:
    """The process that all others are forked from; it ends when this one closes the pipe, or ends itself."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        paths = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH", "")]))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**environment, "PYTHONPATH": paths},
        )

    def ask(self, starts: Sequence[Mapping[str, object]]) -> list[int]:
        """Start processes and return their numbers; with none to start, await the last ones and return their states."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(starts) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the process that the commands are forked from has ended"
        return json.loads(answer)  # type: ignore[no-any-return]

    def close(self) -> None:
        """End it."""
        self.process.communicate(timeout=10)


def errors_of(output: Path) -> Path:
    """Return where stderr goes, beside stdout."""
    return output.with_suffix(".err")


def free_port() -> int:
    """Find a port of this machine that nobody uses."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def make_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """List the variables that tell a process its place among others on this machine."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def serve() -> None:
    """Answer each line on stdin: fork the processes that it asks for, or wait for those of the line before."""
    import gc
    import importlib

    for name in STAGES.split():
        importlib.import_module(f"spos_cli.stages.{name}")
    gc.collect()
    gc.freeze()  # what is imported is not looked at again when a command ends, which is most of the time of a short one
    answers = os.fdopen(os.dup(1), "w")
    pids: list[int] = []
    for line in sys.stdin:
        if starts := json.loads(line):
            pids = []
            for start in starts:
                pids.append(os.fork())
                if pids[-1] == 0:
                    answers.close()
                    become(**start)
        print(json.dumps(pids if starts else [os.waitpid(pid, 0)[1] for pid in pids]), file=answers, flush=True)


def become(arguments: list[str], folder: str, environment: dict[str, str], output: str) -> NoReturn:
    """Be the command from here on, as the console script would run it."""
    for target, path in ((0, Path(os.devnull)), (1, Path(output)), (2, errors_of(Path(output)))):
        source = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC if target else os.O_RDONLY)
        os.dup2(source, target)
        os.close(source)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [str(Path(sys.executable).with_name("spos")), *arguments]
    sys.path[:] = [
        path for path in sys.path if path not in ("", str(ROOT)) or path in environment.get("PYTHONPATH", "")
    ]
    from spos_cli.__main__ import main

    main()


if __name__ == "__main__":
    serve()
