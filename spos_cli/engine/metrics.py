"""Count correct predictions exactly, over images and processes.

Counts are summed and divided once, so there are no averages of averages.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from spos_cli.engine.accelerator import choose_sum_dtype
from spos_cli.engine.distributed import Processes


@dataclass(frozen=True)
class Accuracy:
    """Exact counts over `images` images, and the mean cross-entropy `loss` without label smoothing."""

    images: int
    top1_count: int
    top5_count: int
    loss: float

    @property
    def top1(self) -> float:
        """Share of images whose label has the largest logit, from 0 to 1."""
        return self.top1_count / self.images

    @property
    def top5(self) -> float:
        """Share of images whose label is among the five largest logits (all logits, with fewer classes)."""
        return self.top5_count / self.images


def find_top_classes(logits: Tensor) -> Tensor:
    """Return the five classes with the largest logits, `(B, 5)`, best first; all classes if there are fewer."""
    return logits.topk(min(5, logits.shape[1])).indices


class AccuracyMeter:
    """Counts on the device; the host waits for them only in `total`."""

    def __init__(self, device: torch.device) -> None:
        self.counts = torch.zeros(3, dtype=torch.int64, device=device)  # (3,): images, top-1, top-5
        self.loss = torch.zeros(1, dtype=choose_sum_dtype(device), device=device)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count one batch: `logits (B, classes)`, `labels (B,)`."""
        logits = logits.float()
        top = find_top_classes(logits) == labels[:, None]  # (B, up to 5) bool
        self.counts[0] += labels.numel()
        self.counts[1] += top[:, 0].sum()
        self.counts[2] += top.sum()
        self.loss += F.cross_entropy(logits, labels, reduction="sum")

    def total(self, processes: Processes | None = None) -> Accuracy:
        """Return the counts of this process, or the sum over all of `processes`."""
        counts, loss = self.counts.clone(), self.loss.clone()
        if processes is not None:
            counts, loss = processes.sum(counts), processes.sum(loss)
        images, top1, top5 = counts.tolist()
        return Accuracy(images, top1, top5, float(loss) / max(images, 1))
