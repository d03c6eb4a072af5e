"""The sections `supernet` and `retrain`: how both are trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from spos_cli.config.data import AugmentationConfig
from spos_cli.config.section import Section
from spos_cli.config.units import (
    ClassWeights,
    Cost,
    Count,
    Fraction,
    Number,
    Off,
    PathText,
)
from spos_cli.space.choices import OWN_CODE

Decay = Annotated[float, Field(ge=0, lt=1)]  # of a moving average, per update
MixingAlpha = Annotated[float, Field(ge=0.001, le=100)]

# The optimizers that use each setting; `lr` and `weight_decay` are for all of them.
OPTIMIZERS_BY_SETTING = {
    "momentum": ("sgd", "nesterov", "rmsprop"),
    "betas": ("adamw",),
    "alpha": ("rmsprop",),
    "eps": ("adamw", "rmsprop"),
}


class TrainingConfig(Section):
    """What both trainings have in common."""

    steps: Count = Field(description="Optimizer updates.")
    batch_size: Count = Field(1024, description="Images per update, over all processes.")
    accumulate: Count = Field(
        1, description="Forward and backward passes per update in each process: less memory, same batch."
    )
    lr: Annotated[float, Field(gt=0)] = Field(0.5, description="Peak learning rate, for the whole batch.")
    schedule: Literal["linear", "cosine", "step"] = Field(
        "linear",
        description="How the learning rate falls to min_lr. linear: as in the paper. cosine: half a period (SGDR, arXiv"
        " 1608.03983). step: times step_factor every step_every updates after the warm-up.",
    )
    min_lr: Annotated[float, Field(ge=0)] = Field(
        0, description="Learning rate at the end of the fall. step: the lowest learning rate."
    )
    step_every: Count | None = Field(None, description="step: updates between two falls of the learning rate.")
    step_factor: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="step: factor of each fall. PyTorch's default is 0.1; MobileNetV3 in torchvision has 0.973."
    )
    schedule_first: Literal[0, 1] = Field(
        0,
        description="Position of the first update on the schedule. 1: as in the official code, which advances the"
        " schedule before the update.",
    )
    warmup_steps: Annotated[Number, Field(ge=0)] = Field(
        0, description="Updates during which the learning rate rises linearly to lr."
    )
    optimizer: Literal["sgd", "nesterov", "adamw", "rmsprop"] = Field(
        "sgd",
        description="PyTorch's optimizer. sgd: with momentum, as in the paper. nesterov: SGD with Nesterov's momentum."
        " adamw: Adam with decoupled weight decay (arXiv 1711.05101). rmsprop: as in MobileNet recipes. adamw and"
        " rmsprop need a smaller lr, such as 0.001.",
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="Momentum of sgd, nesterov and rmsprop.")
    betas: tuple[Decay, Decay] = Field(
        (0.9, 0.999), description="adamw: decay per update of the averages of the gradient and of its square."
    )
    alpha: Decay = Field(
        0.99,
        description="rmsprop: decay per update of the average of the squared gradient. PyTorch's default is 0.99;"
        " MobileNetV3 in torchvision has 0.9.",
    )
    eps: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="adamw, rmsprop: what is added to the root of the averaged squared gradient. null: PyTorch's"
        " default, 1e-8. MobileNetV3 in torchvision has 0.0316, TensorFlow's recipe 0.001 under the root.",
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        4e-5,
        description="L2 penalty on weights of two or more dimensions, so not on BatchNorm. adamw: each update instead"
        " shrinks these weights by lr times this; PyTorch's default is 0.01.",
    )
    loss: Literal["cross_entropy", "bce"] = Field(
        "cross_entropy",
        description="bce: binary cross entropy of each class, averaged over the classes, as in ResNet strikes back"
        " (arXiv 2110.00476); but the targets of a mixed image are its shares, not 1. The gradients are smaller, about"
        " by the number of classes: adamw does not mind, SGD needs a larger lr.",
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="Probability that is spread evenly over all classes."
    )
    class_weights: ClassWeights = Field(
        None,
        description="Weights of the images' losses, for classes of different sizes: one for each class, in the order of"
        " the classes; only their ratios count. balanced: images / (classes * images of the class), as in scikit-learn."
        " null: all images count the same.",
    )
    sampling: Literal["uniform", "balanced"] = Field(
        "uniform",
        description="Which training images an epoch has. uniform: each once. balanced: each class equally often, images"
        " / classes times, rounded up (class-balanced sampling, arXiv 1910.09217).",
    )
    mixup: MixingAlpha | None = Field(
        None,
        description="Alpha of the Beta distribution that MixUp draws the weights of two images from (arXiv 1710.09412);"
        " 0.2 in torchvision's reference training. Training top-1 then counts the label of the larger weight."
        " null: off.",
    )
    cutmix: MixingAlpha | None = Field(
        None,
        description="The same for CutMix, which replaces a rectangle by another image's (arXiv 1905.04899); 1.0 in"
        " torchvision's reference training. With mixup and cutmix, each pass draws one of them, 50:50. null: off.",
    )
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Largest L2 norm of the gradient. null: no limit."
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="Dropout rate before the classifier.")
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Decay per step of the moving average of the weights, at most (1 + t) / (10 + t) after t steps."
        " The average is what the search scores, and what a retraining results in. null: no average.",
    )
    amp: Annotated[Literal["off", "bf16", "fp16"], Off] = Field("off", description="Mixed precision. fp16 needs CUDA.")
    compile: Annotated[Literal["off", "blocks"], Off] = Field(
        "off",
        description="blocks: PyTorch compiles each choice block at its first use. Needs a C++ compiler; on a GPU,"
        " a C compiler.",
    )
    gradient_compression: Annotated[Literal["off", "bf16"], Off] = Field(
        "off", description="bf16: processes exchange gradients in half the bytes, with 8 bits of precision."
    )
    log_every: Count = Field(100, description="Steps between lines of metrics.jsonl.")
    checkpoint_every: Count = Field(1000, description="Steps between checkpoints.")
    keep_checkpoints: Annotated[Number, Field(ge=1)] = Field(2, description="Number of newest step-*.pt files to keep.")
    milestone_every: Count | None = Field(
        None, description="Steps between checkpoints that are never deleted. null: none."
    )

    @property
    def loss_of_labels(self) -> Literal["cross_entropy", "bce"] | None:
        """The kind of the loss if it compares with labels only, so that the loss of guessing is known; else None."""
        return self.loss

    @model_validator(mode="after")
    def _require_consistent_steps(self) -> TrainingConfig:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be below steps ({self.steps})")
        return self

    def _is_changed(self, name: str) -> bool:
        """Return whether a setting has another value than its default.

        Whether it was typed would not do: resolved settings, which are read again, name all of them.
        """
        return bool(getattr(self, name) != type(self).model_fields[name].default)

    @model_validator(mode="after")
    def _require_one_balance(self) -> TrainingConfig:
        if self.class_weights == "balanced" and self.sampling == "balanced":
            raise ValueError(
                "class_weights: balanced and sampling: balanced each make up for classes of different sizes; use one of"
                " them"
            )
        return self

    @model_validator(mode="after")
    def _require_consistent_schedule(self) -> TrainingConfig:
        if self.min_lr >= self.lr:
            raise ValueError(f"min_lr ({self.min_lr:g}) must be below lr ({self.lr:g})")
        if self.schedule == "step":
            if self.step_every is None:
                raise ValueError("schedule: step needs step_every, the number of updates between two falls")
            return self
        for name in ("step_every", "step_factor"):
            if self._is_changed(name):
                raise ValueError(f"{name} is for schedule: step, but schedule is {self.schedule}; remove {name}")
        return self

    @model_validator(mode="after")
    def _require_consistent_optimizer(self) -> TrainingConfig:
        for name, optimizers in OPTIMIZERS_BY_SETTING.items():
            if self.optimizer not in optimizers and self._is_changed(name):
                raise ValueError(
                    f"{name} is for optimizer: {' or '.join(optimizers)}, but optimizer is {self.optimizer}; remove"
                    f" {name}"
                )
        if self.optimizer == "nesterov" and self.momentum == 0:
            raise ValueError("optimizer: nesterov needs momentum above 0; set momentum, or optimizer: sgd")
        if self.optimizer in ("adamw", "rmsprop") and not self._is_changed("lr"):
            raise ValueError(
                f"lr ({self.lr:g}) is for SGD; an update of {self.optimizer} changes a weight by about lr: set lr, such"
                " as 0.001"
            )
        return self


class BinsConfig(Section):
    """FLOPs bins of the official sampler: it draws a bin, then a path inside it."""

    low: Cost = Field(290_000_000, description="Lower end of the first bin, in FLOPs.")
    high: Cost = Field(360_000_000, description="Upper end of the last bin, in FLOPs.")
    width: Cost = Field(10_000_000, description="Width of each bin, in FLOPs.")

    @model_validator(mode="after")
    def _require_whole_bins(self) -> BinsConfig:
        if self.low >= self.high or (self.high - self.low) % self.width:
            raise ValueError(
                f"width must divide the range from low to high, got width {self.width:,} for {self.low:,} to"
                f" {self.high:,}"
            )
        return self


class SupernetConfig(TrainingConfig):
    """Training of the supernet, one path per step (paper, section 3.2)."""

    steps: Count = Field(150_000, description="Optimizer updates.")
    affine: bool = Field(False, description="Whether BatchNorm has a learned scale and shift.")
    sampler: Literal["uniform", "flops_bins", "sandwich"] = Field(
        "flops_bins",
        description="How paths are drawn. uniform: over the space. flops_bins: over bins of FLOPs, as in the official"
        " code."
        " sandwich: four paths per step, those of the most and of the fewest FLOPs and two random ones; the first"
        " learns from the labels, and the others from its predictions (BigNAS, arXiv 2003.11142).",
    )
    flops_bins: BinsConfig = BinsConfig()
    width_warmup_steps: Annotated[Number, Field(ge=0, le=10**12)] = Field(
        0,
        description="Updates, in as many equal parts as there are widths: the first part trains the widest only, each"
        " later part adds the next narrower one (progressive shrinking, as in Once-for-All). 0: all widths at once.",
    )


def _require_file_name(value: str) -> str:
    if not (value.strip() and value.isprintable()):
        raise ValueError("should be a file or package.module:function, without control characters")
    return value


class TeacherConfig(Section):
    """A trained network whose predictions a retraining imitates, besides the labels."""

    weights: Annotated[PathText, AfterValidator(_require_file_name)] = Field(
        description="A network: a model.pt of spos, a .pt2 file of torch.export.save, or package.module:function, which"
        " is called without arguments and returns a torch.nn.Module. Reading the last two runs code: name only what you"
        " trust."
    )
    weight: Fraction = Field(
        0.5,
        description="Share of the teacher's part in the loss; the rest is the loss against the labels. 1: no labels.",
    )
    loss: Literal["soft", "hard"] = Field(
        "soft",
        description="The teacher's part. soft: Kullback-Leibler divergence from the teacher's probabilities at the"
        " temperature, times temperature^2 (arXiv 1503.02531). hard: cross entropy with the teacher's top class, as in"
        " DeiT (arXiv 2012.12877). label_smoothing and class_weights are for the labels' part only.",
    )
    temperature: Annotated[float, Field(gt=0, le=1000)] = Field(
        1.0, description="soft: what the logits of teacher and network are divided by."
    )
    preset: Literal["spos", "standard"] | None = Field(
        None, description="How the teacher's images are prepared. null: as a model.pt says, else data.preset."
    )
    image_size: Count | None = Field(
        None,
        description="Side of the teacher's images, in pixels; the training's crops are resized. null: as a model.pt"
        " says, else space.image_size.",
    )

    @property
    def is_import_path(self) -> bool:
        """Whether the network is made by the user's own code, and not read from a file."""
        return OWN_CODE.fullmatch(self.weights) is not None

    @model_validator(mode="after")
    def _require_used_temperature(self) -> TeacherConfig:
        if self.loss == "hard" and self.temperature != 1:
            raise ValueError(f"temperature is for loss: soft, but loss is {self.loss}; remove temperature")
        return self


