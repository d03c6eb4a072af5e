"""`spos export-arch --format onnx, ...` as a user runs it, and what `evaluate` and `predict` make of the files."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spos_cli.export import onnx_file, safetensors_file
from spos_cli.export.inference import InferenceNetwork
from spos_cli.run.exported_files import RUNTIMES
from spos_cli.space.architecture import Architecture
from spos_cli.stages.export_network import FORMATS
from tests.conftest import Spos
from tests.optional_packages import is_oldest_torch

pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("safetensors", reason="needs the extra safetensors")
pytestmark = pytest.mark.skipif(is_oldest_torch(), reason="the oldest PyTorch cannot write every network")

SUFFIXES = {form: value.suffix for form, value in FORMATS.items()}
PACKAGES = {"executorch": "executorch", "litert": "litert_torch"}  # of formats that are not a part of an extra
ARCH = "0,1,2,3"


def find_model(spos: Spos) -> Path:
    (model,) = spos.run.glob("retrain/*/model.pt")
    return model


def evaluate(spos: Spos, *options: object) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(spos.here("evaluate", "--json", *options).stdout)
    del result["images_per_second"]
    return result


@pytest.fixture(scope="module")
def onnx(finished: Spos, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The retrained network as an ONNX file. Not to be changed."""
    output = tmp_path_factory.mktemp("onnx") / "network.onnx"
    finished.here("export-arch", "--weights", find_model(finished), "--format", "onnx", "--output", output)
    return output


