"""`metrics.jsonl` of a training: what is appended, and what is cut on resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spos_cli.engine.metrics_log import MetricsLog


def make_log(folder: Path, *, is_main: bool = True) -> MetricsLog:
    return MetricsLog(folder, is_main=is_main)


def line(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 2.0, "top1": step / 10}


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    make_log(tmp_path / "other", is_main=False).write(line(1))
    assert not (tmp_path / "other").exists()
    log = make_log(tmp_path)
    log.write(line(1))
    log.write({"step": 1, "val_top1": 0.5})
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 1, "loss": 2.0, "top1": 0.1}\n{"step": 1, "val_top1": 0.5}\n'
    )
    assert log.last_training_line() == line(1)
    assert log.history.validated == 1


@pytest.mark.parametrize("step", [0, 2, 3])
def test_lines_after_the_last_checkpoint_are_cut(tmp_path: Path, step: int) -> None:
    """The bytes of those before it stay; a line that is torn or foreign goes."""
    path, whole = tmp_path / "metrics.jsonl", make_log(tmp_path)
    for number in (1, 2):
        whole.write(line(number))
    kept = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'{"loss": 1.0}\n[3]\n{"step": true}\n\xff\n')
    whole.write(line(5))
    with path.open("ab") as file:
        file.write(b'{"step": 6, "lo')
    resumed = make_log(tmp_path)
    resumed.cut_after(step)
    assert path.read_bytes() == (kept if step else b"")
    assert resumed.history.top1 == ([0.1, 0.2] if step else [])
    resumed.write(line(3))
    assert path.read_bytes().endswith(b'"top1": 0.3}\n')


def test_without_a_file_nothing_is_cut(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    log.cut_after(0)
    assert not log.path.exists()
    assert log.last_training_line() == {}
