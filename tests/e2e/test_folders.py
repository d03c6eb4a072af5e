"""Image folders as users have them: every problem is reported, and the advice works."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from spos_cli.official import self_test
from tests.conftest import TINY, Mistake, Spos

CLASSES = ("cat", "dog", "fox")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the self-test of devices."""
    monkeypatch.setattr(self_test, "run_self_test", lambda device: {"all": 0.0})


def pixels(seed: int, most: int = 255, dtype: Any = np.uint8) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, most + 1, (10, 12)).astype(dtype)
    noise[0, :2] = 0, most
    return noise


def save(path: Path, seed: int, most: int = 255, dtype: Any = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, most, dtype)).save(path)


@pytest.fixture
def folders(spos: Spos) -> Path:
    """Make `D/train` and `D/val` with 20 and 4 images of each of three classes, and settings for them."""
    settings = yaml.safe_load(TINY)
    settings["space"]["classes"] = 3
    settings["data"] |= {"source": "folder", "root": "D", "holdout_per_class": 6}
    settings["supernet"] |= {"steps": 4, "batch_size": 6, "log_every": 2, "checkpoint_every": 2}
    settings["retrain"] |= {"steps": 4, "batch_size": 6, "log_every": 2, "checkpoint_every": 2}
    settings["search"] |= {"generations": 0, "calibration_images": 12, "calibration_batch_size": 6, "batch_size": 6}
    (spos.folder / "spos.yaml").write_text(yaml.safe_dump(settings))
    root = spos.folder / "D"
    seeds = iter(range(1000))
    for split, count in (("train", 20), ("val", 4)):
        for name in CLASSES:
            for index in range(count):
                save(root / split / name / f"{index:02}.png", next(seeds))
    return root


def deepen(root: Path, most: int = 4080, split: str = "*") -> None:
    """Replace the images by ones with 16-bit values, under the same names."""
    for seed, path in enumerate(sorted(root.glob(f"{split}/*/*.png"))):
        save(path, seed, most, np.uint16)


def run_doctor(spos: Spos, *arguments: str, code: int) -> dict[str, dict[str, str]]:
    """Run `spos doctor`; return its findings by check."""
    findings = json.loads(spos.here("doctor", "--json", *arguments, code=code).stdout)
    return {finding["check"]: finding for finding in findings}


# Classes


def nest(root: Path, split: str) -> None:
    """Move the classes one level down, into `images`."""
    (root / split).rename(root / "images")
    (root / split).mkdir()
    (root / "images").rename(root / split / "images")


@pytest.mark.parametrize(
    "splits", [*(pytest.param(one, marks=pytest.mark.slow) for one in (("train",), ("val",))), ("train", "val")]
)
def test_one_folder_level_too_many(spos: Spos, folders: Path, mistake: Mistake, splits: tuple[str, ...]) -> None:
    for split in splits:
        nest(folders, split)
    commands = [["supernet-train"], ["retrain", "0,0,0,0"]]
    messages = [mistake(*command, *more) for command in commands for more in ([], ["--set", "space.classes=3"])]
    finding = run_doctor(spos, code=2)["classes"]
    assert finding["status"] == "fail"
    for message in [*messages, f"{finding['seen']}; {finding['advice']}"]:
        assert all(f"D/{split} holds only one folder, images, which holds cat, dog, fox" in message for split in splits)
        advice = [
            part for found in re.findall(r"data\.\w+: \S+", message) for part in ("--set", found.replace(": ", "="))
        ]
        assert len(advice) == 2 * len(splits)
    spos.here("supernet-train", *advice)
    assert run_doctor(spos, *advice, code=0)["classes"]["status"] == "ok"
    spos.here("search", *advice)
    spos.here("retrain", "0,0,0,0", *advice)
    if "val" in splits:
        assert "D/val holds only one folder" in mistake("evaluate", "--set", "data.val_folder=val")
    spos.here("evaluate")  # the weights file has these settings


def test_one_class_is_an_error_in_every_command(spos: Spos, folders: Path, mistake: Mistake) -> None:
    spos.here("supernet-train")
    spos.here("search")
    spos.here("retrain", "0,0,0,0")
    for split in ("train", "val"):
        for name in ("dog", "fox"):
            (folders / split / name).rename(folders / f"{split}-{name}")
    supernet = ["evaluate", "--weights", "runs/tiny/supernet/last.pt", "--arch", "0,0,0,0"]
    for command in (["supernet-train"], ["search"], ["retrain", "0,0,0,0"], ["audit"], ["evaluate"], supernet):
        for fresh in ([], ["--fresh"]) if command[0] in ("supernet-train", "retrain") else ([],):
            assert "has only 1 class (cat); put the images of each class into D/" in mistake(*command, *fresh)
    finding = run_doctor(spos, code=2)["classes"]
    assert finding["status"] == "fail"
    assert "only 1 class (cat)" in finding["seen"]
    assert "<class>/" in finding["advice"]


