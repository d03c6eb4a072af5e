"""Counts are summed over images and processes and divided once; no averages of averages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from spos_cli.engine.distributed import Processes


@dataclass(frozen=True)
class Accuracy:
    """Exact counts over `images` images; `loss` is the mean cross-entropy, without smoothing."""

    images: int
    top1_count: int
    top5_count: int
    loss: float

    @property
    def top1(self) -> float:
        """Share of images whose label has the largest logit."""
        return self.top1_count / self.images

    @property
    def top5(self) -> float:
        """Share of images whose label is among the five largest logits (or all, with fewer classes)."""
        return self.top5_count / self.images


class AccuracyMeter:
    """Collects counts on the device; the host waits for it only in `total`."""

    def __init__(self, device: torch.device) -> None:
        # images, top-1, top-5, summed loss; float64 counts exactly up to 2 ** 53
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Counts one batch: `logits (B, classes)`, `labels (B,)`."""
        logits = logits.float()
        top = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        self.sums[0] += labels.numel()
        self.sums[1] += top[:, 0].sum()
        self.sums[2] += top.sum()
        self.sums[3] += F.cross_entropy(logits, labels, reduction="sum")

    def total(self, processes: Processes | None = None) -> Accuracy:
        """The counts of this process, or of all of `processes` together."""
        sums = self.sums if processes is None else processes.sum(self.sums.clone())
        images, top1, top5, loss = sums.tolist()
        return Accuracy(int(images), int(top1), int(top5), loss / max(images, 1))
