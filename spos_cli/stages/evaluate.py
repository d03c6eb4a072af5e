"""`spos evaluate`: measure a weights file on the validation images."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spos_cli.data.datasets import require_classes
from spos_cli.engine.distributed import Processes
from spos_cli.engine.evaluation import evaluate
from spos_cli.engine.metrics import Accuracy
from spos_cli.engine.progress import track, warn
from spos_cli.errors import CheckpointError
from spos_cli.files.writing import write_atomically
from spos_cli.models.counting import count
from spos_cli.run.classifier import Classifier, keep_pixels, load_classifier
from spos_cli.run.command import Run
from spos_cli.run.images import Images
from spos_cli.run.weights_file import Weights
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost import format_cost


def run(run: Run, processes: Processes, weights: Weights, arch: str | None, save_logits: Path | None) -> None:
    """Print the accuracy and the costs of a network.

    Args:
        run: its settings are those of the weights file, if it has any, with the images that the user named.
        weights: a retrained network, or a supernet together with `arch`.
        arch: the path of the supernet to measure, a literal or a file. It is calibrated first.
        save_logits: an `.npz` file to write `logits (N, classes)`, `labels (N,)` and `paths (N,)` to.

    Raises:
        SposError: the file, the architecture or the data do not allow it.
    """
    images = Images(run.config, processes)
    classifier = load_classifier(run, weights, arch, images, processes.device)
    architecture = classifier.architecture
    assert architecture is not None, "every weights file tells it"
    if weights.kind != "supernet":
        require_classes_of_network(classifier.classes, images)
        images.require_same_everywhere(train=False)
        images.check_levels(images.val)
    logits = torch.zeros(len(images.val), run.config.space.classes) if save_logits is not None else None
    begin = time.monotonic()
    accuracy = measure(run, processes, classifier, images, logits)
    seconds = time.monotonic() - begin
    if save_logits is not None and logits is not None:
        logits = processes.sum(logits.to(processes.device)).cpu()
        if processes.is_main:
            write_logits(save_logits, logits, images)
    if processes.is_main:
        show(run, weights, architecture, accuracy, images, seconds)


def require_classes_of_network(classes: Sequence[str], images: Images) -> None:
    """Compare the classes of the validation images with those for which a network was trained.

    An official file does not name its classes. The images' classes then count as the network's first ones, and if
    there are fewer, that causes a warning.

    Args:
        classes: of the network; empty if they are not known.

    Raises:
        CheckpointError: the classes differ.
        DataError: the images have only one class.
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
            f"{images.val.name} has {len(theirs)} of the network's {expected} classes; they count as the first ones in"
            " the order of names, else the accuracy means nothing"
        )


def measure(run: Run, processes: Processes, classifier: Classifier, images: Images, logits: Tensor | None) -> Accuracy:
    """Measure the accuracy on all validation images, over all processes.

    Args:
        logits: `(N, classes)`, to be filled with those of this process's images; or None.
    """
    indices = torch.empty(0, dtype=torch.long)  # of the images of the newest batch
    quiet = not processes.is_main or run.as_json
    with track("evaluate", len(images.val), "images", quiet=quiet) as task:

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            nonlocal indices
            for pixels, labels, batch_indices in images.val_batches(run.config.search.batch_size):
                indices = batch_indices
                yield pixels, labels
                task.advance(len(labels) * processes.world_size)

        def keep(batch: Tensor) -> None:
            if logits is not None:
                logits[indices] = batch.float().cpu()

        return evaluate(classifier.classify, batches(), keep_pixels, processes.device, "off", processes, keep=keep)


def write_logits(path: Path, logits: Tensor, images: Images) -> None:
    """Write the logits, the labels and the paths of all validation images to an `.npz` file."""
    buffer = io.BytesIO()
    paths = np.array([images.val.path(index) for index in range(len(images.val))])
    np.savez(buffer, logits=logits.numpy(), labels=images.val.labels, paths=paths)
    write_atomically(path, buffer.getvalue())


def show(
    run: Run, weights: Weights, architecture: Architecture, accuracy: Accuracy, images: Images, seconds: float
) -> None:
    """Show the accuracy, the costs and the speed."""
    costs = count(run.config.space.build())
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
        ("images", f"{accuracy.images:,} of {images.val.name}"),
        ("FLOPs", format_cost(costs.flops.of(architecture))),
        ("parameters", format_cost(costs.params.of(architecture))),
        ("images per second", result["images_per_second"]),
    ]
    run.show("evaluated", ["what:", "value:"], rows)
