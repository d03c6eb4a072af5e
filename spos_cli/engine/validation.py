"""Validate a model during its training: keep the best weights, and tell when patience is over."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from spos_cli.engine import checkpoint
from spos_cli.engine.progress import warn
from spos_cli.errors import CheckpointError, RunError

Scores = dict[str, float]  # of an evaluation; "top1" is among them


@dataclass(frozen=True)
class ValidationRecord:
    """What the evaluations of a training have shown so far; a part of each checkpoint.

    Attributes:
        evaluations: their number.
        step: of the newest one; 0 without one.
        best_step: of the first one with the highest top-1.
        best_top1: its top-1; -1 without one.
        since_best: evaluations after it, or after an extension of the training.
        images: hash of the validation images.
    """

    evaluations: int = 0
    step: int = 0
    best_step: int = 0
    best_top1: float = -1.0
    since_best: int = 0
    images: int = 0

    def add(self, step: int, top1: float) -> ValidationRecord:
        """Return the record with one more evaluation. An equal top-1 is not a new best."""
        if top1 > self.best_top1:
            return ValidationRecord(self.evaluations + 1, step, step, top1, 0, self.images)
        return replace(self, evaluations=self.evaluations + 1, step=step, since_best=self.since_best + 1)


class BestWeights:
    """The file with the weights that had the highest top-1 in an evaluation. Only the first process writes it.

    If the training resumes from a step before that evaluation, the file stays until an evaluation is better: a CPU
    repeats the lost steps to the same bytes, and a GPU almost.

    Args:
        path: of the file.
        make_content: makes its content, which a reader of networks understands, of weights, scores and step.
    """

    def __init__(self, path: Path, make_content: Callable[[dict[str, Tensor], Scores, int], dict[str, Any]]) -> None:
        self.path, self.make_content = path, make_content
        self.top1 = -1.0  # of the weights in the file

    def open(self, images: int) -> None:
        """Read the top-1 of the file of an earlier process; a damaged file, or one of other images, does not count."""
        if not self.path.exists():
            return
        try:
            content = checkpoint.load(self.path)
            if content["selection"]["images"] == images:
                self.top1 = float(content["metrics"]["top1"])
        except (CheckpointError, RunError, LookupError, TypeError, ValueError):
            warn(f"{self.path} cannot be read; the next evaluation replaces it")

    def offer(self, state: dict[str, Tensor], scores: Scores, record: ValidationRecord) -> None:
        """Write the file if these weights are better; if that fails, for example on a full disk, warn and continue.

        Args:
            state: the weights that were evaluated.
            record: with this evaluation.
        """
        if scores["top1"] <= self.top1:
            return
        content = {**self.make_content(state, scores, record.step), "selection": describe_selection(record)}
        try:
            checkpoint.save(self.path, content)
        except RunError as error:
            warn(f"{error}; continuing without the weights of step {record.step}")
        else:
            self.top1 = scores["top1"]

    def finish(self, record: ValidationRecord) -> None:
        """Write the number of all evaluations of the training to the file; if that fails, warn."""
        if self.top1 < 0:  # The file is not of this training.
            return
        try:
            content = checkpoint.load(self.path)
            if content.get("selection") != (selection := describe_selection(record)):
                checkpoint.save(self.path, {**content, "selection": selection})
        except (CheckpointError, RunError) as error:
            warn(f"{error}; the number of evaluations in {self.path} stays as it was")


def describe_selection(record: ValidationRecord) -> dict[str, Any]:
    """Return what a file says of how its weights were selected, for `run.weights_file`."""
    return {"by": "highest validation top-1", "evaluations": record.evaluations, "images": record.images}


class Validation:
    """The evaluations of a training.

    All processes call the methods together and decide the same.

    Attributes:
        record: what the evaluations have shown so far.

    Args:
        measure: measures a model on the validation images, over all processes.
        every: steps between evaluations. The last step is evaluated, too.
        images: hash of the validation images. Accuracies on others are not compared.
        patience: evaluations without a new best that end the training; None: it never ends early.
        best: the file with the best weights; None: they are not kept, or another process keeps them.
    """

    def __init__(
        self,
        measure: Callable[[nn.Module], Scores],
        *,
        every: int,
        images: int = 0,
        patience: int | None = None,
        best: BestWeights | None = None,
    ) -> None:
        self.measure, self.every, self.patience, self.best = measure, every, patience, best
        self.record = ValidationRecord(images=images)

    @property
    def is_patience_over(self) -> bool:
        """Whether so many evaluations had no new best that the training ends."""
        return self.patience is not None and self.record.since_best >= self.patience

    def is_due(self, step: int, steps: int) -> bool:
        """Tell whether the model is to be evaluated after a step of `steps`."""
        return step == steps or (step > 0 and step % self.every == 0)

    def load(self, content: dict[str, Any], step: int) -> None:
        """Go on with the record of a checkpoint.

        Args:
            content: the record in plain types.
            step: of the checkpoint.

        Raises:
            TypeError: it is not a record.
        """
        record = ValidationRecord(**content)
        if record.images != self.record.images:  # An evaluation of this step on the other images does not count.
            self.record = replace(self.record, step=step)
            return
        self.record = record

    def open_best(self, step: int) -> None:
        """Read what the file with the best weights has, when a training resumes at a step."""
        if self.best is not None and step:
            self.best.open(self.record.images)

    def run(self, model: nn.Module, step: int) -> Scores:
        """Evaluate the model after a step, and keep its weights if they are the best."""
        scores = self.measure(model)
        self.add(step, scores["top1"])
        if self.best is not None:
            self.best.offer(model.state_dict(), scores, self.record)
        return scores

    def add(self, step: int, top1: float) -> None:
        """Count an evaluation."""
        self.record = self.record.add(step, top1)

    def finish(self) -> None:
        """Write the number of all evaluations to the file with the best weights."""
        if self.best is not None:
            self.best.finish(self.record)

    def renew_patience(self) -> None:
        """Begin to count evaluations without a new best at 0, as an extended training does."""
        self.record = replace(self.record, since_best=0)

    def state(self) -> dict[str, Any]:
        """Return the record in plain types, for a checkpoint."""
        return dataclasses.asdict(self.record)

    def describe_end(self) -> str:
        """Say why the training ends early."""
        record = self.record
        return (
            f"no new best in {record.since_best} evaluations (patience {self.patience}); the best was"
            f" {record.best_top1:.2%} at step {record.best_step}"
        )
