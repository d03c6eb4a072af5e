"""Commands of `spos` in processes of their own, forked from one that has imported everything already.

Importing PyTorch takes a command seconds, and the tests run hundreds of commands. A fork is a process as any other:
with its own working folder, environment, output, signals and exit code, and with the interpreter's normal end. What a
launcher starts (`--devices N`, torchrun) may be forks, too; they are children of the launcher, as usual.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]
STAGES = "audit doctor evaluate export_arch flops_table predict report retrain search status supernet_train"
# What the commands import when they run; PyTorch imports its compiler with the first optimizer, which takes more than a
# second. None of it starts a thread, which a fork would miss.
MODULES = [
    "torch._dynamo",
    "spos_cli.__main__",
    "spos_cli.cli",
    *(f"spos_cli.stages.{name}" for name in STAGES.split()),
]
# The modules whose `main` the installed programs call.
PROGRAMS = {"spos": "spos_cli.__main__", "torchrun": "torch.distributed.run"}
PR_SET_CHILD_SUBREAPER = 36  # from <linux/prctl.h>
Finished = subprocess.CompletedProcess[str]


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

    def ask(self, request: Mapping[str, object] | int) -> int:
        """Start a process and return its number; or await the process of a number and return its state."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the process that the commands are forked from has ended"
        return int(answer)

    def close(self) -> None:
        """End it."""
        self.process.communicate(timeout=10)


def environment() -> dict[str, str]:
    """Return the variables of a user's shell, without those that a test runner or a launcher may have set."""
    dropped = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "TORCHELASTIC", "SPOS_", "OMP_", "PYTEST")
    return {key: value for key, value in os.environ.items() if not key.startswith(dropped)}


@functools.cache
def get_server() -> Server:
    """Return the server of this process, which ends with it."""
    return Server(environment())


def close_server() -> None:
    """End the server if there is one."""
    if get_server.cache_info().currsize:
        get_server().close()
        get_server.cache_clear()


class Fork:
    """A process that was forked from the server; it has what the tests need of `subprocess.Popen`.

    Args:
        arguments: the command line after the name of the program.
        folder: the working folder.
        output: the file to which stdout is added; stderr is added to the file beside it. If None, temporary files.
        program: an installed program, `spos` or `torchrun`.
        forks_workers: whether the processes that the program launches are forks, too.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        *,
        output: Path | None = None,
        program: str = "spos",
        forks_workers: bool = False,
    ) -> None:
        self.arguments = list(arguments)
        self.outputs = None if output else tempfile.TemporaryDirectory()
        self.output = output or Path(self.outputs.name, "stdout")  # type: ignore[union-attr]
        request = {"arguments": self.arguments, "folder": str(folder), "environment": dict(environment)}
        request |= {"output": str(self.output), "program": program, "forks_workers": forks_workers}
        self.pid = get_server().ask(request)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, which is negative for signals; None while the process runs."""
        if self.returncode is None and " Z " in Path(f"/proc/{self.pid}/stat").read_text():
            self.wait(60)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for the end, and return the exit code.

        Args:
            timeout: seconds after which the process is killed.

        Raises:
            subprocess.TimeoutExpired: it was killed.
        """
        if self.returncode is None:
            is_late = threading.Event()
            timer = threading.Timer(timeout, lambda: (is_late.set(), self.send_signal(signal.SIGKILL)))
            timer.start()
            try:
                self.returncode = os.waitstatus_to_exitcode(get_server().ask(self.pid))
            finally:
                timer.cancel()
            if is_late.is_set():
                raise subprocess.TimeoutExpired(self.arguments, timeout)
        return self.returncode

    def finish(self, timeout: float) -> Finished:
        """Wait for the end, and return the exit code and what was printed."""
        code = self.wait(timeout)
        with self.outputs or contextlib.nullcontext():
            return Finished(self.arguments, code, self.output.read_text(), errors_of(self.output).read_text())

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask the process to end."""
        self.send_signal(signal.SIGTERM)


def finish_all(forks: Iterable[Fork], timeout: float) -> list[Finished]:
    """Wait for processes that run together."""
    return [fork.finish(timeout) for fork in list(forks)]


def errors_of(output: Path) -> Path:
    """Return where stderr goes, beside stdout."""
    return output.with_name("stderr")


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
    """Answer each line on stdin: fork the process that it asks for, or wait for the process of its number."""
    import gc

    gc.disable()  # Nothing is garbage before everything is imported.
    for name in MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is imported is not looked at again when a command ends, which is most of the time of a short one
    gc.enable()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        if isinstance(request, int):
            answer = os.waitpid(request, 0)[1]
        elif (answer := os.fork()) == 0:
            answers.close()
            become(**request)
        print(answer, file=answers, flush=True)


def become(
    arguments: list[str], folder: str, environment: dict[str, str], output: str, program: str, forks_workers: bool
) -> NoReturn:
    """Be the command from here on, as the console script would run it."""
    for target, path in ((0, Path(os.devnull)), (1, Path(output)), (2, errors_of(Path(output)))):
        source = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND if target else os.O_RDONLY)
        os.dup2(source, target)
        os.close(source)
    os.chdir(folder)
    if forks_workers:
        fork_workers()
    be_program(program, [str(Path(sys.executable).with_name(program)), *arguments], environment)


def be_program(program: str, command: list[str], environment: Mapping[str, str]) -> NoReturn:
    """Run the entry point of an installed program, and do before it what the interpreter does at its start."""
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, sys.orig_argv[:] = command, [sys.executable, *command]
    folders = environment.get("PYTHONPATH", "")
    sys.path[:] = [path for path in sys.path if path not in ("", str(ROOT)) or path in folders]
    for folder in filter(None, folders.split(os.pathsep)):
        if (customization := Path(folder, "sitecustomize.py")).exists():
            runpy.run_path(str(customization))
    importlib.import_module(PROGRAMS[program]).main()
    sys.exit()


def fork_workers() -> None:
    """Have PyTorch's launcher fork its processes from a copy of this one, which has not started a thread yet.

    A fork becomes a child of the launcher by the death of its parent, so that the launcher can wait for it.
    """
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        nurse(theirs)
    theirs.close()
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    answers = ours.makefile("r")

    class Worker(subprocess.Popen[bytes]):
        """A process that is forked instead of started."""

        def _execute_child(self, args: Sequence[str], *others: Any) -> None:
            # Among the others, only the environment is not as usual.
            (environment,) = (one for one in others if isinstance(one, dict))
            ours.sendall((json.dumps([args[args.index("spos_cli") + 1 :], environment]) + "\n").encode())
            self.pid = int(answers.readline())
            self._child_created = True

    subprocess_handler.Popen = Worker  # type: ignore[misc]


def nurse(channel: socket.socket) -> NoReturn:
    """Answer each line with the number of a process that runs `python -m spos_cli` and has lost its parent."""
    for line in channel.makefile("r"):
        arguments, environment = json.loads(line)
        reading, writing = os.pipe()
        if os.fork() == 0:
            if pid := os.fork():
                os.write(writing, str(pid).encode())
                os._exit(0)
            for one in (reading, writing):
                os.close(one)
            channel.close()
            os.setsid()
            sys.path.insert(0, str(Path.cwd()))
            Path("/proc/self/comm").write_text(f"rank {environment['LOCAL_RANK']}")  # for `workers`
            be_program("spos", [str(ROOT / "spos_cli" / "__main__.py"), *arguments], environment)
        os.wait()
        channel.sendall(os.read(reading, 20) + b"\n")
        for one in (reading, writing):
            os.close(one)
    os._exit(0)


if __name__ == "__main__":
    serve()
