"""`spos evaluate`: measure a weights file on the validation images."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spos_cli.engine.distributed import Processes
from spos_cli.engine.evaluation import evaluate
from spos_cli.engine.metrics import Accuracy
from spos_cli.engine.mistakes import Mistakes, count_mistakes
from spos_cli.engine.predictions import Predictions
from spos_cli.engine.progress import track
from spos_cli.errors import make_printable
from spos_cli.files.digests import file_digest
from spos_cli.files.quoting import quote_path
from spos_cli.files.writing import write_atomically
from spos_cli.models.counting import count, count_flops_at
from spos_cli.run.classifier import Classifier, keep_pixels, load_classifier, read_image_size
from spos_cli.run.command import Run
from spos_cli.run.details import make_content, make_gallery, name_classes, write_details
from spos_cli.run.folder import EvaluationFolder, RunFolder
from spos_cli.run.image_comparison import require_classes_of_network
from spos_cli.run.images import Images
from spos_cli.run.mapped_classes import map_classes
from spos_cli.run.weights_file import Weights
from spos_cli.space.architecture import Architecture
from spos_cli.space.cost_kinds import COST_KINDS, format_cost
from spos_cli.space.image_size import ImageSize

Keep = Callable[[Tensor, Tensor], None]

WORST = 10  # classes, and confusions, that the screen shows


def run(
    run: Run,
    processes: Processes,
    weights: Weights,
    arch: str | None,
    save_logits: Path | None,
    details: RunFolder | None,
    image_size: ImageSize | None = None,
    class_file: Path | None = None,
) -> None:
    """Print the accuracy and the costs of a network.

    Args:
        run: its settings are those of the weights file, if it has any, with the images that the user named.
        weights: a retrained network, or a supernet together with `arch`.
        arch: the path of the supernet to measure, a literal or a file. It is calibrated first.
        save_logits: an `.npz` file to write `logits (N, classes)`, `labels (N,)` and `paths (N,)` to.
        details: a run folder to write what the network gets wrong to.
        image_size: of the prepared images, if they are not square.
        class_file: which class of the network each class of the images is; None if they have the same classes.

    Raises:
        SposError: the file, the architecture or the data do not allow it.
    """
    images = Images(run.config.at_size(read_image_size(arch)), processes, image_size)
    subset = None if class_file is None else map_classes(images, class_file, weights)
    classifier = load_classifier(run, weights, arch, images, processes.device)
    architecture = classifier.architecture
    if weights.kind != "supernet":
        require_classes_of_network(classifier.classes, images)
        images.require_same_everywhere(train=False)
        images.check_levels(images.val)
    logits = torch.zeros(len(images.val), run.config.space.classes) if save_logits is not None else None
    predictions = Predictions(len(images.val))

    def keep(indices: Tensor, batch: Tensor) -> None:
        if logits is not None:
            logits[indices] = batch.float().cpu()
        predictions.add(indices, batch)
        if subset is not None:
            subset.add(indices, batch)

    begin = time.monotonic()
    accuracy = measure(run, processes, classifier, images, keep)
    seconds = time.monotonic() - begin
    if save_logits is not None and logits is not None:
        logits = processes.sum(logits.to(processes.device)).cpu()
        if processes.is_main:
            write_logits(save_logits, logits, images)
    predicted = predictions.collect(processes)
    among = subset.total(processes) if subset is not None else None
    if processes.is_main:
        names = name_classes(images.val.classes, run.config.space.classes)
        mistakes = count_mistakes(names, images.val.labels, *predicted)
        if details is not None:
            write_mistakes(details.evaluation, weights, architecture, images, mistakes, *predicted)
        show(run, weights, architecture, accuracy, images, seconds, mistakes, among, details=details is not None)
        if details is not None:
            show_worst(run, mistakes)
            run.say(f"details: {details.evaluation}; spos report {quote_path(details.root)} shows them")


def measure(run: Run, processes: Processes, classifier: Classifier, images: Images, keep_batch: Keep) -> Accuracy:
    """Measure the accuracy on all validation images, over all processes.

    Args:
        keep_batch: is called with the indices `(B,)` of the images of each batch of this process, and their logits.
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

        return evaluate(
            classifier.classify,
            batches(),
            keep_pixels,
            processes.device,
            "off",
            processes,
            keep=lambda logits: keep_batch(indices, logits),
        )


