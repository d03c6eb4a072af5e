"""The fixed weights and images that the golden numbers were measured with, as a hash of the index."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def hash01(count: int, salt: int) -> NDArray[np.float64]:
    """`count` values in [0, 1), in 32-bit unsigned arithmetic."""
    h = (np.arange(count, dtype=np.uint64) * 2654435761 + salt * 974711 + 12345) & 0xFFFFFFFF
    h ^= h >> np.uint64(16)
    h = (h * 2246822519) & 0xFFFFFFFF
    h ^= h >> np.uint64(13)
    h = (h * 3266489917) & 0xFFFFFFFF
    h ^= h >> np.uint64(16)
    return h.astype(np.float64) / 2**32


def image(count: int, salt: int) -> Tensor:
    """`(count, 3, 224, 224)` float32 of whole numbers 0..255."""
    values = np.floor(hash01(count * 3 * 224 * 224, salt) * 256).astype(np.float32)
    return torch.from_numpy(values).reshape(count, 3, 224, 224)


def fill(model: nn.Module) -> None:
    """Fills every weight and statistic by its place in the state dict."""
    for index, (name, tensor) in enumerate(model.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            continue
        s = hash01(tensor.numel(), index) * 2 - 1
        if name.endswith("running_mean"):
            values = 0.1 * s
        elif name.endswith("running_var"):
            values = 1 + 0.5 * s
        elif tensor.dim() >= 2:
            values = s * math.sqrt(6 / (tensor.numel() / tensor.shape[0]))
        elif name.endswith("weight"):
            values = 1 + 0.2 * s
        else:
            values = 0.1 * s
        tensor.copy_(torch.from_numpy(values.astype(np.float32)).reshape(tensor.shape))
