"""What a network gets wrong, in the report: read from a run folder, shown, and never taken for markup."""

from __future__ import annotations

import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spos_cli.data.thumbnails import make_thumbnail
from spos_cli.engine.mistakes import Mistakes, count_mistakes
from spos_cli.report import chart_data, page
from spos_cli.report.findings import ConfidentMistake, Evaluation, Findings
from spos_cli.report.mistakes import show_mistakes
from spos_cli.report.page import make_page
from spos_cli.report.reading import read_findings
from spos_cli.report.reading_evaluation import read_evaluation
from spos_cli.run.details import make_content, write_details
from spos_cli.run.folder import RunFolder
from tests.report.searches import read_data

EVIL = "</td><script>alert(1)</script><img src=x onerror=alert(2)>\" onload='x"
PICTURE = make_thumbnail(torch.zeros(3, 8, 8, dtype=torch.uint8))


def make_mistakes(names: list[str], images: int = 300) -> Mistakes:
    """Return the mistakes of a network that is right about every other image."""
    rng = np.random.default_rng(0)
    labels, others = rng.integers(0, len(names), (2, images))
    predictions = np.where(rng.random(images) < 0.5, labels, others)
    return count_mistakes(names, labels, predictions, rng.random(images))


def make_evaluation(mistakes: Mistakes, picture: str = PICTURE, text: str = "a file") -> Evaluation:
    confident = ConfidentMistake(text, 0, 1, 0.987, picture)
    return Evaluation(text, "0,1,2", "a set", mistakes, [confident] * 3)


def make_html(evaluation: Evaluation) -> str:
    """Return the page without plotly.js."""
    return make_page(Findings("a run", None, None, evaluation=evaluation)).replace(page.read_plotly_js(), "")


def list_cells(page_text: str, heading: str) -> list[list[str]]:
    """Return the cells of the table that follows a heading."""
    rows = re.findall("<tr>(.*?)</tr>", page_text.split(f"<h3>{heading}</h3>")[1].split("</table>")[0])
    return [[cell.replace("\u00a0", " ") for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows[1:]]


def test_the_section_shows_what_was_counted() -> None:
    labels, predictions = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 1, 1, 1, 0, 3])
    mistakes = count_mistakes(["cat", "dog", "owl", "fox", "eel"], labels, predictions, np.full(9, 0.5))
    page_text = make_html(make_evaluation(mistakes))
    assert list_cells(page_text, "By class") == [
        ["owl", "2", "0.00 %", "–", "0.00 %", "cat (1)"],
        ["cat", "4", "50.00 %", "66.67 %", "57.14 %", "dog (2)"],
        ["dog", "3", "100.00 %", "60.00 %", "75.00 %", "–"],
        ["fox", "0", "–", "0.00 %", "0.00 %", "–"],
    ]
    assert list_cells(page_text, "Confusions") == [
        ["cat", "dog", "2", "50.0 %"],
        ["owl", "cat", "1", "50.0 %"],
        ["owl", "fox", "1", "50.0 %"],
    ]
    text = re.sub("<[^>]*>", "", page_text).replace("\u00a0", " ")
    for phrase in (
        "9 images of a set",
        "Balanced accuracy50.00 %mean recall of 3 classes; without images: 2",
        "Mean precision42.22 %of 3 classes; never predicted: 2",
        "Calibration error5.56 %",  # |5/9 - 0.5|
        "Left out: 1 of 5 classes",
        "dog 98.7 %is cata file",
    ):
        assert phrase in text
    assert page_text.count(f'<img src="{PICTURE}" alt="cat, taken for dog">') == 3
    assert read_data(page_text)["mistakes"] == {
        "classes": ["cat", "dog", "owl", "fox"],
        "matrix": [[2, 2, 0, 0], [0, 3, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]],
        "confidence": [0.5],
        "accuracy": [0.55556],
        "images": [9],
    }


def test_a_network_without_mistakes() -> None:
    labels = np.array([0, 1, 1])
    mistakes = count_mistakes(["cat", "dog"], labels, labels, np.array([0.9, 0.8, np.nan]))
    page_text = make_html(Evaluation("a file", "0", "a set", mistakes))
    assert "<h3>Confusions" not in page_text
    assert "most confident mistakes" not in page_text
    assert "some logits are not finite" in page_text


def test_hostile_names_are_not_markup() -> None:
    page_text = make_html(make_evaluation(make_mistakes([EVIL, f"{EVIL}2"]), text=EVIL))
    assert page_text.count("<script") == page_text.count("</script>") == 3
    image = f'<img src="{PICTURE}" alt="{html.escape(f"{EVIL}, taken for {EVIL}2")}">'
    assert re.findall("<img[^>]*>", page_text) == [image] * 3
    assert read_data(page_text)["mistakes"]["classes"] == [EVIL, f"{EVIL}2"]


def test_a_thousand_classes() -> None:
    mistakes = make_mistakes([f"class number {label}" for label in range(1000)], 50_000)
    page_text = make_html(make_evaluation(mistakes))
    assert len(list_cells(page_text, "By class")) == 1000
    assert len(list_cells(page_text, "Confusions")) == 20
    assert "confusion-matrix" not in page_text.split("<script")[0]
    assert read_data(page_text)["mistakes"]["matrix"] == []
    assert len(page_text) < 400_000


@pytest.mark.parametrize("classes", [30, 31])
def test_a_confusion_matrix_of_few_classes_is_a_picture(classes: int) -> None:
    mistakes = make_mistakes([f"class {label}" for label in range(classes)], 3000)
    page_text = make_html(make_evaluation(mistakes))
    assert ('id="confusion-matrix"' in page_text) == (classes <= chart_data.MAX_MATRIX_CLASSES)
    matrix = np.array(read_data(page_text)["mistakes"]["matrix"])
    if classes == 30:
        assert matrix.sum(1).tolist() == [one.support for one in mistakes.classes]
        assert matrix.sum(0).tolist() == [one.predicted for one in mistakes.classes]


