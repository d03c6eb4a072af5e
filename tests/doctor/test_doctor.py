"""The command: a table or JSON, exit code 2 if a check fails, and nothing written."""

from __future__ import annotations

import json
import sys

import pytest

from spos_cli import cli
from spos_cli.doctor import batchnorm, costs, data, devices, disk, processes
from tests.conftest import Spos
from tests.doctor.setups import make_setup


def test_healthy_settings() -> None:
    for check in (processes.check, batchnorm.check, data.check, disk.check):
        assert {finding.status for finding in check(make_setup())} == {"ok"}
    assert {costs.check_limits(make_setup()).status, costs.check_sampler(make_setup()).status} == {"ok"}
    assert {finding.status for finding in devices.check(make_setup())} == {"ok"}


def run_doctor(spos: Spos, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    """Run the command in this process; return its exit code."""
    monkeypatch.chdir(spos.folder)
    monkeypatch.setattr(sys, "argv", ["spos", "doctor", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_a_failure_ends_with_2_and_writes_nothing(
    spos: Spos, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = ("--set", "space.classes=9", "--set", "supernet.amp=fp16")
    before = sorted(spos.folder.rglob("*"))
    assert run_doctor(spos, monkeypatch, *faults) == 2
    shown = capsys.readouterr()
    assert "→ set space.classes=10" in shown.out
    assert ", 2 fail" in shown.out
    assert shown.err.splitlines()[-1] == "error: 2 checks failed; see above"
    assert run_doctor(spos, monkeypatch, *faults, "--json") == 2
    shown = capsys.readouterr()
    failed = [line for line in json.loads(shown.out) if line["status"] == "fail"]
    assert [line["check"] for line in failed] == ["mixed precision", "classes"]
    assert shown.err == "error: 2 checks failed; see above\n"
    assert sorted(spos.folder.rglob("*")) == before


@pytest.mark.slow
def test_the_installed_command_on_a_healthy_setup(spos: Spos) -> None:
    result = spos("doctor", "--full")
    assert "0 fail" in result.stdout
    assert "next: spos supernet-train" in result.stdout
    findings = json.loads(spos.here("doctor", "--config", "demo", "--set", "threads=1", "--json").stdout)
    assert {finding["status"] for finding in findings} <= {"ok", "warn"}
    assert all(set(finding) == {"check", "status", "seen", "advice"} for finding in findings)
    assert not spos.run.exists()
