"""`spos retrain`: train one architecture from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from spos_cli.config.identity import portable_settings, training_identity
from spos_cli.engine import checkpoint
from spos_cli.engine.calibration import calibrate
from spos_cli.engine.distributed import Processes
from spos_cli.engine.evaluation import evaluate
from spos_cli.engine.metrics import Accuracy
from spos_cli.engine.precision import autocast, prepared
from spos_cli.engine.progress import track
from spos_cli.engine.trainer import Trainer, uncompiled
from spos_cli.files.quoting import quote_path
from spos_cli.models.counting import count
from spos_cli.models.network import Network
from spos_cli.models.skeleton import initialized
from spos_cli.run.command import Run
from spos_cli.run.images import Images
from spos_cli.run.inputs import only_one, require_batch, training_recipe, warn_of_guessing, weights_seed
from spos_cli.run.weights_file import network_content
from spos_cli.space.architecture import Architecture, read
from spos_cli.space.cost import format_cost


def run(run: Run, processes: Processes, arch: str | None) -> None:
    """Leaves `retrain/<id>/model.pt`; goes on from `last.pt` there if it is not complete.

    Args:
        arch: a literal or a file; by default the one architecture that was exported.

    Raises:
        SposError: the architecture, the data, the settings or an earlier checkpoint do not allow it.
    """
    config, training = run.config, run.config.retrain
    exported = run.folder.archs.glob("*/arch.yaml")
    architecture = read(arch or str(only_one(list(exported), "arch.yaml", run.command("export-arch"))))
    space = config.space.build()
    require_batch(space, training, processes.world_size, "retrain")  # fails before any work
    space.validate(architecture)
    images = Images(config, processes)
    images.check()
    images.warn_of_small_shared_memory(training)
    with run.working_in(run.folder.retrain(architecture.id).path, processes):
        train(run, processes, architecture, images, run.folder.retrain(architecture.id).path)


def train(run: Run, processes: Processes, architecture: Architecture, images: Images, folder: Path) -> None:
    """Trains from the last checkpoint in a folder, or from the beginning, to the end, and keeps the result there."""
    config, training = run.config, run.config.retrain
    space = config.space.build()
    model = initialized(
        lambda: Network(space, architecture, training.affine, training.dropout), weights_seed(config, "network")
    )
    indices, _ = images.splits

    def measure(network: nn.Module) -> Accuracy:
        processes.copy_from_main(network.buffers())
        network.eval()
        batches = images.val_batches(config.search.batch_size)
        pairs = ((pixels, labels) for pixels, labels, _ in batches)
        with uncompiled():
            return evaluate(network, pairs, images.preprocess, processes.device, training.amp, processes)

    def midway(network: nn.Module) -> dict[str, float]:
        accuracy = measure(network)
        return {"top1": accuracy.top1, "top5": accuracy.top5, "loss": accuracy.loss}

    trainer = Trainer(
        model,
        training_recipe(training, training.ema_decay),
        processes,
        name="retrain",
        folder=folder,
        identity={
            "kind": "retrain",
            "architecture": architecture.to_list(),
            "recipe": training_identity(config, "retrain"),
        },
        extra={"config": portable_settings(config), "images": images.remembered(val=True)},
        require=lambda content, what: images.require_resumable(content.get("images"), what),
        seed=config.seed,
        preprocess=images.preprocess,
        evaluate=midway,
        evaluate_every=training.evaluate_every,
        tensorboard=run.tensorboard,
    )
    flops = count(space).flops.of(architecture)
    if processes.is_main:
        run.say(f"training {architecture} ({format_cost(flops)} FLOPs) from scratch on {len(indices):,} images")
    trainer.resume()
    run.record_config(folder, processes)
    trainer.train(lambda step: images.batches(indices, training, step, training.steps))
    last_batchnorm_pass(run, trainer.result, images, processes)
    accuracy = measure(trainer.result)
    if processes.is_main:
        save_model(run, architecture, trainer, images, accuracy, folder / "model.pt")
        show(run, architecture, flops, accuracy, folder / "model.pt")
        warn_of_guessing(folder, config, "retrain")


def last_batchnorm_pass(run: Run, model: nn.Module, images: Images, processes: Processes) -> None:
    """Averages the BatchNorm statistics of the final weights over training batches, as published.

    The published code does it as one more epoch with learning rate 0 and momentum 1 / step.
    """
    training = run.config.retrain
    indices, _ = images.splits
    steps = training.batchnorm_pass_steps
    if steps is None:
        steps = max(1, len(indices) // training.batch_size)
    if steps == 0:
        return
    batches = images.batches(indices, training, training.steps, training.steps + steps)
    total = steps * training.accumulate
    model.eval()
    with track("BatchNorm pass", total, "batches", quiet=not processes.is_main) as task, torch.no_grad():

        def inputs() -> Any:
            for pixels, colours, _ in batches:
                yield prepared(images.preprocess, pixels, colours, processes.device)
                task.advance()

        with autocast(processes.device, training.amp), uncompiled():
            calibrate(model, inputs(), processes)


def save_model(run: Run, arch: Architecture, trainer: Trainer, images: Images, accuracy: Accuracy, path: Path) -> None:
    """Writes the network with all that is needed to use it."""
    metrics = {
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "loss": accuracy.loss,
        "images": accuracy.images,
        "steps": trainer.step,
    }
    content = network_content(run.config, arch, trainer.result.state_dict(), images.val.classes, metrics)
    checkpoint.save(path, content)


def show(run: Run, arch: Architecture, flops: int, accuracy: Accuracy, path: Path) -> None:
    """The summary at the end."""
    rows = [
        ("architecture", arch),
        ("FLOPs", format_cost(flops)),
        ("validation top-1", f"{accuracy.top1:.2%}"),
        ("validation top-5", f"{accuracy.top5:.2%}"),
        ("validation images", f"{accuracy.images:,}"),
        ("model", path),
    ]
    run.show("retrained", ["what:", "value:"], rows)
    run.next(f"evaluate --weights {quote_path(path)}")
