"""All commands on grey images, and on arrays of five channels."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

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


def make_experiment(spos: Spos, channels: int) -> None:
    (spos.folder / "spos.yaml").write_text(yaml.safe_dump(make_settings(channels)))
    seeds = iter(range(1000))
    for split, count in (("train", 10), ("val", 4)):
        for name in CLASSES:
            (spos.folder / "D" / split / name).mkdir(parents=True)
            for index in range(count):
                SAVE[channels](spos.folder / "D" / split / name / f"{index:02}", next(seeds))


class Trained(NamedTuple):
    """A run of all commands, in a folder without `spos.yaml`. Not to be changed."""

    spos: Spos
    channels: int
    findings: dict[str, dict[str, str]]  # of the doctor, by check
    evaluated: dict[str, Any]

    @property
    def model(self) -> Path:
        (model,) = self.spos.run.glob("retrain/*/model.pt")
        return model

    @property
    def images(self) -> list[str]:
        return sorted(str(path) for path in (self.spos.folder / "D" / "val").glob("*/*"))

    def compute_probabilities(self) -> Tensor:
        """Return the probabilities `(images, classes)` of the network that Python loads."""
        network = spos_cli.load(self.model)
        prepared = torch.cat([network.preprocess(path) for path in self.images])
        assert prepared.shape[1] == self.channels
        with torch.no_grad():
            return network(prepared).softmax(1)


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.slow), 5])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    spos = Spos(tmp_path_factory.mktemp("channels"))
    make_experiment(spos, request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(self_test, "run_self_test", lambda device: {"all": 0.0})
        findings = {one["check"]: one for one in json.loads(spos.here("doctor", "--json").stdout)}
    for command in ("supernet-train", "flops-table", "search", "export-arch", "retrain"):
        spos.here(command)
    evaluated = json.loads(spos.here("evaluate", "--json").stdout)
    (spos.folder / "spos.yaml").unlink()
    return Trained(spos, request.param, findings, evaluated)


def test_all_commands(trained: Trained) -> None:
    spos, model, channels = trained.spos, trained.model, trained.channels
    assert trained.findings["mean and deviation"]["seen"].count(", 0.") == 4 * (channels - 1)
    content = checkpoint.load(model)
    assert content["model"]["first_conv.0.weight"].shape[1] == channels
    assert content["preprocessing"]["in_channels"] == channels
    assert content["preprocessing"]["mean"] == OF_CHANNELS[channels]["mean"]

    # The file alone is enough, and everything gives the same logits.
    spos.here("predict", "--weights", model, "--top", "1", "--output", "classes.csv", *trained.images)
    rows = list(csv.DictReader(io.StringIO((spos.folder / "classes.csv").read_text())))
    names = spos_cli.load(model).classes
    chosen = [names[index] for index in trained.compute_probabilities().argmax(1).tolist()]
    assert [next(value for value in row.values() if value in CLASSES) for row in rows] == chosen


@pytest.mark.parametrize(
    "form",
    [*(pytest.param(form, marks=pytest.mark.slow) for form in ("onnx", "pt2")), "safetensors", "python"],
)
def test_exported_networks(trained: Trained, tmp_path: Path, form: str) -> None:
    require_exporter()
    spos, model = trained.spos, trained.model
    file = tmp_path / ("network.py" if form == "python" else f"network.{form}")
    command = ("export-arch", "--json", "--weights", model, "--format", form, "--output", file)
    exported = json.loads(spos.here(*command, "--set", "data.root=D").stdout)
    assert exported["images"] == 13, "all validation images, and one alone"
    assert exported["largest_difference"] < 1e-4 * exported["largest_logit"]
    if form == "python":
        assert f"torch.zeros(1, {trained.channels}, 8, 8" in file.read_text()
        network = spos_cli.load(model)
        pixels = torch.stack([network._crop(read_pixels(path, network._decoding)) for path in trained.images])
        found = python_file.load(file)(pixels).softmax(1)
        torch.testing.assert_close(found, trained.compute_probabilities(), rtol=1e-4, atol=1e-4)
        return
    evaluated = json.loads(spos.here("evaluate", "--json", "--weights", file, "--set", "data.root=D").stdout)
    assert (evaluated["images"], evaluated["top1"]) == (trained.evaluated["images"], trained.evaluated["top1"])


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
