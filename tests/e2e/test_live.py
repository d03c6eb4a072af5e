"""Watch one run: on its terminal, with `spos status` from another one, and in TensorBoard's files."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROGRAM, Spos, environment

pyte = pytest.importorskip("pyte")
accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
COLUMNS, ROWS = 80, 50


class Watched:
    """A command on a terminal of its own."""

    def __init__(self, spos: Spos, *arguments: object) -> None:
        self.master, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.screen = pyte.HistoryScreen(COLUMNS, ROWS, history=1000)
        self.stream = pyte.ByteStream(self.screen)
        self.process = subprocess.Popen(
            [str(PROGRAM), *map(str, arguments)],
            cwd=spos.folder,
            env={**environment(), "TERM": "linux"},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)

    def read_until(self, text: str | None) -> None:
        """Follow the screen until a line begins with a text, or to the end."""
        while text is None or not any(line.startswith(text) for line in self.screen.display):
            try:
                self.stream.feed(os.read(self.master, 65536))
            except OSError:  # every process has closed the terminal
                assert text is None, f"{text} was never shown"
                return

    def end(self) -> int:
        """Read to the end, and return the exit code."""
        self.read_until(None)
        os.close(self.master)
        return self.process.wait(60)

    @property
    def shown(self) -> list[str]:
        """All lines, including those that have scrolled away."""
        above = ("".join(line[x].data for x in range(COLUMNS)) for line in self.screen.history.top)
        return [line.rstrip() for line in (*above, *self.screen.display) if line.strip()]


def status(spos: Spos) -> dict[str, Any]:
    result = json.loads(spos.here("status", "--json").stdout)
    return {**result, "stages": {stage["name"]: stage for stage in result["stages"]}}


def scalars(folder: Path) -> dict[str, list[int]]:
    """Return the steps of each tag, as TensorBoard reads them."""
    events = accumulator.EventAccumulator(str(folder), {accumulator.SCALARS: 0})
    events.Reload()
    return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_run_that_is_watched(finished: Spos, tmp_path: Path) -> None:
    spos = Spos(tmp_path)
    supernet, search = spos.run / "supernet", spos.run / "search"
    training = Watched(spos, "supernet-train", "--tensorboard")
    training.read_until("top-1 ")
    training.process.send_signal(signal.SIGSTOP)  # so that it certainly does not end
    result = status(spos)
    stage = result["stages"]["supernet"]
    assert stage["state"] == "running"
    assert stage["process"].startswith(f"process {training.process.pid} on ")
    assert (result["next"], result["after"]) == ("spos search", "supernet")
    training.process.kill()
    assert training.end() == -signal.SIGKILL
    result = status(spos)
    assert result["stages"]["supernet"]["state"] == "stopped"
    assert result["stages"]["supernet"]["done"] % 10 == 0
    assert result["next"] == "spos supernet-train"

    training = Watched(spos, "supernet-train", "--tensorboard")
    assert training.end() == 0
    head = next(number for number, line in enumerate(training.shown) if "100/100 steps" in line)
    assert any("tensorboard --logdir runs/tiny/supernet/tensorboard" in line for line in training.shown)
    labels = [line[:10].rstrip() for line in training.shown[head : head + 4]]
    assert labels == ["supernet", "loss", "top-1", "now"]
    assert sum(line.startswith("loss ") for line in training.shown) == 1  # redrawn in place
    assert (supernet / "last.pt").read_bytes() == (finished.run / "supernet" / "last.pt").read_bytes()
    steps = list(range(10, 101, 10))
    assert scalars(supernet / "tensorboard") == {
        f"train/{name}": steps for name in ("lr", "loss", "top1", "images", "images_per_second")
    }

    searching = Watched(spos, "search", "--tensorboard")
    assert searching.end() == 0
    head = next(number for number, line in enumerate(searching.shown) if "generation 2 of 2" in line)
    assert "18/18 candidates" in searching.shown[head]
    labels = [line[:10].rstrip() for line in searching.shown[head : head + 5]]
    assert labels == ["search", "best", "so far", "scores", "accepted"]
    for name in ("journal.jsonl", "result.yaml"):
        assert (search / name).read_bytes() == (finished.run / "search" / name).read_bytes()
    assert scalars(search / "tensorboard") == {f"search/{name}": [0, 1, 2] for name in ("best_top1", "mean_top1")}
    result = status(spos)
    assert {name: stage["state"] for name, stage in result["stages"].items()} == {
        "supernet": "complete",
        "search": "complete",
        "export-arch": "not begun",
        "retrain": "not begun",
    }
    best = max(json.loads(line)["top1"] for line in (search / "journal.jsonl").read_text().splitlines())
    assert result["stages"]["search"]["best"]["top1"] == best
    assert f"best      {best:.2%}" in "\n".join(searching.shown)
    assert result["next"] == "spos export-arch"
