"""Networks at another image size than they were trained on: `evaluate`, `predict` and `export-arch`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from spos_cli.config import loading
from spos_cli.data.transforms import IMAGENET
from spos_cli.engine import checkpoint
from spos_cli.models.counting import count, count_flops_at
from spos_cli.models.network import Network
from spos_cli.models.skeleton import build_initialized
from spos_cli.models.supernet import Supernet
from spos_cli.official.weights import to_official
from spos_cli.run.weights_file import make_network_content, make_supernet_content, read_weights
from spos_cli.space.architecture import parse
from spos_cli.space.search_space import SearchSpace
from tests.conftest import TINY, Mistake, Spos

CLASSES = ("cat", "dog", "fox")
ARCH = parse("0,1,2,3")
TRAINED = [8, 8]  # pixels
SIZES = {"8": (8, 8), "12": (12, 12), "12x20": (12, 20), "21x13": (21, 13)}


@pytest.fixture
def spos(tmp_path: Path) -> Spos:
    """A working folder with images of 60 x 41 pixels and a `model.pt` for 8 x 8."""
    spos = Spos(tmp_path)
    settings = yaml.safe_load(TINY)
    settings["space"]["classes"] = 3
    settings["data"] |= {"source": "folder", "root": "D", "holdout_per_class": 1}
    (spos.folder / "spos.yaml").write_text(yaml.safe_dump(settings))
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in CLASSES:
            (spos.folder / "D" / split / name).mkdir(parents=True)
            for index in range(3):
                pixels = rng.integers(0, 256, (41, 60, 3), np.uint8)
                Image.fromarray(pixels).save(spos.folder / "D" / split / name / f"{index}.png")
    config = loading.load(spos.folder / "spos.yaml")
    network = build_initialized(lambda: Network(config.space.build(), ARCH), 3)
    state = network.state_dict()
    state["classifier.0.weight"] *= 10**6
    checkpoint.save(spos.folder / "model.pt", make_network_content(config, ARCH, state, CLASSES, {}))
    return spos


def load(spos: Spos) -> tuple[SearchSpace, Network]:
    config = loading.load(spos.folder / "spos.yaml")
    return config.space.build(), read_weights(spos.folder / "model.pt").network(config).eval()


def prepare(path: Path, height: int, width: int) -> torch.Tensor:
    """Return an image as a network takes it, by torchvision."""
    image = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
    rows, columns = image.shape[1:]
    scale = max(round(height * 256 / 224) / rows, round(width * 256 / 224) / columns)
    target = int(rows * scale + 1e-9), int(columns * scale + 1e-9)
    cropped = v2.CenterCrop((height, width))(v2.Resize(target, antialias=True)(image))
    return v2.Normalize(*IMAGENET)(cropped.float() / 255)


def evaluate(spos: Spos, *options: object, weights: str = "model.pt") -> dict[str, Any]:
    result: dict[str, Any] = json.loads(spos.here("evaluate", "--weights", weights, "--json", *options).stdout)
    return result


def count_by_hooks(network: Network, height: int, width: int) -> int:
    """Count multiply-adds from the outputs of all convolutions and linear layers."""
    counts = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda one, _, output: counts.append(one.weight.numel() * output.shape[2] * output.shape[3])
            )
        elif isinstance(module, nn.Linear):
            module.register_forward_hook(lambda one, *_: counts.append(one.weight.numel()))
    network(torch.zeros(1, 3, height, width))
    return sum(counts)


@pytest.mark.parametrize("text", SIZES)
def test_logits_and_costs_are_those_of_torch_at_that_size(spos: Spos, text: str) -> None:
    size, (space, network) = SIZES[text], load(spos)
    result = evaluate(spos, "--image-size", text, "--save-logits", "logits.npz")
    saved = np.load(spos.folder / "logits.npz")
    images = torch.stack([prepare(spos.folder / "D" / "val" / path, *size) for path in saved["paths"].tolist()])
    assert images.shape == (9, 3, *size)
    with torch.no_grad():
        logits = network(images).numpy()
    assert np.ptp(logits) > 1
    assert saved["logits"] == pytest.approx(logits, abs=1e-4)
    assert result["top1"] == np.mean(saved["logits"].argmax(1) == saved["labels"])
    assert (result["image_size"], result["trained_image_size"]) == ([*size], TRAINED)
    assert result["flops"] == count_flops_at(space, ARCH, *size) == count_by_hooks(network, *size)
    if size[0] == size[1]:
        assert result["flops"] == count(replace(space, image_size=size[0])).flops.of(ARCH)
        del result["images_per_second"]
        override = evaluate(spos, "--set", f"space.image_size={size[0]}")
        assert {**override, "images_per_second": None} == {**result, "images_per_second": None}


def test_both_sizes_are_shown(spos: Spos) -> None:
    command = ("evaluate", "--weights", "model.pt")
    assert "8 x 8 pixels, as in the training" in spos.here(*command).stdout
    assert "12 x 12 pixels; trained on 8 x 8" in spos.here(*command, "--image-size", 12).stdout
    assert "12 x 20 pixels (height x width); trained on 8 x 8" in spos.here(*command, "--image-size", "12x20").stdout
    checkpoint.save(spos.folder / "official.pth.tar", to_official(load(spos)[1].state_dict()))
    shown = spos.here("evaluate", "--weights", "official.pth.tar", "--image-size", "12x20").stdout
    assert "12 x 20 pixels" in shown
    assert "training" not in shown + spos.here("evaluate", "--weights", "official.pth.tar").stdout
    details = json.loads(spos.here(*command, "--image-size", "12x20", "--details", "--json").stdout)
    assert details["image_size"] == [12, 20]
    content = json.loads((spos.run / "evaluate" / "details.json").read_text())
    assert (content["image_size"], content["trained_image_size"]) == ([12, 20], TRAINED)


def test_predictions_are_those_of_an_evaluation_at_that_size(spos: Spos) -> None:
    for text in ("12", "12x20"):
        evaluate(spos, "--image-size", text, "--save-logits", "logits.npz")
        saved = np.load(spos.folder / "logits.npz")
        lines = spos.here("predict", "D/val", "--weights", "model.pt", "--json", "--image-size", text).stdout
        top = [json.loads(line)["top"][0]["index"] for line in lines.splitlines()]
        assert top == saved["logits"].argmax(1).tolist()


def test_an_exported_network_of_another_size(spos: Spos, mistake: Mistake) -> None:
    pytest.importorskip("safetensors", reason="needs the extra safetensors")
    export = ("export-arch", "--weights", "model.pt", "--format", "safetensors")
    spos.here(*export, "--image-size", 12, "--output", "large.safetensors")
    expected, found = evaluate(spos, "--image-size", 12), evaluate(spos, weights="large.safetensors")
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert (found["flops"], found["image_size"], found["trained_image_size"]) == (expected["flops"], [12, 12], TRAINED)
    assert "12 x 12 pixels; trained on 8 x 8" in spos.here("evaluate", "--weights", "large.safetensors").stdout
    assert "-12px.safetensors" in spos.here(*export, "--set", "space.image_size=12").stdout
    message = mistake("evaluate", "--weights", "large.safetensors", "--image-size", 16)
    assert "large.safetensors is for images of 12 x 12 pixels, not of 16 x 16; export its network again" in message
    message = mistake("predict", "D/val", "--weights", "large.safetensors", "--image-size", "12x16")
    assert "works on square images only" in message
    assert "takes square images, not 12 x 16" in mistake(*export, "--image-size", "12x16")
    assert "--image-size is for --format onnx" in mistake("export-arch", "--image-size", 12)


def test_mistakes_are_one_line_each(spos: Spos, mistake: Mistake) -> None:
    assert "'12x' is not an image size" in mistake("evaluate", "--weights", "model.pt", "--image-size", "12x")
    config = loading.load(spos.folder / "spos.yaml")
    supernet = Supernet(config.space.build(), affine=False, dropout=0.0)
    checkpoint.save(spos.folder / "supernet.pt", make_supernet_content(config, supernet.state_dict()))
    path = ("evaluate", "--weights", "supernet.pt", "--arch", "0,1,2,3", "--image-size")
    assert "supernet.pt is for images of 8 x 8 pixels, not of 12 x 12; write a path of it" in mistake(*path, 12)
    assert "works on square images only" in mistake(*path, "8x12")
    other = ("--set", "space.head_channels=64")
    assert "another space" in mistake("evaluate", "--weights", "model.pt", *other, "--image-size", 12)


OWN_BLOCK = """
import torch
from torch import nn


class Positions(nn.Module):  # It has numbers for the positions of 8 x 8 images only.
    def __init__(self, in_channels, out_channels, stride, affine):
        super().__init__()
        size = {16: 4, 32: 2}[out_channels]
        self.positions = nn.Parameter(torch.zeros(1, out_channels, size, size))
        self.layer = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)

    def forward(self, features):
        return self.layer(features) + self.positions
"""


def test_a_block_that_works_at_one_size_only(spos: Spos, mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    (spos.folder / "sized_block.py").write_text(OWN_BLOCK)
    monkeypatch.syspath_prepend(spos.folder)
    settings = yaml.safe_load((spos.folder / "spos.yaml").read_text())
    settings["space"]["choices"] = ["sized_block:Positions", {"mbconv": {"kernel": 3, "expand": 2}}]
    (spos.folder / "spos.yaml").write_text(yaml.safe_dump(settings))
    config, arch = loading.load(spos.folder / "spos.yaml"), parse("1,0,1,0")
    state = build_initialized(lambda: Network(config.space.build(), arch), 3).state_dict()
    checkpoint.save(spos.folder / "model.pt", make_network_content(config, arch, state, CLASSES, {}))
    command = ("evaluate", "--weights", "model.pt", "--config", "spos.yaml")
    assert "as in the training" in spos.here(*command).stdout
    for size in ("12", "8x12"):
        assert "the network fails on images of" in mistake(*command, "--image-size", size)
