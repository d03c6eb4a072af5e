"""Check the installed `spos`: killed and resumed, on several devices, with too little memory."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from spos_cli.engine import accelerator, checkpoint
from tests.conftest import PROGRAM, environment
from tests.gpu.checks import Check, Place, Wrong, need_accelerator, require_within

CLASSES, IMAGES_PER_CLASS = 4, 24
STEPS, KILLED_AT = 60, 20
SETTINGS = """
name: gpu
threads: {threads}
space:
  image_size: {size}
  classes: 4
  stem: {{channels: 16, stride: 1}}
  stages:
    - {{blocks: 2, channels: 32, stride: 2}}
    - {{blocks: 2, channels: 64, stride: 2}}
  head_channels: 64
data: {{root: ../images, preset: standard, holdout_per_class: 4, workers: 0}}
supernet:
  {{steps: 60, batch_size: {batch}, lr: 0.02, sampler: uniform, log_every: 5, checkpoint_every: 5, keep_checkpoints: 2}}
"""
# Allowed relative difference of all weights. cuDNN adds gradients in an order that varies, which training amplifies.
WEIGHTS_TOLERANCE = 0.1


def write_images(folder: Path) -> None:
    """Write JPEG files to `train` and `val`: noise on a colour for each class."""
    rng = np.random.default_rng(0)
    colours = rng.uniform(60, 200, (CLASSES, 3))
    for split in ("train", "val"):
        for label, colour in enumerate(colours):
            class_folder = folder / split / f"class{label}"
            class_folder.mkdir(parents=True)
            for index in range(IMAGES_PER_CLASS):
                pixels = (colour + 30 * rng.standard_normal((48, 64, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(class_folder / f"{index:03}.jpg", quality=90)


def list_counts(largest: int) -> list[int]:
    """List numbers of processes: 1, 2, 4 and so on, and the largest."""
    return sorted({*(2**power for power in range(largest.bit_length())), largest})


def count_devices(place: Place) -> int:
    """Count the accelerators; on a CPU return 2."""
    return place.pick(accelerator.count(), 2)


class Run:
    """A working folder, and the commands that run in it.

    Args:
        name: of the folder, inside the folder of the place.
        size: side of the square input, in pixels.
        batch: images of a step, over all processes.
    """

    def __init__(self, place: Place, name: str, size: int = 32, batch: int | None = None) -> None:
        self.place, self.folder = place, place.folder / name
        if not (place.folder / "images").exists():
            write_images(place.folder / "images")
        common = math.lcm(*list_counts(count_devices(place)))
        batch = batch or common * math.ceil(place.pick(64, 16) / common)
        self.folder.mkdir(exist_ok=True)
        threads = place.pick("null", "1")
        (self.folder / "spos.yaml").write_text(SETTINGS.format(threads=threads, size=size, batch=batch))

    @contextlib.contextmanager
    def start(self, devices: int) -> Iterator[subprocess.Popen[bytes]]:
        """Start a supernet training on some devices, and kill all its processes at the end of the block."""
        hidden = {} if self.place.is_real else {"CUDA_VISIBLE_DEVICES": ""}
        with (self.folder / "stderr").open("wb") as errors:
            process = subprocess.Popen(
                [str(PROGRAM), "supernet-train", "--devices", str(devices), "--run-dir", "run"],
                cwd=self.folder,
                env=environment() | hidden,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
            try:
                yield process
            finally:
                for pid in [*self.list_workers(process), process.pid]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait()

    def end(self, process: subprocess.Popen[bytes], code: int = 0) -> None:
        """Wait until a command ends; raise Wrong if its exit code is another."""
        actual = process.wait()
        if actual != code or "Traceback" in self.read_stderr():
            raise Wrong(f"exit code {actual} instead of {code}: {self.read_stderr()[-1500:]}")

    def list_workers(self, process: subprocess.Popen[bytes]) -> list[int]:
        """List the processes that the launcher has started."""
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            return [pid for pid in map(int, children) if b"spos_cli" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        except OSError:
            return []

    def read_stderr(self) -> str:
        """Read what the last command has written to stderr."""
        return (self.folder / "stderr").read_text(errors="replace")

    def read_metrics(self) -> list[dict[str, float]]:
        """Read the complete lines of the training's metrics."""
        path = self.folder / "run" / "supernet" / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def wait_for(self, step: int, process: subprocess.Popen[bytes]) -> None:
        """Wait until a step is in the metrics."""
        while not self.read_metrics() or self.read_metrics()[-1]["step"] < step:
            if process.poll() is not None:
                raise Wrong(f"ended before step {step}: {self.read_stderr()[-1500:]}")
            time.sleep(0.01)

    @property
    def last(self) -> Path:
        """Checkpoint of the last step."""
        return self.folder / "run" / "supernet" / "last.pt"


