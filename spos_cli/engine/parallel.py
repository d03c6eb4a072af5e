"""PyTorch's DistributedDataParallel, set up for paths of a supernet."""

from __future__ import annotations

import inspect
import warnings
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from spos_cli.engine.distributed import Processes
from spos_cli.models.blocks import OwnBlock
from spos_cli.models.supernet import Supernet

Compression = Literal["off", "bf16"]

MIB = 2**20
SMALL_BUCKET = 1 / 16  # MiB; below the size of most blocks of ImageNet's supernet
SKIP = "skip_all_reduce_unused_params"  # not in PyTorch 2.6
SUPPORTED = inspect.signature(DistributedDataParallel.__init__).parameters


def wrap(
    model: nn.Module, processes: Processes, compression: Compression = "off", *, one_path: bool = True
) -> nn.Module:
    """Wrap a model so that its backward pass averages gradients over all processes.

    Blocks that the path left out keep `grad` None, and where that is safe their gradients are not sent either: all
    processes take the same path, so a bucket that one of them does not need is needed by none.

    Args:
        model: on its device; its parameters become those of the first process.
        compression: `bf16` sends half of the bytes, with 8 bits of precision.
        one_path: whether all passes of a step take the same path. Otherwise a block may have gradients of an earlier
            pass only, and everything is sent.

    Returns:
        The model itself where there is only one process.
    """
    if processes.world_size == 1:
        return model
    options: dict[str, Any] = {
        # Without this, DistributedDataParallel lays out its buckets anew after the first step. From three processes
        # on, a resumed training would then add gradients in another order than one that was never interrupted.
        "find_unused_parameters": True,
        # BatchNorm statistics stay those of each process; an evaluation uses those of the first one.
        "forward_sync_buffers" if "forward_sync_buffers" in SUPPORTED else "broadcast_buffers": False,
    }
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified in DDP constructor, but")
    # The strides of a 1x1 kernel can be written in two ways, which are the same memory.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    if isinstance(model, Supernet) and one_path and not has_own(model) and SKIP in SUPPORTED:
        options[SKIP] = True
        if "bucket_cap_mb_list" in SUPPORTED:
            options["bucket_cap_mb_list"] = [size / MIB for size in block_bytes(model)]
        else:
            options["bucket_cap_mb"] = SMALL_BUCKET
    wrapped = DistributedDataParallel(model, **options)
    if compression == "bf16":
        wrapped.register_comm_hook(None, bf16_compress_hook)
    # Blocks are compiled one by one: the graphs need not be split where a bucket ends.
    torch._dynamo.config.optimize_ddp = False
    return wrapped


def has_own(model: nn.Module) -> bool:
    """Tell whether a model has blocks of the user's, whose processes may use different parameters in one step."""
    return any(isinstance(module, OwnBlock) for module in model.modules())


def block_bytes(supernet: Supernet) -> list[int]:
    """List the bytes of each block that has parameters, in their order: a bucket ends where a block does."""
    choices = [block for layer in supernet.features.children() for block in layer.children()]
    blocks = [supernet.first_conv, *choices, supernet.conv_last, supernet.classifier]
    sizes = [sum(p.numel() * p.element_size() for p in block.parameters()) for block in blocks]
    return [size for size in sizes if size]