@pytest.fixture(scope="module")
def raw(finished: Spos, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for prepared images. Not to be changed."""
    output = tmp_path_factory.mktemp("raw") / "raw.onnx"
    options = ("--weights", find_model(finished), "--format", "onnx", "--raw-input", "--output", output)
    finished.here("export-arch", *options)
    return output


@pytest.mark.parametrize("form", [pytest.param(one, marks=[pytest.mark.slow] * (one == "pt2")) for one in SUFFIXES])
def test_an_exported_network_is_evaluated_like_its_model(finished: Spos, tmp_path: Path, form: str) -> None:
    if form in PACKAGES:
        pytest.importorskip(PACKAGES[form], reason=f"--format {form} needs a package of its own")
    model, output = find_model(finished), tmp_path / f"network{SUFFIXES[form]}"
    shown = finished.here("export-arch", "--weights", model, "--format", form, "--output", output).stdout
    assert "compared with the network" in shown
    assert "100.00%" in shown
    readable = output.with_suffix(".safetensors") if form == "python" else output
    assert sorted(tmp_path.iterdir()) == sorted({output, readable}), "no drafts are left"
    expected, found = evaluate(finished, "--weights", model), evaluate(finished, "--weights", readable)
    assert found.pop("loss") == pytest.approx(expected.pop("loss"), rel=1e-5)
    assert found == expected
    if form == "python":
        message = finished.here("evaluate", "--weights", output, code=2).stderr
        assert f"name {readable}" in message


def test_the_file_lies_in_the_run_folder_of_its_weights(finished: Spos, tmp_path: Path) -> None:
    """Also without the settings of the run at hand; a second export does not replace it."""
    spos = Spos(tmp_path / "elsewhere")
    (spos.folder / "spos.yaml").unlink()
    model = find_model(finished)
    result = json.loads(spos.here("export-arch", "--weights", model, "--format", "safetensors", "--json").stdout)
    (file,) = result["files"]
    assert Path(file).parent == finished.run / "exported"
    assert result["agreement"] == 1
    assert result["largest_difference"] <= 1e-4 * result["largest_logit"]
    message = spos.here("export-arch", "--weights", model, "--format", "safetensors", code=2).stderr
    assert "already exists; name another file with --output" in message
    Path(file).unlink()


@pytest.mark.parametrize("form", ["safetensors", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_path_of_the_supernet_is_exported_calibrated(finished: Spos, tmp_path: Path, form: str) -> None:
    supernet, output = finished.run / "supernet" / "last.pt", tmp_path / f"path.{form}"
    finished.here("export-arch", "--weights", supernet, "--arch", ARCH, "--format", form, "--output", output)
    expected = evaluate(finished, "--weights", supernet, "--arch", ARCH)
    found = evaluate(finished, "--weights", output)
    assert found["top1"] == pytest.approx(expected["top1"], abs=2 / expected["images"])
    message = finished.here("export-arch", "--weights", supernet, "--format", form, code=2).stderr
    assert "name the path to export with --arch" in message


def test_prepared_images_as_input(finished: Spos, raw: Path) -> None:
    """The file says so, and `evaluate` prepares images for it."""
    assert onnx_file.read_description(raw).input == "float"
    assert evaluate(finished, "--weights", raw)["top1"] == evaluate(finished, "--weights", find_model(finished))["top1"]


def test_predictions_of_an_exported_network(finished: Spos, onnx: Path, tmp_path: Path) -> None:
    from PIL import Image

    photo = tmp_path / "photo.png"
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(photo)
    ours, theirs = (
        json.loads(finished.here("predict", photo, "--weights", file, "--json").stdout)["top"]
        for file in (find_model(finished), onnx)
    )
    assert [one["class"] for one in ours] == [one["class"] for one in theirs]


def test_a_file_that_computes_something_else_is_not_kept(
    finished: Spos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One weight is changed on its way into the file."""
    write = safetensors_file.write

    def spoil(network: InferenceNetwork, *others: Any) -> None:
        with torch.no_grad():
            next(network.parameters()).mul_(1.1)
        write(network, *others)

    form = FORMATS["safetensors"]
    monkeypatch.setitem(FORMATS, "safetensors", replace(form, write=spoil))
    output = tmp_path / "network.safetensors"
    options = ("--weights", find_model(finished), "--format", "safetensors", "--output", output)
    message = finished.here("export-arch", *options, code=2).stderr
    assert "was not written: its logits differ" in message
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_run_is_not_kept(finished: Spos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a PyTorch whose exporter fixes the batch size."""

    def refuse(images: Tensor) -> Tensor:
        raise ValueError(f"expected 2 images, got {len(images)}\nand more")

    monkeypatch.setitem(RUNTIMES, ".pt2", lambda path: refuse)
    options = ("--weights", find_model(finished), "--format", "pt2", "--output", tmp_path / "network.pt2")
    message = finished.here("export-arch", *options, code=2).stderr
    assert "was not written: it cannot be run on 64 x 3 x 8 x 8 uint8: expected 2 images, got 64;" in message
    assert not list(tmp_path.iterdir())


def test_without_validation_images_random_ones_are_compared(finished: Spos, tmp_path: Path) -> None:
    output = tmp_path / "network.pt2"
    options = ("--weights", find_model(finished), "--format", "pt2", "--output", output)
    data = ("--set", "data.source=folder", "--set", f"data.root={tmp_path / 'nothing'}")
    shown = finished.here("export-arch", *options, *data).stdout
    assert "comparing on random images" in shown
    assert output.exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--raw-input",), "--raw-input is for --format onnx"),
        (("--format", "spos", "--raw-input"), "--raw-input is for --format onnx"),
        (("--format", "onnx", "--output", "network.pt2"), "needs a name that ends in .onnx"),
        (("--format", "onnx", "--arch", ARCH), "do not pass --arch"),
        (("--format", "onnx", "--top", "3"), "--top"),
        (("--format", "python", "--output", "my-net.py"), "which Python cannot import; use letters"),
        (("--format", "onnx", "--set", "data.preset=spos"), "trained with data.preset: standard, not spos"),
        (("--format", "tflite"), "'tflite' is not one of"),
    ],
)
def test_mistakes(finished: Spos, options: tuple[str, ...], expected: str) -> None:
    message = finished.here("export-arch", "--weights", find_model(finished), *options, code=2).stderr
    assert expected in " ".join(message.split())
    assert not list(finished.run.glob("exported/*"))


@pytest.mark.parametrize(
    ("form", "package", "extra"),
    [
        ("onnx", "onnxscript", "spos[onnx]"),
        ("safetensors", "safetensors", "spos[safetensors]"),
        ("executorch", "executorch", "executorch"),
        ("litert", "litert_torch", "litert-torch"),
    ],
)
def test_missing_packages_are_named(
    finished: Spos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    output = tmp_path / f"network.{ {'executorch': 'pte', 'litert': 'tflite'}.get(form, form) }"
    options = ("--weights", find_model(finished), "--format", form, "--output", output)
    message = finished.here("export-arch", *options, code=2).stderr
    assert f"pip install '{extra}'" in message
    assert not list(tmp_path.iterdir())


def test_commands_that_go_on_with_weights_refuse_exported_files(finished: Spos, onnx: Path) -> None:
    for command, expected in (
        (("search", "--weights"), "is a network, not a supernet"),
        (("retrain", ARCH, "--fresh", "--init"), "was exported, and is not a beginning for a training"),
        (("export-arch", "--weights"), "was exported, for spos evaluate"),
    ):
        message = finished.here(*command, onnx, "--run-dir", "other", code=2).stderr
        assert f"{onnx} {expected}" in message
        assert not (finished.folder / "other" / "search" / "journal.jsonl").exists()


def test_other_settings_than_those_of_the_file_are_refused(finished: Spos, raw: Path, tmp_path: Path) -> None:
    """Such as another preparation of images, which would give meaningless numbers, or another size."""
    model, other = find_model(finished), tmp_path / "network.safetensors"
    options = ("--weights", model, "--format", "safetensors", "--raw-input", "--output", other)
    finished.here("export-arch", *options)
    for output in (raw, other):
        for setting, expected in (
            ("data.preset=spos", "trained with data.preset: standard, not spos"),
            ("data.mean=[0.5, 0.5, 0.5]", "trained with data.mean: null, not [0.5, 0.5, 0.5]"),
            ("data.exif=ignore", "trained with data.exif: apply, not ignore"),
            ("space.image_size=16", "is for images of 8 x 8 pixels, not of 16 x 16; export its network again"),
        ):
            message = finished.here("evaluate", "--weights", output, "--set", setting, code=2).stderr
            assert expected in message
    for weights in ((model,), (finished.run / "supernet" / "last.pt", "--arch", ARCH)):
        message = finished.here("evaluate", "--weights", *weights, "--set", "data.preset=spos", code=2).stderr
        assert "trained with data.preset: standard, not spos" in message


def test_a_description_of_another_network_is_refused(finished: Spos, onnx: Path, tmp_path: Path) -> None:
    """An architecture that the space does not have, and a graph that takes other images than it says."""
    output = Path(shutil.copy(onnx, tmp_path))
    description, model = onnx_file.read_description(output), onnx_file.read_model(output)
    for change, expected in (
        ({"architecture": Architecture((0, 1))}, "layers"),
        ({"architecture": Architecture((0, 1, 2, 9))}, "9"),
        ({"input": "float"}, "cannot be run on"),
    ):
        onnx_file.write_model(model, replace(description, **change), output)  # type: ignore[arg-type]
        message = finished.here("evaluate", "--weights", output, code=2).stderr
        assert expected in message


def test_the_python_file_can_be_imported_and_leaves_no_cache(
    finished: Spos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its default name is one that Python can import, although an id may begin with a digit."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    command = ("export-arch", "--weights", find_model(finished), "--format", "python", "--run-dir", tmp_path, "--json")
    files = [Path(file) for file in json.loads(finished.here(*command).stdout)["files"]]
    assert sorted(files) == sorted((tmp_path / "exported").iterdir())
    assert files[0].stem.isidentifier()
    for name in ("other", "third"):
        finished.here(*command, "--output", tmp_path / "exported" / f"{name}.py")
    assert len(list((tmp_path / "exported").iterdir())) == 6


def test_an_output_without_weights_is_a_mistake(finished: Spos) -> None:
    assert "--output is for --weights" in finished.here("export-arch", "--output", "arch.yaml", code=2).stderr


@pytest.mark.parametrize("option", [("--flops-limit", "40K"), ("--format", "pkl")])
def test_options_of_the_table_do_not_go_with_other_questions(finished: Spos, option: tuple[str, str]) -> None:
    message = finished.here("flops-table", "--latency-template", "template.csv", *option, code=2).stderr
    assert "is for the table of FLOPs; do not pass it with --latency-template" in message
    assert not (finished.folder / "template.csv").exists()
