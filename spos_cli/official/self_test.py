"""Test whether a device computes the official model's logits correctly."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from spos_cli.models.network import Network
from spos_cli.models.supernet import Supernet
from spos_cli.official import golden
from spos_cli.space.search_space import OFFICIAL_SPACE

# Largest right difference from the golden logits, in RMS of the logits. Orders of float32 sums differ by 1e-6 on CPUs.
CPU_TOLERANCE, ACCELERATOR_TOLERANCE = 1e-4, 1e-3


@torch.inference_mode()
def run_self_test(device: torch.device) -> dict[str, float]:
    """Return how far the logits of the supernet and of the network are from the golden ones, in RMS of the logits.

    The test runs in float32 (without TF32) and channels_last memory, as all commands do. A result above
    `get_tolerance(device)`, or NaN, means that the device computes wrongly.

    Raises:
        RuntimeError: the device does not work at all.
    """
    # The images are whole numbers, so the input is exact on every device: (IMAGES, 3, 224, 224).
    images = golden.make_images(golden.IMAGES, golden.SALT).to(device).contiguous(memory_format=torch.channels_last)
    supernet, network = Supernet(OFFICIAL_SPACE, dropout=0.0), Network(OFFICIAL_SPACE, golden.WINNER, dropout=0.0)
    for model in (supernet, network):
        golden.fill_weights(model)
        model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return {
            "supernet": measure_distance(supernet(images, golden.WINNER), golden.SUPERNET),
            "network": measure_distance(network(images), golden.NETWORK),
        }


def get_tolerance(device: torch.device) -> float:
    """Return the largest difference from the golden logits that is still right."""
    return CPU_TOLERANCE if device.type == "cpu" else ACCELERATOR_TOLERANCE


def measure_distance(logits: Tensor, expected: golden.Golden) -> float:
    """Return the largest difference of `logits (B, classes)` from the expected ones, in RMS of the logits.

    Compared are the first logits of each image, and the norm of all of them.
    """
    ours = logits.double().cpu()
    first = torch.tensor(expected.first, dtype=torch.float64)  # (B, 8)
    rms = expected.l2 / math.sqrt(ours.numel())
    by_value = float((ours[:, : first.shape[1]] - first).abs().max()) / rms
    by_norm = abs(float(ours.norm()) / expected.l2 - 1)
    return float(np.maximum(by_value, by_norm))  # NaN if one of them is NaN
