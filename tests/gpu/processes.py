"""The installed `spos` on synthetic images: killed and resumed, on several devices, with too little memory."""

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
from tests.gpu.checks import Check, Place, Wrong, an_accelerator, within

CLASSES, IMAGES = 4, 24  # of each class
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
# cuDNN's gradients add up in an order that changes from run to run, which a training amplifies.
SAME_WEIGHTS = {"cpu": 0.0, "accelerator": 0.1}  # relative, of the norm of all weights


def write_images(folder: Path) -> None:
    """Leaves JPEG files of noise on a colour for each class, in `train` and `val`."""
    rng = np.random.default_rng(0)
    colours = rng.uniform(60, 200, (CLASSES, 3))
    for split in ("train", "val"):
        for label, colour in enumerate(colours):
            below = folder / split / f"class{label}"
            below.mkdir(parents=True)
            for index in range(IMAGES):
                pixels = (colour + 30 * rng.standard_normal((48, 64, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(below / f"{index:03}.jpg", quality=90)


def counts(most: int) -> list[int]:
    """Numbers of processes: 1, 2, 4 and so on, and the most there can be."""
    return sorted({*(2**power for power in range(most.bit_length())), most})


def most(place: Place) -> int:
    """As many processes as there are accelerators; on a CPU two."""
    return place.pick(accelerator.count(), 2)


class Run:
    """A working folder, and the commands that are typed in it.

    Args:
        name: of the folder, in that of the place.
        size, batch: pixels of the square input, and images of a step of all processes.
    """

    def __init__(self, place: Place, name: str, size: int = 32, batch: int | None = None) -> None:
        self.place, self.folder = place, place.folder / name
        if not (place.folder / "images").exists():
            write_images(place.folder / "images")
        common = math.lcm(*counts(most(place)))
        batch = batch or common * math.ceil(place.pick(64, 16) / common)
        self.folder.mkdir(exist_ok=True)
        threads = place.pick("null", "1")
        (self.folder / "spos.yaml").write_text(SETTINGS.format(threads=threads, size=size, batch=batch))

    @contextlib.contextmanager
    def started(self, devices: int) -> Iterator[subprocess.Popen[bytes]]:
        """A training of the supernet on some devices; none of its processes is left in the end."""
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
                for pid in [*self.workers(process), process.pid]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait()

    def end(self, process: subprocess.Popen[bytes], code: int = 0) -> None:
        """Waits for the end of a command, which must be this one."""
        found = process.wait()
        if found != code or "Traceback" in self.said():
            raise Wrong(f"exit code {found} instead of {code}: {self.said()[-1500:]}")

    def workers(self, process: subprocess.Popen[bytes]) -> list[int]:
        """The processes that the launcher has started."""
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            return [pid for pid in map(int, children) if b"spos_cli" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        except OSError:
            return []

    def said(self) -> str:
        """What the last command has said."""
        return (self.folder / "stderr").read_text(errors="replace")

    def metrics(self) -> list[dict[str, float]]:
        """Whole lines of the training's metrics."""
        path = self.folder / "run" / "supernet" / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def wait_for(self, step: int, process: subprocess.Popen[bytes]) -> None:
        """Waits until that step is in the metrics."""
        while not self.metrics() or self.metrics()[-1]["step"] < step:
            if process.poll() is not None:
                raise Wrong(f"ended before step {step}: {self.said()[-1500:]}")
            time.sleep(0.01)

    @property
    def last(self) -> Path:
        """The checkpoint of the last step."""
        return self.folder / "run" / "supernet" / "last.pt"


def undisturbed(place: Place, devices: int) -> Run:
    """A training that nothing disturbs, once for all checks."""
    run = Run(place, f"undisturbed-{devices}")
    done = run.folder / "done"
    if not done.exists():
        with run.started(devices) as process:
            run.end(process)
        done.touch()
    return run


def compare(run: Run, other: Run) -> str:
    """Compares the end of a disturbed training with that of one that nothing has disturbed."""
    steps = [int(line["step"]) for line in run.metrics()]
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
        raise Wrong(f"other bytes than without a disturbance; weights differ by {difference:.1e}")
    within("the norm of the weights", difference, SAME_WEIGHTS["accelerator"])
    return f"weights differ by {difference:.1e} of their norm"


def resume(place: Place) -> str:
    """Kills a training and types the command again."""
    run = Run(place, "killed")
    with run.started(1) as process:
        run.wait_for(KILLED_AT, process)
        os.killpg(process.pid, signal.SIGKILL)
        run.end(process, -signal.SIGKILL)
    with run.started(1) as process:
        run.end(process)
    if "resuming at step" not in run.said():
        raise Wrong(f"did not resume: {run.said()[-1500:]}")
    return f"killed after step {KILLED_AT} of {STEPS}, resumed: {compare(run, undisturbed(place, 1))}"


def several(place: Place) -> str:
    """Trains on 1 to all accelerators; on a CPU with 1 and 2 processes."""
    said = []
    for number in counts(most(place)):
        losses = [line["loss"] for line in undisturbed(place, number).metrics()]
        if len(losses) != STEPS // 5 or not all(map(math.isfinite, losses)):
            raise Wrong(f"losses with {number} processes: {losses}")
        said.append(f"{number}: loss {losses[0]:.2f} to {losses[-1]:.2f}")
    return f"{accelerator.choose_backend(place.device)}; {', '.join(said)}"


def two_devices(place: Place) -> str | None:
    """Tells why one of several processes cannot be killed."""
    if not Path("/proc/self/task").exists():
        return "needs Linux, to find the processes"
    return "needs two accelerators" if most(place) < 2 else None


def kill_one(place: Place) -> str:
    """Kills one process of several; the launcher is to start all of them again."""
    number = most(place)
    run = Run(place, "one-killed")
    with run.started(number) as process:
        run.wait_for(KILLED_AT, process)
        os.kill(run.workers(process)[-1], signal.SIGKILL)
        run.end(process)
    if "start again from the last checkpoint" not in run.said():
        raise Wrong(f"nothing was started again: {run.said()[-1500:]}")
    return f"one of {number} killed, all started again: {compare(run, undisturbed(place, number))}"


def memory(place: Place) -> str:
    """Leaves `spos` too little memory; it has to say in one line what to do."""
    free = accelerator.free_memory(place.device)
    if free is None:
        return "this PyTorch does not tell how much memory is free; not tried"
    held = torch.empty(max(0, free - 3 * 2**30), dtype=torch.uint8, device=place.device)
    run = Run(place, "memory", size=224, batch=1024)  # a feature map of the stem takes 3 GiB
    with run.started(1) as process:
        run.end(process, 2)
    del held
    said = run.said().strip().splitlines()[-1]
    if "out of memory" not in said or "supernet.accumulate" not in said:
        raise Wrong(f"the last line does not say what to do: {said}")
    return said


def checks() -> Iterator[Check]:
    """Of the installed program, which takes about ten seconds to start and to find its device."""
    trainings = len(counts(max(1, accelerator.count())))
    yield Check("processes", "spos on 1 to all accelerators; on a CPU on 1 and 2 processes", 30 * trainings, several)
    yield Check("resume", "spos killed and started again", 35, resume)
    yield Check("kill-one", "one process of several killed", 60, kill_one, two_devices)
    yield Check("memory", "the message where memory is too small", 25, memory, an_accelerator)
