"""Train a supernet or a stand-alone network: the only training loop."""

from __future__ import annotations

import contextlib
import functools
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from spos_cli import seeding
from spos_cli.engine import checkpoint, parallel
from spos_cli.engine.checkpoint_folder import CheckpointFolder
from spos_cli.engine.compilation import compile_blocks
from spos_cli.engine.distributed import Processes
from spos_cli.engine.history import CHANGED, ENDED_EARLY
from spos_cli.engine.interrupt import Interrupted, StopRequest, StopVote, stop_on_signals
from spos_cli.engine.losses import compute_loss, compute_teacher_loss
from spos_cli.engine.metrics_log import MetricsLog, MetricsWindow
from spos_cli.engine.mirrors import MirrorName
from spos_cli.engine.mixing import Mixing
from spos_cli.engine.optim import MovingAverage, make_optimizer
from spos_cli.engine.precision import autocast, prepare_images
from spos_cli.engine.progress import console, track, warn
from spos_cli.engine.resizing import resize
from spos_cli.engine.resumption import Resumption, compare
from spos_cli.engine.teacher import Teacher
from spos_cli.engine.timing import record_time
from spos_cli.engine.training_plan import TrainingPlan
from spos_cli.engine.validation import Validation, ValidationRecord
from spos_cli.errors import CheckpointError, ConfigError, RunError, TrainingError
from spos_cli.space.architecture import Architecture

# Images (B, C, H, W) uint8, colours (B, 3) or None, and labels (B,), or (B, classes) if they are soft.
Batch = tuple[Tensor, Tensor | None, Tensor]
Preprocess = Callable[[Tensor, Tensor | None], Tensor]  # from uint8 images and colours to float images