def write_logits(path: Path, logits: Tensor, images: Images) -> None:
    """Write the logits, the labels and the paths of all validation images to an `.npz` file."""
    buffer = io.BytesIO()
    paths = np.array([images.val.path(index) for index in range(len(images.val))])
    np.savez(buffer, logits=logits.numpy(), labels=images.val.labels, paths=paths)
    write_atomically(path, buffer.getvalue())


def write_mistakes(
    folder: EvaluationFolder,
    weights: Weights,
    architecture: Architecture,
    images: Images,
    mistakes: Mistakes,
    predictions: NDArray[np.int64],
    confidences: NDArray[np.float32],
) -> None:
    """Write what the network gets wrong to a folder.

    Args:
        predictions, confidences: `(N,)`: the predicted class of each image, and its probability.
    """
    content = {
        "weights": make_printable(str(weights.path)),
        "weights_digest": file_digest(weights.path),
        "architecture": str(architecture),
        "images_of": make_printable(images.val.name),
        "image_size": list(images.evaluated_size),
        "trained_image_size": list_trained_size(weights, architecture),
        **make_content(mistakes),
        "most_confident": make_gallery(images, predictions, confidences),
    }
    write_details(folder, mistakes, content)


def show(
    run: Run,
    weights: Weights,
    architecture: Architecture,
    accuracy: Accuracy,
    images: Images,
    seconds: float,
    mistakes: Mistakes,
    among: Accuracy | None,
    *,
    details: bool,
) -> None:
    """Show the accuracy, the costs and the speed, and with `details` what the network gets wrong.

    The balanced accuracy is shown if the classes have different numbers of images; else it is the top-1.

    Args:
        among: the accuracy among the classes of the images only, if these are some of the network's.
    """
    space, size = run.config.space.build(), images.evaluated_size
    costs = count(space)
    flops = costs.flops.of(architecture) if size.is_square else count_flops_at(space, architecture, *size)
    others = {name: table.of(architecture) for name, table in costs.others.items() if size.is_square}
    speed = round(accuracy.images / seconds, 1)  # images per second
    present = len(np.unique(images.val.labels))
    result: dict[str, Any] = {
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "balanced_accuracy": mistakes.balanced_accuracy,
        "loss": accuracy.loss,
        "images": accuracy.images,
        "image_size": list(size),
        "trained_image_size": list_trained_size(weights, architecture),
        "flops": flops,
        "params": costs.params.of(architecture),
        **others,
        "images_per_second": speed,
        **describe_selection(weights, images),
    }
    if among is not None:
        result["among_classes_of_images"] = {"classes": present, "top1": among.top1, "top5": among.top5}
    run.result({**result, "details": make_content(mistakes)} if details else result)
    averages = summarize(mistakes) if details else summarize_briefly(mistakes)
    rows = [
        ("weights", weights.path),
        ("architecture", architecture),
        *([("selected", weights.selection.describe(images.val_identity.number))] if weights.selection else ()),
        ("top-1", f"{accuracy.top1:.2%}"),
        ("top-5", f"{accuracy.top5:.2%}"),
        ("loss", f"{accuracy.loss:.4f}"),
        *(describe_subset(among, present, space.classes) if among is not None else ()),
        *averages,
        ("images", f"{accuracy.images:,} of {images.val.name}"),
        ("image size", describe_size(size, list_trained_size(weights, architecture))),
        ("FLOPs", format_cost(flops)),
        ("parameters", format_cost(costs.params.of(architecture))),
        *((COST_KINDS[name].noun, COST_KINDS[name].format(cost)) for name, cost in others.items()),
        ("images per second", speed),
    ]
    run.show("evaluated", ["what:", "value:"], rows)


