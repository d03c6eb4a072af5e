"""Compare a checkpoint with the training that resumes it: what may differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spos_cli.engine.differences import find_differences, refuse_differences
from spos_cli.engine.optim import Schedule
from spos_cli.errors import RunError

# The settings that an extended training may change: those that say how the learning rate runs.
SCHEDULE_SETTINGS = frozenset(
    ("steps", "lr", "schedule", "min_lr", "step_every", "step_factor", "schedule_first", "warmup_steps")
)
# The settings that every resumed training may change: how the machine computes a step of the same images with the same
# learning rate, and how long a training without a new best goes on.
FREE_SETTINGS = frozenset(("accumulate", "amp", "compile", "gradient_compression", "patience"))

Difference = tuple[str, Any, Any]  # a setting, our value, the value of the checkpoint


@dataclass(frozen=True)
class Resumption:
    """How a training differs from the one that wrote its checkpoint; without a checkpoint, in nothing.

    Attributes:
        schedule: differences in the schedule. If there are any, the training is extended.
        changes: the other differences.
    """

    schedule: Sequence[Difference] = ()
    changes: Sequence[Difference] = ()

    @property
    def is_extension(self) -> bool:
        """Whether the training goes on with another schedule."""
        return bool(self.schedule)

    @property
    def content(self) -> dict[str, list[Any]]:
        """All differences for a line of metrics: by name, the value before and the new one."""
        return {_shorten(name): [theirs, ours] for name, ours, theirs in (*self.schedule, *self.changes)}

    def describe(self, step: int, steps: int) -> Iterator[str]:
        """Yield a line for each kind of difference.

        Args:
            step: where the training resumes.
            steps: of the whole training.
        """
        if self.is_extension:
            changes = "; ".join(f"{name}: {ours}, was {theirs}" for name, ours, theirs in self.schedule)
            yield f"extending the training at step {step}, with a new schedule of {steps - step} steps ({changes})"
        if self.changes:
            texts = [f"{_shorten(name)} {_show(ours)} (was {_show(theirs)})" for name, ours, theirs in self.changes]
            yield f"from step {step}: {', '.join(texts)}"


def compare(
    identity: dict[str, Any],
    content: dict[str, Any],
    path: Path,
    *,
    layout: dict[str, int],
    schedule: Schedule,
    extend: bool,
) -> Resumption:
    """Return how this training differs from that of a checkpoint.

    Args:
        identity: the settings of this training.
        content: of the checkpoint.
        path: its file, for messages.
        layout: how this training spreads a step over the machine, as a checkpoint keeps it.
        schedule: of this training.
        extend: whether the settings of the schedule may differ.

    Raises:
        RunError: settings differ that must not, or an extension would have no step.
    """
    changes: list[Difference] = []
    new_schedule: list[Difference] = []
    refused: list[Difference] = []
    for name, ours, theirs in find_differences(identity, content):
        setting = name.rpartition(".")[2]
        kind = changes if setting in FREE_SETTINGS else new_schedule if setting in SCHEDULE_SETTINGS else refused
        kind.append((name, ours, theirs))
    if refused or (new_schedule and not extend):
        _refuse(new_schedule, refused, f"{path} was trained", extend)
    if new_schedule:
        _require_steps(int(content["step"]), schedule, path)
    changes += [(name, ours, content.get(name)) for name, ours in layout.items() if content.get(name) != ours]
    return Resumption(new_schedule, changes)


def _refuse(schedule: Sequence[Difference], others: Sequence[Difference], what: str, extend: bool) -> None:
    """Raise RunError for differences, with what the user may do instead."""
    if extend:
        what = f"with --extend only the settings of the schedule may change: {what}"
    way = "" if others else "add --extend to go on from its last step with a new schedule"
    sections = [_shorten(name).rpartition(".")[0] for name, _, _ in others if name.endswith(".batch_size")]
    if sections:
        way = f"raise {sections[0]}.accumulate if memory is short"
    refuse_differences([*schedule, *others], what, way)


def _require_steps(step: int, schedule: Schedule, path: Path) -> None:
    """Raise RunError if a new schedule has no step left after that of a checkpoint."""
    if schedule.steps - step <= schedule.warmup_steps:
        raise RunError(
            f"{path} is at step {step} already, so steps: {schedule.steps} and warmup_steps: {schedule.warmup_steps}"
            " leave nothing to extend; raise steps"
        )


def _shorten(name: str) -> str:
    """Return a setting's name as the user types it."""
    return name.removeprefix("recipe.")


def _show(value: Any) -> str:
    return "null" if value is None else str(value)
