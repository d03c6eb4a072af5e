"""Pictures as a phone leaves them: the page about them leads to an exported network, and says what was left out."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from spos_cli.official import self_test
from tests.conftest import Spos

PAGE = (Path(__file__).parents[2] / "configs" / "README.md").read_text(encoding="utf-8")
SECTION = PAGE.split("## Your own pictures, step by step\n")[1].split("\n## ")[0]
COMMANDS = re.findall(r"^```sh\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE)[0].splitlines()
COUNTS = {"cats": 24, "dogs": 12}
EXIF_ORIENTATION, TURNED = 0x0112, 6
# Fewer steps than in the recipe, on smaller pictures.
QUICK = (
    "threads=1",
    "space.image_size=32",
    "data.workers=0",
    "supernet.steps=8",
    "supernet.batch_size=8",
    "search.population=4",
    "search.generations=1",
    "search.parents=2",
    "search.mutations=1",
    "search.crossovers=1",
    "search.calibration_images=16",
    "search.calibration_batch_size=8",
    "retrain.steps=8",
    "retrain.warmup_steps=2",
    "retrain.batch_size=8",
)


@pytest.fixture
def photos(spos: Spos, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make pictures of two uneven classes in `photos`, with everything among them that a phone and a computer leave."""
    monkeypatch.setattr(self_test, "run_self_test", lambda device: {"all": 0.0})
    (spos.folder / "spos.yaml").unlink()
    folder, rng = spos.folder / "photos", np.random.default_rng(0)
    for (name, count), photograph in zip(COUNTS.items(), (data.chelsea(), data.coffee()), strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            top, left = rng.integers(0, 150, 2)
            exif = Image.Exif()
            if number % 3 == 0:
                exif[EXIF_ORIENTATION] = TURNED
            ending = "jfif" if number % 5 == 0 else "JPG"
            crop = Image.fromarray(photograph[top : top + 120, left : left + 160])
            crop.save(folder / name / f"IMG_{number:04}.{ending}", "JPEG", exif=exif)
    for name in ("cats/IMG_0100.heic", "dogs/IMG_0101.HEIC", "dogs/IMG_0102.mov", "cats/Thumbs.db", ".DS_Store"):
        (folder / name).write_bytes(b"no image")
    return folder


def run_page(spos: Spos) -> dict[str, str]:
    """Run the commands of the page, with fewer steps; return what each has printed.

    The keys are the commands without `spos`; `settings` for the one that writes `spos.yaml`.
    """
    printed = {}
    for line in COMMANDS:
        words, _, file = line.partition(" > ")
        arguments = shlex.split(words)[1:]
        quick = [part for setting in QUICK for part in ("--set", setting)] if "--config" in arguments else []
        done = spos.here(*arguments, *quick)
        if file:
            (spos.folder / file).write_text(done.stdout)
        printed["settings" if file else " ".join(arguments)] = done.stdout + done.stderr
    return printed


@pytest.mark.slow
def test_the_page_leads_to_an_exported_network(spos: Spos, photos: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    torn = photos / "cats" / "IMG_0010.jfif"
    torn.write_bytes(torn.read_bytes()[:1500])
    shutil.copy(photos / "dogs" / "IMG_0001.JPG", photos / "dogs" / "IMG_0001 (1).JPG")
    printed = run_page(spos)
    passed_over = "photos: 3 files are passed over: 2 .heic, 1 .mov; convert .heic to .jpg"
    for name in ("supernet-train", "search", "retrain"):
        assert printed[name].count(passed_over) == 1, printed[name]
    assert "photos/dogs: 2 files are passed over: 1 .heic, 1 .mov" in printed["predict photos/dogs"]
    assert "images of the training part of photos" in printed["supernet-train"]
    assert f"cannot read the image {torn.relative_to(spos.folder)}" in printed["supernet-train"]
    doctor = " ".join(next(iter(printed.values())).split())
    for phrase in ("2 .heic, 1 .mov", "IMG_0010.jfif", "by EXIF", "1 copy among", "from 10 (class dogs)"):
        assert phrase in doctor, doctor
    assert "balanced accuracy" in printed["evaluate --details"]
    assert "images │ 8 of the validation part of photos" in " ".join(printed["evaluate --details"].split())
    (network,) = (spos.folder / "runs" / "own").glob("**/*.onnx")
    assert network.stat().st_size > 100_000
    assert (spos.folder / "runs" / "own" / "search" / "report.html").is_file()