def test_a_wrong_number_of_classes_names_them(spos: Spos, folders: Path, mistake: Mistake) -> None:
    message = mistake("retrain", "0,0,0,0", "--set", "space.classes=4")
    assert "D/train has 3 classes (cat, dog, fox), but space.classes is 4; " in message
    finding = run_doctor(spos, "--set", "space.classes=4", code=2)["classes"]
    assert "3 classes (cat, dog, fox), but space.classes is 4" in finding["seen"]
    found = re.search(r"set (space\.classes): (\d+)", message)
    assert found
    spos.here("retrain", "0,0,0,0", "--set", f"{found[1]}={found[2]}")


def test_a_small_class_is_named(spos: Spos, folders: Path, mistake: Mistake) -> None:
    for index in range(5, 20):
        (folders / "train" / "dog" / f"{index:02}.png").unlink()
    message = mistake("supernet-train")
    assert "1 of 3 classes has no more training images than that (dog has 5)" in message
    found = re.search(r"set (data\.holdout_per_class): (\d+)", message)
    assert found
    spos.here("supernet-train", "--set", f"{found[1]}={found[2]}")


def test_hidden_folders_and_files_change_nothing(spos: Spos, folders: Path) -> None:
    first = spos.here("retrain", "0,0,0,0", "--run-dir", "one").stdout
    for place in ("train/.ipynb_checkpoints", "train/cat/.ipynb_checkpoints", "val/.Trash"):
        save(folders / place / "00-checkpoint.png", 1)
    (folders / "val" / "cat" / "._00.png").write_bytes(b"\0\5\26\7")
    second = spos.here("retrain", "0,0,0,0", "--run-dir", "two").stdout
    assert second == first.replace("one", "two")
    findings = run_doctor(spos, code=0)
    assert findings["other files"]["status"] == findings["classes"]["status"] == "ok"
    assert findings["training images"]["seen"] == "60 in 3 classes, 20 per class"


# Kinds of files


def test_less_common_image_formats_are_trained_on(spos: Spos, folders: Path) -> None:
    kinds = (".jfif", ".jpe", ".pgm", ".gif", ".png")
    for split in ("train", "val"):
        for index, path in enumerate(sorted(folders.glob(f"{split}/*/*.png"))):
            kind = kinds[index % len(kinds)]
            Image.fromarray(pixels(index)).save(path.with_suffix(kind))
            if kind != ".png":
                path.unlink()
    result = spos.here("retrain", "0,0,0,0")
    assert "from scratch on 42 images" in result.stdout
    assert "passed over" not in result.stderr + result.stdout


def test_other_files_are_reported(spos: Spos, folders: Path) -> None:
    for name in ("train/cat/00.heic", "train/cat/01.heic", "train/dog/notes.txt", "train/list.txt", "val/fox/0.svg"):
        (folders / name).write_bytes(b"")
    lines = (
        "D/train: 4 files are passed over: 2 .heic, 1 .txt, 1 in no class folder",
        "D/val: 1 file is passed over: 1 .svg",
    )
    for command in (["supernet-train"], ["search"], ["retrain", "0,0,0,0"]):
        messages = spos.here(*command).stderr
        assert all(messages.count(line) == 1 for line in lines), messages


@pytest.mark.slow
def test_several_processes_report_other_files_once(spos: Spos, folders: Path) -> None:
    (folders / "train" / "cat" / "00.heic").write_bytes(b"")
    said = "".join(done.stderr for done in spos.together("supernet-train"))
    assert said.count("D/train: 1 file is passed over: 1 .heic") == 1


def test_unreadable_images_are_not_called_missing(spos: Spos, folders: Path, mistake: Mistake) -> None:
    for path in folders.glob("train/*/*.png"):
        path.write_bytes(b"%PDF-1.7")
    message = mistake("supernet-train", "--set", "data.bad_images=1000")
    assert "cannot identify image file" in message
    assert "still there" not in message
    assert "cannot identify image file" in run_doctor(spos, "--full", code=2)["unreadable images"]["seen"]


# Values


