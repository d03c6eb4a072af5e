"""The only training loop: both trainings are a model, a recipe and batches."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from spos_cli import seeding
from spos_cli.engine import checkpoint, history, parallel
from spos_cli.engine.accelerator import choose_sum_dtype
from spos_cli.engine.differences import require_same
from spos_cli.engine.distributed import Processes
from spos_cli.engine.history import History, step_of
from spos_cli.engine.interrupt import Interrupted, StopRequest, stop_on_signals
from spos_cli.engine.optim import Schedule, make_ema, make_sgd
from spos_cli.engine.parallel import Compression
from spos_cli.engine.precision import Amp, autocast, prepare_images
from spos_cli.engine.progress import console, track, warn
from spos_cli.engine.scalars import Scalars
from spos_cli.engine.timing import timed
from spos_cli.errors import CheckpointError, ConfigError, RunError, TrainingError
from spos_cli.files.writing import write_atomically
from spos_cli.models.blocks import ChoiceBlock

Compile = Literal["off", "blocks"]
Batch = tuple[Tensor, Tensor | None, Tensor]

FORMAT = "spos-checkpoint-1"
GRAPHS = 4096  # that PyTorch may compile
# What PyTorch compiles with: the language, the variable that names a compiler, and those that are looked for.
COMPILERS = {"cpu": ("C++", "CXX", ("g++", "clang++")), "gpu": ("C", "CC", ("gcc", "clang"))}


@dataclass(frozen=True)
class Recipe:
    """How to train; the fields are those of the config's training sections.

    Attributes:
        schedule: learning rate per step, and the number of steps.
        batch_size: images per step over all processes.
        accumulate: passes per step and process.
        ema_decay: decay per step of the moving average of the weights, or None.
        keep_checkpoints: the newest ones that are kept.
        milestone_every: steps between those that are kept for good, or None.
    """

    schedule: Schedule
    batch_size: int
    accumulate: int = 1
    momentum: float = 0.9
    weight_decay: float = 4e-5
    label_smoothing: float = 0.1
    clip_grad_norm: float | None = None
    amp: Amp = "off"
    compile: Compile = "off"
    gradient_compression: Compression = "off"
    ema_decay: float | None = None
    log_every: int = 100
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    milestone_every: int | None = None

    @property
    def steps(self) -> int:
        """Optimizer updates."""
        return self.schedule.steps


class Trainer:
    """Trains a model step by step, and goes on where a killed run has left off.

    A step is a function of the weights, the optimizer's state, the step's number and the seed, so a resumed
    run ends in the same bytes as one that was never stopped (on a CPU).

    Args:
        model: moved to the device here.
        recipe: how to train.
        processes: this process among all.
        name: what the progress bar says.
        folder: where checkpoints and metrics go.
        identity: kept in each checkpoint; a checkpoint with another one is refused.
        extra: also kept, for those who read the checkpoint.
        require: is told what a checkpoint holds and how a message about it begins, and raises a RunError if it is not
            to be resumed.
        seed: of the dropout masks.
        preprocess: `(B, 3, H, W) uint8` and colours, both on the device, to float.
        arguments: of the step's forward passes after the images: a tuple for each path of a supernet. Each batch goes
            through all of them, and their gradients are added up.
        evaluate: measures the model (or its moving average) in the middle of a training.
        evaluate_every: steps between two calls of it.
        tensorboard: mirror the metrics to `tensorboard/` in the folder.
        one_path: whether `arguments` has one path for each step, so that only its gradients are sent.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        processes: Processes,
        *,
        name: str,
        folder: Path,
        identity: dict[str, Any],
        extra: dict[str, Any] | None = None,
        require: Callable[[dict[str, Any], str], None] = lambda content, what: None,
        seed: int,
        preprocess: Callable[[Tensor, Tensor | None], Tensor],
        arguments: Callable[[int], Sequence[tuple[Any, ...]]] = lambda step: ((),),
        evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
        evaluate_every: int = 0,
        tensorboard: bool = False,
        one_path: bool = True,
    ) -> None:
        self.recipe, self.processes, self.name, self.folder = recipe, processes, name, folder
        self.identity, self.extra, self.require, self.seed = identity, extra or {}, require, seed
        self.preprocess, self.arguments = preprocess, arguments
        self.evaluate, self.evaluate_every = evaluate, evaluate_every
        self.tensorboard = tensorboard and processes.is_main
        device = processes.device
        if recipe.amp == "fp16" and device.type == "cpu":
            raise ConfigError("amp: fp16 needs a GPU; use bf16 or off")
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parallel = parallel.wrap(self.model, processes, recipe.gradient_compression, one_path=one_path)
        self.optimizer = make_sgd(self.model, recipe.momentum, recipe.weight_decay)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.amp == "fp16")
        self.ema = make_ema(self.model, recipe.ema_decay) if recipe.ema_decay else None
        if recipe.compile == "blocks":
            compile_blocks(self.model, device)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        self.step = 0
        self.window, self.history = Window(processes), History()
        self.scalars: Scalars | None = None

    @property
    def result(self) -> nn.Module:
        """The trained model: the moving average where there is one."""
        return self.ema.module if self.ema else self.model

    def train(self, batches: Callable[[int], Iterable[Batch]]) -> None:
        """Runs the steps that are left.

        Args:
            batches: from a first step on, for each step of this process `recipe.accumulate` times images
                `(B, 3, H, W) uint8`, colours `(B, 3)` or None, and labels `(B,)`.

        Raises:
            TrainingError: a loss that is not finite; the checkpoints before it are kept.
            Interrupted: on a signal, after saving.
        """
        recipe, request = self.recipe, StopRequest()
        if self.step == recipe.steps:
            with self.mirrored(), stop_on_signals(request):
                self.make_up_evaluation()
                return
        stream = iter(batches(self.step))
        quiet = not self.processes.is_main
        with (
            self.mirrored(),
            stop_on_signals(request),
            track(self.name, recipe.steps, "steps", done=self.step, quiet=quiet, dashboard=True) as task,
            timed(self.folder, self.processes, lambda: self.step, "steps"),
        ):
            self.make_up_evaluation()
            task.rows = self.history.rows
            self.model.train()
            while self.step < recipe.steps:
                self.update(stream)
                self.step += 1
                last = self.step == recipe.steps
                logging = last or self.step % recipe.log_every == 0
                stopping = self.should_stop(request)
                saving = last or stopping or self.step % recipe.checkpoint_every == 0 or self.is_milestone(self.step)
                if logging or saving:
                    self.check_finite()
                if logging:
                    task.note = self.log()
                    task.rows = self.history.rows
                task.advance()
                # Saved first: an evaluation that fails, on a broken image say, must not cost what was trained.
                if saving:
                    self.save_or_go_on(must=last or stopping)
                if stopping:
                    raise Interrupted(request.number or signal.SIGTERM)
                if self.evaluate and self.evaluation_is_due():
                    task.phase = "validating"
                    self.log_evaluation(self.evaluate)
                    task.phase, task.rows = "", self.history.rows

    def evaluation_is_due(self) -> bool:
        """Tell whether the model is to be measured after the present step."""
        return self.step == self.recipe.steps or (self.step > 0 and self.step % self.evaluate_every == 0)

    def make_up_evaluation(self) -> None:
        """Measure the model of the last checkpoint if that was due, and was interrupted or has failed."""
        if self.evaluate is None or not self.evaluation_is_due():
            return
        missing = self.processes.is_main and self.history.validated != self.step  # the first process alone reads them
        if self.processes.any(missing):
            self.log_evaluation(self.evaluate)

    @contextlib.contextmanager
    def mirrored(self) -> Iterator[None]:
        """Within, the metrics go to TensorBoard too, if that is wanted; first those that have not yet done so."""
        if not self.tensorboard:
            yield
            return
        with contextlib.closing(Scalars(self.folder / "tensorboard", self.step)) as self.scalars:
            for line in history.read(self.folder / "metrics.jsonl"):
                self.scalars.add_metrics(line)
            yield

    def update(self, stream: Iterator[Batch]) -> None:
        """One optimizer step: forward and backward passes, then the update."""
        recipe, device = self.recipe, self.processes.device
        lr = recipe.schedule.lr(self.step)
        torch.manual_seed(seeding.torch_seed(self.seed, "dropout", self.step, self.processes.rank))
        arguments = self.arguments(self.step)
        for micro in range(recipe.accumulate):
            images, colours, labels = next(stream)
            labels = labels.to(device, non_blocking=True)
            images = prepare_images(self.preprocess, images, colours, device)
            for number, path in enumerate(arguments, 1):
                is_last = micro == recipe.accumulate - 1 and number == len(arguments)
                with contextlib.nullcontext() if is_last else self.without_averaging():
                    with autocast(device, recipe.amp):
                        logits = self.parallel(images, *path)
                        loss = self.criterion(logits, labels)
                    self.scaler.scale(loss / recipe.accumulate).backward()
                self.window.add(self.step, loss.detach(), logits.detach(), labels, 1 / len(arguments))
        if recipe.clip_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update_parameters(self.model)

    def without_averaging(self) -> contextlib.AbstractContextManager[None]:
        """Within, gradients add up in this process; the last pass of a step averages the sums."""
        if isinstance(self.parallel, DistributedDataParallel):
            return self.parallel.no_sync()
        return contextlib.nullcontext()

    def should_stop(self, request: StopRequest) -> bool:
        """Whether a signal has come to any process; all stop at the same step."""
        return self.processes.any(request.made)

    def check_finite(self) -> None:
        """Raises TrainingError if a loss since the last check was not finite, on any process."""
        bad = self.window.first_bad_step()
        if bad is not None:
            raise TrainingError(
                f"{self.name}: the loss is not finite at step {bad + 1}; nothing was saved since. Lower lr (it was"
                f" {self.recipe.schedule.lr(bad):.4g}), add warmup_steps or set clip_grad_norm, and start with --fresh"
            )

    def log(self) -> str:
        """Adds a line to the metrics, and says it in short."""
        entry = {"step": self.step, "lr": self.recipe.schedule.lr(self.step - 1), **self.window.summary()}
        self.write_metrics(entry)
        return f"loss {entry['loss']:.3f}, top-1 {entry['top1']:.1%}, lr {entry['lr']:.3g}"

    def log_evaluation(self, evaluate: Callable[[nn.Module], dict[str, float]]) -> None:
        """Measures the model and adds a line to the metrics."""
        begin = time.monotonic()
        scores = evaluate(self.result)
        self.model.train()
        self.window.pause(time.monotonic() - begin)
        self.write_metrics({"step": self.step, **{f"val_{key}": value for key, value in scores.items()}})
        if self.processes.is_main:
            said = ", ".join(f"{key} {value:.4g}" for key, value in scores.items())
            console.print(f"step {self.step}: validation {said}")

    def write_metrics(self, entry: dict[str, Any]) -> None:
        """Appends to metrics.jsonl, from the first process; what cannot be written is left out, and said so."""
        if not self.processes.is_main:
            return
        self.history.add(entry)
        if self.scalars is not None:
            self.scalars.add_metrics(entry)
        path = self.folder / "metrics.jsonl"
        line = (json.dumps(entry) + "\n").encode()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with path.open("ab", buffering=0) as file:
                end = file.tell()
                if file.write(line) < len(line):
                    os.truncate(path, end)  # half a line would spoil the next one
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            warn(f"cannot write {path}: {error.strerror or error}; the line of step {self.step} is left out")

    def last_metrics(self) -> dict[str, float]:
        """The newest line of training metrics; empty if there is none."""
        lines = history.read(self.folder / "metrics.jsonl")
        return next((line for line in reversed(lines) if "loss" in line), {})

    def is_milestone(self, step: int) -> bool:
        """Whether the checkpoint of a step is kept for good."""
        return self.recipe.milestone_every is not None and step % self.recipe.milestone_every == 0

    def save_or_go_on(self, must: bool) -> None:
        """Saves; if the disk does not take it, the last checkpoint stays and training goes on until the next.

        Raises:
            RunError: it `must` be saved now, since the training ends here.
        """
        try:
            self.save()
        except RunError as error:
            if must:
                raise RunError(f"{error}. Make room and run the same command: it goes on from there") from None
            warn(f"{error}; training goes on, the next checkpoint is tried at its time")

    def save(self) -> None:
        """Writes `step-<n>.pt`, points `last.pt` to it and removes the oldest, from the first process.

        Raises:
            TrainingError: the weights are not finite, or not the same on all processes; on every process.
        """
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            raise TrainingError(
                f"{self.name}: the weights are not finite after step {self.step}; they are not saved. Lower lr, add"
                " warmup_steps or set clip_grad_norm, and start with --fresh"
            )
        if self.processes.world_size > 1:
            self.require_same_weights()
        if not self.processes.is_main:
            return
        content = {
            "format": FORMAT,
            **self.identity,
            **self.extra,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
        }
        path = self.folder / f"step-{self.step:08d}.pt"
        checkpoint.save(path, content)
        self.name_also(path, "last.pt")
        if self.is_milestone(self.step):
            self.name_also(path, f"milestone-{self.step:08d}.pt")
        for old in sorted(self.folder.glob("step-*.pt"))[: -self.recipe.keep_checkpoints]:
            old.unlink(missing_ok=True)

    def require_same_weights(self) -> None:
        """Raises TrainingError, on all processes, if their weights have drifted apart."""
        if not self.processes.agree(checkpoint.fingerprint(list(self.model.parameters()))):
            raise TrainingError(
                f"{self.name}: the processes have different weights after step {self.step}; nothing was saved since the"
                " last checkpoint. Check that all machines have the same versions and images, and sound memory; then"
                " run the same command: it goes on from there"
            )

    def name_also(self, path: Path, name: str) -> None:
        """Gives a checkpoint another name, or makes a copy where the file system has no hard links."""
        link = self.folder / f".{name}.tmp"
        try:
            link.unlink(missing_ok=True)
            os.link(path, link)
            link.replace(self.folder / name)
        except OSError:
            write_atomically(self.folder / name, path.read_bytes())

    def resume(self) -> None:
        """Goes on from `last.pt` if there is one; if it is damaged, from the newest checkpoint that is not.

        Raises:
            RunError: it belongs to a run with other settings or images (the message lists the differences), or not all
                processes see it.
            CheckpointError: no checkpoint is whole, or it is foreign.
        """
        problem = self.set_damaged_aside() if self.processes.is_main else None
        if self.processes.any(problem is not None):
            raise problem or CheckpointError(f"no checkpoint in {self.folder} is whole")
        path = self.folder / "last.pt"
        if path.exists():
            self._load(path)
        steps = self.processes.gather(torch.tensor([self.step], device=self.processes.device)).flatten().tolist()
        if len(set(steps)) > 1:
            raise RunError(
                f"the processes see different checkpoints in {self.folder} (of steps {steps}); all machines need the"
                " same run folder"
            )
        if self.processes.is_main:
            self.forget_metrics_after(self.step)
            if self.step:
                console.print(f"resuming at step {self.step} of {self.recipe.steps}")

    def set_damaged_aside(self) -> CheckpointError | None:
        """Moves damaged checkpoints to `damaged/` until the newest one is whole, and makes that one `last.pt`.

        Returns what to raise if none is left.
        """
        last = self.folder / "last.pt"
        found = [path for path in (last, *sorted(self.folder.glob("step-*.pt"), reverse=True)) if path.exists()]
        for path in found:
            try:
                checkpoint.load(path)
            except CheckpointError as error:
                warn(f"{error}; it is kept as {_moved_to(path, self.folder / 'damaged')}")
                continue
            if path != last:
                warn(f"going on from {path}")
                self.name_also(path, "last.pt")
            return None
        return (
            CheckpointError(
                f"no checkpoint in {self.folder} is whole (they are kept in damaged/); use --fresh to start over"
            )
            if found
            else None
        )

    def _load(self, path: Path) -> None:
        """Takes over the state of a checkpoint."""
        content = checkpoint.load(path)
        require_same(self.identity, content, f"{path} was trained")
        self.require(content, f"{path} was trained")
        try:
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.scaler.load_state_dict(content["scaler"])
            if self.ema:
                self.ema.load_state_dict(content["ema"])
            self.step = int(content["step"])
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            reason = str(error).split("\n")[0]
            raise CheckpointError(f"{path} cannot be resumed: {reason}; use --fresh to start over") from None

    def forget_metrics_after(self, step: int) -> None:
        """Drops the lines of metrics.jsonl that a killed run wrote after its last checkpoint."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            kept = [line for line in lines if step_of(line) <= step]
            write_atomically(path, "".join(kept).encode())
            self.history = History(history.read(path))


def compile_blocks(model: nn.Module, device: torch.device) -> None:
    """Lets PyTorch compile each choice block when it is first used: a graph for each of them serves all paths.

    Raises:
        ConfigError: there is no compiler.
    """
    require_compiler(device)
    # Blocks of one kind share their code, and PyTorch gives up on code that it has compiled eight times.
    settings = torch._dynamo.config
    kind = "recompile" if hasattr(settings, "recompile_limit") else "cache_size"  # as PyTorch 2.6 has it
    for name in (f"{kind}_limit", f"accumulated_{kind}_limit"):
        setattr(settings, name, max(getattr(settings, name), GRAPHS))
    # Its own look at a block's input.
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
    for module in model.modules():
        if isinstance(module, ChoiceBlock):
            module.compile(dynamic=False)


def require_compiler(device: torch.device) -> str:
    """The command of the compiler that PyTorch needs to compile blocks for a device.

    Raises:
        ConfigError: there is none.
    """
    language, variable, usual = COMPILERS["cpu" if device.type == "cpu" else "gpu"]
    commands = (os.environ[variable],) if variable in os.environ else usual
    for command in commands:
        if shutil.which(command.partition(" ")[0]):
            return command
    raise ConfigError(
        f"compile: blocks needs a {language} compiler on a {'CPU' if device.type == 'cpu' else 'GPU'}, such as"
        f" {usual[0]}, and there is none; install one, name it in {variable}, or use off"
    )


def uncompiled() -> contextlib.AbstractContextManager[object]:
    """Within, compiled blocks run as they are written.

    For passes in between: PyTorch would compile each block anew for another mode, and for each other size of a batch.
    """
    stance: contextlib.AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


def _moved_to(path: Path, folder: Path) -> Path:
    """Moves a file into a folder, under a name that is free there.

    Raises:
        RunError: it cannot be moved.
    """
    aside, number = folder / path.name, 1
    while aside.exists():
        aside, number = folder / f"{path.stem}-{number}{path.suffix}", number + 1
    try:
        folder.mkdir(exist_ok=True)
        return path.rename(aside)
    except OSError as error:
        raise RunError(f"cannot move the damaged {path} to {folder}: {error.strerror or error}") from None


class Window:
    """Sums since the last line of the metrics, kept on the device."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.bad_step = torch.full((1,), -1, dtype=torch.int64, device=processes.device)
        self.reset()

    def reset(self) -> None:
        """Begins anew."""
        device = self.processes.device
        self.sums = torch.zeros(3, dtype=choose_sum_dtype(device), device=device)  # images, loss, top-1
        self.begin = time.monotonic()

    def add(self, step: int, loss: Tensor, logits: Tensor, labels: Tensor, share: float = 1.0) -> None:
        """Counts one pass, which is a `share` of those of its images; nothing here waits for the device."""
        self.sums[0] += labels.numel() * share
        self.sums[1] += loss * (labels.numel() * share)
        self.sums[2] += (logits.argmax(1) == labels).sum() * share
        self.bad_step.masked_fill_((self.bad_step < 0) & ~loss.isfinite(), step)

    def pause(self, seconds: float) -> None:
        """Takes time that was spent on something else out of the rate."""
        self.begin += seconds

    def first_bad_step(self) -> int | None:
        """The first step whose loss was not finite on some process."""
        steps = self.processes.gather(self.bad_step).flatten().tolist()
        return min((int(step) for step in steps if step >= 0), default=None)

    def summary(self) -> dict[str, float]:
        """Means over all images of all processes since the last call."""
        images, loss, top1 = self.processes.sum(self.sums).tolist()
        rate = images / max(time.monotonic() - self.begin, 1e-9)
        self.reset()
        means = {"loss": loss / images, "top1": top1 / images}
        return {**means, "images": round(images), "images_per_second": round(rate, 1)}
