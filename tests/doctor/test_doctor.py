"""The command: a table or JSON, exit code 2 if a check fails, and nothing written."""

from __future__ import annotations

import json
import sys

import pytest

from spos_cli import cli
from spos_cli.doctor import batchnorm, costs, data, devices, disk, processes
from tests.conftest import Spos
from tests.doctor.setups import make_setup


def test_settings_that_are_in_order() -> None:
    for check in (processes.check, batchnorm.check, data.check, disk.check):
        assert {finding.status for finding in check(make_setup())} == {"ok"}
    assert {costs.check_limits(make_setup()).status, costs.check_sampler(make_setup()).status} == {"ok"}
    assert {finding.status for finding in devices.check(make_setup())} == {"ok"}


def call(spos: Spos, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    """Runs the command in this process; its exit code."""
    monkeypatch.chdir(spos.folder)
    monkeypatch.setattr(sys, "argv", ["spos", "doctor", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


def test_a_failure_ends_with_2_and_writes_nothing(
    spos: Spos, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = ("--set", "space.classes=9", "--set", "supernet.amp=fp16")
    before = sorted(spos.folder.rglob("*"))
    assert call(spos, monkeypatch, *fault) == 2
    said = capsys.readouterr()
    assert "→ set space.classes=10" in said.out
    assert ", 2 fail" in said.out
    assert said.err.splitlines()[-1] == "error: 2 checks failed; see above"
    assert call(spos, monkeypatch, *fault, "--json") == 2
    said = capsys.readouterr()
    failed = [line for line in json.loads(said.out) if line["status"] == "fail"]
    assert [line["check"] for line in failed] == ["mixed precision", "classes"]
    assert said.err == "error: 2 checks failed; see above\n"
    assert sorted(spos.folder.rglob("*")) == before


@pytest.mark.slow
def test_the_installed_program_on_a_healthy_setup(spos: Spos) -> None:
    done = spos("doctor", "--full")
    assert "0 fail" in done.stdout
    assert "next: spos supernet-train" in done.stdout
    findings = json.loads(spos.here("doctor", "--config", "demo", "--set", "threads=1", "--json").stdout)
    assert {finding["status"] for finding in findings} <= {"ok", "warn"}
    assert all(set(finding) == {"check", "status", "seen", "advice"} for finding in findings)
    assert not spos.run.exists()
