"""`export-arch --quantize int8`: what it writes, and that what it says about its costs is true."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spos_cli.stages import export_network
from tests.conftest import Spos
from tests.optional_packages import require_torchao


def get_model(spos: Spos) -> Path:
    """Return the retrained network of a run."""
    (model,) = spos.run.glob("retrain/*/model.pt")
    return model


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_the_costs_are_those_that_evaluate_finds(finished: Spos, spos: Spos, form: str) -> None:
    if form == "pt2":
        require_torchao()
    else:
        pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    model = get_model(finished)
    command = ("export-arch", "--weights", model, "--format", form, "--quantize", "int8", "--run-dir", "int8", "--json")
    costs = json.loads(spos.here(*command).stdout)
    (file,) = costs["files"]
    assert Path(file) == Path("int8", "exported", f"{model.parent.name}-int8.{form}")
    path = spos.folder / file
    assert list(path.parent.iterdir()) == [path]
    assert costs["bytes"] == path.stat().st_size

    def evaluate(weights: object) -> dict[str, float]:
        return json.loads(spos.here("evaluate", "--weights", weights, "--json").stdout)

    before, after = evaluate(model), evaluate(file)
    assert costs["top1"] == {"float": before["top1"], "int8": after["top1"]}
    assert costs["images"] == before["images"] == after["images"]
    assert costs["points_lost"] == pytest.approx(100 * (before["top1"] - after["top1"]))
    assert costs["agreement"] >= 0.9
    assert 0 < costs["largest_difference"] < costs["largest_logit"]
    assert costs["calibration_images"] == 256
    assert all(milliseconds > 0 for milliseconds in costs["milliseconds"].values())
    # A file of float says that it is not quantized, and has the size that was compared.
    spos.here(*command[:5], "-o", f"float.{form}")
    assert (spos.folder / f"float.{form}").stat().st_size == pytest.approx(costs["float_bytes"], rel=0.01)
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(spos.folder / "grey.png")
    named = [
        json.loads(spos.here("predict", "grey.png", "--weights", weights, "--top", "10", "--json").stdout)
        for weights in (file, f"float.{form}")
    ]
    assert named[0] != named[1]
    assert f"{file} already exists" in spos.here(*command, code=2).stderr


@pytest.fixture
def export(finished: Spos, spos: Spos) -> Callable[..., str]:
    """Export the network of the finished run as int8, and return what is said."""
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

    def call(*options: object, code: int = 0) -> str:
        weights = ("--weights", get_model(finished), "--format", "onnx", "--quantize", "int8", "-o", "int8.onnx")
        done = spos.here("export-arch", *weights, *options, code=code)
        return " ".join((done.stdout + done.stderr).split())

    return call


def test_what_it_costs_is_said_plainly(export: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_network, "MAX_POINTS_LOST", -100.0)
    said = export()
    for phrase in ("written to int8.onnx", "float", "int8", "top-1", "latency of one image, ONNX Runtime"):
        assert phrase in said
    assert "points of top-1 on 359 validation images" in said
    assert "calibrated on 256 training images" in said
    assert "export without --quantize" in said
    assert "next: spos evaluate --weights int8.onnx" in said


def test_it_needs_the_images(export: Callable[..., str], spos: Spos) -> None:
    said = export("--set", "data.source=folder", "--set", "data.root=nowhere", code=2)
    assert "--quantize int8 needs training images to calibrate on" in said
    assert "there is no image folder nowhere/train" in said
    assert not list(spos.folder.glob("*.onnx"))


@pytest.mark.slow
def test_logits_that_are_not_finite_are_not_written(
    export: Callable[..., str], spos: Spos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        export_network, "load_exported", lambda *_: lambda images: torch.full((len(images), 10), torch.nan)
    )
    assert "int8.onnx was not written: its logits are not finite" in export(code=2)
    assert not list(spos.folder.glob("*.onnx"))