def read_advice(message: str) -> list[str]:
    """Return the setting that a message advises, as a command-line option."""
    found = re.search(r"set (data\.\w+): ?(\[.*?\]|[^\s,;]+)", message)
    assert found, message
    return ["--set", f"{found[1]}={found[2]}"]


def test_deep_images_are_reported_before_any_work(spos: Spos, folders: Path, mistake: Mistake) -> None:
    deepen(folders)
    for command in (["supernet-train"], ["retrain", "0,0,0,0"]):
        message = mistake(*command)
        assert "D/train/cat/00.png has 16-bit values from 0 to 4080; " in message
        assert "dtype if all images use 0 to 65535" in message
        assert not spos.run.exists()
    spos.here("supernet-train", *read_advice(message))
    other = ("--set", "data.value_range=dtype")
    assert "data.value_range: [0, 4095], not dtype" in mistake("supernet-train", *other), "results depend on it"
    assert "data.value_range: [0, 4095], not auto" in mistake("search")
    spos.here("search", *read_advice(message))
    assert "data.value_range: [0, 4095], not dtype" in mistake("search", *other)
    spos.here("retrain", "0,0,0,0", *read_advice(message))
    spos.here("evaluate")  # the weights file has these settings


def test_a_range_that_loses_grey_levels_is_reported(spos: Spos, folders: Path) -> None:
    deepen(folders)
    messages = spos.here("retrain", "0,0,0,0", "--set", "data.value_range=dtype").stderr
    assert "16-bit values from 0 to 4080: that is a small part of 0 to 65535, so most grey levels are lost" in messages
    assert "measured: [0, 4095]" in messages


def test_deep_validation_images(spos: Spos, folders: Path, mistake: Mistake) -> None:
    spos.here("retrain", "0,0,0,0")
    deepen(folders, split="val")
    message = mistake("evaluate")
    assert "D/val/cat/00.png has 16-bit values" in message
    spos.here("evaluate", *read_advice(message))


def test_doctor_measures_the_range(spos: Spos, folders: Path) -> None:
    assert run_doctor(spos, code=0)["value range"]["seen"] == "8 bits per channel in all 72 images"
    deepen(folders, 3000)
    findings = run_doctor(spos, code=2)
    assert [name for name, finding in findings.items() if finding["status"] == "fail"] == ["value range"]
    finding = findings["value range"]
    assert "72 among all 72 images: 16-bit values from 0 to 3000, such as D/train/cat/00.png" in finding["seen"]
    fixed = run_doctor(spos, *read_advice(finding["advice"]), code=0)
    assert fixed["value range"]["status"] == "ok"
    assert fixed["speed"]["status"] != "fail"
    for setting, phrase in (("dtype", "most grey levels are lost"), ("[0, 1000]", "become black or white")):
        finding = run_doctor(spos, "--set", f"data.value_range={setting}", code=0)["value range"]
        assert finding["status"] == "warn"
        assert phrase in finding["advice"]


def test_a_deep_image_that_only_a_worker_meets(spos: Spos, folders: Path, mistake: Mistake) -> None:
    for index in range(20, 300):
        save(folders / "train" / "cat" / f"{index:03}.png", index)
    for index in (51, 152):  # not among the images that are checked before the training
        save(folders / "train" / "cat" / f"{index:03}.png", index, 4080, np.uint16)
    options = ["--set", "data.workers=2", "--set", "supernet.steps=60"]  # One epoch has 322 images in 54 steps.
    message = mistake("supernet-train", *options)
    assert "has 16-bit values from 0 to 4080; " in message
    assert "another one is taken" not in message
    spos.here("supernet-train", *options, "--fresh", *read_advice(message))


@pytest.mark.slow
def test_several_processes_end_with_one_message(spos: Spos, folders: Path) -> None:
    deepen(folders)
    for done in spos.together("supernet-train", "--set", "supernet.batch_size=12", code=2):
        assert done.stderr.count("has 16-bit values from 0 to 4080") == 1
    assert not spos.run.exists()
    for seed, path in enumerate(sorted(folders.glob("*/*/*.png"))):
        save(path, seed)
    # The checks before the training skip this image, so one process meets it first.
    save(folders / "train" / "cat" / "01.png", 1, 4080, np.uint16)
    options = ("--set", "supernet.batch_size=12", "--set", "supernet.steps=50", "--set", "data.holdout_per_class=1")
    message = spos("supernet-train", "--devices", "2", *options, code=2).stderr
    assert message.count("01.png has 16-bit values from 0 to 4080") == 1