def train_undisturbed(place: Place, devices: int) -> Run:
    """Train without disturbance, once for all checks."""
    run = Run(place, f"undisturbed-{devices}")
    done = run.folder / "done"
    if not done.exists():
        with run.start(devices) as process:
            run.end(process)
        done.touch()
    return run


def compare(run: Run, other: Run) -> str:
    """Compare the results of a disturbed and an undisturbed training."""
    steps = [int(line["step"]) for line in run.read_metrics()]
    if steps != list(range(5, STEPS + 1, 5)):
        raise Wrong(f"metrics of the steps {steps}")
    if run.last.read_bytes() == other.last.read_bytes():
        return "the same bytes"
    one, two = (
        torch.cat([v.double().flatten() for k, v in checkpoint.load(r.last)["model"].items() if k.endswith("weight")])
        for r in (run, other)
    )
    difference = float((one - two).norm() / two.norm())
    if not run.place.is_real:
        raise Wrong(f"other bytes than without disturbance; weights differ by {difference:.1e}")
    require_within("the norm of the weights", difference, WEIGHTS_TOLERANCE)
    return f"weights differ by {difference:.1e} of their norm"


def check_resume(place: Place) -> str:
    """Kill a training and run the command again."""
    run = Run(place, "killed")
    with run.start(1) as process:
        run.wait_for(KILLED_AT, process)
        os.killpg(process.pid, signal.SIGKILL)
        run.end(process, -signal.SIGKILL)
    with run.start(1) as process:
        run.end(process)
    if "resuming at step" not in run.read_stderr():
        raise Wrong(f"did not resume: {run.read_stderr()[-1500:]}")
    return f"killed after step {KILLED_AT} of {STEPS}, resumed: {compare(run, train_undisturbed(place, 1))}"


def check_processes(place: Place) -> str:
    """Train on 1 to all accelerators; on a CPU with 1 and 2 processes."""
    findings = []
    for number in list_counts(count_devices(place)):
        losses = [line["loss"] for line in train_undisturbed(place, number).read_metrics()]
        if len(losses) != STEPS // 5 or not all(map(math.isfinite, losses)):
            raise Wrong(f"losses with {number} processes: {losses}")
        findings.append(f"{number}: loss {losses[0]:.2f} to {losses[-1]:.2f}")
    return f"{accelerator.choose_backend(place.device)}; {', '.join(findings)}"


def need_two_devices(place: Place) -> str | None:
    """Return why one of several processes cannot be killed, or None."""
    if not Path("/proc/self/task").exists():
        return "needs Linux, to find the processes"
    return "needs two accelerators" if count_devices(place) < 2 else None


def check_kill_one(place: Place) -> str:
    """Kill one of several processes; the launcher must restart all of them."""
    number = count_devices(place)
    run = Run(place, "one-killed")
    with run.start(number) as process:
        run.wait_for(KILLED_AT, process)
        os.kill(run.list_workers(process)[-1], signal.SIGKILL)
        run.end(process)
    if "start again from the last checkpoint" not in run.read_stderr():
        raise Wrong(f"nothing was restarted: {run.read_stderr()[-1500:]}")
    return f"one of {number} killed, all started again: {compare(run, train_undisturbed(place, number))}"


def check_memory(place: Place) -> str:
    """Leave `spos` too little memory; it must say in one line what to do."""
    free = accelerator.free_memory(place.device)
    if free is None:
        return "not tried: this PyTorch does not report free memory"
    held = torch.empty(max(0, free - 3 * 2**30), dtype=torch.uint8, device=place.device)
    run = Run(place, "memory", size=224, batch=1024)  # A feature map of the stem takes 3 GiB.
    with run.start(1) as process:
        run.end(process, 2)
    del held
    line = run.read_stderr().strip().splitlines()[-1]
    if "out of memory" not in line or "supernet.accumulate" not in line:
        raise Wrong(f"the last line does not say what to do: {line}")
    return line


def list_checks() -> Iterator[Check]:
    """List the checks of the installed program, which needs about ten seconds to start and find its device."""
    trainings = len(list_counts(max(1, accelerator.count())))
    yield Check(
        "processes", "spos on 1 to all accelerators; on a CPU on 1 and 2 processes", 30 * trainings, check_processes
    )
    yield Check("resume", "spos killed and started again", 35, check_resume)
    yield Check("kill-one", "one process of several killed", 60, check_kill_one, need_two_devices)
    yield Check("memory", "the message where memory is too small", 25, check_memory, need_accelerator)
