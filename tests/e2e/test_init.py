"""`--init`: trainings that begin with weights from a file, and paths of a supernet that become networks."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml

from spos_cli.engine import checkpoint
from tests.conftest import Mistake, Spos
from tests.e2e.test_audit import copy_of

pytestmark = pytest.mark.slow

SUPERNET = Path("runs/tiny/supernet/last.pt")
SHORT = ("--set", "retrain.steps=20", "--set", "retrain.checkpoint_every=5", "--set", "retrain.warmup_steps=0")


def best_arch(spos: Spos) -> str:
    best = yaml.safe_load((spos.run / "search" / "result.yaml").read_text())["best"][0]
    return ",".join(map(str, best["architecture"]))


def test_a_path_becomes_a_network_with_the_same_accuracy(finished: Spos, tmp_path: Path) -> None:
    spos = copy_of(finished, tmp_path)
    arch = best_arch(spos)
    written = json.loads(spos.here("export-arch", "--weights", SUPERNET, "--arch", arch, "--json").stdout)["file"]
    network, path = (
        json.loads(spos.here("evaluate", "--weights", *of, "--json").stdout)
        for of in ((written,), (SUPERNET, "--arch", arch))
    )
    assert network["top1"] == path["top1"]
    assert network["loss"] == pytest.approx(path["loss"], rel=1e-4)
    assert f"before training: {network['top1']:.2%}" in spos.here("retrain", "--init", written, *SHORT).stdout


def test_killed_and_resumed(finished: Spos, tmp_path: Path) -> None:
    whole, killed = (copy_of(finished, tmp_path / name) for name in ("whole", "killed"))
    arch = best_arch(whole)
    command = ("retrain", arch, "--init", SUPERNET, *SHORT)
    said = whole.here(*command).stdout
    assert f"from the weights of {SUPERNET}" in said
    assert "before training" in said
    (model,) = whole.run.glob("retrain/*/model.pt")
    folder = killed.run / model.relative_to(whole.run).parent
    code, _ = killed.interrupt(signal.SIGKILL, lambda: (folder / "step-00000010.pt").exists(), *command)
    assert code == -signal.SIGKILL
    assert "init: None, was " in killed.here("retrain", arch, *SHORT, code=2).stderr
    killed.here(*command)
    assert (folder / "model.pt").read_bytes() == model.read_bytes()


def test_a_supernet_goes_on_with_another(finished: Spos, tmp_path: Path) -> None:
    spos = copy_of(finished, tmp_path)
    steps = ("--set", "supernet.steps=3", "--set", "supernet.lr=1e-9", "--run-dir", "runs/next")
    said = spos.here("supernet-train", *steps, "--init", SUPERNET).stdout
    assert f"from {SUPERNET}" in said
    before, after = (checkpoint.load(spos.folder / path)["model"] for path in (SUPERNET, "runs/next/supernet/last.pt"))
    for name, tensor in before.items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-6)


def test_mistakes(finished: Spos, spos: Spos, mistake: Mistake) -> None:
    copy_of(finished, spos.folder)
    assert "name the supernet with --weights" in mistake("export-arch", "--arch", "0,1,2,3")
    assert "--format must be spos" in mistake(
        "export-arch", "--weights", SUPERNET, "--arch", "0,1,2,3", "--format", "published"
    )
    assert "there is no weights file nowhere.pt" in mistake("retrain", "0,1,2,3", "--init", "nowhere.pt")
    assert "is a folder" in mistake("retrain", "0,1,2,3", "--init", ".")
    said = mistake("export-arch", "--weights", SUPERNET, "--arch", "0,1,2,3", "--flops-limit", "1M")
    assert "give one or the other" in said
    before = sorted(spos.run.rglob("*"))
    for init in ("typo.pt", SUPERNET):  # --fresh must not move anything before a mistake is found.
        mistake("supernet-train", "--fresh", "--init", init)
    assert sorted(spos.run.rglob("*")) == before
    shutil.copy(spos.folder / SUPERNET, spos.folder / "other.pt")
    assert "only space.classes and space.image_size" in mistake(
        "retrain", "0,1,2,3", "--init", "other.pt", "--set", "space.head_channels=64"
    )
