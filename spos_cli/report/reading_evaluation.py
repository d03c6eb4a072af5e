"""Read what `spos evaluate --details` has found into findings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from spos_cli.data.thumbnails import MAX_LETTERS as MAX_PICTURE_LETTERS
from spos_cli.engine.mistakes import ClassCounts, ConfidenceBin, Confusion, Mistakes
from spos_cli.files.digests import file_digest
from spos_cli.files.reading import read_json
from spos_cli.report.findings import ConfidentMistake, Evaluation
from spos_cli.report.values import as_count, as_number, list_dicts
from spos_cli.run.details import MAX_PICTURES
from spos_cli.run.folder import EvaluationFolder

MAX_LETTERS = 200  # of a text in the file
PICTURE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*")


def read_evaluation(folder: EvaluationFolder) -> Evaluation | None:
    """Return what `spos evaluate --details` has found; None if there is no result, or not one of ours.

    Shares and averages are not read: they follow from the counts.
    """
    content = read_json(folder.details)
    classes = [_read_class(one) for one in list_dicts(content.get("classes"))]
    known = [one for one in classes if one is not None]
    if len(known) < len(classes) or not sum(one.support for one in known):
        return None
    bins = [one for values in list_dicts(content.get("calibration_bins")) if (one := _read_bin(values)) is not None]
    gallery = [_read_mistake(one, len(known)) for one in list_dicts(content.get("most_confident"))]
    return Evaluation(
        weights=_read_text(content.get("weights")),
        architecture=_read_text(content.get("architecture")),
        images_of=_read_text(content.get("images_of")),
        mistakes=Mistakes(known, _read_confusions(content.get("confusions"), known), bins),
        most_confident=[one for one in gallery if one is not None][:MAX_PICTURES],
        is_outdated=_has_changed(content.get("weights"), content.get("weights_digest")),
        other_size=_describe_other_size(content.get("image_size"), content.get("trained_image_size")),
    )


def _describe_other_size(size: Any, trained: Any) -> str:
    """Return the size of the images if it is another one than that of the training, as in `at 12 x 20 pixels`."""
    pairs = [[as_count(side) or 0 for side in pair] if isinstance(pair, list) else [] for pair in (size, trained)]
    if any(len(pair) != 2 or 0 in pair for pair in pairs) or pairs[0] == pairs[1]:
        return ""
    (height, width), (trained_height, trained_width) = pairs
    return f"at {height:,} x {width:,} pixels (height x width; trained at {trained_height:,} x {trained_width:,})"


def _has_changed(path: Any, digest: Any) -> bool:
    """Return whether a file is another one than that of the digest; false if it cannot be read."""
    try:
        return isinstance(path, str) and isinstance(digest, str) and file_digest(Path(path)) != digest
    except (OSError, ValueError):
        return False


def _read_text(value: Any) -> str:
    """Return a text without characters that UTF-8 cannot write."""
    return str(value or "")[:MAX_LETTERS].encode("utf-8", "replace").decode()


def _read_class(values: dict[str, Any]) -> ClassCounts | None:
    counts = [as_count(values.get(key)) for key in ("support", "predicted", "correct")]
    support, predicted, correct = (-1 if count is None else count for count in counts)
    if not 0 <= correct <= min(support, predicted):
        return None
    return ClassCounts(_read_text(values.get("name")), support, predicted, correct)


def _read_confusions(value: Any, classes: list[ClassCounts]) -> list[Confusion]:
    """Return the confusions in a list of `[true class, predicted class, images]`, without broken ones."""
    confusions = []
    for row in value if isinstance(value, list) else ():
        counts = [as_count(item) for item in row] if isinstance(row, list) and len(row) == 3 else []
        label, predicted, images = ([-1 if count is None else count for count in counts]) or (-1, -1, -1)
        if 0 <= label < len(classes) and 0 <= predicted < len(classes) and 0 < images <= classes[label].support:
            confusions.append(Confusion(label, predicted, images))
    return confusions


def _read_bin(values: dict[str, Any]) -> ConfidenceBin | None:
    images, correct, confidence = (
        as_count(values.get("images")),
        as_count(values.get("correct")),
        values.get("confidence"),
    )
    if images is None or correct is None or correct > images:
        return None
    return ConfidenceBin(images, correct, as_number(confidence))


def _read_mistake(values: dict[str, Any], classes: int) -> ConfidentMistake | None:
    label, predicted = as_count(values.get("label")), as_count(values.get("predicted"))
    confidence = as_number(values.get("confidence"))
    if label is None or predicted is None or confidence is None or max(label, predicted) >= classes:
        return None
    picture = _read_picture(values.get("picture"))
    return ConfidentMistake(_read_text(values.get("path")), label, predicted, confidence, picture)


def _read_picture(value: Any) -> str:
    """Return a small PNG or JPEG as a data URI; empty for anything else."""
    is_picture = isinstance(value, str) and len(value) <= MAX_PICTURE_LETTERS and PICTURE.fullmatch(value)
    return str(value) if is_picture else ""
