"""Set up PyTorch's DistributedDataParallel for the paths of a supernet."""

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
SMALL_BUCKET_MIB = 1 / 16  # smaller than most blocks of the ImageNet supernet
SKIP_UNUSED = "skip_all_reduce_unused_params"  # an argument that PyTorch 2.6 does not have
SUPPORTED_ARGUMENTS = inspect.signature(DistributedDataParallel.__init__).parameters


def wrap(
    model: nn.Module, processes: Processes, compression: Compression = "off", *, one_path: bool = True
) -> nn.Module:
    """Wrap a model so that its backward pass averages gradients over all processes.

    Blocks outside the path keep `grad` None. Where it is safe, their gradients are not sent either: all processes take
    the same path, so a bucket that one process does not need is needed by none.

    Args:
        model: on its device; its parameters are overwritten with those of the first process.
        compression: `bf16` sends half of the bytes, with 8 bits of precision.
        one_path: whether all passes of a step take the same path. Otherwise a block may have gradients of an earlier
            pass only, and everything is sent.

    Returns:
        The wrapped model, or the model itself if there is only one process.
    """
    if processes.world_size == 1:
        return model
    options: dict[str, Any] = {
        # Without this, DistributedDataParallel rearranges its buckets after the first step. With three or more
        # processes, a resumed training would then add gradients in another order than an uninterrupted one.
        "find_unused_parameters": True,
        # Each process keeps its own BatchNorm statistics; an evaluation uses those of the first process.
        "forward_sync_buffers" if "forward_sync_buffers" in SUPPORTED_ARGUMENTS else "broadcast_buffers": False,
    }
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified in DDP constructor, but")
    # The strides of a 1x1 kernel can be written in two ways that mean the same memory.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    if isinstance(model, Supernet) and one_path and not has_own_blocks(model) and SKIP_UNUSED in SUPPORTED_ARGUMENTS:
        options[SKIP_UNUSED] = True
        if "bucket_cap_mb_list" in SUPPORTED_ARGUMENTS:
            options["bucket_cap_mb_list"] = [size / MIB for size in list_block_bytes(model)]
        else:
            options["bucket_cap_mb"] = SMALL_BUCKET_MIB
    wrapped = DistributedDataParallel(model, **options)
    if compression == "bf16":
        wrapped.register_comm_hook(None, bf16_compress_hook)
    # Blocks are compiled one by one, so graphs do not have to be split where a bucket ends.
    torch._dynamo.config.optimize_ddp = False
    return wrapped


def has_own_blocks(model: nn.Module) -> bool:
    """Return whether a model has a user's own blocks: in one step, processes may use different parameters of these."""
    return any(isinstance(module, OwnBlock) for module in model.modules())


def list_block_bytes(supernet: Supernet) -> list[int]:
    """List the bytes of each block that has parameters, in order, so that a bucket can end where a block ends."""
    choices = [block for layer in supernet.features.children() for block in layer.children()]
    blocks = [supernet.first_conv, *choices, supernet.conv_last, supernet.classifier]
    sizes = [sum(p.numel() * p.element_size() for p in block.parameters()) for block in blocks]
    return [size for size in sizes if size]
