"""`spos evaluate --details`, from the command to the report."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.conftest import TINY, Mistake, Spos

FILES = ("classes.csv", "confusion.csv", "details.json")
HOSTILE = ("<img src=x onerror=alert(1)>", '=1+1,"', "\x1b[31mred")


def get_model(spos: Spos) -> Path:
    (model,) = spos.run.glob("retrain/*/model.pt")
    return model


def read_files(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "evaluate").iterdir())}


@pytest.fixture
def copy(finished: Spos, tmp_path: Path) -> Spos:
    """The finished run, in a folder that may be changed."""
    spos = Spos(tmp_path / "copy")
    shutil.copytree(finished.run, spos.run, dirs_exist_ok=True)
    return spos


def test_details_are_those_of_the_logits(copy: Spos) -> None:
    command = ("evaluate", "--details", "--save-logits", "logits.npz")
    result = json.loads(copy.here(*command, "--json").stdout)
    details = result["details"]
    saved = np.load(copy.folder / "logits.npz")
    labels, predictions = saved["labels"], saved["logits"].argmax(1)
    assert details["accuracy"] == result["top1"] == (labels == predictions).mean()
    for label, one in enumerate(details["classes"]):
        of_class, of_prediction = labels == label, predictions == label
        right = int((of_class & of_prediction).sum())
        assert one["name"] == str(label)
        assert (one["support"], one["predicted"], one["correct"]) == (of_class.sum(), of_prediction.sum(), right)
        assert one["recall"] == right / of_class.sum()
    assert details["balanced_accuracy"] == pytest.approx(np.mean([one["recall"] for one in details["classes"]]))
    for label, predicted, images in details["confusions"]:
        assert ((labels == label) & (predictions == predicted)).sum() == images
    wrong = labels != predictions
    assert sum(images for _, _, images in details["confusions"]) == wrong.sum() > 0
    exponents = np.exp(saved["logits"] - saved["logits"].max(1, keepdims=True))
    confidences = exponents.max(1) / exponents.sum(1)
    assert [one["images"] for one in details["calibration_bins"]] == np.histogram(confidences, 15, (0, 1))[0].tolist()

    content = json.loads((copy.run / "evaluate" / "details.json").read_text())
    gallery = content.pop("most_confident")
    assert content.pop("weights") == str(get_model(copy).relative_to(copy.folder))
    assert {key: content[key] for key in details} == details
    assert [one["confidence"] for one in gallery] == pytest.approx(sorted(confidences[wrong], reverse=True)[:24])
    for one in gallery:
        index = saved["paths"].tolist().index(one["path"])
        assert (one["label"], one["predicted"]) == (labels[index], predictions[index])
        assert one["picture"].startswith("data:image/png;base64,")
    with (copy.run / "evaluate" / "classes.csv").open(newline="") as file:
        assert [int(row["support"]) for row in csv.DictReader(file)] == np.bincount(labels).tolist()

    shown = copy.here("evaluate", "--details").stdout
    for phrase in ("balanced accuracy", "lowest recall, 10 of 10 classes", "most frequent confusions, 10 of"):
        assert phrase in shown
    assert "details: runs/tiny/evaluate; spos report runs/tiny shows them" in shown
    copy.here("report", "runs/tiny")
    page = (copy.run / "search" / "report.html").read_text(encoding="utf-8")
    assert "What the network gets wrong" in page
    assert page.count('<img src="data:image/png;base64,') == len(gallery)
    assert copy.here("status").stdout  # which the new folder does not disturb


@pytest.mark.slow
def test_two_processes_write_the_same_files(copy: Spos) -> None:
    copy.here("evaluate", "--details")
    one = read_files(copy.run)
    assert tuple(one) == FILES
    shutil.rmtree(copy.run / "evaluate")
    first, second = copy.together(
        "evaluate", "--details", "--json", "--weights", get_model(copy).relative_to(copy.folder)
    )
    assert read_files(copy.run) == one
    assert json.loads(first.stdout)["details"]["images"] == 359
    assert second.stdout == ""


def test_a_path_and_official_weights(copy: Spos, tmp_path: Path) -> None:
    """Results go to the run that has the weights, or to the one that is named."""
    supernet = copy.run / "supernet" / "last.pt"
    elsewhere = Spos(tmp_path / "elsewhere")
    path = ("evaluate", "--details", "--json", "--weights", supernet, "--arch", "0,1,2,3")
    result = json.loads(elsewhere.here(*path).stdout)
    assert result["details"]["accuracy"] == result["top1"]
    content = json.loads((copy.run / "evaluate" / "details.json").read_text())
    assert (content["architecture"], content["weights"]) == ("0,1,2,3", str(supernet))
    assert not elsewhere.run.exists()
    elsewhere.here(*path, "--run-dir", "named")
    assert read_files(elsewhere.folder / "named") == read_files(copy.run)

    copy.here("export-arch", "--weights", get_model(copy), "--output", elsewhere.folder / "network.pth.tar")
    official = json.loads(elsewhere.here("evaluate", "--details", "--json", "--weights", "network.pth.tar").stdout)
    ours = json.loads(copy.here("evaluate", "--details", "--json").stdout)
    assert official["details"]["confusions"] == ours["details"]["confusions"]
    assert tuple(read_files(elsewhere.run)) == FILES


@pytest.fixture
def hostile(spos: Spos) -> Spos:
    """A network of classes with hostile names, hardly trained."""
    settings: dict[str, Any] = yaml.safe_load(TINY)
    settings["space"]["classes"] = 3
    settings["data"] |= {"source": "folder", "root": "D", "holdout_per_class": 1}
    settings["retrain"] |= {"steps": 2, "batch_size": 6}
    (spos.folder / "spos.yaml").write_text(yaml.safe_dump(settings))
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in HOSTILE:
            folder = spos.folder / "D" / split / name
            folder.mkdir(parents=True)
            for index in range(5):
                Image.fromarray(rng.integers(0, 256, (90, 120, 3), np.uint8)).save(folder / f"{index}.png")
    spos.here("retrain", "0,0,0,0", "--set", "space.image_size=80")
    return spos


def test_hostile_names_and_a_broken_image(hostile: Spos, mistake: Mistake) -> None:
    done = hostile.here("evaluate", "--details")
    assert "\x1b" not in done.stdout
    assert "\\x1b[31mred" in done.stdout
    content = json.loads((hostile.run / "evaluate" / "details.json").read_text())
    assert sorted(one["name"] for one in content["classes"]) == sorted([*HOSTILE[:2], "\\x1b[31mred"])
    assert all(one["picture"].startswith("data:image/jpeg;base64,") for one in content["most_confident"])
    assert len(content["most_confident"]) == sum(images for _, _, images in content["confusions"]) > 0
    hostile.here("report", "runs/tiny")
    page = (hostile.run / "search" / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page

    before = read_files(hostile.run)
    (hostile.folder / "D" / "val" / HOSTILE[0] / "3.png").write_bytes(b"no image")
    assert "cannot read the image" in mistake("evaluate", "--details")
    assert read_files(hostile.run) == before
