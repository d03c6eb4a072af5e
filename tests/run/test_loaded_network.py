"""`spos_cli.load`: a weights file as a torch module, with its own preparation of images."""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.resources
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import spos_cli
from spos_cli.config import loading
from spos_cli.data.image_files import decode
from spos_cli.data.transforms import EvalTransform, preprocess
from spos_cli.engine import checkpoint
from spos_cli.errors import CheckpointError, ConfigError, DataError
from spos_cli.models.network import Network
from spos_cli.models.skeleton import build_initialized
from spos_cli.official.weights import to_official
from spos_cli.run.weights_file import make_network_content, make_supernet_content
from spos_cli.space.architecture import parse
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
ARCH = parse("0,1,2,3")
NAMES = tuple("abcdefghij")


def make_content(folder: Path, *overrides: str) -> dict[str, Any]:
    """Return the content of a `model.pt` with random weights, and leave its settings in `spos.yaml`."""
    (folder / "spos.yaml").write_text(TINY)
    config = loading.load(folder / "spos.yaml", overrides)
    network = build_initialized(lambda: Network(config.space.build(), ARCH), 3)
    return make_network_content(config, ARCH, network.state_dict(), NAMES, {})


@pytest.fixture
def model_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `model.pt` in the working folder."""
    monkeypatch.chdir(tmp_path)
    checkpoint.save(tmp_path / "model.pt", make_content(tmp_path))
    return tmp_path / "model.pt"


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (12, 15, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_logits_are_those_of_the_network(model_file: Path, image_file: Path) -> None:
    """Against the plain network, and the preparation of the settings in the file, step by step."""
    model = spos_cli.load(model_file)
    assert isinstance(model, torch.nn.Module)
    assert not any(module.training for module in model.modules())
    assert (model.classes, model.architecture) == (NAMES, ARCH)

    content = checkpoint.load(model_file)
    config = loading.load(model_file.with_name("spos.yaml"))
    plain = Network(config.space.build(), ARCH).eval()
    plain.load_state_dict(content["model"])
    cropped = EvalTransform("standard", 8, stored=True)(decode(image_file))[None]
    expected = plain(preprocess("standard", cropped))
    images = model.preprocess(image_file)
    assert (images.shape, images.dtype) == ((1, 3, 8, 8), torch.float32)
    torch.testing.assert_close(model(images), expected)
    assert list(model.state_dict()) == list(content["model"]), "the names of the tensors are the official ones"


def test_the_preset_is_that_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_file: Path) -> None:
    """BGR from 0 to 255, whatever settings are in the working folder."""
    checkpoint.save(tmp_path / "bgr.pt", make_content(tmp_path, "data.preset=spos"))
    monkeypatch.chdir(tmp_path)
    images = spos_cli.load(str(tmp_path / "bgr.pt")).preprocess(image_file)
    cropped = EvalTransform("spos", 8, stored=True)(decode(image_file))
    assert torch.equal(images[0], cropped.flip(0).float())


def test_a_path_a_pil_image_and_an_array_are_the_same(model_file: Path, image_file: Path) -> None:
    model = spos_cli.load(model_file)
    expected = model.preprocess(str(image_file))
    pixels = decode(image_file)
    with Image.open(image_file) as image:
        assert torch.equal(model.preprocess(image), expected)
    assert torch.equal(model.preprocess(pixels), expected)
    pixels.flags.writeable = False
    assert torch.equal(model.preprocess(np.asfortranarray(pixels)), expected)
    grey = Image.fromarray(pixels).convert("L")
    assert torch.equal(model.preprocess(grey), model.preprocess(np.repeat(np.array(grey)[..., None], 3, 2)))
    rgba = np.dstack([pixels, np.zeros(pixels.shape[:2], np.uint8)])
    assert torch.equal(model.preprocess(Image.fromarray(rgba)), expected), "transparency is dropped"


@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_images_are_turned_as_in_the_training(tmp_path: Path, image_file: Path, exif: str) -> None:
    checkpoint.save(tmp_path / "model.pt", make_content(tmp_path, f"data.exif={exif}"))
    model, metadata = spos_cli.load(str(tmp_path / "model.pt")), Image.Exif()
    metadata[0x0112] = 6
    with Image.open(image_file) as image:
        image.save(tmp_path / "rotated.png", exif=metadata)
        pixels = np.array(image.convert("RGB"))
    expected = model.preprocess(np.rot90(pixels, -1) if exif == "apply" else pixels)
    assert torch.equal(model.preprocess(tmp_path / "rotated.png"), expected)
    with Image.open(tmp_path / "rotated.png") as image:
        assert torch.equal(model.preprocess(image), expected)


def test_the_given_array_stays_as_it_is(model_file: Path) -> None:
    pixels = np.full((8, 8, 3), 7, np.uint8)  # of the network's size: it is not copied
    spos_cli.load(model_file).preprocess(pixels)
    assert (pixels == 7).all()


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((8, 8, 3)), r"got \(8, 8, 3\) float64"),
        (np.zeros((8, 8), np.uint8), r"got \(8, 8\) uint8"),
        (np.zeros((8, 8, 4), np.uint8), r"got \(8, 8, 4\) uint8"),
        (np.zeros((0, 8, 3), np.uint8), "8 x 0 pixels"),
        (np.zeros((1, 101, 3), np.uint8), "101 x 1 pixels"),
        (Image.new("I;16", (8, 8)), "mode I;16"),
        (Image.new("F", (8, 8)), "mode F"),
        (None, "got NoneType"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "got Tensor"),
        ("nowhere.png", "cannot read the image nowhere.png"),
    ],
    ids=["float64", "gray", "rgba", "empty", "wide", "16-bit", "float-image", "nothing", "tensor", "missing"],
)
def test_other_kinds_of_images_are_refused(model_file: Path, image: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        spos_cli.load(model_file).preprocess(image)


def test_it_is_a_module_as_any_other(model_file: Path, image_file: Path) -> None:
    """Gradients reach the image, copies are equal, and images follow the precision of the weights."""
    model = spos_cli.load(model_file)
    images = model.preprocess(image_file).requires_grad_()
    logits = model(images)
    logits[0, 3].backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    double = copy.deepcopy(model).double()
    assert double.preprocess(image_file).dtype == torch.float64
    torch.testing.assert_close(double(double.preprocess(image_file)).float(), logits)
    batch = torch.cat([model.preprocess(image_file), model.preprocess(decode(image_file)[:, ::-1])])
    torch.testing.assert_close(model(batch)[:1], logits)


def test_official_weights_need_settings(model_file: Path, image_file: Path) -> None:
    """Without a name, these are `./spos.yaml`, as for the commands."""
    expected = spos_cli.load(model_file)
    official = model_file.with_name("official.pth.tar")
    torch.save(to_official(expected.state_dict()), official)
    for model in (spos_cli.load(official), spos_cli.load(official, config="spos.yaml")):
        assert (model.classes, model.architecture) == ((), ARCH)
        assert torch.equal(model(model.preprocess(image_file)), expected(expected.preprocess(image_file)))
    with pytest.raises(CheckpointError):
        spos_cli.load(official, config="imagenet")


def test_what_is_not_a_network_is_one_error(model_file: Path) -> None:
    content = checkpoint.load(model_file)
    config = loading.load(model_file.with_name("spos.yaml"))
    supernet = model_file.with_name("supernet.pt")
    checkpoint.save(supernet, make_supernet_content(config, content["model"]))
    with pytest.raises(CheckpointError, match=r"is a supernet.*spos export-arch"):
        spos_cli.load(supernet)
    with pytest.raises(CheckpointError, match="there is no weights file"):
        spos_cli.load("nowhere.pt")
    checkpoint.save(model_file, {**content, "classes": ["a"]})
    with pytest.raises(CheckpointError, match="names 1 class,"):
        spos_cli.load(model_file)


def test_code_that_a_file_names_is_not_imported(model_file: Path) -> None:
    """A block of the user's own is imported only if the user's own settings name it, too."""
    content = checkpoint.load(model_file)
    content["config"]["space"]["choices"][0] = "evil:Block"
    checkpoint.save(model_file, content)
    model_file.with_name("evil.py").write_text("raise AssertionError('imported')\n")
    with pytest.raises(ConfigError, match="name blocks to import: evil:Block"):
        spos_cli.load(model_file)


def test_importing_the_package_is_quick() -> None:
    code = "import sys, spos_cli; spos_cli.load; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_has_types_for_others() -> None:
    """The marker is in what is installed, and nothing in pyproject.toml or .gitignore leaves it out of a wheel."""
    assert importlib.resources.files("spos_cli").joinpath("py.typed").read_text() == ""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wheel = project.split("[tool.hatch.build.targets.wheel]\n")[1].split("\n[")[0]
    assert 'packages = ["spos_cli"]' in wheel
    patterns = re.findall(r'"([^"]+)"', wheel.split("exclude = [")[1].split("]")[0])
    patterns += (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert [pattern for pattern in patterns if Path("spos_cli/py.typed").match(pattern.rstrip("/"))] == []
    assert importlib.metadata.version("spos") == spos_cli.__version__
