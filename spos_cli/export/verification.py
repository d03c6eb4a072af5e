"""Compare an exported file with the network that it was made of."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

# Share of the largest logit. Folding and other orders of additions change a logit by about 1e-6 of it.
MAX_RELATIVE_DIFFERENCE = 1e-3
WARM_UP_CALLS, MEASURED_CALLS = 5, 25
PAUSE = 0.2  # seconds before the calls of another runtime

Classify = Callable[[Tensor], Tensor]  # images as the file takes them to logits `(B, classes)`


@dataclass(frozen=True)
class Comparison:
    """How far an exported file is from its network.

    Attributes:
        images: that were compared.
        largest_difference: between two logits of an image.
        largest_logit: of the network, as an absolute value.
        agreement: share of the images with the same top-1 class.
    """

    images: int
    largest_difference: float
    largest_logit: float
    agreement: float

    @property
    def is_equal(self) -> bool:
        """Whether the logits are the same but for rounding."""
        return self.largest_difference <= MAX_RELATIVE_DIFFERENCE * self.largest_logit

    @property
    def is_finite(self) -> bool:
        """Whether all logits of the file are numbers."""
        return math.isfinite(self.largest_difference)


@torch.inference_mode()
def compare(
    network: Classify,
    exported: Classify,
    batches: Iterable[tuple[Tensor, Tensor]],
    keep: Callable[[Tensor, Tensor], None] = lambda expected, found: None,
) -> Comparison:
    """Compare the logits of a network and of its exported file.

    Args:
        batches: images as the network takes them, and as the file takes them; `(B, C, S, S)` each. The batches may
            have different sizes, which shows whether the file takes any.
        keep: is called with both logits of each batch.
    """
    images, same, largest_difference, largest_logit = 0, 0, 0.0, 0.0
    for ours, theirs in batches:
        expected, found = network(ours), exported(theirs)  # (B, classes)
        keep(expected, found)
        expected, found = expected.double(), found.double()
        images += len(expected)
        same += int((expected.argmax(1) == found.argmax(1)).sum())
        difference = (expected - found).abs().max().item()
        # A logit that is not a number is a difference of any size.
        largest_difference = max(largest_difference, difference if found.isfinite().all() else float("inf"))
        largest_logit = max(largest_logit, expected.abs().max().item())
    return Comparison(images, largest_difference, largest_logit, same / images)


@torch.inference_mode()
def measure_latencies(calls: Iterable[Callable[[], object]]) -> list[float]:
    """Measure one call after another, and return the median of each in milliseconds.

    They are not measured in turns: the threads of one runtime wait actively for a while, and would slow the other's.
    """
    medians = []
    for call in calls:
        time.sleep(PAUSE)
        seconds = []
        for _ in range(WARM_UP_CALLS + MEASURED_CALLS):
            begin = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - begin)
        medians.append(1000 * statistics.median(seconds[WARM_UP_CALLS:]))
    return medians