def summarize_briefly(mistakes: Mistakes) -> list[tuple[str, str]]:
    """Return the row of the balanced accuracy if the classes have different numbers of images; else none."""
    sizes = {one.support for one in mistakes.classes if one.support}
    return summarize(mistakes)[:1] if len(sizes) > 1 else []


def describe_selection(weights: Weights, images: Images) -> dict[str, Any]:
    """Return how the weights were chosen, in plain types; empty if they are the last ones of a training."""
    if weights.selection is None:
        return {}
    return {
        "best_of_evaluations": weights.selection.evaluations,
        "selected_on_these_images": weights.selection.images == images.val_identity.number,
    }


def describe_subset(among: Accuracy, present: int, classes: int) -> list[tuple[str, str]]:
    """Return rows that say among which classes the network has chosen, and its accuracy among those of the images."""
    return [
        ("these are among", f"all {classes:,} classes of the network; the images have {present:,} of them"),
        (f"top-1 among these {present:,}", f"{among.top1:.2%}"),
        (f"top-5 among these {present:,}", f"{among.top5:.2%}"),
    ]


def describe_size(size: ImageSize, trained: list[int] | None) -> str:
    """Return the size of the images that a network was measured on, and of those that it was trained on."""
    shown = f"{size} pixels{'' if size.is_square else ' (height x width)'}"
    if trained is None:
        return shown
    if list(size) == trained:
        return f"{shown}, as in the training"
    return f"{shown}; trained on {trained[0]} x {trained[1]}"


def list_trained_size(weights: Weights, architecture: Architecture) -> list[int] | None:
    """Return height and width of the images that a network was trained on; None if the file does not say."""
    side = weights.find_trained_size(architecture)
    return None if side is None else [side, side]


def summarize(mistakes: Mistakes) -> list[tuple[str, str]]:
    """Return rows of the averages over classes, and of the calibration error."""
    number, error = len(mistakes.classes), mistakes.calibration_error
    no_images, no_predictions = mistakes.without_images, mistakes.without_predictions
    recall = f"{mistakes.balanced_accuracy:.2%}, the mean recall of {number - no_images:,} classes"
    precision = f"{mistakes.macro_precision:.2%} of {number - no_predictions:,} classes"
    return [
        ("balanced accuracy", f"{recall} (without images: {no_images:,})" if no_images else recall),
        ("mean precision", f"{precision} (never predicted: {no_predictions:,})" if no_predictions else precision),
        ("mean F1", f"{mistakes.macro_f1:.2%}"),
        ("calibration error", "some logits are not finite" if error is None else f"{error:.2%} (ECE, 15 bins)"),
    ]


def show_worst(run: Run, mistakes: Mistakes) -> None:
    """Show the classes with the lowest recall, and the most frequent confusions."""

    def percent(share: float | None) -> str:
        return "-" if share is None else f"{share:.2%}"

    worst = [mistakes.classes[label] for label in mistakes.worst_classes[:WORST]]
    run.show(
        f"lowest recall, {len(worst):,} of {len(mistakes.classes):,} classes",
        ["class:", "images", "recall", "precision", "F1"],
        [(one.name, f"{one.support:,}", percent(one.recall), percent(one.precision), percent(one.f1)) for one in worst],
    )
    confused = mistakes.confusions[:WORST]
    names = [one.name for one in mistakes.classes]
    if confused:
        run.show(
            f"most frequent confusions, {len(confused):,} of {len(mistakes.confusions):,}",
            ["class:", "taken for:", "images", "share of class"],
            [
                (names[one.label], names[one.predicted], f"{one.images:,}", percent(mistakes.share_of(one)))
                for one in confused
            ],
        )
