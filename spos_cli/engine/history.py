"""Read the metrics of a training, and judge them; without torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spos_cli.engine.progress import Curve, Row
from spos_cli.files.reading import read_json_lines

CHANGED, ENDED_EARLY = "changed", "ended_early"  # what a line without numbers says
MAX_BYTES = 8 * 2**20  # read from the end of a metrics.jsonl
MAX_NUMBER = 10**18  # far above what a training measures; larger ones overflow as floats, or in a sum
DIVERGED_RATIO = 2  # to the loss of guessing; a training whose beginning is only noisy or slow does not reach it
IMAGES_PER_CLASS = 100  # enough to tell an accuracy that is 20 % above chance from chance
CHANCE_DEVIATIONS = 2  # standard deviations above chance; an accuracy above that is better than guessing


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a `metrics.jsonl`, oldest first; torn lines, and lines far back, are left out.

    Raises:
        OSError: the file exists, but cannot be read.
    """
    return [line for line in read_json_lines(path, MAX_BYTES) if step_of(line) < math.inf]


def step_of(line: dict[str, Any] | None) -> float:
    """Return the step of a line of metrics; infinity for a torn line, or one whose step is not a number."""
    step = None if line is None else line.get("step")
    return float(step) if step is not None and is_number(step) else math.inf


def is_note(line: dict[str, Any] | None) -> bool:
    """Return whether a line of metrics has no numbers, but says what has changed or ended at its step."""
    return line is not None and (CHANGED in line or ENDED_EARLY in line)


class History:
    """The numbers of a training so far.

    Attributes:
        loss, top1: of each line of the training.
        validations: top-1 of each evaluation.
        last: the newest line of the training.
        validated: the step of the newest evaluation.
        ended_early: the step at which patience has ended the training; 0 if it has not.
    """

    def __init__(self, lines: Iterable[dict[str, Any]] = ()) -> None:
        self.loss: list[float] = []
        self.top1: list[float] = []
        self.validations: list[float] = []
        self.last: dict[str, Any] = {}
        self.validated = self.ended_early = 0
        for line in lines:
            self.add(line)

    def add(self, line: dict[str, Any]) -> None:
        """Add a line of metrics, of the training or of an evaluation."""
        if is_number(line.get("loss")) and is_number(line.get("top1")):
            self.loss.append(line["loss"])
            self.top1.append(line["top1"])
            self.last = line
        elif is_number(line.get("val_top1")):
            self.validations.append(line["val_top1"])
            self.validated = line["step"]
        elif ENDED_EARLY in line:
            self.ended_early = line["step"]

    def find_validation(self, step: int) -> float | None:
        """Return the top-1 of the evaluation of a step if it is the newest one; else None."""
        return self.validations[-1] if self.validations and self.validated == step else None

    @property
    def rows(self) -> list[Row]:
        """The rows of the dashboard."""
        if not self.last:
            return []
        rows: list[Row] = [
            ("loss", (f"{self.loss[-1]:<7.3f}", Curve(list(self.loss)))),
            ("top-1", (f"{self.top1[-1]:<7.1%}", Curve(list(self.top1)))),
        ]
        if self.validations:
            last, best = self.validations[-1], max(self.validations)
            text = f"step {self.validated:,}, best {best:.2%}"
            rows.append(("validated", (f"{last:<7.2%}", Curve(list(self.validations)), text)))
        lr, rate = self.last.get("lr"), self.last.get("images_per_second")
        now = [f"learning rate {lr:.3g}"] * is_number(lr) + [f"{rate:,.0f} images/s"] * is_number(rate)
        return [*rows, ("now", now)]


@dataclass(frozen=True)
class Guessing:
    """The last metrics of a training that is no better than guessing.

    Attributes:
        loss, top1: means over the last `images` images.
        guess: loss of a network that gives all classes the same probability; None if it is not known.
        chance: top-1 of such a network.
    """

    loss: float
    top1: float
    images: int
    guess: float | None
    chance: float

    @property
    def verdict(self) -> str:
        """What happened to the training, in words."""
        has_diverged = self.guess is not None and self.loss > DIVERGED_RATIO * self.guess
        return "diverged" if has_diverged else "learned nothing"

    def __str__(self) -> str:
        if self.guess is None:
            return f"training top-1 {self.top1:.1%} in the last {self.images:,} images; guessing has {self.chance:.1%}"
        return (
            f"training loss {self.loss:.4g} and top-1 {self.top1:.1%} in the last {self.images:,} images; guessing has"
            f" {self.guess:.4g} and {self.chance:.1%}"
        )


def find_guessing(
    lines: Sequence[dict[str, Any]], classes: int, loss_kind: str | None = "cross_entropy"
) -> Guessing | None:
    """Judge from its metrics whether a training has diverged or collapsed; return None if it has not.

    Equal probabilities for C classes have a cross entropy of ln C, whatever the labels and their smoothing, and a top-1
    of 1 / C. A training is no better than guessing

    - if the loss of its last line is more than `DIVERGED_RATIO` times ln C, however few images the line has. Top-1 does
      not count here: where classes differ in size, a network that always names the largest class beats 1 / C;
    - or if its loss is at least ln C, and its top-1 is at most `CHANCE_DEVIATIONS` standard deviations above 1 / C. A
      network whose activations have died ends at ln C to many digits.

    The second rule looks at the newest lines that together have `IMAGES_PER_CLASS` images per class, and only at those
    of the second half of the training. A network that has just begun is below ln C, or has too few images for it.

    With `bce`, such a network, whose logits are 0, gives each class the probability one half: ln 2 is in place of ln C.
    With a teacher, the loss of guessing depends on its predictions, so only the top-1 of the second rule counts.

    Args:
        lines: of `metrics.jsonl`, oldest first.
        loss_kind: `cross_entropy` or `bce`, the loss of the training; None with a teacher.
    """
    if classes < 2:
        return None
    chance = 1 / classes
    guess = None if loss_kind is None else math.log(2 if loss_kind == "bce" else classes)
    windows = [window for line in lines if (window := _read_window(line)) is not None]
    loss = top1 = 0.0
    seen = 0
    for step, images, line_loss, line_top1 in reversed(windows):
        if guess is not None and not seen and line_loss > DIVERGED_RATIO * guess:
            return Guessing(line_loss, line_top1, images, guess, chance)
        if 2 * step <= windows[-1][0]:
            break
        loss, top1, seen = loss + line_loss * images, top1 + line_top1 * images, seen + images
        if seen >= IMAGES_PER_CLASS * classes:
            loss, top1 = loss / seen, top1 / seen
            noise = CHANCE_DEVIATIONS * math.sqrt(chance * (1 - chance) / seen)
            is_guessing = (guess is None or loss >= guess * (1 - 1e-5)) and top1 <= chance + noise
            return Guessing(loss, top1, seen, guess, chance) if is_guessing else None
    return None


def _read_window(line: dict[str, Any]) -> tuple[float, int, float, float] | None:
    """Return step, images, loss and top-1 of a line of the training; None for other lines, and broken ones."""
    numbers: list[Any] = [line.get(name) for name in ("step", "images", "loss", "top1")]
    if isinstance(numbers[2], int | float) and numbers[2] > MAX_NUMBER:
        numbers[2] = MAX_NUMBER  # the loss may be infinite
    step, images, loss, top1 = numbers
    return (step, images, loss, top1) if all(map(is_number, numbers)) and images >= 1 else None


def is_number(value: object) -> bool:
    """Tell whether a value from a file is a number that can be shown and added up: finite, at most `MAX_NUMBER`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER
