"""Where a teacher comes from: its file or the user's own code, how its images are prepared, and what is refused."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from spos_cli.config import loading
from spos_cli.config.identity import shared_settings, training_identity
from spos_cli.config.schema import Config
from spos_cli.data.transforms import Normalisation, preprocess
from spos_cli.engine import checkpoint
from spos_cli.engine.distributed import Processes
from spos_cli.engine.teacher import Teacher
from spos_cli.errors import CheckpointError, ConfigError, RunError, SposError
from spos_cli.files.digests import file_digest
from spos_cli.models.network import Network
from spos_cli.models.skeleton import build_initialized
from spos_cli.models.supernet import Supernet
from spos_cli.run.teacher import read_teacher
from spos_cli.run.weights_file import make_network_content, make_supernet_content
from spos_cli.space.architecture import Architecture
from tests.conftest import TINY

ONE_PROCESS = Processes(0, 1, torch.device("cpu"))
ARCH = Architecture((0, 1, 2, 3))
DIGITS = tuple("0123456789")
OWN = """
import torch

class Net(torch.nn.Module):
    def __init__(self, classes=10, scale=1.0):
        super().__init__()
        self.head = torch.nn.Linear(3, classes)
        torch.nn.init.constant_(self.head.weight, scale)

    def forward(self, images):
        return self.head(images.mean((2, 3)))

def make():
    return Net()

def make_with_nine():
    return Net(9)

def make_endless():
    return Net(scale=float("inf"))

def make_text():
    return "net"

def fail():
    raise SystemExit("no network\\nhere")
"""


@dataclass
class Set:
    classes: tuple[str, ...] = DIGITS


@dataclass
class FakeImages:
    """What a teacher needs of the images of a run."""

    train: Set = field(default_factory=Set)


def configure(*overrides: str) -> Config:
    return loading.validate(yaml.safe_load(TINY), overrides)


def name(weights: object, *overrides: str) -> Config:
    changes = (f"retrain.teacher.{override}" for override in overrides)
    return configure(f"retrain.teacher.weights={weights}", *changes)


def read(config: Config, classes: tuple[str, ...] = DIGITS) -> Teacher:
    teacher = read_teacher(config, FakeImages(Set(classes)), ONE_PROCESS)  # type: ignore[arg-type]
    assert teacher is not None
    return teacher


def save_network(path: Path, config: Config, classes: tuple[str, ...] = DIGITS) -> Network:
    """Write a `model.pt` with BatchNorm statistics of its own, and return its network."""
    network = build_initialized(lambda: Network(config.space.build(), ARCH, dropout=0.3), 5)
    size = config.space.image_size
    with torch.no_grad():
        network.classifier[0].weight.mul_(100)
        for _ in range(20):
            network.train()(preprocess(config.data.preset, make_pixels(16, size)))
    checkpoint.save(path, make_network_content(config, ARCH, network.state_dict(), classes, {}))
    return network.eval()


def make_pixels(count: int = 32, size: int = 8) -> Tensor:
    """Return noise of different colours."""
    colours = torch.linspace(0, 1, 3 * count).view(3, count).T.reshape(count, 3, 1, 1)
    noise = torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(0))
    return (noise * colours).to(torch.uint8)


def prepare(teacher: Teacher, config: Config, pixels: Tensor) -> Tensor:
    if teacher.preprocess is not None:
        return teacher.preprocess(pixels, None)
    return preprocess(config.data.preset, pixels)


@pytest.mark.parametrize("preset", ["spos", "standard"])
@pytest.mark.parametrize("size", [8, 6, 16])
def test_a_network_gets_its_own_preset_and_image_size(tmp_path: Path, preset: Any, size: int) -> None:
    """Compared with resizing and preparing for it directly."""
    network = save_network(tmp_path / "model.pt", configure(f"data.preset={preset}", f"space.image_size={size}"))
    config, pixels = name(tmp_path / "model.pt"), make_pixels()
    teacher = read(config)
    resized = pixels.float()
    if size != 8:
        resized = F.interpolate(resized, (size, size), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = network(resized.flip(1) if preset == "spos" else (resized / 255 - mean) / std).detach()
    logits = teacher.classify(prepare(teacher, config, pixels), "off")
    torch.testing.assert_close(logits, expected, rtol=2e-5, atol=2e-5)
    assert logits.std(0).max() > 0.002, "the network tells images apart"
    other = network(resized if preset == "spos" else (resized.flip(1) / 255 - mean) / std).detach()
    assert (other - expected).abs().max() > 0.002, "and channels"
    assert teacher.identity == {"digest": file_digest(tmp_path / "model.pt")}


def test_another_image_size_may_be_named_but_not_another_preset(tmp_path: Path) -> None:
    save_network(tmp_path / "model.pt", configure("space.image_size=16"))
    assert read(name(tmp_path / "model.pt")).image_size == 16
    assert read(name(tmp_path / "model.pt", "image_size=12")).image_size == 12
    with pytest.raises(ConfigError, match="was trained with preset standard, not spos"):
        read(name(tmp_path / "model.pt", "preset=spos"))


def test_a_network_gets_its_own_mean_and_deviation(tmp_path: Path) -> None:
    own = ("data.mean=[0.1, 0.2, 0.3]", "data.std=[0.4, 0.5, 0.6]")
    save_network(tmp_path / "model.pt", configure("data.preset=standard", *own))
    config, pixels = configure("data.preset=standard"), make_pixels()
    teacher = read(name(tmp_path / "model.pt"))
    assert teacher.preprocess is not None
    assert torch.equal(
        teacher.preprocess(pixels, None),
        preprocess("standard", pixels, normalisation=Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))),
    )
    save_network(tmp_path / "model.pt", config)
    assert read(name(tmp_path / "model.pt")).preprocess is None, "it is prepared as for the network"


def test_an_official_network_is_of_the_space_of_the_run(tmp_path: Path) -> None:
    config = configure("data.preset=spos")
    network = save_network(tmp_path / "model.pt", config)
    official = tmp_path / "model.pth.tar"
    torch.save({"state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}}, official)
    config = name(official, "preset=spos")
    teacher, pixels = read(config), make_pixels()
    torch.testing.assert_close(
        teacher.classify(prepare(teacher, config, pixels), "off"), network(preprocess("spos", pixels))
    )


def export(path: Path, module: nn.Module, count: int = 2, *, dynamic: bool = True) -> None:
    sizes = {"images": {0: torch.export.Dim("count")}} if dynamic else None
    program = torch.export.export(module, (torch.zeros(count, 3, 12, 12),), dynamic_shapes=sizes)
    torch.export.save(program, path)


class Small(nn.Module):
    """A network with BatchNorm, to export."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(6, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.main(images))
        return logits


