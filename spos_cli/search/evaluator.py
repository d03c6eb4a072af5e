"""Scores candidates with the weights of the supernet (paper, section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spos_cli.engine.accelerator import free_memory
from spos_cli.engine.evaluation import CPU_BATCH
from spos_cli.engine.precision import Amp, to_device
from spos_cli.models.supernet import Supernet
from spos_cli.search.racing import Outcomes, Race, checks
from spos_cli.search.tree import Tree
from spos_cli.space.architecture import Architecture

ROOM = 0.25  # of a GPU's free memory that images may take to stay there; the rest is for a group's features


@dataclass(frozen=True)
class Score:
    """What a candidate got right.

    Attributes:
        top1: `(images,)`, in the order of the images that were scored; fewer of them if it has lost its race.
        top5_count: images whose label is among the five largest logits (or all, with fewer classes).
        partial: whether it has stopped early.
    """

    top1: Outcomes
    top5_count: int
    partial: bool

    @property
    def images(self) -> int:
        """Images that were scored."""
        return len(self.top1)

    @property
    def top1_count(self) -> int:
        """Images whose label has the largest logit."""
        return int(self.top1.sum())


@dataclass(frozen=True)
class Calibration:
    """How the BatchNorm statistics of a path are estimated.

    Attributes:
        images: training images `(N, 3, S, S) uint8`; a last batch that is not full is left out.
        batch: images per batch.
        momentum: of the running statistics; None is the plain average over the batches (its error falls with
            their number; momentum 0.1, as published, remembers about the last 19 however many there are).
    """

    images: Tensor
    batch: int
    momentum: float | None = None

    @property
    def batches(self) -> int:
        """Whole batches."""
        return len(self.images) // self.batch


def resident(images: Tensor, device: torch.device) -> Tensor:
    """Images that stay on a GPU which has `ROOM` for them, so that they are sent once and not for each group."""
    free = None if device.type == "cpu" else free_memory(device)
    return images if free is None or images.nbytes > ROOM * free else images.to(device)


GoOn = Callable[[float], bool]  # is told how much of the calibration or the scoring is done; False stops it


@torch.inference_mode()
def calibrated(
    supernet: Supernet,
    archs: Sequence[Architecture],
    preprocess: Callable[[Tensor], Tensor],
    calibration: Calibration,
    device: torch.device,
    amp: Amp = "off",
    go_on: GoOn = lambda done: True,
) -> Tree | None:
    """Paths of a supernet with the statistics that they are scored with, ready for inference.

    Args:
        supernet: on `device`; nothing in it is changed.
        preprocess: `(B, 3, S, S) uint8` on the device to float.
        amp: `bf16` computes convolutions in it; statistics and the classifier stay in float32.
    """
    tree = Tree(supernet, archs, torch.bfloat16 if amp == "bf16" else torch.float32)
    for number, images in enumerate(torch.split(calibration.images, calibration.batch)[: calibration.batches], 1):
        tree.calibrate(preprocess(to_device(images, device)), calibration.momentum or 1 / number)
        if not go_on(number / calibration.batches):
            return None
    tree.fold()
    return tree


class Evaluator:
    """Scores architectures, each as if it were the only one.

    The BatchNorm statistics of every candidate are recomputed from the same training images, then the same images are
    scored. A score depends on the candidate and on these images alone: not on the candidates that are scored
    together with it, which only share what they have in common; not on which process does it, or on a restart.

    Args:
        supernet: trained weights; nothing in it is changed.
        preprocess: `(B, 3, S, S) uint8` on the device to float.
        calibration: for the statistics.
        images: to score on, `(M, 3, S, S) uint8`.
        labels: `(M,)`.
        batch: images per scoring batch; on a CPU fewer are taken at a time, which changes no score.
        device: where to compute.
        amp: of convolutions.
    """

    def __init__(
        self,
        supernet: Supernet,
        preprocess: Callable[[Tensor], Tensor],
        *,
        calibration: Calibration,
        images: Tensor,
        labels: Tensor,
        batch: int,
        device: torch.device,
        amp: Amp = "off",
    ) -> None:
        self.supernet = supernet.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.preprocess = preprocess
        self.calibration = replace(calibration, images=resident(calibration.images, device))
        self.device, self.amp = device, amp
        self.images, self.labels = resident(images, device), labels.to(device)
        self.batch = min(batch, CPU_BATCH) if device.type == "cpu" else batch

    @torch.inference_mode()
    def score(
        self, archs: Sequence[Architecture], race: Race | None = None, go_on: GoOn = lambda done: True
    ) -> list[Score] | None:
        """Calibrates paths and tells what they get right, on this process alone; None if it is to stop.

        Args:
            archs: they should have much in common: neighbours in the order of their choices.
            race: stops those that fall behind.
        """
        tree = calibrated(self.supernet, archs, self.preprocess, self.calibration, self.device, self.amp, go_on)
        if tree is None:
            return None
        top1 = torch.zeros(len(archs), len(self.images), dtype=torch.bool, device=self.device)
        top5 = torch.zeros(len(archs), dtype=torch.int64, device=self.device)
        seen = [len(self.images)] * len(archs)
        running, left, done = list(range(len(archs))), checks(len(self.images)), 0
        for images, labels in zip(
            torch.split(self.images, self.batch), torch.split(self.labels, self.batch), strict=True
        ):
            pixels = self.preprocess(to_device(images, self.device))
            for number, logits in tree.logits(pixels):
                right = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
                top1[number, done : done + len(labels)] = right[:, 0]
                top5[number] += right.sum()
            done += len(labels)
            if race is not None and left and left[0] <= done < len(self.images):
                left = [check for check in left if check > done]
                for number in [n for n in running if race.is_lost(top1[n, :done].cpu().numpy())]:
                    running.remove(number)
                    seen[number] = done
                    tree.drop(number)
            if not go_on(done / len(self.images)):
                return None
        outcomes, counts = top1.cpu().numpy(), top5.tolist()
        return [Score(outcomes[n, : seen[n]], counts[n], n not in running) for n in range(len(archs))]
