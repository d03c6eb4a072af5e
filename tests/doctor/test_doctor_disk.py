"""Space for a run, and a run folder that cannot be written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from spos_cli.config import loading
from spos_cli.doctor import disk
from spos_cli.doctor.setup import Setup
from spos_cli.run.command import Run
from spos_cli.space import architecture
from tests.conftest import Spos
from tests.doctor.setups import expect, make_setup


@pytest.mark.parametrize(("share", "status"), [(0.99, "fail"), (1.5, "warn"), (2.1, "ok")])
def test_a_full_disk(share: float, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = sum(disk.count_bytes(make_setup()).values())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=int(needed * share)))
    expect(disk.check(make_setup()), "disk", status, "are free")


@pytest.mark.slow
def test_the_estimate_fits_a_whole_run(finished: Spos) -> None:
    """The estimate is at most one checkpoint of each training above the files of a whole run.

    It is for the largest architecture; the one that was retrained is smaller.
    """
    setup = Setup(Run(loading.load(finished.folder / "spos.yaml")))
    expected, params = disk.count_bytes(setup), setup.costs.params
    (exported,) = finished.run.glob("archs/*/arch.yaml")
    expected["retraining"] *= params.of(architecture.read(str(exported))) / params.maximum
    decoded = [path.stat().st_size for path in finished.run.glob("search/*.u8")]
    assert expected["search"] == sum(decoded)
    for stage, folder in (("supernet", "supernet"), ("retraining", "retrain")):
        files = [path for path in finished.run.glob(f"{folder}/**/*.pt") if path.name != "last.pt"]  # a hard link
        left = sum(path.stat().st_size for path in files)
        largest = max(path.stat().st_size for path in files)
        assert left <= expected[stage] * 1.4  # names and settings are large compared with 100 KB of weights
        assert expected[stage] <= left + largest


def test_a_run_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    expect(disk.check(make_setup(f"run_dir={tmp_path}/file/run")), "disk", "fail", "is a file")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    expect(disk.check(make_setup(f"run_dir={tmp_path}/deep/run")), "disk", "fail", f"{tmp_path} is not writable")
    expect(disk.check(make_setup(f"run_dir={tmp_path}/file")), "disk", "fail", f"{tmp_path}/file is a file")
