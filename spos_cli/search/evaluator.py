"""Scores candidates with the weights of the supernet (paper, section 3.4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spos_cli.engine.calibration import calibrate
from spos_cli.engine.evaluation import evaluate
from spos_cli.engine.metrics import Accuracy
from spos_cli.engine.precision import Amp, autocast, to_device
from spos_cli.models.supernet import Supernet
from spos_cli.space.architecture import Architecture


@torch.inference_mode()
def calibrate_path(
    supernet: Supernet,
    arch: Architecture,
    preprocess: Callable[[Tensor], Tensor],
    images: Tensor,
    batch: int,
    device: torch.device,
    amp: Amp = "off",
    momentum: float | None = None,
) -> None:
    """Recomputes the BatchNorm statistics of one path.

    Args:
        supernet: on `device`, in eval mode.
        arch: the path.
        preprocess: `(B, 3, S, S) uint8` on the device to float.
        images: training images `(N, 3, S, S) uint8`; a last batch that is not full is left out.
        batch: images per batch.
        device: where to compute.
        amp: mixed precision of the forward passes.
        momentum: of the statistics; None is the plain average.
    """
    whole = images[: len(images) // batch * batch]
    batches = (preprocess(to_device(part, device)) for part in torch.split(whole, batch))
    with autocast(device, amp):
        calibrate(lambda inputs: supernet(inputs, arch), supernet.path(arch), batches, momentum=momentum)


class Evaluator:
    """Scores one architecture after another, each as if it were the only one.

    The BatchNorm statistics of the path are recomputed from the same training images for every candidate,
    then the same images are scored. A score depends on the candidate and on these images alone: not on what
    was scored before, on which process does it, or on a restart.

    Args:
        supernet: trained weights; its BatchNorm statistics are overwritten path by path.
        preprocess: `(B, 3, S, S) uint8` on the device to float.
        calibration: training images `(N, 3, S, S) uint8` for the statistics, and images per batch of them.
        images: to score on, `(M, 3, S, S) uint8`.
        labels: `(M,)`.
        batch: images per scoring batch.
        device: where to compute.
        amp: mixed precision of the forward passes.
        momentum: of the statistics; None is the plain average.
    """

    def __init__(
        self,
        supernet: Supernet,
        preprocess: Callable[[Tensor], Tensor],
        *,
        calibration: tuple[Tensor, int],
        images: Tensor,
        labels: Tensor,
        batch: int,
        device: torch.device,
        amp: Amp = "off",
        momentum: float | None = None,
    ) -> None:
        self.supernet = supernet.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.preprocess, self.device, self.amp, self.momentum = preprocess, device, amp, momentum
        self.calibration = calibration
        self.images, self.labels, self.batch = images, labels, batch

    def score(self, arch: Architecture) -> Accuracy:
        """Calibrates one path and counts what it gets right, on this process alone."""
        calibrate_path(self.supernet, arch, self.preprocess, *self.calibration, self.device, self.amp, self.momentum)
        batches = zip(torch.split(self.images, self.batch), torch.split(self.labels, self.batch), strict=True)
        return evaluate(lambda images: self.supernet(images, arch), batches, self.preprocess, self.device, self.amp)
