"""`timing.jsonl`: how long a stage has worked."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import torch

from spos_cli.engine import timing
from spos_cli.engine.distributed import Processes
from tests.clock import Clock

PROCESSES = Processes(0, 1, torch.device("cpu"))


def test_times_of_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fake_time, done = Clock(), 3
    monkeypatch.setattr(timing, "time", fake_time)
    with contextlib.suppress(KeyError), timing.record_time(tmp_path, PROCESSES, lambda: done, "steps") as clock:
        fake_time.now, done = 2.0, 5
        clock.lap()
        fake_time.now = 7.0
        clock.lap()  # no step since the last lap
        fake_time.now, done = 10.0, 6
        raise KeyError  # the time is kept however the work ends
    path = tmp_path / "timing.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["seconds"], line["done"], line["unit"], line["processes"]) for line in lines] == [
        (2.0, 2, "steps", 1),
        (8.0, 1, "steps", 1),
    ]
    assert lines[0]["device"]
    with timing.record_time(tmp_path, PROCESSES, lambda: done, "steps"):
        fake_time.now = 20.0
    assert len(path.read_text().splitlines()) == 2
    (tmp_path / "file").touch()
    with timing.record_time(tmp_path / "file", PROCESSES, lambda: done, "steps"):
        done = 7
    assert "a time is left out" in capsys.readouterr().err
