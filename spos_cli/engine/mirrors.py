"""Mirror the numbers of a stage to TensorBoard, Weights & Biases or MLflow."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from spos_cli.engine.history import is_number
from spos_cli.engine.progress import warn
from spos_cli.errors import ConfigError
from spos_cli.files.os_errors import reason_of
from spos_cli.files.reading import read_json
from spos_cli.files.writing import write_atomically

MirrorName = Literal["tensorboard", "wandb", "mlflow"]  # also the names of their packages and of their options
TITLES: dict[MirrorName, str] = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases", "mlflow": "MLflow"}
RECORD = "mirrors.json"  # in the folder of the stage: where its numbers are mirrored to, so that a resumed one goes on


class Mirror(Protocol):
    """Where numbers go besides the stage's own files. Any exception of it ends the mirror, and nothing else."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add the numbers of a step, by tag: one at least, all of one kind, such as `train/...`."""
        ...

    def close(self) -> None:
        """Send what is left, and end."""
        ...


class Record:
    """What a stage remembers of a run at a tracking service: its id, and which steps were sent there.

    Numbers of several kinds may have the same step: those of the training, and those of a validation after it.

    Args:
        folder: of the stage.
        name: of the mirror.

    Attributes:
        id: of the run; None if there is none yet.
        steps: the last step that was sent, by the kind of numbers, which is the first part of their tags.
    """

    def __init__(self, folder: Path, name: MirrorName) -> None:
        self.folder, self.path, self.name = folder, folder / RECORD, name
        known = read_json(self.path).get(name)
        known = known if isinstance(known, dict) else {}
        steps = known["steps"] if isinstance(known.get("steps"), dict) else {}
        self.id = known["id"] if isinstance(known.get("id"), str) else None
        self.steps: dict[str, int] = {kind: step for kind, step in steps.items() if type(step) is int}
        self._earlier_steps = dict(self.steps)

    @property
    def title(self) -> str:
        """The stage in words, such as `runs/imagenet/supernet`."""
        return "/".join(self.folder.absolute().parts[-3:])

    def has_earlier(self, step: int, values: Mapping[str, float]) -> bool:
        """Return whether an earlier process has sent such numbers of this step, or of a later one."""
        return step <= self._earlier_steps.get(_kind_of(values), -1)

    def note(self, step: int, values: Mapping[str, float]) -> None:
        """Remember that numbers were sent."""
        kind = _kind_of(values)
        self.steps[kind] = max(step, self.steps.get(kind, -1))
        self.write()

    def write(self) -> None:
        """Write the record."""
        content = {**read_json(self.path), self.name: {"id": self.id, "steps": self.steps}}
        write_atomically(self.path, (json.dumps(content) + "\n").encode())


def _kind_of(values: Mapping[str, float]) -> str:
    """Return what numbers are: `train` of the tags `train/loss` and `train/top1`."""
    return next(iter(values)).partition("/")[0]


def require_package(name: MirrorName) -> None:
    """Raise ConfigError if the package of a mirror is not installed, before any work."""
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f"--{name} needs the package {name}, which is not installed: pip install {name}")


class Mirrors:
    """The mirrors of a stage. One that fails causes a warning, and gets nothing more.

    Args:
        names: which mirrors there are; it may be empty.
        folder: the stage's folder.
        step: where the work resumes. TensorBoard forgets later steps; the services keep what they have, and each step
            is sent to them once. None keeps all steps.

    Raises:
        ConfigError: a package is not installed.
    """

    def __init__(self, names: Sequence[MirrorName], folder: Path, step: int | None = None) -> None:
        self.open: dict[MirrorName, Mirror] = {}
        for name in names:
            require_package(name)
            with self._giving_up_on(name):
                self.open[name] = _open(name, folder, step)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Add the numbers of a step, by tag. What is not a finite number is left out."""
        numbers = {tag: float(value) for tag, value in values.items() if is_number(value)}
        for name, mirror in list(self.open.items()) if numbers else ():
            with self._giving_up_on(name):
                mirror.log(step, numbers)

    def log_metrics(self, line: Mapping[str, Any]) -> None:
        """Add a line of a training's `metrics.jsonl`: `val_top1` as `val/top1`, all others as `train/<name>`."""
        tags = {key: f"val/{key[4:]}" if key.startswith("val_") else f"train/{key}" for key in line if key != "step"}
        self.log(int(line["step"]), {tag: line[key] for key, tag in tags.items()})

    def close(self) -> None:
        """Close all mirrors."""
        for name, mirror in list(self.open.items()):
            with self._giving_up_on(name):
                mirror.close()
        self.open.clear()

    @contextlib.contextmanager
    def _giving_up_on(self, name: MirrorName) -> Iterator[None]:
        """Drop a mirror whose package raises anything: a training of days must not end with it."""
        try:
            yield
        except Exception as error:
            self.open.pop(name, None)
            reason = reason_of(error) if isinstance(error, OSError) else str(error).partition("\n")[0]
            problem = reason or type(error).__name__
            warn(f"cannot write to {TITLES[name]}: {problem}; nothing more is mirrored there, and the work goes on")


def _open(name: MirrorName, folder: Path, step: int | None) -> Mirror:
    """Open one mirror; its package is imported here, since each is large."""
    if name == "tensorboard":
        from spos_cli.engine.tensorboard import TensorBoardMirror

        return TensorBoardMirror(folder / "tensorboard", step)
    from spos_cli.engine import tracking

    return (
        tracking.WandbMirror(Record(folder, name)) if name == "wandb" else tracking.MlflowMirror(Record(folder, name))
    )
