"""Images to quantize a network with, and what its top-1 loses by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from spos_cli import seeding
from spos_cli.data.loaders import Samples, chunks, draw_replacements, load_batches, make_evaluation
from spos_cli.engine.metrics import Accuracy, AccuracyMeter
from spos_cli.engine.progress import track
from spos_cli.errors import DataError
from spos_cli.export.verification import Classify, Comparison, compare
from spos_cli.run.command import Run
from spos_cli.run.image_comparison import require_classes_of_network
from spos_cli.run.images import Images

CALIBRATION_IMAGES, BATCH = 256, 32


@dataclass(frozen=True)
class QuantizationCost:
    """A network before and after its quantization, on all validation images.

    Attributes:
        before, after: correct predictions.
        comparison: of the logits.
    """

    before: Accuracy
    after: Accuracy
    comparison: Comparison

    @property
    def points_lost(self) -> float:
        """Percentage points of top-1; negative if it has gained some."""
        return 100 * (self.before.top1_count - self.after.top1_count) / self.before.images


def require_images(images: Images, classes: Sequence[str]) -> None:
    """Raise DataError if there are no images to quantize with, or CheckpointError if they have other classes.

    Args:
        classes: of the network; empty if they are not known.
    """
    try:
        both = images.train, images.val
    except DataError as error:
        raise DataError(
            f"--quantize int8 needs training images to calibrate on, and validation images to compare on: {error}"
        ) from None
    require_classes_of_network(classes, images)
    images.check_levels(*both)


def load_calibration_pixels(run: Run, images: Images) -> list[Tensor]:
    """Return training images that the ranges of activations are measured on, in batches `(B, C, S, S) uint8`.

    They are prepared as for an evaluation, without augmentation: these are the images that the file is to classify. The
    images of the supernet's calibration are augmented, since its statistics are those of a training.

    Raises:
        DataError: too many images are unreadable.
    """
    seed = run.config.seed
    order = seeding.generator(seed, "quantization").permutation(len(images.train))
    samples = Samples(
        images.train,
        partial(make_evaluation, images.evaluation),
        partial(draw_replacements, order, seed),
    )
    keys = chunks([(0, index) for index in order[:CALIBRATION_IMAGES].tolist()], BATCH)
    loaded = load_batches(samples, keys, run.config.data.workers, bad_images=images.bad_images)
    return [batch.images for batch in loaded]


def measure_cost(
    run: Run, network: Classify, quantized: Classify, images: Images, prepare: Callable[[Tensor], Tensor]
) -> QuantizationCost:
    """Classify all validation images with a network and its quantized file.

    Args:
        network: takes prepared images.
        quantized: takes what `prepare` makes of images `(B, C, S, S) uint8`.
    """
    before, after = (AccuracyMeter(torch.device("cpu")) for _ in range(2))
    labels = torch.empty(0, dtype=torch.long)  # of the images of the newest batch
    with track("comparing", len(images.val), "images", quiet=run.as_json) as task:

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            nonlocal labels
            for pixels, batch_labels, _ in images.val_batches(run.config.search.batch_size):
                labels = batch_labels
                yield images.preprocess(pixels), prepare(pixels)
                task.advance(len(labels))

        def count(expected: Tensor, found: Tensor) -> None:
            before.add(expected, labels)
            after.add(found, labels)

        comparison = compare(network, quantized, batches(), count)
    return QuantizationCost(before.total(), after.total(), comparison)
