"""Files are whole or not there, and reading one runs nothing."""

from __future__ import annotations

import errno
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

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
    assert checkpoint.serialize(loaded) == path.read_bytes()


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


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.marker),))


def test_a_hostile_file_runs_nothing(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "x.pt"
    torch.save({"model": Hostile(marker)}, path)
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


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x05\x06" + bytes(18)])
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        checkpoint.load(path)
    with pytest.raises(CheckpointError, match="no weights file"):
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
