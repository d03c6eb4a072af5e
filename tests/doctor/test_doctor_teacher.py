"""The teacher of the retraining is read before a long training, not after it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from spos_cli.doctor import teacher
from tests.doctor.setups import expect, make_setup


class Linear(nn.Module):
    """Classify images of any size by the means of their channels."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits `(B, classes)` of images `(B, 3, H, W)`."""
        logits: torch.Tensor = self.layer(images.mean((2, 3)))
        return logits


def save_program(path: Path, classes: int) -> Path:
    """Write a teacher as `torch.export.save` does, for batches of any size."""
    size = {0: torch.export.Dim("batch", min=1, max=4096)}
    program = torch.export.export(Linear(classes).eval(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=(size,))
    torch.export.save(program, path)
    return path


def test_there_is_nothing_to_check_without_a_teacher() -> None:
    assert teacher.check(make_setup()) == []


def test_a_teacher_of_the_same_classes(tmp_path: Path) -> None:
    path = save_program(tmp_path / "teacher.pt2", 10)
    finding = expect(teacher.check(make_setup(f"retrain.teacher.weights={path}")), "teacher", "ok", "40 parameters")
    assert finding.seen.startswith(str(path))


@pytest.mark.parametrize(
    ("make", "phrase"),
    [
        (lambda path: save_program(path, 7), "(32, 7) of 32 images of 8 pixels instead of (32, 10)"),
        (lambda path: path.write_bytes(b"not a program"), "is not a file of torch.export.save"),
        (lambda path: None, "there is no file"),
        (lambda path: None, "change retrain.teacher"),
    ],
)
def test_a_teacher_that_the_retraining_would_refuse(tmp_path: Path, make: object, phrase: str) -> None:
    path = tmp_path / "teacher.pt2"
    assert callable(make)
    make(path)
    findings = teacher.check(make_setup(f"retrain.teacher.weights={path}"))
    assert [finding.status for finding in findings] == ["fail"]
    assert phrase in f"{findings[0].seen} → {findings[0].advice}"


def test_images_that_cannot_be_opened_have_a_check_of_their_own(tmp_path: Path) -> None:
    own = ["data.source=folder", f"data.root={tmp_path / 'nothing'}", "retrain.teacher.weights=teacher.pt2"]
    assert teacher.check(make_setup(*own)) == []