class Trainer:
    """Trains a model step by step, and resumes where a killed run stopped.

    A step is a function of the weights, the optimizer's state, the step's number and the seed. So a resumed run ends
    in the same bytes as one that was never stopped (on a CPU).

    Args:
        model: a supernet or a network; it is moved to the device here.
        plan: how to train.
        processes: this process among all.
        name: the training's name for the progress bar and messages.
        folder: where checkpoints and metrics are kept.
        identity: settings that a checkpoint must share to be resumed; it is part of each checkpoint.
        extra: further content of each checkpoint, for its readers.
        require: checks a checkpoint's content before it is resumed. It is also given the beginning of a message, and
            raises a RunError that begins so.
        seed: of the masks of dropout and of stochastic depth.
        preprocess: makes float images of `(B, C, H, W) uint8` images and colours, both on the device.
        mixing: mixes the images of a pass and their labels; top-1 then counts the label of the larger weight.
        teacher: a network whose predictions are a part of the loss; it is not trained, and in no checkpoint.
        paths: the paths through the supernet that a step trains. Each batch goes through all of them, and their
            gradients are summed. None for a network, which is one path.
        one_path: whether `paths` has one path for each step, so that only its gradients are sent.
        validation: evaluates the model (or its moving average) during the training; None: nothing does.
        mirrors: where the metrics go besides the folder.
        extend: go on with a checkpoint of another schedule. The plan's schedule then begins at its step.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: TrainingPlan,
        processes: Processes,
        *,
        name: str,
        folder: Path,
        identity: dict[str, Any],
        extra: dict[str, Any] | None = None,
        require: Callable[[dict[str, Any], str], None] = lambda content, what: None,
        seed: int,
        preprocess: Preprocess,
        mixing: Mixing | None = None,
        teacher: Teacher | None = None,
        paths: Callable[[int], Sequence[Architecture]] | None = None,
        one_path: bool = True,
        validation: Validation | None = None,
        mirrors: Sequence[MirrorName] = (),
        extend: bool = False,
    ) -> None:
        self.plan, self.processes, self.name, self.folder, self.extend = plan, processes, name, folder, extend
        self.identity, self.extra, self.require, self.seed = identity, extra or {}, require, seed
        self.preprocess, self.mixing, self.teacher, self.paths = preprocess, mixing, teacher, paths
        self.validation, self.resumption = validation, Resumption()
        device = processes.device
        if plan.amp == "fp16" and device.type == "cpu":
            raise ConfigError("amp: fp16 needs a GPU; use bf16 or off")
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.wrapped = parallel.wrap(self.model, processes, plan.gradient_compression, one_path=one_path)
        self.optimizer = make_optimizer(
            self.model,
            plan.optimizer,
            momentum=plan.momentum,
            betas=plan.betas,
            alpha=plan.alpha,
            eps=plan.eps,
            weight_decay=plan.weight_decay,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=plan.amp == "fp16")
        self.ema = MovingAverage(self.model, plan.ema_decay) if plan.ema_decay else None
        if plan.compile == "blocks":
            compile_blocks(self.model, device)
        self.criterion = functools.partial(
            compute_loss,
            kind=plan.loss,
            label_smoothing=plan.label_smoothing,
            class_weights=None if plan.class_weights is None else torch.tensor(plan.class_weights, device=device),
        )
        self.step = 0  # steps that are done
        self.saved: tuple[int, ValidationRecord | None] = (0, None)  # step and evaluations of the newest checkpoint
        self.window = MetricsWindow(processes)
        self.metrics = MetricsLog(folder, is_main=processes.is_main, mirrors=mirrors)
        self.checkpoints = CheckpointFolder(folder, keep=plan.keep_checkpoints, milestone_every=plan.milestone_every)

    @property
    def result(self) -> nn.Module:
        """The trained model: the moving average where there is one."""
        return self.ema.module if self.ema else self.model

    # The loop

    def train(self, batches: Callable[[int], Iterable[Batch]]) -> None:
        """Train the steps that are left.

        Args:
            batches: this process's batches from a first step on, `plan.accumulate` of them for each step.

        Raises:
            TrainingError: a loss or a weight is not finite; the checkpoints before it are kept.
            Interrupted: on a signal, after saving.
        """
        request = StopRequest()
        with self.metrics.mirrored(self.step), stop_on_signals(request):
            self.evaluate_if_missed()
            if not self.is_finished:
                self.note_changes()
                self.train_steps(iter(batches(self.step)), request)
            self.finish()

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done, or the training has ended early."""
        return self.step == self.plan.steps or (self.validation is not None and self.validation.is_patience_over)

    def train_steps(self, stream: Iterator[Batch], request: StopRequest) -> None:
        """Train until the training is finished, or stopped by a signal."""
        plan, quiet = self.plan, not self.processes.is_main
        with (
            contextlib.closing(StopVote(self.processes)) as vote,
            track(self.name, plan.steps, "steps", done=self.step, quiet=quiet, dashboard=True) as task,
            record_time(self.folder, self.processes, lambda: self.step, "steps"),
        ):
            task.rows = self.metrics.history.rows
            self.model.train()
            while not self.is_finished:
                # Train one step: pick the path, load the batch, forward, loss, backward, average, clip, update.
                self.update(stream)
                self.step += 1

                # Decide what follows this step. All processes decide the same.
                is_last = self.step == plan.steps
                is_logged = is_last or self.step % plan.log_every == 0
                is_evaluated = self.validation is not None and self.validation.is_due(self.step, plan.steps)
                is_stopped = vote.ask(request, now=is_last or is_evaluated)
                is_saved = is_last or is_stopped or self.saving_is_due()

                # Stop at a loss that is not finite, before it reaches the metrics or a checkpoint.
                if is_logged or is_saved:
                    self.require_finite_loss()

                # Log the means since the last line.
                if is_logged:
                    task.note = self.log()
                    task.rows = self.metrics.history.rows
                task.advance()

                # Save before evaluating: an evaluation that fails, on a broken image say, must not cost the training.
                if is_saved:
                    self.save_or_continue(must=is_last or is_stopped)
                if is_stopped:
                    raise Interrupted(request.number or signal.SIGTERM)

                # Evaluate on the validation set. That may end the training.
                if self.validation and is_evaluated:
                    task.phase = "validating"
                    self.log_evaluation(self.validation)
                    task.phase, task.rows = "", self.metrics.history.rows
                    if self.is_finished and not is_logged:
                        self.require_finite_loss()
                        self.log()

    def finish(self) -> None:
        """Keep and say how the training has ended."""
        validation = self.validation
        if validation is None:
            return
        if self.step < self.plan.steps:
            if self.processes.any(self.saved != (self.step, validation.record)):
                self.save_or_continue(must=True)
            self.metrics.write({"step": self.step, ENDED_EARLY: {"patience": validation.patience}})
            if self.processes.is_main:
                where = f"at step {self.step} of {self.plan.steps}"
                console.print(f"{self.name} has ended early, {where}: {validation.describe_end()}", soft_wrap=True)
        validation.finish()

    def update(self, stream: Iterator[Batch]) -> None:
        """Do one optimizer step on the next batches of a stream."""
        plan, device = self.plan, self.processes.device
        # Dropout masks are a function of seed, step and process, so that a resumed run draws the same ones.
        torch.manual_seed(seeding.torch_seed(self.seed, "dropout", self.step, self.processes.rank))
        # Pick the step's paths: one, or several of some samplers. A network is one path itself.
        paths: Sequence[Architecture | None] = self.paths(self.step) if self.paths else (None,)
        for batch in range(plan.accumulate):
            # Load the next batch, and augment its colours on the device.
            pixels, colours, labels = next(stream)
            labels = labels.to(device, non_blocking=True)  # (B,), or (B, classes) if they are soft
            part = batch * self.processes.world_size + self.processes.rank
            # Mix the images of the pass, if the plan says so. From then on, the label of a mixed image is that of the
            # larger weight. images: (B, C, H, W) float; targets: (B,), or (B, classes) if mixed or soft.
            images, targets = self.prepare(self.preprocess, pixels, colours, labels, part)
            # Ask the teacher, if there is one: (B, classes).
            teacher_logits = self.ask_teacher(images, pixels, colours, labels, part)
            labels = targets if targets.dim() == 1 else targets.argmax(1)
            first_logits: Tensor | None = None  # (B, classes), of the step's first path
            for number, path in enumerate(paths, 1):
                # Gradients add up in this process; the step's last pass averages the sums over all processes.
                is_last = batch == plan.accumulate - 1 and number == len(paths)
                with contextlib.nullcontext() if is_last else self.without_averaging():
                    with autocast(device, plan.amp):
                        # Forward, through the blocks of the path only.
                        logits = self.forward(images, path)  # (B, classes)
                        # Loss: the mean over the images of the pass, against their labels.
                        loss = objective = self.criterion(logits, targets)
                        if self.teacher is not None and teacher_logits is not None:
                            loss = objective = self.teacher.add_loss(loss, logits, teacher_logits)
                        # In-place distillation: of several paths, the first one teaches the others.
                        if first_logits is not None:
                            objective = compute_teacher_loss(logits, first_logits)
                    # Backward. Blocks outside of the path get no gradients.
                    self.scaler.scale(objective / plan.accumulate).backward()  # type: ignore[no-untyped-call]
                first_logits = logits.detach() if first_logits is None else first_logits
                # Add loss and top-1 to the sums for the next line of metrics.
                self.window.add(self.step, loss.detach(), logits.detach(), labels, 1 / len(paths))
        # Clip the norm of all gradients together.
        if plan.clip_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), plan.clip_grad_norm)
        # Update the weights that have gradients; all others stay as they are, without decay or momentum.
        for group in self.optimizer.param_groups:
            group["lr"] = plan.schedule.lr(self.step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        # Update the moving average of the weights.
        if self.ema:
            self.ema.update_parameters(self.model)

    def forward(self, images: Tensor, path: Architecture | None) -> Tensor:
        """Compute logits `(B, classes)` of images `(B, C, H, W)` float, through a path at the path's image size."""
        logits: Tensor = self.wrapped(images) if path is None else self.wrapped(resize(images, path.image_size), path)
        return logits

    def prepare(
        self, preprocess: Preprocess, pixels: Tensor, colours: Tensor | None, labels: Tensor, part: int
    ) -> tuple[Tensor, Tensor]:
        """Return the images of a pass as a network takes them, `(B, C, H, W)` float, and their targets.

        Args:
            preprocess: of the network that takes them.
            pixels, colours: as the loader gives them.
            labels: `(B,)`, or `(B, classes)`, on the device. They are the targets, unless the images are mixed.
            part: which part of the step's batch this is.
        """
        images = prepare_images(preprocess, pixels, colours, self.processes.device)
        return (images, labels) if self.mixing is None else self.mixing(images, labels, self.step, part)

    def ask_teacher(
        self, images: Tensor, pixels: Tensor, colours: Tensor | None, labels: Tensor, part: int
    ) -> Tensor | None:
        """Return the teacher's logits `(B, classes)` for the images of a pass; None without a teacher.

        It sees the same crops, colours and mixtures: the draws depend on the step, the part and the size of the images
        only, so another preparation is mixed alike.

        Args:
            images: prepared for the network that is trained, and mixed.
            pixels, colours, labels, part: as of `prepare`.
        """
        if self.teacher is None:
            return None
        if self.teacher.preprocess is not None:
            images, _ = self.prepare(self.teacher.preprocess, pixels, colours, labels, part)
        return self.teacher.classify(images, self.plan.amp)

    def without_averaging(self) -> contextlib.AbstractContextManager[None]:
        """Keep gradients in this process within the block, where there are several processes."""
        if isinstance(self.wrapped, DistributedDataParallel):
            return self.wrapped.no_sync()
        return contextlib.nullcontext()

    # Metrics and evaluations

    def require_finite_loss(self) -> None:
        """Raise TrainingError, on all processes, if a loss since the last check was not finite on any of them."""
        bad = self.window.first_bad_step()
        if bad is not None:
            raise TrainingError(
                f"{self.name}: the loss is not finite at step {bad + 1}; nothing was saved since. Lower lr (it was"
                f" {self.plan.schedule.lr(bad):.4g}), add warmup_steps or set clip_grad_norm, and start with --fresh"
            )

    def log(self) -> str:
        """Write a line of metrics, and return a short version of it for the progress bar."""
        line = {"step": self.step, "lr": self.plan.schedule.lr(self.step - 1), **self.window.summary()}
        self.metrics.write(line)
        return f"loss {line['loss']:.3f}, top-1 {line['top1']:.1%}, lr {line['lr']:.3g}"

    def evaluate_if_missed(self) -> None:
        """Count the evaluation of the last checkpoint's step; do it if it was due, but was interrupted or failed."""
        validation = self.validation
        if validation is not None and validation.record.step != self.step:
            # Only the first process has read the metrics.
            top1 = self.processes.copy_number(self.metrics.history.find_validation(self.step))
            if top1 is not None:
                validation.add(self.step, top1)
            elif validation.is_due(self.step, self.plan.steps):
                self.log_evaluation(validation)
        if validation is not None and self.resumption.is_extension:
            validation.renew_patience()

    def log_evaluation(self, validation: Validation) -> None:
        """Evaluate the model, and write a line of metrics."""
        begin = time.monotonic()
        scores = validation.run(self.result, self.step)
        self.model.train()
        self.window.pause(time.monotonic() - begin)
        self.metrics.write({"step": self.step, **{f"val_{key}": value for key, value in scores.items()}})
        if self.processes.is_main:
            text = ", ".join(f"{key} {value:.4g}" for key, value in scores.items())
            console.print(f"step {self.step}: validation {text}")

    # Checkpoints

    def saving_is_due(self) -> bool:
        """Tell whether the present step is one that the plan saves."""
        return self.step % self.plan.checkpoint_every == 0 or self.checkpoints.is_milestone(self.step)

    def save_or_continue(self, must: bool) -> None:
        """Save; if that fails, for example on a full disk, warn and continue: the last checkpoint is kept.

        Args:
            must: the training ends here, so a failure is an error.

        Raises:
            RunError: `must` is true, and the checkpoint cannot be written.
        """
        try:
            self.save()
        except RunError as error:
            if must:
                raise RunError(
                    f"{error}. Make room and run the same command: it resumes from the last checkpoint"
                ) from None
            warn(f"{error}; continuing; will retry at the next checkpoint")

    def save(self) -> None:
        """Save a checkpoint of the present step, from the first process.

        Raises:
            TrainingError: the weights are not finite, or not the same on all processes; on every process.
            RunError: the checkpoint cannot be written; the one before it is kept.
        """
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            raise TrainingError(
                f"{self.name}: the weights are not finite after step {self.step}; they are not saved. Lower lr, add"
                " warmup_steps or set clip_grad_norm, and start with --fresh"
            )
        if self.processes.world_size > 1:
            self.require_same_weights()
        if self.processes.is_main:
            self.checkpoints.save(self.step, self.state())
        self.saved = (self.step, self.validation.record if self.validation else None)

    def state(self) -> dict[str, Any]:
        """Return the content of a checkpoint: all that the next step depends on, and what its readers need."""
        return {
            **self.identity,
            **self.extra,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "schedule_begin": self.plan.schedule.begin,
            **self.layout,
            **({"validation": self.validation.state()} if self.validation else {}),
        }

    @property
    def layout(self) -> dict[str, int]:
        """How a step is spread over the machine. BatchNorm's statistics are of the images of a pass."""
        processes = self.processes.world_size
        return {"processes": processes, "images_per_pass": self.plan.batch_size // (processes * self.plan.accumulate)}

    def require_same_weights(self) -> None:
        """Raise TrainingError, on all processes, if their weights differ."""
        if not self.processes.agree(checkpoint.fingerprint(list(self.model.parameters()))):
            raise TrainingError(
                f"{self.name}: the processes have different weights after step {self.step}; nothing was saved since the"
                " last checkpoint. Check that all machines have the same versions and images, and sound memory; then"
                " run the same command: it resumes from the last checkpoint"
            )

    def resume(self) -> None:
        """Continue from `last.pt` if there is one; if it is damaged, from the newest checkpoint that is not.

        Raises:
            RunError: the checkpoint is of a run with other settings or images (the message lists the differences), or
                not all processes see the same one.
            CheckpointError: no checkpoint is whole, or it is not one of this training.
        """
        problem, content = None, None
        if self.processes.is_main:
            try:
                content = self.checkpoints.load_newest()
            except CheckpointError as error:
                problem = error
        if self.processes.any(problem is not None):
            raise problem or CheckpointError(f"no checkpoint in {self.folder} is whole")
        if self.checkpoints.last.exists():
            self.load(self.checkpoints.last, content)
        elif self.extend:
            raise RunError(f"there is no checkpoint in {self.folder} to extend; leave out --extend")
        steps = self.processes.gather(torch.tensor([self.step], device=self.processes.device)).flatten().tolist()
        if len(set(steps)) > 1:
            raise RunError(
                f"the processes see different checkpoints in {self.folder} (of steps {steps}); all machines need the"
                " same run folder"
            )
        if self.processes.is_main:
            self.metrics.cut_after(self.step)
            if self.step:
                console.print(f"resuming at step {self.step} of {self.plan.steps}")
        if self.validation:
            self.validation.open_best(self.step)

    def note_changes(self) -> None:
        """Write down, before the first step, what differs from the training that wrote the checkpoint."""
        if content := self.resumption.content:
            self.metrics.write({"step": self.step, CHANGED: content})
        for line in self.resumption.describe(self.step, self.plan.steps) if self.processes.is_main else ():
            console.print(line, soft_wrap=True, markup=False)

    def load(self, path: Path, content: dict[str, Any] | None = None) -> None:
        """Load the state in a checkpoint.

        Args:
            content: of the checkpoint, if it was read before.

        Raises:
            RunError: it is of a run with other settings or images.
            CheckpointError: it is damaged, or not one of this training.
        """
        content = content or checkpoint.load(path)
        self.resumption = compare(
            self.identity, content, path, layout=self.layout, schedule=self.plan.schedule, extend=self.extend
        )
        self.require(content, f"{path} was trained")
        try:
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            if content["scaler"]:  # It is empty in every precision but fp16.
                self.scaler.load_state_dict(content["scaler"])
            if self.ema:
                self.ema.load_state_dict(content["ema"])
            self.step = int(content["step"])
            begin = self.step if self.resumption.is_extension else int(content["schedule_begin"])
            self.plan = replace(self.plan, schedule=replace(self.plan.schedule, begin=begin))
            if self.validation:
                self.validation.load(content["validation"], self.step)
                self.saved = (self.step, self.validation.record)
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            reason = str(error).split("\n")[0]
            raise CheckpointError(f"{path} cannot be resumed: {reason}; use --fresh to start over") from None
