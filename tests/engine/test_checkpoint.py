"""Files are whole or not there, and reading one runs nothing."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spos_cli.engine import checkpoint
from spos_cli.errors import CheckpointError, RunError

CONTENT = {"step": 3, "model": {"a.weight": torch.arange(6.0).view(2, 3)}, "names": ["lr", "lr"], "lr": 0.5}


def test_round_trip_gives_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    checkpoint.save(path, CONTENT)
    loaded = checkpoint.load(path)
    assert torch.equal(loaded["model"]["a.weight"], CONTENT["model"]["a.weight"])  # type: ignore[index]
    before = path.read_bytes()
    checkpoint.save(path, loaded)
    assert path.read_bytes() == before


def test_every_cut_and_many_flips_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    whole = checkpoint.serialize(CONTENT)
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            checkpoint.load(path)
    start = whole.index(CONTENT["model"]["a.weight"].numpy().tobytes())  # type: ignore[index]
    for position in range(start, start + 24):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoint.load(path)


def test_the_format_before_pytorch_1_6(tmp_path: Path) -> None:
    """The official checkpoints have it: pickles one after another, without checksums."""
    path = tmp_path / "x.pth.tar"
    torch.save(CONTENT, path, _use_new_zipfile_serialization=False)
    loaded = checkpoint.load(path)
    assert checkpoint.serialize(loaded) == checkpoint.serialize(CONTENT)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            checkpoint.load(path)


def test_other_content_under_the_same_digest_is_noticed(tmp_path: Path) -> None:
    """Every checksum of the file is right here; its digest is that of what was saved."""
    path = tmp_path / "x.pt"
    checkpoint.save(path, CONTENT)
    content = torch.load(path, weights_only=True)
    for name, other in [("step", 4), ("names", ["lr", "LR"]), ("lr", 0.25), ("model", {"a.weight": torch.ones(2, 3)})]:
        torch.save({**content, name: other}, path)
        with pytest.raises(CheckpointError, match="is damaged: its content is not what was saved"):
            checkpoint.load(path)
    torch.save(content, path)
    assert checkpoint.load(path)["step"] == 3


def test_fingerprints_tell_values_apart_and_not_their_storage() -> None:
    tensor = torch.arange(24.0).view(1, 2, 3, 4)
    stored_otherwise = tensor.contiguous(memory_format=torch.channels_last)
    assert checkpoint.fingerprint([tensor]) == checkpoint.fingerprint([stored_otherwise])
    different = [
        [tensor],
        [tensor.double()],
        [tensor.view(2, 12)],
        [tensor + 1],
        (tensor,),
        {},
        [],
        {"a": 1},
        {"a": True},
        {"a": 1.0},
        {"a": "1"},
        {"a": None},
        {"b": 1},
        {"a": [1], "b": 2},
        {"a": [1, "b", 2]},
        [["a"], "b"],
        [["a", "b"]],
        torch.tensor(0.0),
        torch.tensor([0.0]),
        torch.zeros(0),
        torch.zeros(1, dtype=torch.bfloat16),
    ]
    assert len({checkpoint.fingerprint(value) for value in different}) == len(different)


def test_a_compressed_file_is_refused_before_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    assert path.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="compressed"):
        checkpoint.load(path)


def test_a_file_that_may_not_be_read_is_not_taken_for_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.pt"
    checkpoint.save(path, CONTENT)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RunError, match=r"cannot read .* Permission denied"):
        checkpoint.load(path)


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.marker),))


def test_a_hostile_file_runs_nothing(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "x.pt"
    for modern in (True, False):
        torch.save({"model": Hostile(marker)}, path, _use_new_zipfile_serialization=modern)
        with pytest.raises(CheckpointError, match="more than tensors"):
            checkpoint.load(path)
    path.write_bytes(pickle.dumps(Hostile(marker)))
    with pytest.raises(CheckpointError):
        checkpoint.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Hostile(marker)))
    with pytest.raises(CheckpointError):
        checkpoint.load(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"", "copy it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "run git lfs pull"),
        (b"\n<!DOCTYPE html><html><title>Sign in</title></html>", "download the file itself"),
    ],
)
def test_a_file_that_came_instead_of_another(tmp_path: Path, content: bytes, advice: str) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"not a weights file.* {advice}"):
        checkpoint.load(path)


def test_files_with_another_class_are_saved_anew_as_the_messages_say(tmp_path: Path) -> None:
    """One process runs the code of all messages: it takes seconds to import PyTorch."""
    model = torch.nn.Linear(2, 3)
    contents = {
        "number": {"state_dict": model.state_dict(), "best_acc1": np.float64(74.3)},
        "model": model,
        "part": {"model": model, "epoch": 3},
    }
    codes = []
    for kind, content in contents.items():
        path = tmp_path / f"my {kind}.pth"
        torch.save(content, path)
        refused = r"it holds a \S*(scalar|Linear), which is more than tensors"
        with pytest.raises(CheckpointError, match=refused) as raised:
            checkpoint.load(path)
        (command,) = re.findall("with (python -c .*) and use that", str(raised.value))
        python, option, code = shlex.split(command)
        assert (python, option) == ("python", "-c")
        codes.append(code)
    together = "\n".join(f"exec({code!r}, {{}})" for code in codes)
    subprocess.run([sys.executable, "-c", together], check=True)
    for kind in contents:
        (part,) = checkpoint.load(tmp_path / f"my {kind}-tensors.pth").values()
        assert torch.equal(part["weight"], model.weight)


def test_nobody_is_told_to_run_a_file_that_calls_a_program(tmp_path: Path) -> None:
    for function in (eval, exec, os.system, subprocess.call):
        torch.save({"model": function}, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match="more than tensors and plain values") as raised:
            checkpoint.load(tmp_path / "x.pth")
        assert "python -c" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x05\x06" + bytes(18)])
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        checkpoint.load(path)
    with pytest.raises(CheckpointError, match="is a folder, not a weights file"):
        checkpoint.load(tmp_path)


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pt"
    checkpoint.save(path, CONTENT)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        checkpoint.save(path, {"step": 4})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.pt"]


def laughs() -> list[object]:
    """A list that mentions the one before it twice, sixty times."""
    value: list[object] = [0]
    for _ in range(60):
        value = [value, value]
    return value


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "part",
    [torch.zeros(1).expand(10**14), torch.zeros(1, 2).to_sparse(), torch.zeros(3, device="meta"), laughs()],
    ids=["repeated", "sparse", "meta", "laughs"],
)
def test_content_that_is_larger_than_its_file_is_refused(tmp_path: Path, part: object) -> None:
    for digest in ({}, {checkpoint.DIGEST: "x"}):
        torch.save({"a": part, **digest}, tmp_path / "x.pt")
        with pytest.raises(CheckpointError):
            checkpoint.load(tmp_path / "x.pt")


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE])
def test_a_system_that_cannot_read_now_does_not_make_a_file_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    checkpoint.save(tmp_path / "x.pt", {"a": 1})

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(RunError, match="cannot read"):
        checkpoint.load(tmp_path / "x.pt")
