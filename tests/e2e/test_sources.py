"""Every source of images goes through all commands, and the same images give the same training."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from spos_cli.engine import checkpoint
from spos_cli.official import self_test
from tests.conftest import TINY, Mistake, Spos

pytestmark = pytest.mark.slow

CLASSES = ("cat", "dog", "fox")
IMAGES = {"train": 20, "val": 4}  # of each class
TORCHVISION_SPLITS = {"train": "train", "val": "test"}
OWN = """
from pathlib import Path
from PIL import Image

Path("imported").touch()

class Photos:
    def __init__(self, split):
        self.paths = sorted(Path("D", split).glob("*/*.png"))
        self.classes = ["cat", "dog", "fox"]
        self.targets = [self.classes.index(path.parent.name) for path in self.paths]
        self.paths = [path.absolute() for path in self.paths]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return Image.open(self.paths[index]), self.targets[index]
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the self-test of devices."""
    monkeypatch.setattr(self_test, "run_self_test", lambda device: {"all": 0.0})


def prepare(folder: Path) -> Spos:
    """Make `D/train` and `D/val` with images of three classes, and settings for them."""
    spos, settings = Spos(folder), yaml.safe_load(TINY)
    settings["space"]["classes"] = 3
    settings["data"] |= {"source": "folder", "root": "D", "holdout_per_class": 6, "workers": 2}
    for section in ("supernet", "retrain"):
        settings[section] |= {"steps": 4, "batch_size": 6, "log_every": 2, "checkpoint_every": 2}
    settings["search"] |= {"generations": 0, "calibration_images": 12, "calibration_batch_size": 6, "batch_size": 6}
    (folder / "spos.yaml").write_text(yaml.safe_dump(settings))
    rng = np.random.default_rng(0)
    for split, count in IMAGES.items():
        for name in CLASSES:
            (folder / "D" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (10, 12, 3), np.uint8)
                Image.fromarray(pixels).save(folder / "D" / split / name / f"{index:02}.png")
    return spos


def list_files(folder: Path, split: str) -> list[Path]:
    return sorted((folder / "D" / split).glob("*/*.png"))


# Each function lays the images out for a source, and returns the settings for it.


def use_folder(folder: Path) -> dict[str, Any]:
    return {}


def use_csv(folder: Path) -> dict[str, Any]:
    """The lines are in reverse order; some paths are absolute."""
    for split in IMAGES:
        files = list_files(folder, split)[::-1]
        paths = [file if index % 3 else file.relative_to(folder / "D") for index, file in enumerate(files)]
        lines = [f"{path},{file.parent.name}" for path, file in zip(paths, files, strict=True)]
        (folder / "D" / f"{split}.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    return {"source": "csv"}


def use_tar(folder: Path) -> dict[str, Any]:
    """One tar file of class folders per split."""
    for split in IMAGES:
        with tarfile.open(folder / "D" / f"{split}.tar", "w") as archive:
            archive.add(folder / "D" / split, ".")
        shutil.rmtree(folder / "D" / split)
    return {"source": "tar"}


def use_shards(folder: Path) -> dict[str, Any]:
    """Three shards per split, as WebDataset writes them."""
    for split in IMAGES:
        files = list_files(folder, split)
        for shard in range(3):
            with tarfile.open(folder / "D" / f"{split}-{shard:03}.tar", "w") as archive:
                for file in files[shard::3]:
                    label = file.with_suffix(".txt")
                    label.write_text(file.parent.name)
                    for part in (file, label):
                        archive.add(part, part.relative_to(folder / "D" / split).as_posix())
        shutil.rmtree(folder / "D" / split)
    return {"source": "tar", "train_shards": "train-{000..002}.tar", "val_shards": "val-*.tar"}


def use_own_code(folder: Path) -> dict[str, Any]:
    (folder / "own_images.py").write_text(OWN)
    return {"source": "own_images:Photos"}


def use_torchvision(folder: Path) -> dict[str, Any]:
    """The layout of Country211."""
    for split, name in TORCHVISION_SPLITS.items():
        (folder / "D" / "country211").mkdir(exist_ok=True)
        (folder / "D" / split).rename(folder / "D" / "country211" / name)
    return {"source": "torchvision:Country211"}


def use_huggingface(folder: Path) -> dict[str, Any]:
    """A data set as the package saves it."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=list(CLASSES))})
    tables = {}
    for split in IMAGES:
        files = list_files(folder, split)
        values = {"picture": list(map(str, files)), "kind": [file.parent.name for file in files]}
        tables["validation" if split == "val" else split] = datasets.Dataset.from_dict(values, features)
    datasets.DatasetDict(tables).save_to_disk(folder / "T")
    shutil.rmtree(folder / "D")
    return {"source": "huggingface", "root": "T"}


