"""The published model's logits, built in: whether this PyTorch computes on a device what it should.

The numbers were measured on the published code (megvii-model/SinglePathOneShot), CPU, float32, with weights and
images that are a hash of their index, so that nothing has to be shipped or downloaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spos_cli.models.network import Network
from spos_cli.models.supernet import Supernet
from spos_cli.space.architecture import Architecture
from spos_cli.space.search_space import OFFICIAL_SPACE

IMAGES, SALT = 2, 7  # the images that the logits are of
# In RMS of the logits, on a CPU and on an accelerator; orders of float32 sums differ by 1e-6 on CPUs.
CPU_TOLERANCE, TOLERANCE = 1e-4, 1e-3

WINNER = Architecture((2, 1, 0, 1, 2, 0, 2, 0, 2, 0, 2, 3, 0, 0, 0, 0, 3, 2, 3, 3))  # published as the best found
WINNER_FLOPS, WINNER_PARAMS = 322_918_720, 3_558_464
LEAST_FLOPS, MOST_FLOPS = 270_359_360, 398_609_216  # of the published space


@dataclass(frozen=True)
class Golden:
    """Logits of `WINNER` in eval mode for `image(IMAGES, SALT)`, after `fill`.

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


@torch.inference_mode()
def self_test(device: torch.device) -> dict[str, float]:
    """How far the logits of the supernet and of the network are from the golden ones, in RMS of the logits.

    In float32 (TF32 is switched off within) and channels_last memory, as all stages run. A result above
    `tolerance(device)`, or one that is not a number, is wrong.

    Raises:
        RuntimeError: the device does not work at all.
    """
    # The images of the hash rule are whole numbers, so the input itself is exact on every device.
    images = image(IMAGES, SALT).to(device).contiguous(memory_format=torch.channels_last)
    supernet, network = Supernet(OFFICIAL_SPACE, dropout=0.0), Network(OFFICIAL_SPACE, WINNER, dropout=0.0)
    for model in (supernet, network):
        fill(model)
        model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return {
            "supernet": distance(supernet(images, WINNER), SUPERNET),
            "network": distance(network(images), NETWORK),
        }


def tolerance(device: torch.device) -> float:
    """The largest difference from the golden logits that is still right."""
    return CPU_TOLERANCE if device.type == "cpu" else TOLERANCE


def distance(logits: Tensor, golden: Golden) -> float:
    """The largest difference of logits `(B, classes)` in the first ones and in the norm, in RMS of the logits."""
    ours = logits.double().cpu()
    expected = torch.tensor(golden.first, dtype=torch.float64)
    rms = golden.l2 / math.sqrt(ours.numel())
    by_value = float((ours[:, : expected.shape[1]] - expected).abs().max()) / rms
    by_norm = abs(float(ours.norm()) / golden.l2 - 1)
    return float(np.maximum(by_value, by_norm))  # NaN if one of them is
