"""Gradients averaged over the processes: only those that there are, while backward goes on.

DistributedDataParallel moves the gradients of the whole supernet in each step, those of the blocks that the path did
not take as zeros. All processes take the same path, so backward hands out the same gradients in the same order on
each of them, and nothing has to be agreed on. Gradients that only earlier passes of a step have made follow at its end.
"""

from __future__ import annotations

import weakref
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from spos_cli.engine.distributed import Processes

Compression = Literal["off", "bf16"]

BUCKET_BYTES = 2**21  # sent at once: large enough for the network's rate, small enough to begin early


class GradientAverage:
    """Averages the gradients of a model as backward makes them.

    Args:
        model: on its device; its parameters are made those of the first process.
        processes: all of them; with one process nothing is done.
        compression: `bf16` sends half of the bytes, with 8 bits of precision.

    Attributes:
        active: whether gradients are averaged; switched off while more passes of a step follow.
        bytes_sent: what this process has handed over for summation so far.
    """

    def __init__(self, model: nn.Module, processes: Processes, compression: Compression = "off") -> None:
        self.processes, self.compression = processes, compression
        self.active, self.bytes_sent = True, 0
        self._parameters = list(model.parameters())
        self._taken: set[Tensor] = set()
        self._waiting: list[Tensor] = []
        self._bytes = 0  # of those that wait
        self._sent: list[tuple[dist.Work, Tensor, list[Tensor]]] = []
        if processes.world_size > 1:
            processes.copy_from_main(parameter.data for parameter in self._parameters)
            # Python's garbage collection does not see that a hook keeps what keeps the parameters.
            take = weakref.WeakMethod(self._take)

            def hook(parameter: Tensor) -> None:
                if (alive := take()) is not None:
                    alive(parameter)

            for parameter in self._parameters:
                parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    def _take(self, parameter: Tensor) -> None:
        """Backward has made a gradient."""
        if self.active and parameter.grad is not None:
            self._taken.add(parameter)
            self._waiting.append(parameter.grad)
            self._bytes += parameter.grad.numel() * parameter.grad.element_size()
            if self._bytes >= BUCKET_BYTES:
                self._send()

    def _send(self) -> None:
        """Begins to sum what is waiting; does not wait for it."""
        bucket = torch.cat([gradient.reshape(-1) for gradient in self._waiting]).div_(self.processes.world_size)
        if self.compression == "bf16":
            bucket = bucket.bfloat16()
        work = dist.all_reduce(bucket, async_op=True)
        assert work is not None
        self.bytes_sent += bucket.numel() * bucket.element_size()
        self._sent.append((work, bucket, self._waiting))
        self._waiting, self._bytes = [], 0

    def finish(self) -> None:
        """After backward: puts the averages in the gradients' places."""
        if self.processes.world_size == 1:
            return
        for parameter in self._parameters:
            if parameter not in self._taken:
                self._take(parameter)
        self._taken.clear()
        if self._waiting:
            self._send()
        for work, bucket, gradients in self._sent:
            work.wait()
            parts = bucket.split([gradient.numel() for gradient in gradients])  # type: ignore[no-untyped-call]
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view(gradient.shape))
        self._sent = []
