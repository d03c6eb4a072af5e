"""Trains, searches and retrains on digits with two processes, while things go wrong at random moments.

The same commands run once undisturbed and once under faults: processes are killed, stopped by signals, run out of
disk, and find their files torn or flipped. After each fault the same command is typed again, as a user would. In
the end every final file has to be the same, byte for byte. Writes soak.json; ends with 1 if a fault was not survived.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.conftest import PROGRAM, TINY, environment

PATIENCE = 120.0  # seconds for a command to make its next progress, or to end after a signal
SETTINGS = {
    "space": {"stages.0.blocks": 3, "stages.1.blocks": 3},
    "supernet": {"steps": 1500, "log_every": 10, "checkpoint_every": 20},
    "search": {"population": 60, "generations": 13, "parents": 10, "mutations": 20, "crossovers": 20},
    "retrain": {"steps": 1500, "log_every": 10, "checkpoint_every": 20, "evaluate_every": 500},
}


@dataclass(frozen=True)
class Stage:
    """A command, where its progress shows, how many lines of it are a step, and what must be equal in the end."""

    command: str
    progress: str
    lines: int
    results: tuple[str, ...]


STAGES = (
    Stage("supernet-train", "supernet/metrics.jsonl", 1, ("supernet/last.pt",)),
    Stage("search", "search/journal.jsonl", 12, ("search/journal.jsonl", "search/result.yaml")),
    Stage("retrain", "retrain/*/metrics.jsonl", 1, ("retrain/*/last.pt", "retrain/*/model.pt", "archs/*/arch.yaml")),
)


@dataclass
class Run:
    """A run folder, and the commands in it."""

    folder: Path
    random: random.Random
    command: str = ""
    process: subprocess.Popen[str] | None = None
    said: list[str] = field(default_factory=list)

    def start(self, command: str) -> None:
        """Types a command; its stderr goes to a file, since nobody reads a pipe while we wait."""
        self.command = command
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = [f"{section}.{key}={value}" for section, fields in SETTINGS.items() for key, value in fields.items()]
        options = [word for setting in settings for word in ("--set", setting)]
        (self.folder / "spos.yaml").write_text(TINY)
        with (self.folder / "stderr").open("w") as errors:
            self.process = subprocess.Popen(
                [str(PROGRAM), command, "--devices", "2", "--run-dir", "run", *options],
                cwd=self.folder,
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                text=True,
            )

    def wait(self) -> int:
        """Waits for the command's end; its exit code."""
        assert self.process is not None
        code = self.process.wait(PATIENCE)
        self.said.append((self.folder / "stderr").read_text())
        self.process = None
        return code

    def alone(self, command: str) -> None:
        """Runs a command to its end, which must be a good one."""
        self.start(command)
        assert self.process is not None
        assert self.process.wait(600) == 0, (self.folder / "stderr").read_text()
        self.process = None

    def files(self, pattern: str) -> list[Path]:
        """Files of the run folder, in the order of their names."""
        return sorted((self.folder / "run").glob(pattern))

    def lines(self, pattern: str) -> int:
        """Lines in the files of a stage's progress."""
        return sum(path.read_bytes().count(b"\n") for path in self.files(pattern))

    def workers(self) -> list[int]:
        """The processes that the command has started."""
        assert self.process is not None
        try:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            return [pid for pid in map(int, children) if b"spos_cli" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        except OSError:
            return []

    def send(self, number: signal.Signals) -> None:
        """A signal to the command, as from a terminal or a batch system."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill_all(self) -> None:
        """What a power cut does."""
        assert self.process is not None
        workers = self.workers()
        os.killpg(self.process.pid, signal.SIGKILL)
        for pid in workers:  # the launcher puts each into a session of its own
            _kill(pid)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_everything(run: Run) -> set[int]:
    run.kill_all()
    return {-signal.SIGKILL}


def kill_a_worker(run: Run) -> set[int]:
    """The launcher starts it again, or ends and says which one was killed."""
    workers = run.workers()
    if workers:
        _kill(run.random.choice(workers))
    return {128 + signal.SIGKILL}


def terminate(run: Run) -> set[int]:
    run.send(signal.SIGTERM)
    return {128 + signal.SIGTERM, -signal.SIGTERM}  # the second before the program has begun


def interrupt(run: Run) -> set[int]:
    run.send(signal.SIGINT)
    return {128 + signal.SIGINT, -signal.SIGINT}


def fill_the_disk(run: Run) -> set[int]:
    """No file may grow beyond a few bytes, for a second; a real full disk needs a file system of its own."""
    workers = run.workers()
    for pid in workers:
        _limit(pid, run.random.choice([0, 1000, 100_000]))
    time.sleep(run.random.uniform(0.2, 1.5))
    for pid in workers:
        _limit(pid, resource.RLIM_INFINITY)
    return {2}


def _limit(pid: int, size: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def tear_a_file(run: Run) -> set[int]:
    """A kill, after which the newest file has lost its end."""
    run.kill_all()
    damage(run, lambda content: content[: run.random.randrange(len(content))])
    return {-signal.SIGKILL}


def flip_a_bit(run: Run) -> set[int]:
    """A kill, after which the newest checkpoint has another bit; a journal loses a part of its last line."""
    run.kill_all()

    def flip(content: bytes) -> bytes:
        place = run.random.randrange(len(content))
        return content[:place] + bytes([content[place] ^ 1 << run.random.randrange(8)]) + content[place + 1 :]

    damage(run, flip)
    return {-signal.SIGKILL}


def damage(run: Run, change: Callable[[bytes], bytes]) -> None:
    """Spoils what the stage has written last: a search's last line, or, in place and under all of its names, the newest
    checkpoint of a training if it is not the only one."""
    assert run.process is not None
    run.process.wait()
    if run.command == "search":
        for journal in run.files("search/journal.jsonl"):
            whole = journal.read_bytes()
            last = whole[:-1].rfind(b"\n") + 1
            journal.write_bytes(whole[: last + run.random.randrange(len(whole) - last + 1)])
        return
    folder = "supernet" if run.command == "supernet-train" else "retrain/*"
    checkpoints = run.files(f"{folder}/step-*.pt")
    if len(checkpoints) > 1:
        content = checkpoints[-1].read_bytes()
        with checkpoints[-1].open("r+b") as file:
            file.write(changed := change(content))
            file.truncate(len(changed))


FAULTS: dict[str, Callable[[Run], set[int]]] = {
    "SIGKILL to everything": kill_everything,
    "SIGKILL to one process": kill_a_worker,
    "SIGTERM": terminate,
    "SIGINT": interrupt,
    "disk full": fill_the_disk,
    "torn file": tear_a_file,
    "flipped bit": flip_a_bit,
}


@dataclass
class Record:
    """What became of the faults: name of each, and what was wrong with those that were not survived."""

    faults: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def check(self, name: str, code: int, allowed: set[int], said: str) -> None:
        """Whether a command has ended as it may after a fault."""
        # Python itself shows a Ctrl-C that comes before the program has begun.
        at_start = name == "SIGINT" and said.rstrip().endswith("KeyboardInterrupt")
        if code not in allowed | {0} or ("Traceback" in said and not at_start):
            self.problems.append(f"{name}: exit code {code}, {said[-2000:]}")


def disturb(run: Run, stage: Stage, names: list[str], record: Record, console: Console) -> None:
    """Runs a stage to its end, with one fault after another."""
    names = list(names)
    run.start(stage.command)
    fault, allowed = "undisturbed", {0}
    while True:
        assert run.process is not None
        before = run.lines(stage.progress)
        wanted = before + run.random.randrange(1, 6) * stage.lines
        early = time.monotonic() + run.random.uniform(0.0, 4.0) if run.random.random() < 0.15 else None
        deadline = time.monotonic() + PATIENCE
        while run.process.poll() is None and run.lines(stage.progress) < wanted:
            if early is not None and time.monotonic() > early and names:
                break
            if time.monotonic() > deadline:
                record.problems.append(f"{stage.command} after {fault}: no progress in {PATIENCE:.0f} s")
                run.kill_all()
                run.wait()
                return
            time.sleep(0.01)
        if run.process.poll() is None and names:
            time.sleep(run.random.uniform(0.0, 0.1))
            fault = names.pop()
            record.faults[fault] += 1
            allowed = FAULTS[fault](run)
            console.print(f"{stage.command}, {before} lines: {fault}", soft_wrap=True)
            if fault in ("SIGKILL to one process", "disk full"):
                time.sleep(0.5)
                if run.process.poll() is None:
                    continue  # it has survived by itself
        elif run.process.poll() is None:
            deadline = time.monotonic() + 300
            while run.process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
        code = run.wait()
        record.check(fault, code, allowed, run.said[-1])
        if code == 0:
            if names:
                record.problems.append(f"{stage.command} has ended before its last {len(names)} faults")
            return
        run.start(stage.command)


def differences(one: Run, other: Run) -> dict[str, bool]:
    """Whether each final file is the same."""
    equal = {}
    for pattern in (pattern for stage in STAGES for pattern in stage.results):
        ours, theirs = one.files(pattern), other.files(pattern)
        names = [[path.relative_to(run.folder) for path in paths] for run, paths in ((one, ours), (other, theirs))]
        same = bool(ours) and names[0] == names[1]
        equal[pattern] = same and all(a.read_bytes() == b.read_bytes() for a, b in zip(ours, theirs, strict=True))
    return equal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=36, help="of all stages together")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    console = Console(highlight=False)
    console.print(f"seed {arguments.seed}, {arguments.faults} faults")
    begin = time.monotonic()
    draw = random.Random(arguments.seed)
    plan = [name for _ in range(arguments.faults // len(FAULTS) + 1) for name in FAULTS][: arguments.faults]
    draw.shuffle(plan)
    record = Record()
    with tempfile.TemporaryDirectory() as folder:
        whole, run = (Run(Path(folder) / name, draw) for name in ("undisturbed", "disturbed"))
        for stage in STAGES:
            whole.alone(stage.command)
            if stage.command == "search":
                whole.alone("export-arch")
        console.print(f"undisturbed: {time.monotonic() - begin:.0f} s")
        for place, stage in enumerate(STAGES):
            disturb(run, stage, plan[place :: len(STAGES)], record, console)
            if stage.command == "search":
                run.alone("export-arch")
        equal = differences(run, whole)
        scored = run.lines("search/journal.jsonl"), whole.lines("search/journal.jsonl")
    seconds = time.monotonic() - begin
    table = Table(title=f"{sum(record.faults.values())} faults in {seconds:.0f} s")
    table.add_column("fault")
    table.add_column("times", justify="right")
    for name, times in record.faults.items():
        table.add_row(name, str(times))
    console.print(table)
    for problem in record.problems:
        console.print(f"NOT SURVIVED: {problem}", style="red", markup=False)
    for pattern, same in equal.items():
        console.print(f"{pattern}: {'equal' if same else 'DIFFERENT'}", style="green" if same else "red")
    console.print(f"journal: {scored[0]} of {scored[1]} candidates")
    result = {
        "seed": arguments.seed,
        "seconds": round(seconds),
        "faults": dict(record.faults),
        "not_survived": record.problems,
        "equal": equal,
        "candidates": scored,
    }
    Path("soak.json").write_text(json.dumps(result, indent=1) + "\n")
    good = not record.problems and all(equal.values()) and scored[0] == scored[1]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