# Reading.


def write(folder: Path, **changes: Any) -> RunFolder:
    """Write an evaluation of two classes, with changes to its `details.json`."""
    run, mistakes = RunFolder(folder), make_mistakes(["cat", "dog"])
    confident = {"path": "a", "label": 0, "predicted": 1, "confidence": 0.9, "picture": PICTURE}
    content = {"weights": "w.pt", "architecture": "0,1", "images_of": "val", "most_confident": [confident]}
    write_details(run.evaluation, mistakes, content | make_content(mistakes) | changes)
    return run


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    run = write(tmp_path)
    expected = Evaluation(
        "w.pt", "0,1", "val", make_mistakes(["cat", "dog"]), [ConfidentMistake("a", 0, 1, 0.9, PICTURE)]
    )
    assert read_evaluation(run.evaluation) == expected
    assert read_findings(run).evaluation == expected  # of a run that has nothing else


def test_details_of_a_file_that_has_changed_say_so(tmp_path: Path) -> None:
    """Such as a model.pt that another training has written since; a file that is gone says nothing."""
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"now")
    for digest, outdated in ((hashlib.sha256(b"now").hexdigest(), False), ("0" * 64, True)):
        evaluation = read_evaluation(write(tmp_path, weights=str(weights), weights_digest=digest).evaluation)
        assert evaluation is not None
        assert evaluation.is_outdated == outdated
        assert ("has changed since" in str(show_mistakes(evaluation))) == outdated
    weights.unlink()
    evaluation = read_evaluation(RunFolder(tmp_path).evaluation)
    assert evaluation is not None
    assert not evaluation.is_outdated


@pytest.mark.parametrize(
    ("size", "trained", "phrase"),
    [
        ([12, 20], [8, 8], "of val at 12 x 20 pixels (height x width; trained at 8 x 8), for "),
        ([8, 8], [8, 8], "of val, for "),
        ([12, 12], None, "of val, for "),
        ("12", [8], "of val, for "),
        ([12, "<b>"], [8, 8], "of val, for "),
    ],
)
def test_another_image_size_is_named(tmp_path: Path, size: Any, trained: Any, phrase: str) -> None:
    evaluation = read_evaluation(write(tmp_path, image_size=size, trained_image_size=trained).evaluation)
    assert evaluation is not None
    assert phrase in str(show_mistakes(evaluation))


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": []},
        {"classes": 7},
        {"classes": [{"name": "a", "support": 1, "predicted": 1, "correct": 2}]},
        {"classes": [{"name": "a", "support": -1, "predicted": 1, "correct": 0}]},
        {"classes": [{"name": "a", "support": 0, "predicted": 0, "correct": 0}]},
    ],
)
def test_a_broken_file_is_no_evaluation(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert read_evaluation(write(tmp_path, **changes).evaluation) is None


def test_a_torn_file_is_no_evaluation(tmp_path: Path) -> None:
    run = write(tmp_path)
    run.evaluation.details.write_bytes(run.evaluation.details.read_bytes()[:-10])
    assert read_evaluation(run.evaluation) is None
    assert read_evaluation(RunFolder(tmp_path / "nothing").evaluation) is None


def test_broken_parts_are_left_out(tmp_path: Path) -> None:
    confident = {"path": "\udcff", "label": 0, "predicted": 1, "confidence": 0.9}
    pictures: list[Any] = [
        *(
            "javascript:alert(1)",
            "data:image/svg+xml;base64,AAAA",
            "http://127.0.0.1/x.png",
            'data:image/png;base64,A"',
        ),
        *("data:image/png;base64," + "A" * 10**5, None, 7, [PICTURE]),
    ]
    broken = [{"label": 2}, {"predicted": -1}, {"confidence": "much"}, {"confidence": float("nan")}, {"label": None}]
    run = write(
        tmp_path,
        weights=None,
        confusions=[[0, 1, 3], [0, 2, 1], [-1, 0, 1], [0, 1], "x", [0, 1, 10**9], [0, 1, 0.5]],
        calibration_bins=[{"images": 1, "correct": 2}, {}, 7, {"images": 2, "correct": 1, "confidence": "high"}],
        most_confident=[confident | {"picture": one} for one in pictures] + [confident | one for one in broken],
    )
    evaluation = read_evaluation(run.evaluation)
    assert evaluation is not None
    assert evaluation.weights == ""
    assert evaluation.mistakes.confusions == [(0, 1, 3)]
    assert [(one.images, one.confidence) for one in evaluation.mistakes.bins] == [(2, None)]
    assert evaluation.mistakes.calibration_error is None
    assert [(one.path, one.picture) for one in evaluation.most_confident] == [("?", "")] * len(pictures)
    make_html(evaluation).encode()


def test_a_confusion_that_does_not_fit_the_counts_does_not_break_the_page(tmp_path: Path) -> None:
    """A class without images in a confusion has no share."""
    classes = [{"name": name, "support": n, "predicted": 1, "correct": 0} for name, n in (("a", 2), ("b", 0))]
    evaluation = read_evaluation(write(tmp_path, classes=classes, confusions=[[1, 0, 1], [0, 1, 1]]).evaluation)
    assert evaluation is not None
    assert evaluation.mistakes.confusions == [(0, 1, 1)]
    assert list_cells(make_html(evaluation), "Confusions") == [["a", "b", "1", "50.0 %"]]
    assert json.loads(RunFolder(tmp_path).evaluation.details.read_text())["confusions"] == [[1, 0, 1], [0, 1, 1]]
