"""Bad input by the hundred, through the console script's entry point: a result or one error, never a traceback.

Together the properties here try more than 2,000 inputs. A hang would be ended by pytest's time limit.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from spos_cli import cli
from spos_cli.engine import checkpoint
from tests.conftest import TINY, Spos

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS: dict[str, Any] = yaml.safe_load(TINY)
ODD = st.sampled_from(
    [
        *(
            None,
            True,
            False,
            0,
            -1,
            1,
            2,
            3,
            7,
            10**6,
            10**12,
            10**30,
            0.5,
            -0.5,
            1e-30,
            1e30,
            float("nan"),
            float("inf"),
        ),
        *(
            "",
            "x",
            "330M",
            "1e3",
            "-1",
            "nan",
            "auto",
            "cpu",
            "../..",
            "/",
            "a\0b",
            "\x1b[2J",
            "ü 图",
            "9" * 5000,
            "*",
            "&a",
        ),
        *(
            [],
            {},
            [[]],
            [{}],
            {"x": 1},
            [1, 2, 3],
            ["shuffle"],
            [{"shuffle": {"kernel": 4}}],
            {"kernel": {"kernel": 3}},
        ),
    ]
)
WORDS = st.text(max_size=20) | st.sampled_from(["0,1,2,3", "(0, 1, 2, 3)", "330M", "0.33G", "supernet.lr", "null", "-"])


def paths(values: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values inside nested lists and dicts."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        yield (*prefix, key)
        yield from paths(value, (*prefix, key))


def copy_containers(values: Any) -> Any:
    """Copy mappings and lists, but not what is in them, such as tensors."""
    if not isinstance(values, (dict, list)):
        return values
    result = copy.copy(values)
    for key in result if isinstance(result, dict) else range(len(result)):
        result[key] = copy_containers(result[key])
    return result


def replaced(values: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at one place."""
    result = copy_containers(values)
    target = result
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return result


PLACES = st.sampled_from(list(paths(SETTINGS)))


def often(examples: int) -> Any:
    """As many examples; the folder is the same for all of them."""
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


