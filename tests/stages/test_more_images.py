"""What `spos audit` makes of the files of a search, on made-up ones; `e2e/test_audit.py` has whole runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spos_cli.config import loading
from spos_cli.config.schema import Config
from spos_cli.engine.distributed import Processes
from spos_cli.run.command import Run
from spos_cli.search.journal import Entry, ranking
from spos_cli.stages import audit
from tests.conftest import TINY
from tests.runs import write_run

ALONE = Processes(0, 1, torch.device("cpu"))
IMAGES = 400


def test_outcomes_that_were_lost_say_nothing_of_more_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows that a search has filled with zeros do not have as many right as the journal says."""
    lines = write_run(tmp_path / "run", TINY, images=IMAGES)
    settings = loading.validate({**Config().dump(), "run_dir": str(tmp_path / "run")}, [], origin="a test")
    bits, width = tmp_path / "run" / "search" / "outcomes.bits", IMAGES // 8
    best = ranking(lines)
    lost = best[1:21:2]

    def found(without: list[Entry]) -> list[dict[str, Any]]:
        kept = {entry.architecture: entry for entry in best if entry not in without}
        search: Any = SimpleNamespace(lines=lines, complete=kept, winner=best[0].architecture)
        return audit.more_images(Run(settings), ALONE, search, IMAGES)

    def lose(row: int) -> None:
        content = bits.read_bytes()
        bits.write_bytes(content[: row * width] + bytes(width) + content[(row + 1) * width :])

    expected = found(without=lost)
    assert found(without=[])[0]["tied"] > expected[0]["tied"] > 1
    assert not capsys.readouterr().err
    for entry in lost:
        lose(lines.index(entry))
    assert found(without=[]) == expected
    assert "does not have the outcomes of 10 of the best" in capsys.readouterr().err
    lose(lines.index(best[0]))
    assert found(without=[]) == []
    assert "the outcomes of the best: what more images would do cannot be told" in capsys.readouterr().err
