"""`spos evaluate`: measure a weights file on the validation images."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spos_cli.data.datasets import require_classes
from spos_cli.engine.distributed import Processes
from spos_cli.engine.evaluation import evaluate
from spos_cli.engine.progress import track, warn
from spos_cli.errors import CheckpointError, ConfigError
from spos_cli.files.writing import write_atomically
from spos_cli.models.counting import count
from spos_cli.run.command import Run
from spos_cli.run.images import Images
from spos_cli.run.inputs import decode_calibration, kept_calibration, only_one
from spos_cli.run.weights_file import Weights
from spos_cli.search.evaluator import CalibrationSet, calibrate_paths
from spos_cli.space.architecture import Architecture, read
from spos_cli.space.cost import format_cost

Forward = Callable[[Tensor], Tensor]


def find_weights(run: Run) -> Path:
    """The one retrained model of a run folder."""
    return only_one(list(run.folder.retrained.glob("*/model.pt")), "model.pt", run.command("retrain"))


def run(run: Run, processes: Processes, weights: Weights, arch: str | None, save_logits: Path | None) -> None:
    """Prints accuracy and costs.

    Args:
        run: its settings are those of the weights file where it has some, on the images that the user named.
        weights: a retrained network, or a supernet with `arch`.
        arch: the path of the supernet to measure, a literal or a file; it is calibrated first.
        save_logits: an `.npz` to write `logits (N, classes)`, `labels (N,)` and `paths (N,)` to.

    Raises:
        SposError: the file, the architecture or the data do not allow it.
    """
    config = run.config
    images = Images(config, processes)
    is_supernet = weights.kind == "supernet"
    load = load_path if is_supernet else load_network
    forward, architecture = load(run, weights, arch, images, processes.device)
    val = images.val
    logits = torch.zeros(len(val) if save_logits else 0, config.space.classes)
    begin = time.monotonic()
    with track("evaluate", len(val), "images", quiet=not processes.is_main or run.as_json) as task:
        positions: list[Tensor] = []

        def pairs() -> Iterator[tuple[Tensor, Tensor]]:
            for pixels, labels, where in images.val_batches(config.search.batch_size):
                positions.append(where)
                yield pixels, labels
                task.advance(len(labels) * processes.world_size)

        def keep(batch: Tensor) -> None:
            logits[positions[-1]] = batch.float().cpu()

        accuracy = evaluate(
            forward,
            pairs(),
            images.preprocess,
            processes.device,
            "off" if is_supernet else config.retrain.amp,  # a path has its own precision
            processes,
            keep=keep if save_logits else None,
        )
    seconds = time.monotonic() - begin
    if save_logits:
        write_logits(save_logits, processes.sum(logits.to(processes.device)).cpu(), images, processes)
    if not processes.is_main:
        return
    costs = count(config.space.build())
    result = {
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "loss": accuracy.loss,
        "images": accuracy.images,
        "flops": costs.flops.of(architecture),
        "params": costs.params.of(architecture),
        "images_per_second": round(accuracy.images / seconds, 1),
    }
    run.result(result)
    rows = [
        ("weights", weights.path),
        ("architecture", architecture),
        ("top-1", f"{accuracy.top1:.2%}"),
        ("top-5", f"{accuracy.top5:.2%}"),
        ("loss", f"{accuracy.loss:.4f}"),
        ("images", f"{accuracy.images:,} of {val.name}"),
        ("FLOPs", format_cost(costs.flops.of(architecture))),
        ("parameters", format_cost(costs.params.of(architecture))),
        ("images per second", result["images_per_second"]),
    ]
    run.show("evaluated", ["what:", "value:"], rows)


def load_network(
    run: Run, weights: Weights, arch: str | None, images: Images, device: torch.device
) -> tuple[Forward, Architecture]:
    """A retrained network in eval mode, and its architecture."""
    if arch is not None:
        raise ConfigError(f"{weights.path} is a retrained network and has its architecture in it; leave --arch away")
    network = weights.network(run.config)
    check_classes(weights.classes, images)
    images.require_same_everywhere(train=False)
    images.check_levels(images.val)
    return network.to(device, memory_format=torch.channels_last).eval(), network.arch  # type: ignore[call-overload]


def load_path(
    run: Run, weights: Weights, arch: str | None, images: Images, device: torch.device
) -> tuple[Forward, Architecture]:
    """One path of a supernet, calibrated, in eval mode.

    The images need not be those of the supernet, but their classes must be.
    """
    if arch is None:
        raise ConfigError(f"{weights.path} is a supernet; name the path to evaluate with --arch")
    supernet = weights.supernet(run.config)
    architecture = read(arch)
    supernet.space.validate(architecture)
    images.check()
    images.compare_with(weights.trained_on, weights.path)
    supernet.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    search = run.config.search
    with tempfile.TemporaryDirectory() as folder:  # the statistics that the path has in a search
        store = kept_calibration(run, images) or decode_calibration(run, Path(folder), images, Processes(0, 1, device))
        calibration = CalibrationSet(store.images, search.calibration_batch_size, search.calibration_momentum)
        path = calibrate_paths(supernet, [architecture], images.preprocess, calibration, device, search.amp)
    assert path is not None, "nothing stops it"

    def forward(pixels: Tensor) -> Tensor:
        ((_, logits),) = path.logits(pixels)
        return logits

    return forward, architecture


def check_classes(classes: Sequence[str], images: Images) -> None:
    """Compares the classes of the validation images with those that the network was trained for.

    A published file does not name its classes: folders are then taken for the first ones, and fewer of them get a
    warning.

    Raises:
        CheckpointError: they differ.
        DataError: the images have one class only.
    """
    require_classes(images.val)
    theirs, expected = images.val.classes, images.config.space.classes
    if classes and tuple(classes) != theirs:
        raise CheckpointError(
            f"the network was trained for {len(classes)} classes ({', '.join(classes[:3])}, ...), the images have"
            f" {len(theirs)} ({', '.join(theirs[:3])}, ...)"
        )
    if len(theirs) > expected:
        raise CheckpointError(f"the network was trained for {expected} classes, {images.val.name} has {len(theirs)}")
    if len(theirs) < expected and images.processes.is_main:
        warn(
            f"{images.val.name} has {len(theirs)} of the network's {expected} classes; they are taken for the first"
            " ones in the order of names, else the accuracy means nothing"
        )


def write_logits(path: Path, logits: Tensor, images: Images, processes: Processes) -> None:
    """Writes the logits of all images, from the first process."""
    if processes.is_main:
        buffer = io.BytesIO()
        paths = np.array([images.val.path(index) for index in range(len(images.val))])
        np.savez(buffer, logits=logits.numpy(), labels=images.val.labels, paths=paths)
        write_atomically(path, buffer.getvalue())
