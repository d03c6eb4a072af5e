"""Train one architecture by itself, from scratch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spos_cli.config.identity import portable_settings, training_identity
from spos_cli.engine import checkpoint
from spos_cli.engine.calibration import calibrate
from spos_cli.engine.compilation import run_eagerly
from spos_cli.engine.distributed import Processes
from spos_cli.engine.evaluation import evaluate
from spos_cli.engine.metrics import Accuracy
from spos_cli.engine.precision import autocast, prepare_images
from spos_cli.engine.progress import track, warn
from spos_cli.engine.teacher import Teacher
from spos_cli.engine.trainer import Trainer
from spos_cli.engine.validation import BestWeights, Scores, Validation, ValidationRecord
from spos_cli.models.network import Network, count_shortcuts
from spos_cli.models.skeleton import build_initialized
from spos_cli.run.command import Run
from spos_cli.run.folder import TrainingFolder
from spos_cli.run.image_comparison import make_image_record, require_resumable
from spos_cli.run.images import Images
from spos_cli.run.inherited_weights import Inherited, name_inherited
from spos_cli.run.teacher import name_teacher
from spos_cli.run.training import make_mixing, make_training_plan, make_weights_seed, warn_of_guessing
from spos_cli.run.weights_file import make_network_content
from spos_cli.space.architecture import Architecture

CALIBRATION_STEPS = 20  # Batches for the statistics of an inherited path; more come no closer in a search.


@dataclass(frozen=True)
class StandAlone:
    """The result of a stand-alone training.

    Attributes:
        accuracy: of the network on the validation images.
        steps: that were done.
        validation: what the evaluations during the training have shown.
    """

    accuracy: Accuracy
    steps: int
    validation: ValidationRecord


def train_stand_alone(
    run: Run,
    processes: Processes,
    architecture: Architecture,
    images: Images,
    folder: TrainingFolder,
    inherited: Inherited | None = None,
    teacher: Teacher | None = None,
) -> StandAlone:
    """Train an architecture from its last checkpoint, or from the start, and save it as `model.pt`.

    Args:
        run: its seed is that of the weights, and of the order and augmentation of the images.
        images: at the architecture's image size, of a run that may have another seed, which says what is held out.
        inherited: the weights to begin with; None for random ones.
        teacher: a network to learn from; None for labels only.

    Raises:
        SposError: the data, the settings or an earlier checkpoint do not allow it.
    """
    training = run.config.retrain
    indices, _ = images.splits
    trainer = make_trainer(run, processes, architecture, images, folder, inherited, teacher)
    trainer.resume()
    run.record_config(folder, processes)
    if inherited is not None and trainer.step == 0:
        begin_with(run, trainer, inherited, images, processes)
    trainer.train(lambda step: images.batches(indices, training, step, training.steps, run.config.seed))
    steps = training.batchnorm_pass_steps
    if steps is None:
        steps = max(1, len(indices) // training.batch_size)
    recompute_batchnorm(run, trainer.result, images, processes, trainer.step, steps)
    accuracy = measure(run, trainer.result, images, processes)
    if processes.is_main:
        metrics = {
            "top1": accuracy.top1,
            "top5": accuracy.top5,
            "loss": accuracy.loss,
            "images": accuracy.images,
            "steps": trainer.step,
            **({"ended_early_of": training.steps} if trainer.step < training.steps else {}),
        }
        state = trainer.result.state_dict()
        checkpoint.save(
            folder.model, make_network_content(run.config, architecture, state, images.val.classes, metrics)
        )
        warn_of_guessing(folder, run.config, "retrain")
    assert trainer.validation is not None, "make_trainer has made it"
    return StandAlone(accuracy, trainer.step, trainer.validation.record)


def make_trainer(
    run: Run,
    processes: Processes,
    architecture: Architecture,
    images: Images,
    folder: TrainingFolder,
    inherited: Inherited | None = None,
    teacher: Teacher | None = None,
) -> Trainer:
    """Return a trainer of the architecture, at its first weights."""
    config, training = run.config, run.config.retrain
    space = config.space.build()
    network = build_initialized(
        lambda: Network(space, architecture, training.affine, training.dropout, training.stochastic_depth),
        make_weights_seed(config, "network"),
    )
    if training.stochastic_depth and processes.is_main and not count_shortcuts(network):
        warn(f"{architecture} has no block with a shortcut, so retrain.stochastic_depth has no effect on it")
    if inherited is not None and inherited.fill(network, config, images.val.classes) and processes.is_main:
        warn(inherited.describe_new_classifier(images.val.classes))

    return Trainer(
        network,
        make_training_plan(training, images),
        processes,
        name="retrain",
        folder=folder.path,
        identity={
            "kind": "retrain",
            "architecture": architecture.to_list(),
            "recipe": training_identity(config, "retrain"),
            **name_inherited(inherited),
            **name_teacher(teacher),
        },
        extra={"config": portable_settings(config), "images": make_image_record(images, val=True)},
        require=lambda content, what: require_resumable(images, content.get("images"), what),
        seed=config.seed,
        preprocess=images.preprocess,
        mixing=make_mixing(config, training),
        teacher=teacher,
        validation=make_validation(run, processes, architecture, images, folder),
        mirrors=run.mirrors,
        extend=run.extend,
    )


def make_validation(
    run: Run, processes: Processes, architecture: Architecture, images: Images, folder: TrainingFolder
) -> Validation:
    """Return what evaluates the network during the training, and keeps its best weights if the settings say so."""
    training = run.config.retrain

    def measure_midway(network: nn.Module) -> Scores:
        accuracy = measure(run, network, images, processes)
        return {"top1": accuracy.top1, "top5": accuracy.top5, "loss": accuracy.loss}

    def make_content(state: dict[str, Tensor], scores: Scores, step: int) -> dict[str, Any]:
        metrics = {**scores, "images": len(images.val), "steps": step}
        return make_network_content(run.config, architecture, state, images.val.classes, metrics)

    is_kept = training.keep_best and processes.is_main
    return Validation(
        measure_midway,
        every=training.evaluate_every,
        images=images.val_identity.number,
        patience=training.patience,
        best=BestWeights(folder.best, make_content) if is_kept else None,
    )


def begin_with(run: Run, trainer: Trainer, inherited: Inherited, images: Images, processes: Processes) -> None:
    """Calibrate a network that has the weights of a supernet's path, and say how accurate it is before training."""
    training = run.config.retrain
    if inherited.is_path:
        recompute_batchnorm(run, trainer.model, images, processes, 0, min(CALIBRATION_STEPS, training.steps))
    accuracy = measure(run, trainer.model, images, processes)
    trainer.model.train()
    if processes.is_main:
        run.say(f"validation top-1 with the weights of {inherited.weights.path}, before training: {accuracy.top1:.2%}")


