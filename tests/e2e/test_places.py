"""Where a run is: odd names, folders and disks that cannot be written, other machines, and files from strangers."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from spos_cli.config import loading
from spos_cli.engine import checkpoint, distributed
from spos_cli.engine.distributed import Processes
from spos_cli.errors import RunError
from spos_cli.run.command import Run
from tests.conftest import PROGRAM, Mistake, Spos, environment

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
        said = program(command, *where).stdout
        follow = [line.removeprefix("next: ") for line in said.splitlines() if line.startswith("next: ")]
        assert len(follow) == 1
    (model,) = run.glob("retrain/*/model.pt")
    assert checkpoint.load(model)["classes"] == sorted(NAMES)
    # What is to be typed next can be typed as it is.
    done = subprocess.run(
        ["sh", "-c", follow[0].replace("spos ", f"{PROGRAM} ", 1) + " --json"],
        cwd=spos.folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["images"] == 20


def test_a_read_only_run_folder(spos: Spos) -> None:
    spos.run.mkdir(parents=True)
    spos.run.chmod(0o555)
    # The superuser may write everywhere, unless that right is taken away.
    program = ("setpriv", "--bounding-set=-dac_override", PROGRAM) if os.geteuid() == 0 else (PROGRAM,)
    for command in ("supernet-train", "flops-table"):
        said = spos(command, *QUICK, code=2, program=program).stderr
        assert "Permission denied" in said
        assert said.count("error") == 1
    assert not list(spos.run.iterdir())


def test_a_disk_without_room_for_a_checkpoint(finished: Spos, spos: Spos) -> None:
    """Files may not grow beyond 20 KB: training goes on to the end, which has to be saved; then there is room."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    done = subprocess.run(
        [PROGRAM, "supernet-train"],
        cwd=spos.folder,
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "training goes on, the next checkpoint is tried at its time" in done.stderr
    assert "Make room and run the same command: it goes on from there" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(spos.run.glob("supernet/*.tmp"))
    spos.here("supernet-train")
    assert (spos.run / "supernet/last.pt").read_bytes() == (finished.run / "supernet/last.pt").read_bytes()


def test_a_resumed_run_may_have_other_helpers_but_no_other_recipe(tmp_path: Path) -> None:
    spos = Spos(tmp_path)
    saved = spos.run / "supernet" / "last.pt"
    code, _ = spos.interrupt(signal.SIGTERM, saved.exists, "supernet-train", "--set", "supernet.steps=400")
    assert code == 143
    other = ("--seed", 7, "--set", "supernet.lr=0.1")
    said = spos.here("supernet-train", "--set", "supernet.steps=400", *other, code=2).stderr
    assert "seed: 7, was 0; recipe.supernet.lr: 0.1, was 0.05" in said.replace("recipe.seed", "seed")
    step = checkpoint.load(saved)["step"]
    helpers = ("--set", "data.workers=1", "--set", "supernet.log_every=500")
    helpers += ("--set", "supernet.checkpoint_every=1000", "--set", "timeout_minutes=5")
    done = spos.together("supernet-train", "--set", "supernet.steps=400", *helpers)
    assert f"resuming at step {step} of 400" in done[0].stderr
    assert checkpoint.load(saved)["step"] == 400


def test_a_strangers_weights_have_no_say_in_where_we_work(finished: Spos, spos: Spos, mistake: Mistake) -> None:
    (model,) = finished.run.glob("retrain/*/model.pt")
    outside = spos.folder.parent / f"{spos.folder.name}-outside"
    content = checkpoint.load(model)
    config = content["config"] | {"run_dir": str(outside), "name": "evil", "devices": 64, "max_restarts": 10**6}
    checkpoint.save(spos.folder / "evil.pt", {**content, "config": config})
    assert json.loads(spos.here("evaluate", "--weights", "evil.pt", "--json").stdout)["images"] == 359
    for root in (outside, "../elsewhere", "/"):
        config["data"] = {**config["data"], "source": "cifar10", "root": str(root)}
        checkpoint.save(spos.folder / "evil.pt", {**content, "config": config})
        assert "the settings in the weights file ask for images in" in mistake("evaluate", "--weights", "evil.pt")
    assert not outside.exists()


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", "", "x" * 200, "a\nb"])
def test_names_of_runs_are_checked(mistake: Mistake, name: str) -> None:
    assert "name:" in mistake("supernet-train", "--set", f"name={json.dumps(name)}")


@pytest.mark.parametrize("folder", ["", " ", "a\nb", "\x1b[2J"])
def test_names_of_run_folders_are_checked(mistake: Mistake, folder: str) -> None:
    said = mistake("supernet-train", "--run-dir", folder)
    assert "should be the name of a folder" in said
    assert "\x1b" not in said


def test_two_runs_in_one_folder(finished: Spos, spos: Spos) -> None:
    shutil.copytree(finished.run, spos.run)
    lock = spos.run / ".supernet.lock"
    process = subprocess.Popen(
        [PROGRAM, "supernet-train", "--fresh", "--set", "supernet.steps=100000"],
        cwd=spos.folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not (lock.exists() and lock.read_text()):
            assert process.poll() is None
            time.sleep(0.005)
        for run, extra in ((spos.here, ()), (spos.here, ("--fresh",)), (spos, ("--devices", 2))):
            said = run("supernet-train", *extra, code=2).stderr
            assert f"is in use by process {process.pid} on" in said
    finally:
        process.kill()
        process.wait()


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


def test_fresh_is_once_a_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a launcher starts again, or a machine that comes back, go on."""
    run = Run(loading.validate({"run_dir": str(tmp_path / "run")}), fresh=True)
    alone = Processes(0, 1, torch.device("cpu"))

    def begin(rank: str | None, launch: str | None, torchrun: str | None = None) -> bool:
        names = {"RANK": rank, "WORLD_SIZE": rank, distributed.LAUNCHED: launch, "TORCHELASTIC_RUN_ID": torchrun}
        for name, value in names.items():
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        run.folder.supernet.path.mkdir(parents=True, exist_ok=True)
        (run.folder.supernet.last).write_text("weights")
        with run.working_in(run.folder.supernet.path, alone):
            return not (run.folder.supernet.last).exists()

    assert [begin(None, None), begin(None, None)] == [True, True]
    assert [begin("0", "a"), begin("0", "a"), begin("0", "b"), begin("0", "b")] == [True, False, True, False]
    assert [begin("0", None, "id"), begin("0", None, "id")] == [True, False]
    for nameless in (None, "none"):
        with pytest.raises(RunError, match="--fresh needs an --rdzv-id"):
            begin("0", None, nameless)


def test_set_reaches_the_evaluation_with_and_without_a_config(finished: Spos) -> None:
    (model,) = finished.run.glob("retrain/*/model.pt")
    for extra in ((), ("--config", "spos.yaml")):
        command = ("evaluate", "--weights", model, *extra, "--set", "search.batch_size=7", "--print-config")
        assert yaml.safe_load(finished.here(*command).stdout)["search"]["batch_size"] == 7
