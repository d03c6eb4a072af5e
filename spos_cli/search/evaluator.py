"""Score candidates with the weights of the supernet (paper, section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spos_cli.engine.accelerator import free_memory
from spos_cli.engine.evaluation import CPU_BATCH
from spos_cli.engine.precision import Amp, to_device
from spos_cli.models.supernet import Supernet
from spos_cli.search.racing import Outcomes, Race, list_interim_checks
from spos_cli.search.tree import Tree
from spos_cli.space.architecture import Architecture

MEMORY_SHARE = 0.25  # Share of a GPU's free memory for images that stay there; the rest is for a group's features.


@dataclass(frozen=True)
class Score:
    """What a candidate got right.

    Attributes:
        top1: `(images,)`, in the order of the images; shorter if the candidate was stopped early.
        top5_count: images whose label is among the five largest logits (or all, with fewer classes).
        stopped_early: whether the candidate has lost its race.
    """

    top1: Outcomes
    top5_count: int
    stopped_early: bool

    @property
    def images(self) -> int:
        """Number of images that were scored."""
        return len(self.top1)

    @property
    def top1_count(self) -> int:
        """Number of images whose label has the largest logit."""
        return int(self.top1.sum())


@dataclass(frozen=True)
class CalibrationSet:
    """The images that the BatchNorm statistics of a path are computed from, and how.

    Attributes:
        images: training images `(N, C, S, S) uint8`; a last batch that is not full is left out.
        batch: images per batch.
        momentum: of the running statistics. None is the plain average over the batches, whose error falls with their
            number. Momentum 0.1, as in the official code, remembers about the last 19 batches however many there are.
    """

    images: Tensor
    batch: int
    momentum: float | None = None

    @property
    def batches(self) -> int:
        """Number of full batches."""
        return len(self.images) // self.batch


def keep_on_gpu(images: Tensor, device: torch.device) -> Tensor:
    """Move images to a GPU if `MEMORY_SHARE` of its free memory is enough: they are sent once, not for each group."""
    free = None if device.type == "cpu" else free_memory(device)
    return images if free is None or images.nbytes > MEMORY_SHARE * free else images.to(device)


GoOn = Callable[[float], bool]  # Receives the share of the work that is done; returns False to stop.


@torch.inference_mode()
def calibrate_paths(
    supernet: Supernet,
    archs: Sequence[Architecture],
    preprocess: Callable[[Tensor], Tensor],
    calibration: CalibrationSet,
    device: torch.device,
    amp: Amp = "off",
    go_on: GoOn = lambda done: True,
) -> Tree | None:
    """Compute the BatchNorm statistics of some paths; return the paths ready for inference, or None if stopped.

    Args:
        supernet: on `device`; nothing in it is changed.
        preprocess: `(B, C, S, S) uint8` on the device to float.
        amp: `bf16` computes convolutions in it; statistics and the classifier stay in float32.
    """
    tree = Tree(supernet, archs, torch.bfloat16 if amp == "bf16" else torch.float32)
    batches = torch.split(calibration.images, calibration.batch)[: calibration.batches]
    for number, images in enumerate(batches, 1):
        tree.calibrate(preprocess(to_device(images, device)), calibration.momentum or 1 / number)
        if not go_on(number / calibration.batches):
            return None
    tree.fold()
    return tree


class Evaluator:
    """Score architectures, each as if it were the only one.

    The BatchNorm statistics of every candidate are recomputed from the same training images, then the same images are
    scored. A score depends on the candidate and on these images alone. Candidates that are scored together only share
    the computation of what they have in common.

    Args:
        supernet: trained weights; nothing in it is changed.
        preprocess: `(B, C, S, S) uint8` on the device to float.
        calibration: for the BatchNorm statistics.
        images: to score on, `(M, C, S, S) uint8`.
        labels: `(M,)`.
        batch: images per scoring batch. A CPU takes at most `CPU_BATCH`, which changes no score.
        device: where to compute.
        amp: of convolutions.
    """

    def __init__(
        self,
        supernet: Supernet,
        preprocess: Callable[[Tensor], Tensor],
        *,
        calibration: CalibrationSet,
        images: Tensor,
        labels: Tensor,
        batch: int,
        device: torch.device,
        amp: Amp = "off",
    ) -> None:
        self.supernet = supernet.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.preprocess = preprocess
        self.calibration = replace(calibration, images=keep_on_gpu(calibration.images, device))
        self.device, self.amp = device, amp
        self.images, self.labels = keep_on_gpu(images, device), labels.to(device)
        self.batch = min(batch, CPU_BATCH) if device.type == "cpu" else batch

    @torch.inference_mode()
    def score(
        self, archs: Sequence[Architecture], race: Race | None = None, go_on: GoOn = lambda done: True
    ) -> list[Score] | None:
        """Calibrate paths and count what they get right, in this process; return None if `go_on` has stopped it.

        Args:
            archs: they should have much in common: neighbours in the order of their options.
            race: stops candidates that fall behind.
            go_on: calibration is the first half of the work, scoring the second.
        """
        tree = calibrate_paths(
            self.supernet,
            archs,
            self.preprocess,
            self.calibration,
            self.device,
            self.amp,
            lambda done: go_on(done / 2),
        )
        if tree is None:
            return None
        total = len(self.images)
        top1 = torch.zeros(len(archs), total, dtype=torch.bool, device=self.device)
        top5 = torch.zeros(len(archs), dtype=torch.int64, device=self.device)
        scored_images = [total] * len(archs)  # by candidate
        running, checks, done = list(range(len(archs))), list_interim_checks(total), 0
        for images, labels in zip(
            torch.split(self.images, self.batch), torch.split(self.labels, self.batch), strict=True
        ):
            pixels = self.preprocess(to_device(images, self.device))
            for number, logits in tree.logits(pixels):
                hits = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]  # (B, 5)
                top1[number, done : done + len(labels)] = hits[:, 0]
                top5[number] += hits.sum()
            done += len(labels)
            if race is not None and checks and checks[0] <= done < total:
                checks = [check for check in checks if check > done]
                for number in [n for n in running if race.is_lost(top1[n, :done].cpu().numpy())]:
                    running.remove(number)
                    scored_images[number] = done
                    tree.drop(number)
            if not go_on((1 + done / total) / 2):
                return None
        outcomes, top5_counts = top1.cpu().numpy(), top5.tolist()
        return [Score(outcomes[n, : scored_images[n]], top5_counts[n], n not in running) for n in range(len(archs))]
