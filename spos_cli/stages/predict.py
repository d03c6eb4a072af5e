"""`spos predict`: name the most likely classes of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from spos_cli.data.file_set import FileSet, find_images
from spos_cli.data.loaders import readable_batches
from spos_cli.engine import accelerator
from spos_cli.engine.distributed import Processes
from spos_cli.engine.evaluation import CPU_BATCH
from spos_cli.engine.precision import to_device
from spos_cli.engine.progress import track, warn
from spos_cli.errors import CheckpointError, ConfigError
from spos_cli.run.classifier import Classifier, load_classifier, read_image_size
from spos_cli.run.command import Run
from spos_cli.run.images import Images
from spos_cli.run.top_classes import RankedClass, choose_form, open_output, rank_classes, require_known_form
from spos_cli.run.weights_file import Weights
from spos_cli.space.image_size import ImageSize

UNREADABLE_EXIT_CODE = 1  # Some images could not be read; the others are classified.


def run(
    run: Run,
    processes: Processes,
    weights: Weights,
    arch: str | None,
    named: Sequence[Path],
    top: int,
    output: Path | None,
    image_size: ImageSize | None = None,
) -> None:
    """Name the most likely classes of each image that can be read, in the order of the images.

    Args:
        run: its settings are those of the weights file, if it has any.
        weights: a retrained network, or a supernet together with `arch`.
        arch: the path of the supernet to use, a literal or a file. It is calibrated on the images of the run.
        named: image files, and folders of them.
        top: how many classes to name; all if there are fewer.
        output: a .csv or .jsonl file; None for stdout.
        image_size: of the prepared images, if they are not square.

    Raises:
        SposError: the file, the architecture or the images do not allow it.
        SystemExit: some images cannot be read. Each was reported, and the others are classified.
    """
    if processes.world_size > 1:
        raise ConfigError("spos predict is one process; start it without torchrun")
    if output is not None:
        require_known_form(output)  # It fails before any work.
    paths, config = find_images(named, warn), run.config.at_size(read_image_size(arch))
    images = Images(config, processes, image_size)
    classifier = load_classifier(run, weights, arch, images, processes.device)
    form = choose_form(output, run.as_json, paths, classifier.classes)
    files, classified = FileSet(paths, images.decoding), 0
    images.check_levels(files)
    # A bar beside results on the same terminal would disturb them.
    with open_output(output) as write, track("predict", len(files), "images", quiet=output is None) as task:
        write(form.header)
        for indices, ranked in classify_files(run, classifier, images, files, weights, top):
            write("".join(form.format(paths[index], one) for index, one in zip(indices, ranked, strict=True)))
            classified += len(indices)
            task.advance(len(indices))
    if output is not None:
        run.say(f"{classified:,} of {len(files):,} images classified, written to {output}")
        run.result({"file": str(output), "images": classified, "unreadable": len(files) - classified})
    if classified < len(files):
        warn(f"{len(files) - classified:,} of {len(files):,} images cannot be read")
        raise SystemExit(UNREADABLE_EXIT_CODE)


def classify_files(
    run: Run, classifier: Classifier, images: Images, files: FileSet, weights: Weights, top: int
) -> Iterator[tuple[list[int], list[list[RankedClass]]]]:
    """Yield batches of images: their indices in `files`, and the most likely classes of each.

    An image that cannot be read is left out, with a warning.

    Args:
        images: of the run; they say how images are prepared.

    Raises:
        CheckpointError: the logits of an image are not finite.
        ConfigError: a setting does not fit an image.
    """
    device, size = classifier.device, run.config.search.batch_size
    batches = readable_batches(
        files,
        images.evaluation,
        batch_size=min(size, CPU_BATCH) if device.type == "cpu" else size,
        workers=run.config.data.workers,
        pin_memory=accelerator.pins_memory(device),
    )
    for batch in batches:
        for problem in batch.problems.values():
            warn(problem)
        if batch.images is None or batch.numbers is None:
            continue
        indices = batch.numbers.tolist()
        logits = classifier.classify(to_device(batch.images, device)).float().cpu()  # (b, classes)
        for index, is_finite in zip(indices, logits.isfinite().all(1).tolist(), strict=True):
            if not is_finite:
                raise CheckpointError(f"{weights.path}: the logits of {files.path(index)} are not finite numbers")
        yield indices, rank_classes(logits, classifier.classes, top)
