"""Write what a network gets wrong: for programs, for spreadsheets and for the report."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spos_cli.data.thumbnails import make_thumbnail
from spos_cli.engine.mistakes import Mistakes, find_most_confident
from spos_cli.errors import DataError, make_printable
from spos_cli.files.writing import write_atomically
from spos_cli.run.folder import EvaluationFolder
from spos_cli.run.images import Images

CLASS_COLUMNS = ("name", "support", "predicted", "correct", "recall", "precision", "f1")  # also fields of a class
CONFUSION_COLUMNS = ("class", "predicted_class", "images", "share_of_class")
MAX_PICTURES = 24
MAX_CONFUSIONS = 100_000  # pairs in the JSON file: two megabytes; the CSV file has all of them


def name_classes(names: Sequence[str], number: int) -> list[str]:
    """Return printable names of all classes of a network; those that the images do not have are `class 7`."""
    return [*map(make_printable, names), *(f"class {label}" for label in range(len(names), number))]


def make_content(mistakes: Mistakes) -> dict[str, Any]:
    """Return everything that was counted, as plain types. Where a number is not defined, there is None.

    The confusion matrix is sparse: `[true class, predicted class, images]` for every pair that is confused, as indices
    into `classes`, the most frequent first.
    """
    bins = [
        {"images": one.images, "correct": one.correct, "accuracy": one.accuracy, "confidence": one.confidence}
        for one in mistakes.bins
    ]
    return {
        "images": mistakes.images,
        "accuracy": mistakes.accuracy,
        "balanced_accuracy": mistakes.balanced_accuracy,
        "macro_precision": mistakes.macro_precision,
        "macro_f1": mistakes.macro_f1,
        "calibration_error": mistakes.calibration_error,
        "classes_without_images": mistakes.without_images,
        "classes_without_predictions": mistakes.without_predictions,
        "classes": _describe_classes(mistakes),
        "confusions": [list(one) for one in mistakes.confusions[:MAX_CONFUSIONS]],
        "confusions_left_out": max(0, len(mistakes.confusions) - MAX_CONFUSIONS),
        "calibration_bins": bins,
    }


def make_gallery(
    images: Images, predictions: NDArray[np.int64], confidences: NDArray[np.float32]
) -> list[dict[str, Any]]:
    """Return the most confident mistakes with small pictures of what the network saw. These images are read again."""
    labels = images.val.labels
    return [
        {
            "path": make_printable(images.val.path(index)),
            "label": int(labels[index]),
            "predicted": int(predictions[index]),
            "confidence": float(confidences[index]),
            "picture": _draw(images, index),
        }
        for index in find_most_confident(labels, predictions, confidences, MAX_PICTURES)
    ]


def _draw(images: Images, index: int) -> str | None:
    """Return a picture of a validation image; None if its file was removed since the network has seen it."""
    with contextlib.suppress(DataError):
        return make_thumbnail(images.evaluation(images.val.image(index)))
    return None


def write_details(folder: EvaluationFolder, mistakes: Mistakes, content: dict[str, Any]) -> None:
    """Write the files of an evaluation.

    Args:
        content: of `details.json`, which is written last.

    Raises:
        RunError: a file cannot be written.
    """
    classes = [tuple(values.values()) for values in _describe_classes(mistakes)]
    write_atomically(folder.classes, _make_csv(CLASS_COLUMNS, classes))
    names = [one.name for one in mistakes.classes]
    confusions = [
        (names[one.label], names[one.predicted], one.images, mistakes.share_of(one)) for one in mistakes.confusions
    ]
    write_atomically(folder.confusions, _make_csv(CONFUSION_COLUMNS, confusions))
    write_atomically(folder.details, json.dumps(content).encode())


def _describe_classes(mistakes: Mistakes) -> list[dict[str, Any]]:
    """Return the columns of `classes.csv` for each class."""
    return [{column: getattr(one, column) for column in CLASS_COLUMNS} for one in mistakes.classes]


def _make_csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    """Return a CSV file in UTF-8; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()
