"""All commands on grey images, and on arrays of five channels."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import spos_cli
from spos_cli.engine import checkpoint
from spos_cli.export import python_file
from spos_cli.official import self_test
from spos_cli.run.loaded_network import read_pixels
from tests.conftest import TINY, Spos
from tests.optional_packages import require_exporter

CLASSES = ("cat", "dog", "fox")
FIVE: dict[str, Any] = {"mean": [0.3, 0.4, 0.5, 0.6, 0.7], "std": [0.2, 0.25, 0.3, 0.25, 0.2], "value_range": [0, 4095]}
OF_CHANNELS: dict[int, dict[str, Any]] = {1: {"mean": [0.4], "std": [0.3]}, 5: FIVE}


def save_grey(path: Path, seed: int) -> None:
    """Save noise in one of many formats, with a rotation, in colour or grey."""
    noise = np.random.default_rng(seed).integers(0, 256 - 40 * (seed % 3), (12, 10, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 1 + seed % 8
    Image.fromarray(noise).convert(("RGB", "L")[seed % 2]).save(path.with_suffix((".png", ".jpg")[seed % 2]), exif=exif)


def save_five(path: Path, seed: int) -> None:
    np.save(path.with_suffix(".npy"), np.random.default_rng(seed).integers(0, 4096, (12, 10, 5)).astype(np.uint16))


SAVE: dict[int, Callable[[Path, int], None]] = {1: save_grey, 5: save_five}


def make_settings(channels: int) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load(TINY)
    settings["space"] |= {"classes": 3}
    settings["space"]["stem"]["in_channels"] = channels
    settings["data"] |= {"source": "folder", "root": "D", "holdout_per_class": 4, "store": "disk"} | OF_CHANNELS[
        channels
    ]
    settings["supernet"] |= {"steps": 4, "batch_size": 6, "log_every": 2, "checkpoint_every": 2}
    settings["retrain"] |= {"steps": 4, "batch_size": 6, "log_every": 2, "checkpoint_every": 2}
    settings["retrain"]["augmentation"] = {"erasing": 0.5, "jitter": 0.3 if channels == 1 else 0}
    settings["search"] |= {"generations": 1, "calibration_images": 12, "calibration_batch_size": 6, "batch_size": 6}
    return settings


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the self-test of devices."""
    monkeypatch.setattr(self_test, "run_self_test", lambda device: {"all": 0.0})


def make_experiment(spos: Spos, channels: int) -> None:
    (spos.folder / "spos.yaml").write_text(yaml.safe_dump(make_settings(channels)))
    seeds = iter(range(1000))
    for split, count in (("train", 10), ("val", 4)):
        for name in CLASSES:
            (spos.folder / "D" / split / name).mkdir(parents=True)
            for index in range(count):
                SAVE[channels](spos.folder / "D" / split / name / f"{index:02}", next(seeds))


@pytest.mark.parametrize("channels", [1, 5])
def test_all_commands(spos: Spos, channels: int) -> None:
    make_experiment(spos, channels)
    findings = {one["check"]: one for one in json.loads(spos.here("doctor", "--json").stdout)}
    assert findings["mean and deviation"]["seen"].count(", 0.") == 4 * (channels - 1)
    for command in ("supernet-train", "flops-table", "search", "export-arch", "retrain"):
        spos.here(command)
    trained = json.loads(spos.here("evaluate", "--json").stdout)
    (model,) = spos.run.glob("retrain/*/model.pt")
    content = checkpoint.load(model)
    assert content["model"]["first_conv.0.weight"].shape[1] == channels
    assert content["preprocessing"]["in_channels"] == channels
    assert content["preprocessing"]["mean"] == OF_CHANNELS[channels]["mean"]

    # The file alone is enough, and everything gives the same logits.
    (spos.folder / "spos.yaml").unlink()
    images = sorted(str(path) for path in (spos.folder / "D" / "val").glob("*/*"))
    spos.here("predict", "--weights", model, "--top", "1", "--output", "classes.csv", *images)
    rows = list(csv.DictReader(io.StringIO((spos.folder / "classes.csv").read_text())))
    network = spos_cli.load(model)
    prepared = torch.cat([network.preprocess(path) for path in images])
    assert prepared.shape[1] == channels
    with torch.no_grad():
        probabilities = network(prepared).softmax(1)
    chosen = [network.classes[index] for index in probabilities.argmax(1).tolist()]
    assert [next(value for value in row.values() if value in CLASSES) for row in rows] == chosen

    require_exporter()
    for form, suffix in (("onnx", "onnx"), ("pt2", "pt2"), ("safetensors", "safetensors"), ("python", "py")):
        file = spos.folder / f"network_{form}.{suffix}"
        command = ("export-arch", "--json", "--weights", model, "--format", form, "--output", file)
        exported = json.loads(spos.here(*command, "--set", "data.root=D").stdout)
        assert exported["images"] == 13, "all validation images, and one alone"
        assert exported["largest_difference"] < 1e-4 * exported["largest_logit"]
        if form == "python":
            text = file.read_text()
            assert f"torch.zeros(1, {channels}, 8, 8" in text
            pixels = torch.stack([network._crop(read_pixels(path, network._decoding)) for path in images])
            torch.testing.assert_close(python_file.load(file)(pixels).softmax(1), probabilities, rtol=1e-4, atol=1e-4)
            continue
        evaluated = json.loads(spos.here("evaluate", "--json", "--weights", file, "--set", "data.root=D").stdout)
        assert (evaluated["images"], evaluated["top1"]) == (trained["images"], trained["top1"])


def test_another_number_of_channels_is_named(spos: Spos) -> None:
    make_experiment(spos, 5)
    path = spos.folder / "D" / "val" / "cat" / "00.npy"
    np.save(path, np.zeros((12, 10, 4), np.uint16))
    spos.here("supernet-train")
    message = spos.here("retrain", "0,0,0,0", code=2).stderr
    assert f"{path.relative_to(spos.folder)}: its array is (12, 10, 4); it should be (height, width, 5)" in message
    message = spos.here("supernet-train", "--fresh", "--set", "space.stem.in_channels=4", code=2).stderr
    assert "data.mean has 5 values, but space.stem.in_channels is 4" in message
    grey = ("--set", "space.stem.in_channels=3", "--set", "data.mean=null", "--set", "data.std=null")
    assert "trained on another space" in spos.here("search", *grey, code=2).stderr