def test_an_exported_program_is_read(tmp_path: Path) -> None:
    module, path = Small().eval(), tmp_path / "teacher.pt2"
    export(path, module)
    config = name(path, "preset=spos", "image_size=12")
    teacher, pixels = read(config), make_pixels()
    resized = F.interpolate(pixels.float(), (12, 12), mode="bilinear", antialias=True).flip(1)
    logits = teacher.classify(prepare(teacher, config, pixels), "off")
    torch.testing.assert_close(logits, module(resized).detach(), rtol=1e-4, atol=1e-4)
    assert read(name(path, "image_size=12")).preprocess is None, "as for the network that is trained"


def test_exported_programs_that_cannot_teach(tmp_path: Path) -> None:
    path = tmp_path / "teacher.pt2"
    export(path, Small().eval(), 2, dynamic=False)
    with pytest.raises(ConfigError, match="cannot classify 32 images of 12 pixels"):
        read(name(path, "image_size=12"))
    export(path, Small().train())
    with pytest.raises(ConfigError, match=r"changes its own tensors .* call eval\(\) on the module"):
        read(name(path, "image_size=12"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"is not a file of torch\.export\.save, or is torn"):
        read(name(path))
    with pytest.raises(CheckpointError, match="there is no file"):
        read(name(tmp_path / "missing.pt2"))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with a module of the user's own in it."""
    (tmp_path / "own_teachers.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "own_teachers", raising=False)


@pytest.mark.usefixtures("own")
def test_the_users_own_module_is_imported_from_the_working_folder() -> None:
    torch.manual_seed(1)
    config = name("own_teachers:make", "preset=spos")
    teacher, pixels = read(config), make_pixels()
    assert not teacher.module.training
    assert not any(parameter.requires_grad for parameter in teacher.module.parameters())
    expected = preprocess("spos", pixels).mean((1, 2, 3)) * 3 + teacher.module.head.bias[3]  # type: ignore[index,operator,union-attr]
    torch.testing.assert_close(teacher.classify(prepare(teacher, config, pixels), "off")[:, 3], expected)
    assert teacher.identity["import"] == "own_teachers:make"
    other = read(config)
    assert other.identity["digest"] != teacher.identity["digest"], "it has other random weights"


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere_at_all:make", "cannot build nowhere_at_all:make: No module named 'nowhere_at_all'"),
        ("own_teachers:missing", "has no attribute 'missing'"),
        ("own_teachers:fail", "cannot build own_teachers:fail: no network here"),
        ("own_teachers:make_text", "returned a str, not a torch.nn.Module"),
        ("own_teachers:make_with_nine", r"\(32, 9\) of 32 images of 8 pixels instead of \(32, 10\)"),
        ("own_teachers:make_endless", "logits that are not finite, with amp: off"),
    ],
)
def test_modules_that_cannot_teach(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(name(path))


def test_files_that_cannot_teach(tmp_path: Path) -> None:
    config, path = configure(), tmp_path / "model.pt"
    with pytest.raises(CheckpointError, match="there is no weights file"):
        read(name(path))
    save_network(path, config)
    with pytest.raises(ConfigError, match=r"is of the classes 0, 1, 2, \.\.\. \(10\), but these images have a, 1, 2"):
        read(name(path), ("a", *DIGITS[1:]))
    save_network(path, configure("space.classes=9"), DIGITS[:9])
    with pytest.raises(ConfigError, match=r"\(9\), but these images have 0, 1, 2, \.\.\. \(10\)"):
        read(name(path))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SposError, match=r"model\.pt is"):
        read(name(path))
    supernet = build_initialized(lambda: Supernet(config.space.build(), affine=False, dropout=0.0), 0)
    checkpoint.save(path, make_supernet_content(config, supernet.state_dict()))
    with pytest.raises(CheckpointError, match=r"is a supernet, not a network; name a model\.pt"):
        read(name(path))


