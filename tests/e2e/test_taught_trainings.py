"""Trainings with a teacher, as a user starts them: killed, resumed, in two processes, in an audit, and evaluated."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from spos_cli.engine import checkpoint
from spos_cli.files.digests import file_digest
from tests.conftest import Mistake, Spos
from tests.e2e.test_audit import copy_of

pytestmark = pytest.mark.slow

STUDENT = "0,1,2,3"
OWN = """
from pathlib import Path
import torch

Path("imported").touch()

def make():
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 10, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
"""
MIXED = ("--set", "retrain.mixup=0.2", "--set", "retrain.cutmix=1.0")
AUDIT = (
    *("--set", "audit.architectures=3", "--set", "audit.equal_flops=0", "--set", "audit.winner_seeds=1"),
    *("--set", "audit.steps=3", "--set", "retrain.batchnorm_pass_steps=1"),
)


def name(weights: object, **settings: object) -> tuple[str, ...]:
    """Return the options that name a teacher."""
    values = {"weights": weights, **settings}
    return tuple(part for key, value in values.items() for part in ("--set", f"retrain.teacher.{key}={value}"))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network of another preset, image size and architecture. Not to be changed."""
    spos = Spos(tmp_path_factory.mktemp("teacher"))
    other = ("--set", "data.preset=spos", "--set", "space.image_size=10", "--set", "data.augmentation.padding=2")
    spos.here("retrain", "3,3,3,3", *other, "--set", "retrain.steps=400")
    (model,) = spos.run.glob("retrain/*/model.pt")
    return model


def prepare(folder: Path, network: Path) -> Spos:
    spos = Spos(folder)
    shutil.copy(network, folder / "teacher.pt")
    return spos


def test_a_training_with_a_teacher_is_killed(tmp_path: Path, network: Path) -> None:
    """It ends in the same bytes, its files have nothing of the teacher, and only the same teacher resumes it."""
    whole, killed = (prepare(tmp_path / folder, network) for folder in ("whole", "killed"))
    command = ("retrain", STUDENT, *MIXED, *name("teacher.pt", temperature=2, weight=0.7))
    assert "from scratch with the teacher teacher.pt on" in whole.here(*command).stdout
    (model,) = whole.run.glob("retrain/*/model.pt")
    folder = killed.run / model.relative_to(whole.run).parent
    saved = folder / "step-00000020.pt"
    code, _ = killed.interrupt(signal.SIGKILL, saved.exists, *command)
    assert code == -signal.SIGKILL
    assert "teacher" in killed.here("retrain", STUDENT, *MIXED, code=2).stderr
    shutil.copy(model, killed.folder / "other.pt")
    other = killed.here("retrain", STUDENT, *MIXED, *name("other.pt", temperature=2, weight=0.7), code=2).stderr
    assert "teacher.digest: " in other
    assert file_digest(network)[:12] in other
    killed.here(*command)
    for file in ("last.pt", "model.pt"):
        assert (folder / file).read_bytes() == (model.parent / file).read_bytes()
    whole.here("retrain", STUDENT, "--run-dir", "plain", *MIXED)
    (plain,) = (whole.folder / "plain").glob("retrain/*/last.pt")
    ours, theirs = (checkpoint.load(path) for path in (model.parent / "last.pt", plain))
    assert ours["model"].keys() == theirs["model"].keys()
    assert checkpoint.fingerprint(ours["model"]) != checkpoint.fingerprint(theirs["model"])
    assert json.loads(whole.here("evaluate", "--weights", model, "--json").stdout)["top1"] > 0.5


def test_two_processes_resume_to_the_same_bytes(tmp_path: Path, network: Path) -> None:
    whole, broken = (prepare(tmp_path / folder, network) for folder in ("whole", "broken"))
    short = ("--set", "retrain.steps=20", "--set", "retrain.evaluate_every=20")
    command = ("retrain", STUDENT, *MIXED, *short, *name("teacher.pt", loss="hard"))
    whole.together(*command)
    (model,) = whole.run.glob("retrain/*/model.pt")
    folder = broken.run / model.relative_to(whole.run).parent
    broken.together(*command)
    for file in ("last.pt", "step-00000020.pt", "model.pt"):
        (folder / file).unlink()
    shutil.copy(folder / "step-00000010.pt", folder / "last.pt")
    assert "resuming at step 10" in broken.together(*command)[0].stderr
    for file in ("last.pt", "model.pt"):
        assert (folder / file).read_bytes() == (model.parent / file).read_bytes()


def test_own_code_is_imported_by_the_training_only(tmp_path: Path) -> None:
    """The model.pt of the student records the import path, which no later command follows."""
    spos = Spos(tmp_path)
    (tmp_path / "my_own_teacher.py").write_text(OWN)
    spos("retrain", STUDENT, *name("my_own_teacher:make"), "--set", "retrain.steps=5")
    (tmp_path / "imported").unlink()
    (model,) = spos.run.glob("retrain/*/model.pt")
    assert checkpoint.load(model)["config"]["retrain"]["teacher"]["weights"] == "my_own_teacher:make"
    spos("evaluate", "--weights", model)
    spos("retrain", STUDENT, "--init", model, "--run-dir", "next", "--set", "retrain.steps=5")
    spos("export-arch", "--weights", model, "--format", "published")
    assert not (tmp_path / "imported").exists()
    spos("retrain", STUDENT, *name("my_own_teacher:make"), "--set", "retrain.steps=5")
    assert (tmp_path / "imported").exists()


def test_an_audit_trains_with_the_teacher(finished: Spos, tmp_path: Path, network: Path) -> None:
    spos = copy_of(finished, tmp_path)
    shutil.copy(network, tmp_path / "teacher.pt")
    spos.here("audit", *AUDIT, *name("teacher.pt"))
    trained = list((spos.run / "audit").glob("alone/*/last.pt"))
    assert len(trained) == 3
    for path in trained:
        assert checkpoint.load(path)["teacher"] == {"digest": file_digest(network)}
    shutil.copy(
        finished.run / "retrain" / next((finished.run / "retrain").iterdir()).name / "model.pt", tmp_path / "b.pt"
    )
    assert "teacher.digest: " in spos.here("audit", *AUDIT, *name("b.pt"), code=2).stderr


def test_mistakes_are_found_before_the_training(spos: Spos, mistake: Mistake, network: Path) -> None:
    (spos.folder / "torn.pt2").write_bytes(network.read_bytes())
    for teacher, phrase in (
        (name("torn.pt2"), "is not a file of torch.export.save, or is torn"),
        (name("nothing.pt"), "there is no weights file nothing.pt"),
        (name("nothing_here:make"), "cannot build nothing_here:make: No module named 'nothing_here'"),
        (name(network, preset="standard"), "was trained with preset spos, not standard"),
        (name("json:loads"), "retrain.teacher: cannot build json:loads"),
    ):
        assert len(mistake("retrain", STUDENT, *teacher).splitlines()) == 1
        assert phrase in mistake("retrain", STUDENT, *teacher)
    assert not (spos.run / "retrain").exists()
