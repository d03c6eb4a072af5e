"""Run folders: odd names, disks that cannot be written, two commands in one folder, `--fresh`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spos_cli.config import loading
from spos_cli.engine import checkpoint, distributed
from spos_cli.engine.distributed import Processes
from spos_cli.errors import RunError
from spos_cli.run.command import Run
from tests.conftest import PROGRAM, Mistake, Spos

pytestmark = pytest.mark.slow

QUICK = [f"--set={section}.steps=10" for section in ("supernet", "retrain")]
NAMES = ["a b", "-c", "ü", "图", "[red]", "d'e", 'f"g', "h;i", "$j", "k%l"]


def class_folders(root: Path) -> None:
    for split in ("train", "val"):
        for label, name in enumerate(NAMES):
            (root / split / name).mkdir(parents=True)
            for number in range(20 if split == "train" else 2):
                pixels = np.random.default_rng(100 * label + number).integers(0, 256, (8, 8, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number} ö.png")


def test_spaces_and_other_scripts_in_names(tmp_path: Path) -> None:
    spos = Spos(tmp_path / "my folder, 图 [bold]")
    class_folders(spos.folder / "im ages")
    where = ("--set", "data.source=folder", "--set", "data.root=im ages", "--run-dir", "läufe [1]/ein s", *QUICK)
    where += ("--set", "search.calibration_images=64", "--set", "data.workers=1")
    run = spos.folder / "läufe [1]" / "ein s"
    for command in ("supernet-train", "flops-table", "search", "export-arch", "retrain"):
        program = spos if command in ("supernet-train", "retrain") else spos.here
        message = program(command, *where).stdout
        follow = [line.removeprefix("next: ") for line in message.splitlines() if line.startswith("next: ")]
        assert len(follow) == 1
    (model,) = run.glob("retrain/*/model.pt")
    assert checkpoint.load(model)["classes"] == sorted(NAMES)
    # The next command can be typed as it is printed.
    shell = ["sh", "-c", follow[0].replace("spos ", r"printf '%s\0' ", 1)]
    words = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
    assert json.loads(spos.here(*words, "--json").stdout)["images"] == 20


def test_a_read_only_run_folder(spos: Spos) -> None:
    spos.run.mkdir(parents=True)
    spos.run.chmod(0o555)
    # The superuser may write everywhere, so that right is dropped first.
    program = ("setpriv", "--bounding-set=-dac_override", PROGRAM) if os.geteuid() == 0 else (PROGRAM,)
    for command in ("supernet-train", "flops-table"):
        message = spos(command, *QUICK, code=2, program=program).stderr
        assert "Permission denied" in message
        assert message.count("error") == 1
    assert not list(spos.run.iterdir())


def test_a_disk_without_room_for_a_checkpoint(finished: Spos, spos: Spos, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may not grow beyond 20 KB: training continues to its end, which must be saved. Then there is room."""
    (spos.folder / "sitecustomize.py").write_text(
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(spos.folder), prepend=os.pathsep)
    done = spos("supernet-train", code=2)
    assert "continuing; will retry at the next checkpoint" in done.stderr
    assert "Make room and run the same command" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(spos.run.glob("supernet/*.tmp"))
    spos.here("supernet-train")
    assert (spos.run / "supernet/last.pt").read_bytes() == (finished.run / "supernet/last.pt").read_bytes()


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", "", "x" * 200, "a\nb"])
def test_names_of_runs_are_checked(mistake: Mistake, name: str) -> None:
    assert "name:" in mistake("supernet-train", "--set", f"name={json.dumps(name)}")


@pytest.mark.parametrize("folder", ["", " ", "a\nb", "\x1b[2J"])
def test_names_of_run_folders_are_checked(mistake: Mistake, folder: str) -> None:
    message = mistake("supernet-train", "--run-dir", folder)
    assert "should be the name of a folder" in message
    assert "\x1b" not in message


def test_two_runs_in_one_folder(finished: Spos, spos: Spos) -> None:
    shutil.copytree(finished.run, spos.run)
    lock = spos.run / ".supernet.lock"
    process = spos.start(("supernet-train", "--fresh", "--set", "supernet.steps=100000"))
    try:
        while not (lock.exists() and lock.read_text()):
            assert process.poll() is None
            time.sleep(0.005)
        for run, extra in ((spos.here, ()), (spos.here, ("--fresh",)), (spos, ("--devices", 2))):
            message = run("supernet-train", *extra, code=2).stderr
            assert f"is in use by process {process.pid} on" in message
    finally:
        process.send_signal(signal.SIGKILL)
        process.finish(60)


def test_names_that_are_too_long(mistake: Mistake) -> None:
    name = "x" * 300
    for command in (
        ("supernet-train", "--config", name),
        ("evaluate", "--weights", name),
        ("export-arch", "--run-dir", name),
        ("search", "--run-dir", name),
        ("export-arch", "--from", name),
        ("flops-table", "--import", name),
        ("retrain", f"{name}.yaml"),
    ):
        assert mistake(*command).count("\n") == 1


def test_fresh_starts_over_once_per_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a launcher restarts, and a machine that comes back, resume."""
    run = Run(loading.validate({"run_dir": str(tmp_path / "run")}), fresh=True)
    process = Processes(0, 1, torch.device("cpu"))

    def begin(rank: str | None, launch: str | None, torchrun: str | None = None) -> bool:
        names = {
            "RANK": rank,
            "WORLD_SIZE": rank,
            distributed.LAUNCH_ID_VARIABLE: launch,
            "TORCHELASTIC_RUN_ID": torchrun,
        }
        for name, value in names.items():
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        run.folder.supernet.path.mkdir(parents=True, exist_ok=True)
        (run.folder.supernet.last).write_text("weights")
        with run.working_in(run.folder.supernet, process):
            return not (run.folder.supernet.last).exists()

    assert [begin(None, None), begin(None, None)] == [True, True]
    assert [begin("0", "a"), begin("0", "a"), begin("0", "b"), begin("0", "b")] == [True, False, True, False]
    assert [begin("0", None, "id"), begin("0", None, "id")] == [True, False]
    for nameless in (None, "none"):
        with pytest.raises(RunError, match="--fresh needs an --rdzv-id"):
            begin("0", None, nameless)