def test_processes_must_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On what is in the file, not on its name."""
    save_network(tmp_path / "model.pt", configure())
    texts: list[str] = []
    monkeypatch.setattr(Processes, "agree", lambda self, text: texts.append(text) or len(texts) < 3)
    read(name(tmp_path / "model.pt"))
    (tmp_path / "model.pt").rename(tmp_path / "moved.pt")
    read(name(tmp_path / "moved.pt"))
    assert texts[0] == texts[1]
    save_network(tmp_path / "moved.pt", configure("seed=5"))
    with pytest.raises(RunError, match=r"not all processes see the same .*moved\.pt"):
        read(name(tmp_path / "moved.pt"))
    assert texts[2] != texts[0]


def test_a_file_cannot_ask_for_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by its blocks nor by its own teacher; blocks that the user's settings name, too, are imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap.py").write_text("raise RuntimeError('it was imported')")
    save_network(tmp_path / "model.pt", configure())
    content = checkpoint.load(tmp_path / "model.pt")
    content["config"]["retrain"]["teacher"] = name("trap:make").dump()["retrain"]["teacher"]
    checkpoint.save(tmp_path / "model.pt", content)
    assert read(name("model.pt")).identity
    content["config"]["space"]["choices"].append("trap:Block")
    checkpoint.save(tmp_path / "model.pt", content)
    with pytest.raises(ConfigError, match="name blocks to import: trap:Block"):
        read(name("model.pt"))
    assert "trap" not in sys.modules


def test_settings_of_a_training_do_not_depend_on_the_teachers_file_name() -> None:
    one, other, warmer = name("a.pt"), name("b.pt"), name("a.pt", "temperature=2")
    assert training_identity(one, "retrain") == training_identity(other, "retrain")
    assert shared_settings(one) == shared_settings(other)
    for different in (warmer, configure()):
        assert training_identity(one, "retrain") != training_identity(different, "retrain")
        assert shared_settings(one) != shared_settings(different)
    assert one.retrain.teacher is not None
    assert one.dump()["retrain"]["teacher"]["weights"] == "a.pt"
