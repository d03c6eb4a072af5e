"""Count how many images a model classifies correctly."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from spos_cli.engine.distributed import Processes
from spos_cli.engine.metrics import Accuracy, AccuracyMeter
from spos_cli.engine.precision import Amp, autocast, to_device

CPU_BATCH = 32  # images; more at a time exceed a CPU's cache and take up to 1.4 times as long each


@torch.inference_mode()
def evaluate(
    forward: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    preprocess: Callable[[Tensor], Tensor],
    device: torch.device,
    amp: Amp = "off",
    processes: Processes | None = None,
    keep: Callable[[Tensor], None] | None = None,
) -> Accuracy:
    """Count the correct predictions of a model.

    Args:
        forward: maps `(B, C, H, W)` float to logits `(B, classes)`, in eval mode.
        batches: images `(B, C, H, W) uint8` and labels `(B,)`.
        preprocess: maps uint8 images on the device to float.
        device: where to compute.
        amp: mixed precision of the forward pass.
        processes: if given, sum the counts of all processes; each has its own batches.
        keep: is called with the logits of each batch.
    """
    meter = AccuracyMeter(device)
    for images, labels in batches:
        with autocast(device, amp):
            logits = forward(preprocess(to_device(images, device)))
        meter.add(logits, labels.to(device, non_blocking=True))
        if keep is not None:
            keep(logits)
    return meter.total(processes)
