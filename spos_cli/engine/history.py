"""The `metrics.jsonl` of a training, read without torch, and what a dashboard shows of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spos_cli.engine.progress import Curve, Row

MOST_BYTES = 8 * 2**20  # that are read from the end of a file
MOST = 10**18  # far above what a training measures; larger ones overflow where they become a float, or are added up
FAR = 2  # times the loss of guessing: what no training reaches that only has a noisy or a slow beginning
ENOUGH = 100  # images of each class, for an accuracy that is 20 % above chance to be told from it
DEVIATIONS = 2  # standard deviations of chance, which an accuracy that is better than it exceeds


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


@dataclass(frozen=True)
class Guessing:
    """The last metrics of a training that is no better than guessing.

    Attributes:
        loss, top1: means over the last `images` images.
        guess: loss of equal probabilities for all classes.
        chance: top-1 of that.
    """

    loss: float
    top1: float
    images: int
    guess: float
    chance: float

    @property
    def verdict(self) -> str:
        """What the training has done, in words."""
        return "diverged" if self.loss > FAR * self.guess else "learned nothing"

    def __str__(self) -> str:
        return (
            f"training loss {self.loss:.4g} and top-1 {self.top1:.1%} in the last {self.images:,} images; guessing has"
            f" {self.guess:.4g} and {self.chance:.1%}"
        )


def find_guessing(lines: Sequence[dict[str, Any]], classes: int) -> Guessing | None:
    """Tells from the metrics of a training whether it has diverged or collapsed; None if nothing speaks for that.

    Equal probabilities for C classes have a cross entropy of ln C, whatever the labels and their smoothing are, and a
    top-1 of 1 / C. A training is no better

    - if the loss of its last line is more than `FAR` times ln C: it has diverged, however small the line is. Top-1 does
      not count here: where classes differ in size, a network that always names the largest beats 1 / C;
    - or if its loss is at least ln C, and its top-1 is not above 1 / C by more than `DEVIATIONS` standard deviations of
      chance. A network whose activations have died ends at ln C to many digits.

    The second is asked of the newest lines that have `ENOUGH` images of each class together, and only in the second
    half of the training: a network that is merely young is below ln C, or has seen too few images to be judged.

    Args:
        lines: of `metrics.jsonl`, oldest first.
    """
    if classes < 2:
        return None
    guess, chance = math.log(classes), 1 / classes
    windows = [window for line in lines if (window := _window(line)) is not None]
    loss = top1 = 0.0
    seen = 0
    for step, images, line_loss, line_top1 in reversed(windows):
        if not seen and line_loss > FAR * guess:
            return Guessing(line_loss, line_top1, images, guess, chance)
        if 2 * step <= windows[-1][0]:
            break
        loss, top1, seen = loss + line_loss * images, top1 + line_top1 * images, seen + images
        if seen >= ENOUGH * classes:
            loss, top1 = loss / seen, top1 / seen
            noise = DEVIATIONS * math.sqrt(chance * (1 - chance) / seen)
            is_guessing = loss >= guess * (1 - 1e-5) and top1 <= chance + noise
            return Guessing(loss, top1, seen, guess, chance) if is_guessing else None
    return None


def _window(line: dict[str, Any]) -> tuple[float, int, float, float] | None:
    """Step, images, loss and top-1 of a line of the training; None if it is none, or broken."""
    numbers: list[Any] = [line.get(name) for name in ("step", "images", "loss", "top1")]
    if isinstance(numbers[2], int | float) and numbers[2] > MOST:
        numbers[2] = MOST  # infinite, or all but that
    step, images, loss, top1 = numbers
    return (step, images, loss, top1) if all(map(is_number, numbers)) and images >= 1 else None


def is_number(value: object) -> bool:
    """Whether a value out of a file is a number that can be shown, and reckoned with: not more than `MOST`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST
