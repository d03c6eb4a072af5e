"""Features that meet: sources, channels, sizes, limits, classes and the best weights in one run."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import spos_cli
from spos_cli.config import loading
from spos_cli.engine import accelerator, checkpoint
from spos_cli.engine.distributed import Processes
from spos_cli.engine.validation import ValidationRecord, describe_selection
from spos_cli.models.counting import count
from spos_cli.models.network import Network
from spos_cli.models.skeleton import build_initialized
from spos_cli.run.images import Images
from spos_cli.run.weights_file import make_network_content
from spos_cli.search.journal import Journal
from spos_cli.space.architecture import parse, read
from tests.conftest import TINY, Spos
from tests.optional_packages import require_exporter

SIZES = {"cat": 15, "dog": 8, "fox": 5}  # training images
GATED = [{"mbconv": {"kernel": 3, "expand": 2, "se": 0.25}}, {"fused_mbconv": {"kernel": 3, "expand": 2}}]
OWN = """
import io
from pathlib import Path
from PIL import Image

class Photos:
    def __init__(self, split):
        self.paths = sorted(Path("D", split).glob("*/*"))
        self.classes = ["cat", "dog", "fox"]
        self.targets = [self.classes.index(path.parent.name) for path in self.paths]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return Image.open(io.BytesIO(self.paths[index].read_bytes())), self.targets[index]