class Caller:
    """Runs commands in this process, in a folder where all stages have been run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def __call__(self, *arguments: object) -> int:
        """The exit code of a command, which must be 0 or 2, with something to read on stderr."""
        self.count += 1
        said, shown, before = io.StringIO(), io.StringIO(), sys.argv
        sys.argv = ["spos", *map(str, arguments)]
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown), pytest.raises(SystemExit) as end:
                cli.main()
        finally:
            sys.argv = before
        code = end.value.code
        assert code in (0, 2), (arguments, said.getvalue())
        assert "Traceback" not in said.getvalue() + shown.getvalue()
        if code == 2:
            assert said.getvalue().strip(), arguments
            assert len(said.getvalue()) < 5000
            assert "\x1b" not in said.getvalue()
        assert sorted(path.name for path in self.folder.parent.iterdir()) == [self.folder.name], "written outside"
        return int(code)


@pytest.fixture(scope="module")
def call(finished: Spos, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    folder = tmp_path_factory.mktemp("parent") / "folder"
    shutil.copytree(finished.folder, folder)
    for split in ("train", "val"):
        for label in "0123456789":  # one validation image per class
            (folder / split / label).mkdir(parents=True)
            for number in range(20 if split == "train" else 1):
                pixels = np.full((8, 8, 3), 10 * int(label) + number, np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
    before = Path.cwd()
    os.chdir(folder)
    yield Caller(folder)
    os.chdir(before)


@often(400)
@given(changes=st.lists(st.tuples(PLACES, ODD), min_size=1, max_size=2))
def test_yaml(call: Caller, changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    values = SETTINGS
    for path, value in changes:
        with contextlib.suppress(LookupError, TypeError):
            values = replaced(values, path, value)
    Path("odd.yaml").write_text(yaml.safe_dump(values, allow_unicode=True))
    call("flops-table", "--config", "odd.yaml", "--run-dir", "odd")


@often(200)
@given(place=st.integers(0, len(TINY)), cut=st.integers(0, 40), new=st.text(max_size=12))
def test_yaml_text(call: Caller, place: int, cut: int, new: str) -> None:
    with Path("odd.yaml").open("w", encoding="utf-8", errors="replace", newline="") as file:
        file.write(TINY[:place] + new + TINY[place + cut :])
    call("supernet-train", "--config", "odd.yaml", "--print-config")


@often(300)
@given(place=PLACES, value=ODD | WORDS, word=WORDS)
def test_set(call: Caller, place: tuple[Any, ...], value: Any, word: str) -> None:
    name = ".".join(map(str, place))
    call("flops-table", "--run-dir", "odd", "--set", f"{name}={value}", "--set", word)


@often(300)
@given(arch=WORDS | st.lists(st.integers(-1, 5) | st.integers(), max_size=6).map(str), in_file=st.booleans())
def test_architectures(call: Caller, arch: str, in_file: bool) -> None:
    if in_file:
        Path("odd.yaml").write_text(arch, encoding="utf-8", errors="replace")
    call("flops-table", "--run-dir", "odd", "--", "odd.yaml" if in_file else arch)


@often(200)
@given(size=WORDS | st.text("0123456789.eEkKmMgG+-_", max_size=12) | st.floats().map(str), command=st.booleans())
def test_sizes(call: Caller, size: str, command: bool) -> None:
    if command:
        call("flops-table", "--run-dir", "odd", f"--flops-limit={size}")
    else:
        call("export-arch", f"--flops-limit={size}")


JUNK = st.binary(max_size=8) | st.sampled_from(
    [b"\n", b"{}", b"null", b"[" * 100_000, b"1e999", b'{"architecture": 1}\n']
)


@often(300)
@given(data=st.data())
def test_journals(call: Caller, data: st.DataObject) -> None:
    path = Path("runs/tiny/search/journal.jsonl")
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole)))
    rest = data.draw(st.sampled_from([b"", whole[place:], whole[place + 1 :]]))
    Path("odd.jsonl").write_bytes(whole[:place] + data.draw(JUNK) + rest)
    call("export-arch", "--from", "odd.jsonl", "--run-dir", "odd")


def model() -> Path:
    (path,) = Path("runs/tiny/retrain").glob("*/model.pt")
    return path


def evaluate(call: Caller, weights: str) -> int:
    images = ("--config", "spos.yaml", "--set", "data.source=folder", "--set", "data.root=.")
    return call("evaluate", "--weights", weights, *images, "--devices", "cpu")


def test_the_undamaged_model(call: Caller) -> None:
    assert evaluate(call, str(model())) == 0


TENSORS = st.sampled_from(
    [
        *(torch.zeros(0), torch.zeros(3), torch.tensor(float("nan")), torch.zeros(2, 2, dtype=torch.int64)),
        *(torch.zeros(4, dtype=torch.bool), torch.zeros(8, 3, 3, 3, dtype=torch.complex64)),
        *(torch.full((8, 3, 3, 3), float("inf")), torch.zeros(1, 2).to_sparse(), torch.empty(10**9, device="meta")),
    ]
)


@pytest.fixture(scope="module")
def trained(call: Caller) -> Any:
    """What is in the file of the undamaged model. Not to be changed."""
    return checkpoint.load(model())


# Where a change is, the number of its place there, a value, what is done with it, and a new key.
CHANGES = st.tuples(
    st.sampled_from(["model", "model", "config", "top"]),
    st.integers(0, 10**4),
    TENSORS | ODD,
    st.sampled_from(["replace", "remove", "add"]),
    st.text(max_size=5),
)


@often(250)
@given(changes=st.lists(CHANGES, min_size=1, max_size=2))
def test_weights_with_other_parts(call: Caller, trained: Any, changes: list[tuple[str, int, Any, str, str]]) -> None:
    """Missing, left over, of another shape or type, not finite; and settings that are none."""
    content = copy_containers(trained)
    for part, number, odd, change, key in changes:
        target = content if part == "top" else content.get(part)
        if not isinstance(target, dict) or not target:
            continue
        places, value = list(paths(target)), copy_containers(odd)  # The next change may be inside the value.
        place = places[number % len(places)]
        if change == "replace":
            content = replaced(content, place if part == "top" else (part, *place), value)
        elif change == "remove":
            del target[place[0]]
        else:
            target[key] = value
    torch.save(content, "odd.pt")
    evaluate(call, "odd.pt")


@often(200)
@given(data=st.data())
def test_weights_files_of_other_bytes(call: Caller, data: st.DataObject) -> None:
    whole = model().read_bytes()
    place = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.sampled_from([0, 1, 1000]))
    rest = data.draw(st.sampled_from([b"", whole[place + length :]]))
    Path("odd.pt").write_bytes(whole[:place] + data.draw(st.binary(max_size=4)) + rest)
    evaluate(call, "odd.pt")


KINDS = [("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")] + [
    *(
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
        ("JPEG", "YCbCr"),
        ("GIF", "P"),
        ("TIFF", "F"),
        ("TIFF", "I;16"),
        ("BMP", "RGB"),
    ),
    *(("WEBP", "RGBA"), ("PPM", "RGB")),
]


@often(250)
@given(
    kind=st.sampled_from(KINDS),
    size=st.sampled_from([(1, 1), (1, 200), (200, 1), (8, 8), (3, 5), (300, 20)]),
    name=st.sampled_from(["0.png", "0.jpg", "0.JPEG", "0.tiff"]),
    share=st.sampled_from([0.0, 0.3, 0.9, 1.0, 1.0]),
    junk=st.binary(max_size=6),
)
def test_images(
    call: Caller, kind: tuple[str, str], size: tuple[int, int], name: str, share: float, junk: bytes
) -> None:
    """One image of the validation set is of another kind, size or name, is cut short, or has other bytes in it."""
    for old in Path("val/3").iterdir():
        old.unlink()
    buffer = io.BytesIO()
    form, mode = kind
    image = Image.new("RGB", size, (200, 100, 50))
    image = Image.new(mode, size) if mode in ("F", "I;16") else image.convert(mode)
    image.save(buffer, form)
    content = buffer.getvalue()
    cut = int(len(content) * share)
    Path("val/3", name).write_bytes(content[:cut] + (junk if share < 1 else b""))
    code = evaluate(call, str(model()))
    assert code == 0 or share < 1 or 200 in size or mode in ("F", "I;16")  # neither is 8 bits


def test_how_many_there_were(call: Caller) -> None:
    """Runs last; the figure of the README."""
    assert call.count >= 2000, json.dumps({"inputs": call.count})
