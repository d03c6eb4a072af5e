"""Train one architecture by itself, from scratch."""

from __future__ import annotations

from collections.abc import Iterator

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
from spos_cli.engine.progress import track
from spos_cli.engine.trainer import Trainer
from spos_cli.models.network import Network
from spos_cli.models.skeleton import build_initialized
from spos_cli.run.command import Run
from spos_cli.run.folder import TrainingFolder
from spos_cli.run.image_comparison import make_image_record, require_resumable
from spos_cli.run.images import Images
from spos_cli.run.training import make_mixing, make_training_plan, make_weights_seed, warn_of_guessing
from spos_cli.run.weights_file import make_network_content
from spos_cli.space.architecture import Architecture


def train_stand_alone(
    run: Run, processes: Processes, architecture: Architecture, images: Images, folder: TrainingFolder
) -> Accuracy:
    """Train an architecture from its last checkpoint, or from the start, and save it as `model.pt`.

    Args:
        run: its seed is that of the weights, and of the order and augmentation of the images.
        images: of a run that may have another seed, which says what is held out.

    Returns:
        Its accuracy on the validation images.

    Raises:
        SposError: the data, the settings or an earlier checkpoint do not allow it.
    """
    training = run.config.retrain
    indices, _ = images.splits
    trainer = make_trainer(run, processes, architecture, images, folder)
    trainer.resume()
    run.record_config(folder, processes)
    trainer.train(lambda step: images.batches(indices, training, step, training.steps, run.config.seed))
    recompute_batchnorm(run, trainer.result, images, processes)
    accuracy = measure(run, trainer.result, images, processes)
    if processes.is_main:
        metrics = {
            "top1": accuracy.top1,
            "top5": accuracy.top5,
            "loss": accuracy.loss,
            "images": accuracy.images,
            "steps": trainer.step,
        }
        state = trainer.result.state_dict()
        checkpoint.save(
            folder.model, make_network_content(run.config, architecture, state, images.val.classes, metrics)
        )
        warn_of_guessing(folder, run.config, "retrain")
    return accuracy


def make_trainer(
    run: Run, processes: Processes, architecture: Architecture, images: Images, folder: TrainingFolder
) -> Trainer:
    """Return a trainer of the architecture, at its first weights."""
    config, training = run.config, run.config.retrain
    space = config.space.build()

    def evaluate_midway(network: nn.Module) -> dict[str, float]:
        accuracy = measure(run, network, images, processes)
        return {"top1": accuracy.top1, "top5": accuracy.top5, "loss": accuracy.loss}

    return Trainer(
        build_initialized(
            lambda: Network(space, architecture, training.affine, training.dropout),
            make_weights_seed(config, "network"),
        ),
        make_training_plan(training),
        processes,
        name="retrain",
        folder=folder.path,
        identity={
            "kind": "retrain",
            "architecture": architecture.to_list(),
            "recipe": training_identity(config, "retrain"),
        },
        extra={"config": portable_settings(config), "images": make_image_record(images, val=True)},
        require=lambda content, what: require_resumable(images, content.get("images"), what),
        seed=config.seed,
        preprocess=images.preprocess,
        mixing=make_mixing(config, training),
        evaluate=evaluate_midway,
        evaluate_every=training.evaluate_every,
        tensorboard=run.tensorboard,
    )


def measure(run: Run, network: nn.Module, images: Images, processes: Processes) -> Accuracy:
    """Measure a network on the validation images, with the BatchNorm statistics of the first process."""
    processes.copy_from_main(network.buffers())
    network.eval()
    batches = ((pixels, labels) for pixels, labels, _ in images.val_batches(run.config.search.batch_size))
    with run_eagerly():
        return evaluate(network, batches, images.preprocess, processes.device, run.config.retrain.amp, processes)


def recompute_batchnorm(run: Run, network: nn.Module, images: Images, processes: Processes) -> None:
    """Average the BatchNorm statistics of the final weights over training batches, as in the official code.

    The official code does so in one more epoch, with learning rate 0 and momentum 1 / step.
    """
    training = run.config.retrain
    indices, _ = images.splits
    steps = training.batchnorm_pass_steps
    if steps is None:
        steps = max(1, len(indices) // training.batch_size)
    if steps == 0:
        return
    batches = images.batches(indices, training, training.steps, training.steps + steps, run.config.seed)
    total = steps * training.accumulate
    network.eval()
    with track("BatchNorm pass", total, "batches", quiet=not processes.is_main) as task, torch.no_grad():

        def inputs() -> Iterator[Tensor]:
            for pixels, colours, _ in batches:
                yield prepare_images(images.preprocess, pixels, colours, processes.device)
                task.advance()

        with autocast(processes.device, training.amp), run_eagerly():
            calibrate(network, inputs(), processes)
