"""The files about what a network gets wrong, and the run folder that they go to."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from spos_cli.engine.mistakes import Mistakes, count_mistakes
from spos_cli.errors import RunError, make_printable
from spos_cli.files.reading import MAX_BYTES, read_json
from spos_cli.run import details
from spos_cli.run.details import make_content, name_classes, write_details
from spos_cli.run.folder import EvaluationFolder, RunFolder, find_run

HOSTILE = ['=1+1,"x"', "<b>&lt;", "two\nlines", "\x1b[31mred", "undecodable \udcff", "\u202eleft", "für 猫"]


def write(folder: Path, mistakes: Mistakes) -> EvaluationFolder:
    evaluation = RunFolder(folder).evaluation
    write_details(evaluation, mistakes, make_content(mistakes))
    return evaluation


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_files_have_what_was_counted(tmp_path: Path) -> None:
    labels, predictions = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 0, 3])
    mistakes = count_mistakes(["cat", "dog", "owl", "fox"], labels, predictions, np.full(5, 0.5))
    folder = write(tmp_path, mistakes)
    assert sorted(path.name for path in (tmp_path / "evaluate").iterdir()) == [
        "classes.csv",
        "confusion.csv",
        "details.json",
    ]
    cat, dog, owl, fox = read_csv(folder.classes)
    assert {key: float(cat[key]) for key in cat if key != "name"} == pytest.approx(
        {"support": 3, "predicted": 3, "correct": 2, "recall": 2 / 3, "precision": 2 / 3, "f1": 2 / 3}
    )
    assert (dog["name"], dog["recall"], dog["precision"]) == ("dog", "0.0", "0.0")
    assert owl == {
        "name": "owl",
        "support": "0",
        "predicted": "0",
        "correct": "0",
        "recall": "",
        "precision": "",
        "f1": "",
    }
    assert (fox["support"], fox["recall"], fox["precision"]) == ("0", "", "0.0")
    confusions = read_csv(folder.confusions)
    assert [(row["class"], row["predicted_class"], row["images"]) for row in confusions] == [
        ("cat", "dog", "1"),
        ("dog", "cat", "1"),
        ("dog", "fox", "1"),
    ]
    assert [float(row["share_of_class"]) for row in confusions] == pytest.approx([1 / 3, 1 / 2, 1 / 2])

    content = json.loads(folder.details.read_text())
    assert content["confusions"] == [[0, 1, 1], [1, 0, 1], [1, 3, 1]]
    assert (content["classes_without_images"], content["classes_without_predictions"]) == (2, 1)
    assert content["classes"][2] == {
        **dict.fromkeys(("support", "predicted", "correct"), 0),
        **dict.fromkeys(("recall", "precision", "f1")),
        "name": "owl",
    }
    assert content["calibration_error"] == pytest.approx(0.1)  # all confidences are 0.5, and 2 of 5 are right
    assert [one["images"] for one in content["calibration_bins"]] == [0] * 7 + [5] + [0] * 7


def test_hostile_names_of_classes(tmp_path: Path) -> None:
    names = name_classes(HOSTILE, 9)
    assert names == [
        *('=1+1,"x"', "<b>&lt;", "two\\nlines", "\\x1b[31mred", "undecodable \\udcff", "\\u202eleft", "für 猫"),
        *("class 7", "class 8"),
    ]
    labels = np.arange(9)
    folder = write(tmp_path, count_mistakes(names, labels, (labels + 1) % 9, np.full(9, 0.5)))
    assert [row["name"] for row in read_csv(folder.classes)] == names
    assert [row["predicted_class"] for row in read_csv(folder.confusions)] == [*names[1:], names[0]]
    assert [one["name"] for one in json.loads(folder.details.read_text())["classes"]] == names
    assert make_printable("plain – 名前") == "plain – 名前"


def test_many_classes_leave_a_file_that_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 1000, (2, 50_000))
    names = [f"n{label:08}" for label in range(1000)]
    mistakes = count_mistakes(names, labels, predictions, rng.random(50_000))
    folder = write(tmp_path, mistakes)
    assert folder.details.stat().st_size < MAX_BYTES / 4
    content = read_json(folder.details)
    assert len(content["classes"]) == 1000
    assert (len(content["confusions"]), content["confusions_left_out"]) == (len(mistakes.confusions), 0)

    monkeypatch.setattr(details, "MAX_CONFUSIONS", 100)
    content = make_content(mistakes)
    assert content["confusions"] == [list(one) for one in mistakes.confusions[:100]]
    assert content["confusions_left_out"] == len(mistakes.confusions) - 100
    assert len(read_csv(folder.confusions)) == len(mistakes.confusions)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "evaluate").write_text("a file")
    with pytest.raises(RunError, match=r"cannot write .*classes\.csv"):
        write(tmp_path, count_mistakes(["a", "b"], np.array([0]), np.array([1]), np.array([0.5])))


def test_the_run_of_a_weights_file(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "runs" / "a")
    files = [run.supernet.last, run.retrain("x").model, run.stand_alone("y").model]
    files += [run.archs / "x" / "model.pt", run.exported / "x.onnx"]
    assert [find_run(path) for path in files] == [None] * 5  # There is no such run.
    run.root.mkdir(parents=True)
    run.config.write_text("name: a\n")
    assert [find_run(path) for path in files] == [run] * 5
    for path in (run.root / "model.pt", tmp_path / "supernet" / "last.pt"):
        assert find_run(path) is None
