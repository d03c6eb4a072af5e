"""The report of a running search: it takes little time, and its errors end nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from spos_cli.config import loading
from spos_cli.config.schema import Config
from spos_cli.errors import RunError
from spos_cli.report import live
from spos_cli.run.command import Run
from spos_cli.run.folder import RunFolder
from spos_cli.stages import report
from tests.clock import Clock


def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[live.LiveReport, Clock, list[float]]:
    settings = loading.validate({**Config().dump(), "run_dir": str(tmp_path / "run")}, [], origin="a test")
    clock, written = Clock(), []

    def write(run: RunFolder) -> Path:
        clock.now += 1.0
        written.append(clock.now)
        return run.search.report

    monkeypatch.setattr(live, "time", clock)
    monkeypatch.setattr(live, "write_report", write)
    return live.LiveReport(Run(settings)), clock, written


def test_a_search_spends_little_time_on_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    live_report, clock, written = start(tmp_path, monkeypatch)
    for _ in range(1000):  # a generation takes a second, and so does a report
        clock.now += 1.0
        live_report.update()
    assert 15 <= len(written) <= 21
    live_report.finish()
    assert capsys.readouterr().out == f"report: {tmp_path}/run/search/report.html\n"


def test_a_search_without_plotly_says_how_to_get_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    live_report, _, written = start(tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    live_report.update()
    live_report.finish()
    assert not written
    output = capsys.readouterr()
    assert output.out.count("\n") == 1
    assert "pip install 'spos[report]'" in output.out
    assert not output.err


def test_a_full_disk_costs_only_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    live_report, _, _ = start(tmp_path, monkeypatch)

    def write(run: RunFolder) -> Path:
        raise RunError("no space left")

    monkeypatch.setattr(live, "write_report", write)
    for _ in range(3):
        live_report.update()
    assert capsys.readouterr().err == "no report: no space left\n"
    live_report.finish()  # there may be room again
    output = capsys.readouterr()
    assert not output.out
    assert output.err == "no report: no space left\n"


def test_a_defect_of_the_report_costs_only_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    live_report, _, _ = start(tmp_path, monkeypatch)
    calls = []

    def write(run: RunFolder) -> Path:
        calls.append(run)
        raise ZeroDivisionError("a line\nand another")

    monkeypatch.setattr(live, "write_report", write)
    for _ in range(3):
        live_report.update()
    live_report.finish()
    output = capsys.readouterr()
    assert not output.out
    assert output.err.startswith("no report: ZeroDivisionError: a line; ")
    assert output.err.count("\n") == len(calls) == 1
    monkeypatch.setattr(report, "write_report", write)
    with pytest.raises(ZeroDivisionError):  # `spos report` shows the whole error
        report.run(tmp_path, as_json=False)