def measure(run: Run, network: nn.Module, images: Images, processes: Processes) -> Accuracy:
    """Measure a network on the validation images, with the BatchNorm statistics of the first process."""
    processes.copy_from_main(network.buffers())
    network.eval()
    batches = ((pixels, labels) for pixels, labels, _ in images.val_batches(run.config.search.batch_size))
    with run_eagerly():
        return evaluate(network, batches, images.preprocess, processes.device, run.config.retrain.amp, processes)


def recompute_batchnorm(
    run: Run, network: nn.Module, images: Images, processes: Processes, first_step: int, steps: int
) -> None:
    """Average the BatchNorm statistics of the present weights over the training batches of some steps.

    The official code does so after the training, in one more epoch, with learning rate 0 and momentum 1 / step.
    """
    training = run.config.retrain
    if steps == 0:
        return
    indices, _ = images.splits
    batches = images.batches(indices, training, first_step, first_step + steps, run.config.seed)
    total = steps * training.accumulate
    network.eval()
    with track("BatchNorm pass", total, "batches", quiet=not processes.is_main) as task, torch.no_grad():

        def inputs() -> Iterator[Tensor]:
            for pixels, colours, _ in batches:
                yield prepare_images(images.preprocess, pixels, colours, processes.device)
                task.advance()

        with autocast(processes.device, training.amp), run_eagerly():
            calibrate(network, inputs(), processes)