LAYOUTS = (use_folder, use_csv, use_tar, use_shards, use_own_code, use_torchvision, use_huggingface)
Layout = Callable[[Path], dict[str, Any]]


def lay_out(folder: Path, layout: Layout) -> Spos:
    """Make the images and the settings of a source."""
    spos = prepare(folder)
    settings = yaml.safe_load((folder / "spos.yaml").read_text())
    settings["data"] |= layout(folder)
    (folder / "spos.yaml").write_text(yaml.safe_dump(settings))
    return spos


def train(spos: Spos) -> dict[str, Any]:
    """Train a supernet; return the content of its file without its settings."""
    spos("supernet-train")
    content = checkpoint.load(spos.run / "supernet" / "last.pt")
    return {key: value for key, value in content.items() if key not in ("config", "recipe")}


@pytest.fixture(scope="module")
def from_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The supernet that is trained on class folders."""
    return train(prepare(tmp_path_factory.mktemp("folders")))


@pytest.mark.filterwarnings("ignore:Cannot (locate|pickle)")  # of dill, which `datasets` uses
@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_commands(tmp_path: Path, layout: Layout, from_folders: dict[str, Any]) -> None:
    spos = lay_out(tmp_path, layout)
    trained = train(spos)
    assert trained.keys() == from_folders.keys()
    assert checkpoint.fingerprint(trained) == checkpoint.fingerprint(from_folders)
    spos("search")
    spos("export-arch")
    spos("retrain")
    (model,) = spos.run.glob("retrain/*/model.pt")
    assert checkpoint.load(model)["classes"] == list(CLASSES)
    table = json.loads(spos("evaluate", "--json").stdout)
    assert table["images"] == 12
    findings = {finding["check"]: finding for finding in json.loads(spos("doctor", "--json", "--full").stdout)}
    for check, phrase in {
        "unreadable images": "none among all 72 images",
        "images in both sets": "none among all 12 validation and all 60 training images",
        "value range": "8 bits per channel in all 72 images",
        "classes": "the same 3 classes",
    }.items():
        assert (findings[check]["status"], phrase in findings[check]["seen"]) == ("ok", True), findings[check]


@pytest.mark.parametrize("layout", [use_csv, use_shards, use_own_code])
def test_a_resumed_training_ends_in_the_same_bytes(tmp_path: Path, layout: Layout) -> None:
    spos = lay_out(tmp_path, layout)
    train(spos)
    last, middle = (spos.run / "supernet" / name for name in ("last.pt", "step-00000002.pt"))
    whole = last.read_bytes()
    last.unlink()
    (spos.run / "supernet" / "step-00000004.pt").unlink()
    shutil.copyfile(middle, last)
    spos("supernet-train")
    assert last.read_bytes() == whole


def test_two_processes_and_a_cache(tmp_path: Path) -> None:
    """Shards are read by two processes with two workers each, and from a cache on disk."""
    spos = lay_out(tmp_path, use_shards)
    spos.together("supernet-train", "--set", "data.store=disk")
    weights = checkpoint.load(spos.run / "supernet" / "last.pt")
    (spos.run / "supernet").rename(tmp_path / "first")
    spos.together("supernet-train", "--set", "data.store=disk")
    again = checkpoint.load(spos.run / "supernet" / "last.pt")
    assert checkpoint.fingerprint(weights) == checkpoint.fingerprint(again)


def test_a_weights_file_alone_does_not_import_its_data_set(tmp_path: Path, mistake: Mistake, spos: Spos) -> None:
    """`spos evaluate` with only the file must not run code that the file names."""
    own = lay_out(tmp_path, use_own_code)
    own("retrain", "0,0,0,0")
    (model,) = own.run.glob("retrain/*/model.pt")
    (tmp_path / "imported").unlink()
    settings = tmp_path / "spos.yaml"
    settings.rename(tmp_path / "my.yaml")
    assert "name a data set to import: own_images:Photos" in mistake("evaluate", "--weights", model)
    assert not (tmp_path / "imported").exists()
    own("evaluate", "--weights", model, "--config", "my.yaml")
    own("evaluate", "--weights", model, "--set", "data.source=own_images:Photos")
    assert (tmp_path / "imported").exists()


def test_a_broken_image_in_a_tar_file_is_replaced(tmp_path: Path) -> None:
    spos = prepare(tmp_path)
    broken = sorted((tmp_path / "D" / "train" / "cat").iterdir())
    for path in broken[:2]:
        path.write_bytes(path.read_bytes()[:60])
    use_tar(tmp_path)
    done = spos("supernet-train", "--set", "data.source=tar", "--set", "supernet.steps=20")
    assert "train.tar:cat/0" in done.stderr
    assert "using another image instead" in done.stderr


def test_a_mistake_in_a_list_is_one_line(tmp_path: Path, mistake: Mistake, spos: Spos) -> None:
    lay_out(tmp_path, use_csv)
    with (tmp_path / "D" / "val.csv").open("a") as file:
        file.write("val/cat/99.png,cat\n")
    message = mistake("supernet-train")
    assert "val.csv, line 14: there is no file val/cat/99.png" in message


def test_classes_of_a_list_that_were_renamed(tmp_path: Path, mistake: Mistake) -> None:
    """A supernet knows its classes from class folders, too. The advice for a list does not speak of folders."""
    spos = prepare(tmp_path)
    spos("supernet-train")
    use_csv(tmp_path)
    lists = [tmp_path / "D" / f"{split}.csv" for split in IMAGES]
    search = ("search", "--set", "data.source=csv")
    for path in lists:
        path.write_text(path.read_text().replace(",cat", ",wolf"))
    message = mistake(*search)
    assert "only before: cat, only now: wolf" in message
    assert "restore the names of the classes" in message
    assert "folder" not in message
    for path in lists:
        path.write_text(path.read_text().replace(",wolf", ",cat"))
    assert "trained on" not in spos(*search).stderr


def test_an_unknown_data_set_of_torchvision(mistake: Mistake) -> None:
    message = mistake("supernet-train", "--set", "data.source=torchvision:OxfordPets")
    assert "did you mean OxfordIIITPet?" in message


def write_shares(spos: Spos, share: float) -> None:
    """List the images of each class with this share of it, and the rest evenly among the others."""
    for split in IMAGES:
        lines = ["path," + ",".join(CLASSES)]
        for file in list_files(spos.folder, split):
            shares = [share if name == file.parent.name else (1 - share) / 2 for name in CLASSES]
            lines.append(f"{file.relative_to(spos.folder / 'D')}," + ",".join(map(str, shares)))
        (spos.folder / "D" / f"{split}.csv").write_text("\n".join(lines) + "\n")


def read_losses(spos: Spos, *options: object) -> list[float]:
    spos("supernet-train", "--fresh", "--set", "data.source=csv", *options)
    lines = (spos.run / "supernet" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_soft_labels(tmp_path: Path) -> None:
    """With the whole share for one class, the loss is that of labels; label smoothing gives shares, too."""
    spos = lay_out(tmp_path, use_csv)
    hard, smoothed = read_losses(spos), read_losses(spos, "--set", "supernet.label_smoothing=0.3")
    write_shares(spos, 1)
    assert read_losses(spos) == pytest.approx(hard, rel=1e-4)
    write_shares(spos, 0.8)  # 0.7 + 0.3 / 3
    assert read_losses(spos, "--set", "supernet.label_smoothing=0") == pytest.approx(smoothed, rel=1e-4)
    assert smoothed != pytest.approx(hard, rel=1e-3)
    mixed = ("--set", "supernet.mixup=0.2", "--set", "supernet.class_weights=balanced")
    assert len(read_losses(spos, *mixed)) == len(hard)
    spos("search", "--set", "data.source=csv", *mixed)
    spos("retrain", "0,0,0,0", "--set", "data.source=csv")
    spos("evaluate", "--set", "data.source=csv")


def test_other_shares_are_other_images(tmp_path: Path, mistake: Mistake, spos: Spos) -> None:
    soft = prepare(tmp_path)
    write_shares(soft, 0.8)
    soft("supernet-train", "--set", "data.source=csv")
    write_shares(soft, 0.9)
    message = mistake("supernet-train", "--set", "data.source=csv")
    assert "some of which have been replaced" in message
