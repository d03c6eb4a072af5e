"""Which checkpoints of a training are kept, and which one a training resumes from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spos_cli.engine import checkpoint
from spos_cli.engine.checkpoint_folder import TRAINING_FORMAT, CheckpointFolder
from spos_cli.errors import RunError


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("links", [True, False])
def test_the_newest_and_the_milestones_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """With hard links, and as copies where the file system has none."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links")))
    folder = CheckpointFolder(tmp_path, keep=2, milestone_every=2)
    for step in range(1, 6):
        folder.save(step, {"step": step})
        assert checkpoint.load(folder.last) == {"format": TRAINING_FORMAT, "step": step}
    assert names_in(tmp_path) == [
        "last.pt",
        "milestone-00000002.pt",
        "milestone-00000004.pt",
        "step-00000004.pt",
        "step-00000005.pt",
    ]


def test_damaged_ones_are_set_aside_under_free_names(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=9, milestone_every=None)
    assert folder.load_newest() is None
    for _ in range(2):
        for step in (1, 2):
            folder.save(step, {"step": step})
        (tmp_path / "step-00000002.pt").write_bytes(b"torn")  # last.pt is another name of it
        content = folder.load_newest()
        assert content is not None
        assert content["step"] == 1
        assert checkpoint.load(folder.last)["step"] == 1
    damaged = [f"damaged/{name}.pt" for name in ("last", "last-1", "step-00000002", "step-00000002-1")]
    assert sorted(names_in(tmp_path)) == sorted([*damaged, "last.pt", "step-00000001.pt"])


def test_a_damaged_one_that_cannot_be_moved_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"torn")
    (tmp_path / "damaged").touch()
    with pytest.raises(RunError, match=r"cannot move the damaged .*last\.pt to .*damaged: .*"):
        CheckpointFolder(tmp_path, keep=2, milestone_every=None).load_newest()
