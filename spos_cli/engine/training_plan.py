"""How to train: the settings of a training, as the engine takes them."""

from __future__ import annotations

from dataclasses import dataclass

from spos_cli.engine.compilation import Compile
from spos_cli.engine.losses import LossKind
from spos_cli.engine.optim import OptimizerKind, Schedule
from spos_cli.engine.parallel import Compression
from spos_cli.engine.precision import Amp


@dataclass(frozen=True)
class TrainingPlan:
    """How to train; the fields are those of the config's training sections.

    Attributes:
        schedule: learning rate of each step, and the number of steps.
        batch_size: images per step, over all processes.
        accumulate: batches per step and process, whose gradients are added up.
        class_weights: weight of the loss of each class's images, or None.
        ema_decay: decay per step of the moving average of the weights, or None.
        keep_checkpoints: how many of the newest checkpoints to keep.
        milestone_every: steps between checkpoints that are kept for good, or None.
    """

    schedule: Schedule
    batch_size: int
    accumulate: int = 1
    optimizer: OptimizerKind = "sgd"
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    alpha: float = 0.99
    eps: float | None = None
    weight_decay: float = 4e-5
    loss: LossKind = "cross_entropy"
    label_smoothing: float = 0.1
    class_weights: tuple[float, ...] | None = None
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
