"""Recompute the BatchNorm statistics of a model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from spos_cli.engine.distributed import Processes
from spos_cli.models.layers import AnyBatchNorm


@torch.no_grad()
def calibrate(
    model: nn.Module, batches: Iterable[Tensor], processes: Processes | None = None, momentum: float | None = None
) -> None:
    """Replace the running statistics of a model's BatchNorm layers by averages over `batches`.

    The estimator is the plain average, over batches, of each batch's mean and unbiased variance. Each layer normalises
    with the batch's own statistics, as in training (paper, section 3.4). The bias depends on the batch size; the error
    falls with the square root of the number of batches. The candidates of a search keep their statistics outside of the
    model: see `models.folding`.

    Args:
        model: its other layers stay in their mode.
        batches: inputs `(B, C, H, W)` float; the same number on each process.
        processes: if given, average over the batches of all processes.
        momentum: of the running statistics; None for the plain average.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, AnyBatchNorm)]
    with _reset_statistics(layers):
        for number, images in enumerate(batches, 1):
            for layer in layers:  # PyTorch's own plain average would wait for the device in each layer.
                layer.momentum = momentum or 1 / number
            model(images)
    if processes is not None and processes.world_size > 1:
        for layer in layers:
            assert layer.running_mean is not None
            assert layer.running_var is not None
            for statistic in (layer.running_mean, layer.running_var):  # (C,)
                statistic.copy_(processes.sum(statistic.clone()) / processes.world_size)


@contextlib.contextmanager
def _reset_statistics(layers: list[AnyBatchNorm]) -> Iterator[None]:
    """Reset the layers' statistics and put them into training mode; restore mode and momentum at the end."""
    before = [(layer.training, layer.momentum) for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.train()
    try:
        yield
    finally:
        for layer, (training, momentum) in zip(layers, before, strict=True):
            layer.train(training)
            layer.momentum = momentum
