"""A teacher: a trained network whose predictions a training imitates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spos_cli.engine.losses import TeacherLossKind, compute_teacher_loss
from spos_cli.engine.precision import Amp, autocast
from spos_cli.engine.resizing import resize


class Teacher:
    """A network that classifies the images of a training, and the loss against its predictions.

    It is never trained: it works in inference mode, and no optimizer and no checkpoint has its weights.

    Args:
        module: maps `(B, C, image_size, image_size)` float to logits `(B, classes)`; on the device, in eval mode.
        image_size: side of its images, in pixels.
        preprocess: makes its images of `(B, C, H, W) uint8` images and colours. None: they are prepared like those of
            the network that is trained.
        weight: share of the teacher's part in the loss, 0 to 1.
        loss: kind of the teacher's part.
        temperature: of the teacher's part.
        identity: what names the teacher in a checkpoint: plain values that its predictions depend on.
    """

    def __init__(
        self,
        module: nn.Module,
        image_size: int,
        preprocess: Callable[[Tensor, Tensor | None], Tensor] | None = None,
        *,
        weight: float,
        loss: TeacherLossKind = "soft",
        temperature: float = 1.0,
        identity: dict[str, Any],
    ) -> None:
        self.module = module.requires_grad_(False)
        self.image_size, self.preprocess = image_size, preprocess
        self.weight, self.loss, self.temperature, self.identity = weight, loss, temperature, identity

    def classify(self, images: Tensor, amp: Amp) -> Tensor:
        """Compute logits `(B, classes)`.

        Args:
            images: `(B, C, H, W)` float, prepared for the teacher, of any size; they are not changed.
            amp: mixed precision of the forward pass.
        """
        with torch.inference_mode(), autocast(images.device, amp):
            logits: Tensor = self.module(self.resize(images))
        return logits.clone()  # Autograd refuses to keep a tensor of the inference mode.

    def resize(self, images: Tensor) -> Tensor:
        """Resize prepared images `(B, C, H, W)` to the teacher's size; copy them if they have it already.

        A copy, since a user's own teacher may change its input in place, from which the trained network learns as well.
        """
        resized = resize(images, self.image_size)
        return images.clone() if resized is images else resized

    def add_loss(self, loss: Tensor, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the whole loss of a batch, `()`: the weighted mean of both parts.

        Args:
            loss: the loss against the labels, `()`.
            logits: of the network that is trained, `(B, classes)`.
            teacher_logits: `(B, classes)`.
        """
        if self.weight == 0:
            return loss
        part = compute_teacher_loss(logits, teacher_logits, self.loss, self.temperature)
        return part if self.weight == 1 else (1 - self.weight) * loss + self.weight * part
