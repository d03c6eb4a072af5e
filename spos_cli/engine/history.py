"""The `metrics.jsonl` of a training, read without torch, and what a dashboard shows of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spos_cli.engine.progress import Curve, Row

MOST_BYTES = 8 * 2**20  # that are read from the end of a file
MOST = 10**18  # far above what a training measures; larger ones overflow where they become a float, or are added up


def step_of(line: str | bytes) -> float:
    """The step that a line is of; infinity for one that was cut short, or has none that is a number."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf
    return float(step) if is_number(step) else math.inf


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics in a file, oldest first; those that are torn, and those far back, are left out.

    Raises:
        OSError: it is there, but cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - MOST_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if step_of(line) < math.inf]


class History:
    """The numbers of a training so far."""

    def __init__(self, lines: Iterable[dict[str, Any]] = ()) -> None:
        self.loss: list[float] = []
        self.top1: list[float] = []
        self.validations: list[float] = []
        self.last: dict[str, Any] = {}  # of the training
        self.validated = 0  # the step of the last validation
        for line in lines:
            self.add(line)

    def add(self, line: dict[str, Any]) -> None:
        """One more line of the metrics: of the training, or of a validation."""
        if is_number(line.get("loss")) and is_number(line.get("top1")):
            self.loss.append(line["loss"])
            self.top1.append(line["top1"])
            self.last = line
        elif is_number(line.get("val_top1")):
            self.validations.append(line["val_top1"])
            self.validated = line["step"]

    @property
    def rows(self) -> list[Row]:
        """Of the dashboard."""
        if not self.last:
            return []
        rows: list[Row] = [
            ("loss", (f"{self.loss[-1]:<7.3f}", Curve(list(self.loss)))),
            ("top-1", (f"{self.top1[-1]:<7.1%}", Curve(list(self.top1)))),
        ]
        if self.validations:
            last, best = self.validations[-1], max(self.validations)
            said = f"step {self.validated:,}, best {best:.2%}"
            rows.append(("validated", (f"{last:<7.2%}", Curve(list(self.validations)), said)))
        lr, rate = self.last.get("lr"), self.last.get("images_per_second")
        now = [f"learning rate {lr:.3g}"] * is_number(lr) + [f"{rate:,.0f} images/s"] * is_number(rate)
        return [*rows, ("now", now)]


def is_number(value: object) -> bool:
    """Whether a value out of a file is a number that can be shown, and reckoned with: not more than `MOST`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST
