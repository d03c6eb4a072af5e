"""Mix the images of a batch, and their labels: MixUp and CutMix."""

from __future__ import annotations

import torch
from torch import Tensor

from spos_cli import seeding


class Mixing:
    """torchvision's MixUp, its CutMix, or for each batch one of both at random.

    Each image of a pass is mixed with the one before it. All images of a pass have the same weight, and with CutMix the
    same rectangle. The draws depend on the seed, the step and the part of its batch only, so a resumed training draws
    the same, and two processes of one pass each mix what one process of two passes mixes.

    Args:
        mixup: alpha of MixUp's Beta distribution; None leaves MixUp out.
        cutmix: alpha of CutMix's Beta distribution; None leaves CutMix out. One of both is a number.
        classes: number of classes.
        seed: of the draws.
    """

    def __init__(self, mixup: float | None, cutmix: float | None, classes: int, seed: int) -> None:
        from torchvision.transforms import v2  # It takes long to import, and many trainings do not use it.

        kinds = [(v2.MixUp, mixup), (v2.CutMix, cutmix)]
        chosen = [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha is not None]
        self.mix, self.seed = chosen[0] if len(chosen) == 1 else v2.RandomChoice(chosen), seed

    def __call__(self, images: Tensor, labels: Tensor, step: int, part: int) -> tuple[Tensor, Tensor]:
        """Return mixed images `(B, C, H, W)` and targets `(B, classes)`, which add up to 1 for each image.

        Args:
            images: `(B, C, H, W)` float, on any device.
            labels: `(B,)`; or soft, `(B, classes)`.
            step: of the training.
            part: which part of the step's batch this is; each pass of each process is one.
        """
        with torch.random.fork_rng(devices=[]):
            # Only the CPU draws. `torch.manual_seed` would seed GPUs as well, and dropout masks come from these.
            torch.default_generator.manual_seed(seeding.torch_seed(self.seed, "mix", step, part))
            mixed, targets = self.mix(images, labels)
        return mixed.contiguous(memory_format=torch.channels_last), targets
