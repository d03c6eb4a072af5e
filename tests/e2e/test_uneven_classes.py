"""Classes of different sizes: a share of each is held out, and each counts the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.metrics import balanced_accuracy_score

from spos_cli.search.journal import Journal
from tests.conftest import Spos
from tests.e2e.test_changed_images import CLASSES, SETTINGS, draw

SIZES = {"cat": 40, "dog": 12, "fox": 5}
BALANCED = ("--set", "search.fitness=balanced")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Spos:
    """A supernet of three classes of different sizes; a fifth of each is held out. Not to be changed."""
    spos = Spos(tmp_path_factory.mktemp("uneven"))
    draw(spos.folder / "D")
    for name, size in SIZES.items():
        for path in sorted((spos.folder / "D" / "train" / name).iterdir())[size:]:
            path.unlink()
    for path in sorted((spos.folder / "D" / "val" / "fox").iterdir())[1:]:
        path.unlink()
    settings = SETTINGS.replace("holdout_per_class: 10", "holdout_share: 0.2")
    settings = settings.replace("calibration_images: 12", "predictor: ridge, calibration_images: 12")
    (spos.folder / "spos.yaml").write_text(settings.replace("batchnorm_pass_steps: 1}", "sampling: balanced}"))
    spos.here("supernet-train")
    return spos


@pytest.fixture
def spos(trained: Spos, tmp_path: Path) -> Spos:
    """A copy of it."""
    shutil.copytree(trained.folder, tmp_path, dirs_exist_ok=True)
    spos = Spos(tmp_path)
    shutil.copyfile(trained.folder / "spos.yaml", tmp_path / "spos.yaml")
    return spos


def test_a_search_for_balanced_accuracy(spos: Spos) -> None:
    shown = spos.here("search", *BALANCED).stdout
    assert "balanced accuracy" in shown
    folder = spos.folder / "runs" / "t" / "search"
    labels = np.array(json.loads((folder / "scoring.u8.json").read_text())["labels"])
    assert np.bincount(labels).tolist() == [8, 2, 1]
    assert labels[:3].tolist() != [0, 1, 2]  # The first images are like all of them.
    entries = Journal(folder / "journal.jsonl").read()
    bits = np.unpackbits(np.frombuffer((folder / "outcomes.bits").read_bytes(), np.uint8).reshape(-1, 2), axis=1)
    assert len(entries) == 8
    for entry, row in zip(entries, bits[:, :11].astype(bool), strict=True):
        assert entry.top1 == pytest.approx(row.mean())
        assert entry.balanced == pytest.approx(np.mean([row[labels == label].mean() for label in range(3)]))
    result = yaml.safe_load((folder / "result.yaml").read_text())
    assert result["fitness"] == "balanced"
    assert result["best"][0]["balanced"] == max(entry.balanced or 0 for entry in entries)
    assert result["tied"] >= 1
    assert f"best balanced accuracy {result['best'][0]['balanced']:.2%}" in spos.here("status").stdout
    assert "one-shot balanced accuracy" in spos.here("export-arch").stdout
    (arch,) = (spos.folder / "runs" / "t" / "archs").glob("*/arch.yaml")
    assert yaml.safe_load(arch.read_text())["fitness"]["balanced"] == result["best"][0]["balanced"]
    spos.here("report")
    page = (folder / "report.html").read_text()
    assert "Best one-shot balanced accuracy" in page
    assert "sign-flip test" in page


def test_the_fitness_belongs_to_the_journal(spos: Spos) -> None:
    spos.here("search", *BALANCED)
    message = spos.here("search", "--set", "search.generations=2", code=2).stderr
    assert "fitness" in message
    before = (spos.folder / "runs" / "t" / "search" / "journal.jsonl").read_bytes()
    spos.here("search", *BALANCED, "--set", "search.generations=2")
    assert (spos.folder / "runs" / "t" / "search" / "journal.jsonl").read_bytes().startswith(before)
    assert "search.fitness is balanced" in spos.here("audit", *BALANCED, code=2).stderr
    begun = (
        "search",
        "--run-dir",
        "other",
        "--weights",
        "runs/t/supernet/last.pt",
        "--from",
        "runs/t/search/journal.jsonl",
    )
    assert "on other images" in spos.here(*begun).stdout + spos.here(*begun).stderr
    entries = Journal(spos.folder / "other" / "search" / "journal.jsonl").read()
    assert all((entry.balanced is not None) == (entry.origin == "imported") for entry in entries)


def test_evaluate_shows_the_balanced_accuracy_of_uneven_classes(spos: Spos) -> None:
    spos.here("retrain", "0,1")
    (model,) = (spos.folder / "runs" / "t" / "retrain").glob("*/model.pt")
    result = json.loads(spos.here("evaluate", "--weights", model, "--save-logits", "l.npz", "--json").stdout)
    saved = np.load(spos.folder / "l.npz")
    expected = balanced_accuracy_score(saved["labels"], saved["logits"].argmax(1))
    assert result["balanced_accuracy"] == pytest.approx(expected)
    shown = spos.here("evaluate", "--weights", model).stdout
    assert f"{expected:.2%}, the mean recall of 3 classes" in shown
    assert "calibration error" not in shown
    for name in CLASSES:
        for path in sorted((spos.folder / "D" / "val" / name).iterdir())[1:]:
            path.unlink()
    assert "balanced accuracy" not in spos.here("evaluate", "--weights", model).stdout


def test_the_split_stays_when_held_out_images_are_removed(spos: Spos) -> None:
    def read_scored(*options: object) -> int:
        spos.here("search", *options)
        folder = spos.folder / str(options[1]) / "search"
        return len(json.loads((folder / "scoring.u8.json").read_text())["labels"])

    weights = ("--weights", "runs/t/supernet/last.pt")
    assert read_scored("--run-dir", "a", *weights) == 11
    assert read_scored("--run-dir", "b", *weights, "--set", "data.holdout_share=0.1") == 6
    for index in range(30):  # trained on or held out
        (spos.folder / "D" / "train" / "cat" / f"{index:02}.jpg").unlink()
    left = read_scored("--run-dir", "c", *weights)
    assert 3 < left < 11
