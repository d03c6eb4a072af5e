"""Golden numbers of the official model: logits and costs, and their weights.

The logits were measured with the official code (megvii-model/SinglePathOneShot), on a CPU in float32. Weights and
images are a hash of their index, so that nothing has to be shipped or downloaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spos_cli.space.architecture import Architecture

IMAGES, SALT = 2, 7  # arguments of `make_images` for the images of the golden logits

WINNER = Architecture((2, 1, 0, 1, 2, 0, 2, 0, 2, 0, 2, 3, 0, 0, 0, 0, 3, 2, 3, 3))  # the best one of the official code
WINNER_FLOPS, WINNER_PARAMS = 322_918_720, 3_558_464
MIN_FLOPS, MAX_FLOPS = 270_359_360, 398_609_216  # of the cheapest and the most expensive architecture of the space


@dataclass(frozen=True)
class Golden:
    """Logits `(IMAGES, 1000)` of `WINNER` in eval mode for `make_images(IMAGES, SALT)`, after `fill_weights`.

    Attributes:
        first: the first 8 logits of each image.
        l2: norm of all logits of all images.
    """

    first: tuple[tuple[float, ...], ...]
    l2: float


SUPERNET = Golden(
    (
        (-399442.71875, -251861.03125, 297179.25, -896696.3125, 153942.28125, -18567.484375, 35587.34375, 260958.46875),
        (-412262.25, -264574.75, 297963.0, -945656.0, 157149.578125, -35802.4921875, 46161.0625, 284988.8125),
    ),
    21002712.0,
)
NETWORK = Golden(
    (
        (525421.375, 98480.25, -1125191.875, -368617.375, -811706.25, -383492.8125, 138006.046875, 413815.59375),
        (494723.75, 99898.125, -1096146.75, -368516.53125, -798290.5, -394624.75, 156778.40625, 417026.5),
    ),
    31035122.0,
)


def hash01(count: int, salt: int) -> NDArray[np.float64]:
    """Hash 0 to `count - 1` to values `(count,)` in [0, 1), in 32-bit unsigned arithmetic."""
    h = (np.arange(count, dtype=np.uint64) * 2654435761 + salt * 974711 + 12345) & 0xFFFFFFFF
    h ^= h >> np.uint64(16)
    h = (h * 2246822519) & 0xFFFFFFFF
    h ^= h >> np.uint64(13)
    h = (h * 3266489917) & 0xFFFFFFFF
    h ^= h >> np.uint64(16)
    return h.astype(np.float64) / 2**32


def make_images(count: int, salt: int) -> Tensor:
    """Make images `(count, 3, 224, 224)` float32 of whole numbers from 0 to 255."""
    values = np.floor(hash01(count * 3 * 224 * 224, salt) * 256).astype(np.float32)
    return torch.from_numpy(values).reshape(count, 3, 224, 224)


def fill_weights(model: nn.Module) -> None:
    """Fill every weight and statistic with a hash of its index in the state dict."""
    for index, (name, tensor) in enumerate(model.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            continue
        signed = hash01(tensor.numel(), index) * 2 - 1  # in [-1, 1)
        if name.endswith("running_mean"):
            values = 0.1 * signed
        elif name.endswith("running_var"):
            values = 1 + 0.5 * signed
        elif tensor.dim() >= 2:
            values = signed * math.sqrt(6 / (tensor.numel() / tensor.shape[0]))
        elif name.endswith("weight"):
            values = 1 + 0.2 * signed
        else:
            values = 0.1 * signed
        tensor.copy_(torch.from_numpy(values.astype(np.float32)).reshape(tensor.shape))
