"""BatchNorm statistics of a model, recomputed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from spos_cli.engine.distributed import Processes
from spos_cli.models.blocks import AnyBatchNorm


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Tensor], processes: Processes | None = None) -> None:
    """Replaces the running statistics of a model's BatchNorm layers by averages over `batches`.

    The estimator is the plain average over batches of each batch's mean and unbiased variance, every layer
    normalising with the batch's own statistics as in training (paper, section 3.4). Its bias is that of the batch
    size; its error falls with the square root of the number of batches. Candidates of a search have theirs apart from
    the model: see `models.folding`.

    Args:
        model: all else in it stays in its mode.
        batches: its inputs, `(B, 3, H, W)` float each; as many on each process.
        processes: if given, the average is over the batches of all of them.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, AnyBatchNorm)]
    with _anew(layers):
        for number, images in enumerate(batches, 1):
            for layer in layers:  # PyTorch's own plain average would wait for the device in each layer
                layer.momentum = 1 / number
            model(images)
    if processes is not None and processes.world_size > 1:
        for layer in layers:
            assert layer.running_mean is not None
            assert layer.running_var is not None
            for statistic in (layer.running_mean, layer.running_var):
                statistic.copy_(processes.sum(statistic.clone()) / processes.world_size)


@contextlib.contextmanager
def _anew(layers: list[AnyBatchNorm]) -> Iterator[None]:
    """Within, the layers start anew and train; then their modes are as they were."""
    before = [(layer.training, layer.momentum) for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.train()
    try:
        yield
    finally:
        for layer, (training, usual) in zip(layers, before, strict=True):
            layer.train(training)
            layer.momentum = usual