"""


def draw(folder: Path, suffix: str) -> None:
    """Draw images of 10 x 14 pixels, in every orientation of EXIF, into `D/train` and `D/val`."""
    rng, exif = np.random.default_rng(0), Image.Exif()
    for split in ("train", "val"):
        for name, size in SIZES.items():
            (folder / "D" / split / name).mkdir(parents=True)
            for index in range(size if split == "train" else 3):
                exif[0x0112] = 1 + index % 8
                noise = rng.integers(0, 256, (10, 14), np.uint8)
                Image.fromarray(noise).save(folder / "D" / split / name / f"{index:02}{suffix}", exif=exif)


def make_settings(spos: Spos, **data: Any) -> dict[str, Any]:
    """Write settings for three classes, and return them."""
    settings: dict[str, Any] = yaml.safe_load(TINY)
    settings["space"]["classes"] = 3
    settings["data"] |= {"source": "folder", "root": "D", "holdout_per_class": 2} | data
    for section in ("supernet", "retrain"):
        settings[section] |= {"steps": 4, "batch_size": 6, "log_every": 2, "checkpoint_every": 2}
    settings["retrain"]["evaluate_every"] = 2
    settings["search"] |= {"generations": 1, "calibration_images": 12, "calibration_batch_size": 6, "batch_size": 6}
    write(spos, settings)
    return settings


def write(spos: Spos, settings: dict[str, Any]) -> None:
    (spos.folder / "spos.yaml").write_text(yaml.safe_dump(settings))


def run_json(spos: Spos, *arguments: object) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(spos.here(*arguments, "--json").stdout)
    return result


@pytest.mark.slow
def test_grey_images_of_an_own_set_with_gated_ops(spos: Spos) -> None:
    draw(spos.folder, ".tif")
    (spos.folder / "photos_of_seams.py").write_text(OWN)
    settings = make_settings(spos, source="photos_of_seams:Photos", holdout_per_class=None, holdout_share=0.3)
    settings["space"]["stem"]["in_channels"] = 1
    settings["space"]["choices"] = GATED
    write(spos, settings)
    spos.here("supernet-train")

    # A range of costs, and balanced accuracy on classes of different sizes.
    flops = count(loading.load(spos.folder / "spos.yaml").space.build()).flops
    low, high = (flops.minimum + (flops.maximum - flops.minimum) * part // 4 for part in (1, 3))
    spos.here("search", "--flops-limit", f"{low}-{high}", "--set", "search.fitness=balanced")
    entries = Journal(spos.run / "search" / "journal.jsonl").read()
    assert all(low <= entry.flops <= high and entry.balanced is not None for entry in entries)
    assert {entry.images for entry in entries} == {5 + 2 + 2}  # rounded shares of 15, 8 and 5
    spos.here("export-arch")
    spos.here("retrain")
    assert "one-shot balanced accuracy" in report_text(spos)

    # The best weights at other sizes, as ONNX, and as the beginning of another training.
    (best,) = spos.run.glob("retrain/*/best.pt")
    trained = run_json(spos, "evaluate", "--weights", best)
    assert trained["selected_on_these_images"]
    for size in ("12", "12x20", "16x8"):
        measured = run_json(spos, "evaluate", "--weights", best, "--image-size", size)
        assert measured["flops"] > trained["flops"]
        assert measured["params"] == trained["params"]
    network = spos.run.glob("archs/*/arch.yaml")
    shown = spos.here("retrain", next(network), "--init", best, "--run-dir", "again").stdout
    assert f"{trained['top1']:.2%}" in shown  # before training
    require_exporter()
    spos.here("export-arch", "--weights", best, "--format", "onnx", "--image-size", "12", "--output", "best.onnx")
    exported = run_json(spos, "evaluate", "--weights", "best.onnx", "--image-size", "12")
    expected = run_json(spos, "evaluate", "--weights", best, "--image-size", "12")
    for name in ("top1", "image_size", "trained_image_size", "flops"):
        assert exported[name] == expected[name]
    assert exported["loss"] == pytest.approx(expected["loss"], rel=1e-4)


def report_text(spos: Spos) -> str:
    spos.here("report")
    return (spos.run / "search" / "report.html").read_text()


def pack(folder: Path) -> dict[str, Any]:
    for split in ("train", "val"):
        with tarfile.open(folder / "D" / f"{split}.tar", "w") as archive:
            archive.add(folder / "D" / split, ".")
    return {"source": "tar"}


def list_lines(folder: Path) -> dict[str, Any]:
    for split in ("train", "val"):
        files = sorted((folder / "D" / split).glob("*/*"))
        lines = [f"{file.relative_to(folder / 'D')},{file.parent.name}" for file in files]
        (folder / "D" / f"{split}.csv").write_text("\n".join(["path,label", *lines]))
    return {"source": "csv"}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_a_cache_of_tar_files_holds_images_as_folders_do(spos: Spos, suffix: str, exif: str) -> None:
    draw(spos.folder, suffix)
    caches = []
    for source in ({}, pack(spos.folder)):
        make_settings(spos, store="disk", exif=exif, **source)
        spos.here("supernet-train", "--run-dir", f"runs/{len(caches)}")
        caches.append(next(spos.folder.glob(f"runs/{len(caches)}/**/train.u8")).read_bytes())
    assert caches[0] == caches[1]


def test_a_class_file_fits_every_source(spos: Spos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(spos.folder)
    draw(spos.folder, ".png")
    arch, names = parse("0,1,2,3"), ("dog", "wolf", "cat", "fox", "lynx")
    (spos.folder / "map.csv").write_text("cat,cat\ndog,wolf\nfox,fox\n")
    results = []
    for source in ({}, pack(spos.folder), list_lines(spos.folder)):
        settings = make_settings(spos, **source)
        settings["space"]["classes"] = len(names)
        write(spos, settings)
        config = loading.load(spos.folder / "spos.yaml")
        state = build_initialized(lambda config=config: Network(config.space.build(), arch), 3).state_dict()  # type: ignore[misc]
        content = make_network_content(config, arch, state, names, {})
        number = Images(config, Processes(0, 1, accelerator.CPU)).val_identity.number
        content["selection"] = describe_selection(ValidationRecord(2, images=number))
        checkpoint.save(spos.folder / "model.pt", content)
        result = run_json(spos, "evaluate", "--weights", "model.pt", "--classes", "map.csv", "--details")
        assert (result["images"], result["selected_on_these_images"]) == (9, True)
        assert {one["name"]: one["support"] for one in result["details"]["classes"]} == {
            **dict.fromkeys(names, 0),
            **dict.fromkeys(("cat", "wolf", "fox"), 3),
        }
        results.append({**result, "images_per_second": 0})
    assert results[0] == results[1] == results[2]


def test_widths_of_a_found_architecture_within_a_range(spos: Spos) -> None:
    draw(spos.folder, ".png")
    make_settings(spos)
    spos.here("supernet-train", "--channels-of", "0,1,0,2", "--set", "space.widths=[0.5, 1.0, 1.5]")
    (folder,) = (spos.folder / "runs").iterdir()
    flops = count(loading.load(folder / "config.yaml").space.build()).flops
    low, high = (flops.minimum + (flops.maximum - flops.minimum) * part // 5 for part in (2, 3))
    spos.here("search", "--config", folder / "config.yaml", "--flops-limit", f"{low}-{high}")
    entries = Journal(folder / "search" / "journal.jsonl").read()
    assert entries
    assert all(low <= entry.flops <= high and entry.architecture.widths for entry in entries)
    spos.here("export-arch", "--config", folder / "config.yaml")
    (exported,) = folder.glob("archs/*/arch.yaml")
    assert read(str(exported)) in {entry.architecture for entry in entries}


def test_no_command_imports_or_downloads_what_a_weights_file_names(spos: Spos) -> None:
    draw(spos.folder, ".png")
    (spos.folder / "evil_of_seams.py").write_text('from pathlib import Path\nPath("imported").touch()\n' + OWN)
    own = make_settings(spos)
    arch = parse("0,1,2,3")
    for number, data in enumerate(
        (
            {"source": "evil_of_seams:Photos"},
            {"source": "huggingface", "root": "hf://x/y"},
            {"source": "torchvision:DTD", "root": "/elsewhere"},
        )
    ):
        write(spos, {**own, "data": {**own["data"], **data}})
        config = loading.load(spos.folder / "spos.yaml")
        state = build_initialized(lambda config=config: Network(config.space.build(), arch), 3).state_dict()  # type: ignore[misc]
        content = make_network_content(config, arch, state, tuple(sorted(SIZES)), {})
        checkpoint.save(spos.folder / f"{number}.pt", content)
    write(spos, own)
    for number, phrase in enumerate(("name a data set to import", "would be downloaded", "might be downloaded")):
        weights = ("--weights", f"{number}.pt")
        for command in (("evaluate",), ("evaluate", "--image-size", "12"), ("export-arch", "--format", "python")):
            assert phrase in spos.here(*command, *weights, code=2).stderr
        assert spos.here("predict", *weights, "D/val/cat/00.png").returncode == 0
        spos_cli.load(spos.folder / f"{number}.pt")
        # With the user's own settings, the images are the user's.
        assert run_json(spos, "evaluate", *weights, "--config", "spos.yaml")["images"] == 9
    spos.here("retrain", str(arch), "--init", "0.pt")
    assert not (spos.folder / "imported").exists()
