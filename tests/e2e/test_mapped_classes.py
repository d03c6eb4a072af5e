"""`spos evaluate --classes FILE`: a network on images of other classes than its own."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from spos_cli.config import loading
from spos_cli.engine import checkpoint
from spos_cli.models.network import Network
from spos_cli.models.skeleton import build_initialized
from spos_cli.models.supernet import Supernet
from spos_cli.official.weights import to_official
from spos_cli.run.weights_file import make_network_content, make_supernet_content
from spos_cli.space.architecture import parse
from tests.conftest import TINY, Mistake, Spos

NAMES = tuple(f"animal {letter}" for letter in "abcdefghij")
# Four folders, in the order of their names, and the network's class of each.
LABELS = {"n01": 7, "n02": 0, "n03": 9, "n10": 4}
ARCH = parse("0,1,2,3")


@pytest.fixture
def spos(tmp_path: Path) -> Spos:
    """A working folder with four folders of images and a network of ten classes, as `model.pt` and official file."""
    spos = Spos(tmp_path)
    settings = yaml.safe_load(TINY)
    settings["data"] |= {"source": "folder", "root": "D", "holdout_per_class": 1}
    (spos.folder / "spos.yaml").write_text(yaml.safe_dump(settings))
    rng = np.random.default_rng(0)
    for folder in LABELS:
        (spos.folder / "D" / "val" / folder).mkdir(parents=True)
        for index in range(12):
            pixels = rng.integers(0, 256, (9, 10, 3), np.uint8)
            Image.fromarray(pixels).save(spos.folder / "D" / "val" / folder / f"{index}.png")
    config = loading.load(spos.folder / "spos.yaml")
    state = build_initialized(lambda: Network(config.space.build(), ARCH), 3).state_dict()
    # The logits of random weights differ more between classes than between images; each class has its chance.
    weight = state["classifier.0.weight"]
    state["classifier.0.weight"] = (weight - weight.mean(1, keepdim=True)) * 10**6
    checkpoint.save(spos.folder / "model.pt", make_network_content(config, ARCH, state, NAMES, {}))
    checkpoint.save(spos.folder / "official.pth.tar", to_official(state))
    (spos.folder / "map.yaml").write_text(yaml.safe_dump(LABELS))
    return spos


def evaluate(spos: Spos, weights: str, *options: object) -> tuple[dict[str, Any], Any]:
    """Return the result, and the logits, labels and paths."""
    options = ("--weights", weights, "--json", "--save-logits", "logits.npz", *options)
    result: dict[str, Any] = json.loads(spos.here("evaluate", *options).stdout)
    return result, np.load(spos.folder / "logits.npz")


@pytest.mark.parametrize("weights", ["model.pt", "official.pth.tar"])
def test_labels_are_those_of_the_network(spos: Spos, weights: str) -> None:
    result, saved = evaluate(spos, weights, "--classes", "map.yaml")
    labels = np.array([LABELS[path.split("/")[0]] for path in saved["paths"].tolist()])
    assert np.array_equal(saved["labels"], labels)
    logits = saved["logits"]
    assert logits.shape == (48, 10)
    assert len(np.unique(logits.argmax(1))) > 1
    assert result["top1"] == np.mean(logits.argmax(1) == labels)
    top5 = np.argsort(-logits, 1)[:, :5]
    assert result["top5"] == np.mean((top5 == labels[:, None]).any(1))
    present = np.array(sorted(LABELS.values()))
    among = present[logits[:, present].argmax(1)]
    expected = {"classes": 4, "top1": np.mean(among == labels), "top5": 1.0}
    assert result["among_classes_of_images"] == expected
    assert expected["top1"] > result["top1"]


def test_a_list_of_all_folders_and_names_as_classes(spos: Spos) -> None:
    expected, _ = evaluate(spos, "model.pt", "--classes", "map.yaml")
    folder_of = {label: folder for folder, label in LABELS.items()}
    folders = [folder_of.get(label, f"other {label}") for label in range(10)]
    (spos.folder / "list.txt").write_text("\n".join(folders))
    (spos.folder / "names.csv").write_text("\n".join(f"{folder},{NAMES[label]}" for folder, label in LABELS.items()))
    for file in ("list.txt", "names.csv"):
        result, _ = evaluate(spos, "model.pt", "--classes", file)
        assert {**result, "images_per_second": 0} == {**expected, "images_per_second": 0}
    result, _ = evaluate(spos, "official.pth.tar", "--classes", "list.txt")
    assert result["top1"] == expected["top1"]


def test_what_is_shown(spos: Spos) -> None:
    shown = " ".join(spos.here("evaluate", "--weights", "official.pth.tar", "--classes", "map.yaml").stdout.split())
    assert "all 10 classes of the network; the images have 4" in shown
    assert "top-1 among these 4" in shown
    whole = spos.here("evaluate", "--weights", "official.pth.tar")
    assert "among" not in whole.stdout
    assert "spos evaluate --classes FILE says which they are" in " ".join(whole.stderr.split())


@pytest.mark.parametrize("weights", ["model.pt", "official.pth.tar"])
def test_details_have_the_classes_of_the_network(spos: Spos, weights: str) -> None:
    result, saved = evaluate(spos, weights, "--classes", "map.yaml", "--details", "--run-dir", "R")
    with (spos.folder / "R" / "evaluate" / "classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = list(NAMES)
    if weights != "model.pt":
        folder_of = {label: folder for folder, label in LABELS.items()}
        names = [folder_of.get(label, f"class {label}") for label in range(10)]
    assert [row["name"] for row in rows] == names
    assert [int(row["support"]) for row in rows] == [12 * (label in LABELS.values()) for label in range(10)]
    assert [int(row["predicted"]) for row in rows] == np.bincount(saved["logits"].argmax(1), minlength=10).tolist()
    assert result["details"]["accuracy"] == result["top1"]


@pytest.mark.slow
def test_several_processes_count_each_image_once(spos: Spos) -> None:
    expected, _ = evaluate(spos, "model.pt", "--classes", "map.yaml")
    options = ("evaluate", "--weights", "model.pt", "--classes", "map.yaml", "--json")
    first, _ = spos.together(*options)
    result = json.loads(first.stdout)
    for key in ("top1", "top5", "images", "among_classes_of_images"):
        assert result[key] == expected[key]


def test_other_sources_have_class_names_too(spos: Spos) -> None:
    digits = {str(digit): (digit + 3) % 10 for digit in range(10)}
    (spos.folder / "digits.json").write_text(json.dumps(digits))
    config = ("--config", "digits.yaml")
    (spos.folder / "digits.yaml").write_text(TINY)
    result, saved = evaluate(spos, "official.pth.tar", *config, "--classes", "digits.json")
    _, before = evaluate(spos, "official.pth.tar", *config)
    assert np.array_equal(saved["labels"], (before["labels"] + 3) % 10)
    assert result["among_classes_of_images"]["top1"] == result["top1"]  # The images have all classes.


def test_mistakes_are_one_line_each(spos: Spos, mistake: Mistake) -> None:
    command = ("evaluate", "--weights", "model.pt")
    message = mistake(*command)
    assert "spos evaluate --classes FILE says which are the same" in message
    (spos.folder / "map.yaml").write_text("n01: 7\nn02: animal\n")
    assert "map.yaml:2: the network has no class 'animal'; did you mean 'animal" in mistake(
        *command, "--classes", "map.yaml"
    )
    (spos.folder / "map.yaml").write_text("n01: 7\nn02: 0\n")
    message = mistake(*command, "--classes", "map.yaml")
    assert "map.yaml does not say which class of the network these are: n03, n10 (2 of 4" in message
    assert "cannot read nothing.txt" in mistake(*command, "--classes", "nothing.txt")
    config = loading.load(spos.folder / "spos.yaml")
    state = Supernet(config.space.build(), affine=False, dropout=0.0).state_dict()
    checkpoint.save(spos.folder / "supernet.pt", make_supernet_content(config, state))
    path = ("evaluate", "--weights", "supernet.pt", "--arch", "0,1,2,3", "--classes", "map.yaml")
    assert "--classes is for a network, but supernet.pt is a supernet" in mistake(*path)
