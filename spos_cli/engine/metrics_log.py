"""Keep the metrics of a training: `metrics.jsonl`, dashboard and mirrors."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spos_cli.engine import history
from spos_cli.engine.accelerator import choose_sum_dtype
from spos_cli.engine.distributed import Processes
from spos_cli.engine.history import History, is_note, step_of
from spos_cli.engine.mirrors import MirrorName, Mirrors
from spos_cli.engine.progress import warn
from spos_cli.files.os_errors import reason_of
from spos_cli.files.reading import parse_object
from spos_cli.files.writing import append_line, write_atomically


class MetricsLog:
    """The metrics of a training, one JSON object a line. Only the first process writes them.

    Attributes:
        history: the numbers so far, for the dashboard.

    Args:
        folder: the training's folder, for `metrics.jsonl` and what the mirrors keep.
        is_main: whether this is the first process.
        mirrors: where else the metrics go.
    """

    def __init__(self, folder: Path, *, is_main: bool, mirrors: Sequence[MirrorName] = ()) -> None:
        self.path, self.is_main = folder / "metrics.jsonl", is_main
        self.folder, self.mirror_names = folder, mirrors if is_main else ()
        self.mirrors: Mirrors | None = None
        self.history = History()

    @contextlib.contextmanager
    def mirrored(self, step: int) -> Iterator[None]:
        """Mirror the metrics within the block, if the user asked for it.

        Args:
            step: where the training resumes. Lines of an earlier run that a mirror does not have yet come first.
        """
        if not self.mirror_names:
            yield
            return
        with contextlib.closing(Mirrors(self.mirror_names, self.folder, step)) as self.mirrors:
            for line in history.read(self.path):
                self.mirrors.log_metrics(line)
            yield

    def write(self, line: dict[str, Any]) -> None:
        """Append a line, from the first process. If it cannot be written, warn and leave it out."""
        if not self.is_main:
            return
        self.history.add(line)
        if self.mirrors is not None:
            self.mirrors.log_metrics(line)
        try:
            append_line(self.path, json.dumps(line))
        except OSError as error:
            warn(f"cannot write {self.path}: {reason_of(error)}; the line of step {line['step']} is left out")

    def last_training_line(self) -> dict[str, float]:
        """Return the newest line that is not of an evaluation; empty if there is none."""
        lines = history.read(self.path)
        return next((line for line in reversed(lines) if "loss" in line), {})

    def cut_after(self, step: int) -> None:
        """Remove the lines that a killed run wrote after its last checkpoint, which is of `step`.

        What was noted at this step is about the steps that are lost, or about an end that the training goes beyond.
        """
        if self.path.exists():
            lines = self.path.read_bytes().splitlines(keepends=True)
            parsed = [(line, parse_object(line)) for line in lines]
            kept = [line for line, values in parsed if step_of(values) + is_note(values) <= step]
            write_atomically(self.path, b"".join(kept))
            self.history = History(history.read(self.path))


class MetricsWindow:
    """Sums of loss and top-1 since the last line of the metrics, kept on the device."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.bad_step = torch.full((1,), -1, dtype=torch.int64, device=processes.device)  # -1: all were finite
        self.reset()

    def reset(self) -> None:
        """Start a new window."""
        device = self.processes.device
        self.sums = torch.zeros(3, dtype=choose_sum_dtype(device), device=device)  # images, loss, top-1
        self.begin = time.monotonic()

    def add(self, step: int, loss: Tensor, logits: Tensor, labels: Tensor, share: float = 1.0) -> None:
        """Add one pass; nothing here waits for the device.

        Args:
            loss: mean over the images of the pass, `()`.
            logits: `(B, classes)`.
            labels: `(B,)`.
            share: how much each image counts; 1/n if the batch goes through n paths.
        """
        self.sums[0] += labels.numel() * share
        self.sums[1] += loss * (labels.numel() * share)
        self.sums[2] += (logits.argmax(1) == labels).sum() * share
        self.bad_step.masked_fill_((self.bad_step < 0) & ~loss.isfinite(), step)

    def pause(self, seconds: float) -> None:
        """Leave the time of other work, such as an evaluation, out of the images per second."""
        self.begin += seconds

    def first_bad_step(self) -> int | None:
        """Return the first step whose loss was not finite on some process; None if all were."""
        steps = self.processes.gather(self.bad_step).flatten().tolist()
        return min((int(step) for step in steps if step >= 0), default=None)

    def summary(self) -> dict[str, float]:
        """Return the means over all images of all processes in this window, and start the next one."""
        images, loss, top1 = self.processes.sum(self.sums).tolist()
        rate = images / max(time.monotonic() - self.begin, 1e-9)
        self.reset()
        means = {"loss": loss / images, "top1": top1 / images}
        return {**means, "images": round(images), "images_per_second": round(rate, 1)}