class RetrainConfig(TrainingConfig):
    """Training of the found architecture from scratch."""

    steps: Count = Field(300_000, description="Optimizer updates.")
    affine: bool = Field(True, description="Whether BatchNorm has a learned scale and shift.")
    stochastic_depth: Annotated[float, Field(ge=0, lt=1)] = Field(
        0,
        description="Probability of dropping the last block's output for an image, in mbconv blocks with a shortcut"
        " (arXiv 1603.09382). It grows linearly with depth, as in torchvision's EfficientNet, which has 0.2. 0: none.",
    )
    augmentation: AugmentationConfig | None = Field(
        None,
        description="What happens to the images of this training. Settings that are left out are as in"
        " data.augmentation. null: all are. Supernet and search use data.augmentation.",
    )
    teacher: TeacherConfig | None = Field(
        None,
        description="A trained network to learn from (distillation). It sees the same crops, colours and mixtures. The"
        " logged loss is the whole loss; top-1 counts labels. null: none.",
    )
    evaluate_every: Count = Field(5000, description="Steps between evaluations on the validation set.")
    batchnorm_pass_steps: Annotated[Number, Field(ge=0)] | None = Field(
        None, description="Batches of the final BatchNorm pass. null: one epoch, as in the official code. 0: no pass."
    )

    @property
    def loss_of_labels(self) -> Literal["cross_entropy", "bce"] | None:
        return self.loss if self.teacher is None else None
