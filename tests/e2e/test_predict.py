"""`spos predict`: the predictions of `evaluate`, for any images, in any form."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from spos_cli.config import loading
from spos_cli.engine import checkpoint
from spos_cli.models.network import Network
from spos_cli.models.skeleton import build_initialized
from spos_cli.official.weights import to_official
from spos_cli.run.weights_file import make_network_content
from spos_cli.space.architecture import parse
from tests.conftest import PROGRAM, TINY, Mistake, Spos, environment

CLASSES = ("cat", "dog", "fox")
ARCH = "0,1,2,3"
DTYPE = ("--set", "data.value_range=dtype")


def make_image(seed: int, mode: str = "RGB") -> Image.Image:
    """Return 11 x 9 pixels of noise, brighter for a larger seed."""
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 2**16, (9, 11)).astype(np.uint16))
    noise = rng.integers(0, 100 + 20 * (seed % 8), (9, 11, 3)).astype(np.uint8)
    return Image.fromarray(noise).convert(mode)


@pytest.fixture
def spos(tmp_path: Path) -> Spos:
    """A working folder with `D/train`, `D/val` and a `model.pt` that tells images apart."""
    spos = Spos(tmp_path)
    settings = yaml.safe_load(TINY)
    settings["space"]["classes"] = 3
    settings["data"] |= {"source": "folder", "root": "D", "holdout_per_class": 2, "preset": "spos"}
    settings["supernet"] |= {"steps": 4, "batch_size": 6, "log_every": 2, "checkpoint_every": 2}
    settings["search"] |= {"calibration_images": 12, "calibration_batch_size": 6, "batch_size": 6}
    (spos.folder / "spos.yaml").write_text(yaml.safe_dump(settings))
    for split, count in (("train", 6), ("val", 3)):
        for label, name in enumerate(CLASSES):
            folder = spos.folder / "D" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                make_image(10 * label + index).save(folder / f"{index}.png")
    checkpoint.save(spos.folder / "model.pt", make_content(spos))
    return spos


def make_content(spos: Spos, classes: tuple[str, ...] = CLASSES) -> dict[str, Any]:
    """Return the content of a `model.pt` with random weights, whose logits differ from image to image."""
    config, arch = loading.load(spos.folder / "spos.yaml"), parse(ARCH)
    network = build_initialized(lambda: Network(config.space.build(), arch), 3)
    state = network.state_dict()
    state["classifier.0.weight"] *= 300
    return make_network_content(config, arch, state, classes, {})


def predict(spos: Spos, *arguments: object, code: int = 0) -> list[dict[str, Any]]:
    """Return the lines of `spos predict --json`, in this process."""
    done = spos.here("predict", "--json", "--weights", "model.pt", *arguments, code=code)
    return [json.loads(line) for line in done.stdout.splitlines()]


def require_equal(lines: list[dict[str, Any]], saved: Any, classes: tuple[str, ...] = CLASSES) -> None:
    """Compare predictions of `D/val` with the logits that `evaluate --save-logits` has written."""
    assert [line["path"] for line in lines] == [f"D/val/{path}" for path in saved["paths"].tolist()]
    logits = saved["logits"].astype(np.float64)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    order = np.argsort(-shares, 1)
    assert len({tuple(row) for row in order.tolist()}) > 1, "the images matter"
    for line, row, share in zip(lines, order.tolist(), shares, strict=True):
        assert [one["index"] for one in line["top"]] == row
        assert [one["class"] for one in line["top"]] == [classes[index] for index in row]
        assert [one["probability"] for one in line["top"]] == pytest.approx(share[row].tolist(), abs=1e-5)


def test_predictions_are_those_of_evaluate(spos: Spos) -> None:
    """Colour, grey, palette, transparent, CMYK and 16-bit images, with worker processes and without."""
    val = spos.folder / "D" / "val"
    for seed, (name, mode) in enumerate(
        [("a.jpg", "CMYK"), ("b.jpg", "L"), ("c.png", "P"), ("d.png", "RGBA"), ("e.gif", "P"), ("f.tiff", "I;16")]
    ):
        make_image(seed, mode).save(val / CLASSES[seed % 3] / name)
    make_image(50, "I;16").save(val / "dog" / "deep.png")
    spos.here("evaluate", "--weights", "model.pt", "--save-logits", "logits.npz", *DTYPE)
    saved = np.load(spos.folder / "logits.npz")
    assert len(saved["logits"]) == 16
    command = ("predict", "D/val", "--weights", "model.pt", "--json", *DTYPE)
    done = spos.here(*command, "--set", "data.workers=2", "--set", "search.batch_size=3")
    require_equal([json.loads(line) for line in done.stdout.splitlines()], saved)
    require_equal(predict(spos, "D/val", *DTYPE), saved)
    # Without that setting, both refuse 16 bits.
    for refused in (("evaluate",), ("predict", "D/val")):
        message = spos.here(*refused, "--weights", "model.pt", code=2).stderr
        assert "data.value_range" in message


def test_a_path_of_a_supernet_is_calibrated_as_in_evaluate(spos: Spos, mistake: Mistake) -> None:
    spos.here("supernet-train")
    weights = ("--weights", "runs/tiny/supernet/last.pt")
    spos.here("evaluate", *weights, "--arch", ARCH, "--save-logits", "logits.npz")
    done = spos.here("predict", "D/val", *weights, "--arch", ARCH, "--json", "--output", "top.jsonl")
    assert json.loads(done.stdout) == {"file": "top.jsonl", "images": 9, "unreadable": 0}
    lines = [json.loads(line) for line in (spos.folder / "top.jsonl").read_text().splitlines()]
    saved = np.load(spos.folder / "logits.npz")
    assert [line["path"] for line in lines] == [f"D/val/{path}" for path in saved["paths"].tolist()]
    for line, logits in zip(lines, saved["logits"], strict=True):
        assert [one["class"] for one in line["top"]] == [CLASSES[one["index"]] for one in line["top"]]
        assert line["top"][0]["index"] == int(logits.argmax())
    assert "with --arch" in mistake("predict", "D/val", *weights)


def test_official_weights_have_indices_as_classes(spos: Spos) -> None:
    torch.save(to_official(make_content(spos)["model"]), spos.folder / "official.pth.tar")
    command = ("predict", "D/val", "--weights", "official.pth.tar", "--json")
    official = [json.loads(line) for line in spos.here(*command).stdout.splitlines()]
    ours = predict(spos, "D/val")
    assert [[one["index"] for one in line["top"]] for line in official] == [
        [one["index"] for one in line["top"]] for line in ours
    ]
    assert all(one["class"] == str(one["index"]) for line in official for one in line["top"])


def test_the_images_of_the_settings_are_not_needed(spos: Spos, mistake: Mistake) -> None:
    """Neither the folder of the training, nor a data set that might be downloaded out of the working folder."""
    content = make_content(spos)
    content["config"]["data"] |= {"source": "cifar10", "root": "/nowhere"}
    checkpoint.save(spos.folder / "model.pt", content)
    assert "/nowhere" in mistake("evaluate", "--weights", "model.pt")
    assert len(predict(spos, "D/val")) == 9
    assert not Path("/nowhere").exists()


def test_the_run_folders_model_is_the_default(spos: Spos, mistake: Mistake) -> None:
    assert "run spos retrain first" in mistake("predict", "D/val")
    model = spos.run / "retrain" / "x" / "model.pt"
    checkpoint.save(model, make_content(spos))
    lines = spos.here("predict", "D/val/cat/0.png", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == predict(spos, "D/val/cat/0.png")


# Which images


def test_files_and_folders_in_order(spos: Spos) -> None:
    """Each argument in its turn; folders by names, folder by folder; hidden files and other kinds are left out."""
    root = spos.folder / "photos"
    for name in ("b/2.png", "b/10.png", "b/a/x.JPG", "a b/1.png", "a/1.png", "c.png", ".hidden/1.png", "a/.1.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        make_image(1).save(root / name, "PNG")
    (root / "notes.txt").write_text("no image")
    make_image(1).save(root / "a file without an extension", "PNG")
    (root / "a" / "loop").symlink_to(root)
    found = [line["path"] for line in predict(spos, "photos/c.png", "photos", "photos/a file without an extension")]
    names = ("a/1.png", "a b/1.png", "b/10.png", "b/2.png", "b/a/x.JPG", "c.png")
    assert found == ["photos/c.png", *(f"photos/{name}" for name in names), "photos/a file without an extension"]
    (root / "b" / "3.heic").write_bytes(b"")
    said = spos.here("predict", "photos", "photos/b", "--weights", "model.pt").stderr
    assert "photos: 3 files are passed over: 1 .heic, 1 .txt, 1 without an extension; convert .heic" in said
    assert "photos/b: 1 file is passed over: 1 .heic" in said


@pytest.mark.parametrize("form", ["--json", "table", "top.csv", "top.jsonl"])
def test_broken_images_are_named_and_passed_over(spos: Spos, form: str) -> None:
    val = spos.folder / "D" / "val"
    whole = (val / "cat" / "0.png").read_bytes()
    (val / "cat" / "1.png").write_bytes(whole[: len(whole) // 2])
    (val / "dog" / "0.png").write_bytes(b"")
    (val / "dog" / "1.png").write_bytes(b"<html>")
    (val / "dog" / "2.png").unlink()
    (val / "dog" / "2.png").symlink_to("nothing.png")
    output = () if form in ("--json", "table") else ("--output", form)
    more = ("--json",) if form == "--json" else ()
    # Batches of two: one has no image that can be read.
    command = ("predict", "D/val", "--weights", "model.pt", "--top", 1, "--set", "search.batch_size=2", *output, *more)
    done = spos.here(*command, code=1)
    broken = ("cat/1.png", "dog/0.png", "dog/1.png", "dog/2.png")
    for name in broken:
        assert f"cannot read the image D/val/{name}: " in done.stderr
    assert done.stderr.endswith("4 of 9 images cannot be read\n")
    text = done.stdout if not output else (spos.folder / form).read_text()
    assert [name for name in broken if name in text] == []
    for name in ("cat/0.png", "cat/2.png", "fox/0.png", "fox/1.png", "fox/2.png"):
        assert text.count(f"D/val/{name}") == 1
    if output:
        assert "5 of 9 images classified" in done.stdout


def test_worker_processes_pass_over_broken_images(spos: Spos) -> None:
    (spos.folder / "D/val/dog/1.png").write_bytes(b"")
    lines = predict(spos, "D/val", "--set", "data.workers=2", "--set", "search.batch_size=1", code=1)
    assert [line["path"] for line in lines] == [
        f"D/val/{name}/{index}.png" for name in CLASSES for index in range(3) if (name, index) != ("dog", 1)
    ]


# Forms

ODD_NAMES = (b"a,b.png", b'say "hi".png', b"two\nlines.png", b"tab\tand\rreturn.png", b"caf\xe9.png", "🦊.png".encode())


ODD_CLASSES = ('"a", b', "new\nline \x1b[31m", "🐈 \ud800")


@pytest.fixture
def odd(spos: Spos) -> list[str]:
    """Make images and classes of odd names, and return the paths of the images."""
    folder = os.fsencode(spos.folder / "odd")
    os.mkdir(folder)  # noqa: PTH102 - a name of bytes
    for name in ODD_NAMES:
        with open(folder + b"/" + name, "wb") as file:  # noqa: PTH123
            make_image(1).save(file, "PNG")
    checkpoint.save(spos.folder / "model.pt", make_content(spos, ODD_CLASSES))
    return sorted("odd/" + os.fsdecode(name) for name in ODD_NAMES)


def require_odd(text: str, paths: list[str]) -> None:
    """Compare lines of JSON with the names that they should have."""
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["path"] for line in lines] == paths
    assert {one["class"] for line in lines for one in line["top"]} == {*ODD_CLASSES}


def test_any_names(spos: Spos, odd: list[str]) -> None:
    require_odd(spos.here("predict", "odd", "--weights", "model.pt", "--json").stdout, odd)
    spos.here("predict", "odd", "--weights", "model.pt", "--output", "top.csv")
    content = (spos.folder / "top.csv").read_bytes()
    assert all(name.replace(b'"', b'""') in content for name in ODD_NAMES)
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")))
    assert [row["path"] for row in rows] == [path for path in odd for _ in range(3)]
    assert {row["class"] for row in rows} == {'"a", b', "new\nline \x1b[31m", "🐈 \\ud800"}

    table = spos.here("predict", "odd", "--weights", "model.pt", "--top", 1).stdout
    assert len(table.splitlines()) == 1 + len(odd)
    for part in (r"two\nlines.png", r"caf\udce9.png", "🦊.png"):
        assert part in table
    assert "\x1b" not in table


@pytest.mark.slow
def test_any_names_as_bytes(spos: Spos, odd: list[str]) -> None:
    """In a process of its own, whose output is bytes."""
    require_odd(spos("predict", "odd", "--weights", "model.pt", "--json").stdout, odd)
    assert len(spos("predict", "odd", "--weights", "model.pt", "--top", 1).stdout.splitlines()) == 1 + len(odd)


def test_a_table_and_csv(spos: Spos) -> None:
    """All forms have the same classes and probabilities; the best come first, and all classes are the most."""
    lines = predict(spos, "D/val", "--top", 2)
    assert all(len(line["top"]) == 2 for line in lines)
    assert all(line["top"][0]["probability"] >= line["top"][1]["probability"] for line in lines)
    assert [line["top"] for line in lines] == [line["top"][:2] for line in predict(spos, "D/val", "--top", 99)]
    spos.here("predict", "D/val", "--weights", "model.pt", "--top", 2, "-o", "new/top.csv")
    text = (spos.folder / "new" / "top.csv").read_text()
    assert text.startswith('"path","rank","index","class","probability"\n"D/val/cat/0.png",1,')
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [
        (row["path"], int(row["rank"]), int(row["index"]), row["class"], float(row["probability"])) for row in rows
    ] == [
        (line["path"], rank, one["index"], one["class"], one["probability"])
        for line in lines
        for rank, one in enumerate(line["top"], 1)
    ]
    title, *shown = spos.here("predict", "D/val", "--weights", "model.pt", "--top", 2).stdout.splitlines()
    assert title.split() == ["image", "class", "probability"]
    assert [line.split() for line in shown] == [
        [*([line["path"]] if rank == 0 else []), one["class"], f"{one['probability']:.2%}"]
        for line in lines
        for rank, one in enumerate(line["top"])
    ]


def test_an_output_is_the_old_file_or_the_new_one(spos: Spos, mistake: Mistake) -> None:
    """A 16-bit image ends the command after some batches are written."""
    (spos.folder / "top.csv").write_text("old")
    for index in range(3, 40):
        make_image(index).save(spos.folder / "D/val/fox" / f"{index:02}.png")
    make_image(1, "I;16").save(spos.folder / "D/val/fox/05.png")
    command = ("predict", "D/val", "--weights", "model.pt", "-o", "top.csv", "--set", "search.batch_size=2")
    assert "16-bit" in mistake(*command)
    assert (spos.folder / "top.csv").read_text() == "old"
    assert not list(spos.folder.glob(".*.tmp"))


@pytest.mark.slow
def test_a_reader_that_leaves_early(spos: Spos) -> None:
    """As `| head -1` does, with the installed program and worker processes: nothing on stderr, and it ends."""
    command = [PROGRAM, "predict", *["D/val"] * 400, "--weights", "model.pt", "--set", "data.workers=2"]
    process = subprocess.Popen(
        command, cwd=spos.folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith("image ")
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(60) == 1


# Mistakes


def one_line(message: str) -> str:
    """Return a message, which must be one line."""
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def test_mistakes_are_one_line_each(spos: Spos, mistake: Mistake) -> None:
    (spos.folder / "empty" / "deeper").mkdir(parents=True)
    (spos.folder / "empty" / "notes.txt").touch()
    (spos.folder / "folder.csv").mkdir()
    weights = ("--weights", "model.pt")
    for arguments, said in (
        (("empty", *weights), "there are no images in empty; images are .apng"),
        (("nowhere.png", *weights), "there is no image or folder nowhere.png"),
        (("D/val", *weights, "--output", "top.txt"), "--output top.txt is neither a .csv nor a .jsonl file"),
        (("D/val", *weights, "--output", "folder.csv"), "folder.csv is a folder"),
        (("D/val", *weights, "--output", "spos.yaml/top.csv"), "cannot write spos.yaml/top.csv"),
        (("D/val", *weights, "--arch", ARCH), "do not pass --arch"),
        (("D/val", *weights, "--devices", "2"), "devices is 2; use --devices 1"),
        (("D/val", "--weights", "nothing.pt"), "there is no weights file nothing.pt"),
        (("D/val", "--weights", "spos.yaml"), "spos.yaml is not"),
    ):
        assert said in one_line(mistake("predict", *arguments))


@pytest.mark.slow
def test_it_is_one_process(spos: Spos) -> None:
    for done in spos.together("predict", "D/val", "--weights", "model.pt", code=2):
        assert "start it without torchrun" in done.stderr


def test_torn_and_hostile_weights(spos: Spos, mistake: Mistake) -> None:
    whole, content = (spos.folder / "model.pt").read_bytes(), make_content(spos)
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        (spos.folder / "model.pt").write_bytes(whole[:length])
        one_line(mistake("predict", "D/val", "--weights", "model.pt"))
    huge = {**content["model"], "first_conv.0.weight": torch.full((8, 3, 3, 3), 3e38)}
    for changes, said in (
        ({"classes": ["cat", "dog"]}, "names 2 classes, but its network has 3"),
        ({"classes": [1, 2, 3]}, "its architecture or its classes are broken"),
        ({"architecture": [0, 1]}, "layers"),
        ({"model": {}}, "does not fit the model"),
        ({"model": huge}, "the logits of D/val/cat/0.png are not finite"),
    ):
        checkpoint.save(spos.folder / "model.pt", {**content, **changes})
        assert said in one_line(mistake("predict", "D/val", "--weights", "model.pt"))
