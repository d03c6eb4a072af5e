"""The training loss: cross entropy or BCE, with smoothed labels and weights of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from spos_cli.errors import DataError

LossKind = Literal["cross_entropy", "bce"]


def compute_loss(
    logits: Tensor,
    targets: Tensor,
    kind: LossKind = "cross_entropy",
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Compute the loss of a batch, `()`: the mean over its images.

    Args:
        logits: `(B, classes)`.
        targets: labels `(B,)` int64, or the probabilities of the classes `(B, classes)`, as mixed images have.
        kind: `bce` is the binary cross entropy of each class, averaged over the classes, as in "ResNet strikes back"
            (arXiv 2110.00476). There, both classes of a mixed image have the target 1; here, their probabilities.
        label_smoothing: probability that is spread evenly over all classes.
        class_weights: `(classes,)`. The loss of an image is multiplied by the weight of its class; of a mixed image, by
            the mean over its classes. The sum is divided by the number of images, not by the sum of their weights, so
            that the mean over passes and processes is the mean over all their images.
    """
    if kind == "cross_entropy" and class_weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    if kind == "cross_entropy":
        losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)  # (B,)
    else:
        losses = _compute_bce(logits, targets, label_smoothing)
    if class_weights is None:
        return losses.mean()
    class_weights = class_weights.to(losses.dtype)
    is_hard = targets.dim() == 1
    weights = class_weights.index_select(0, targets) if is_hard else targets.to(losses.dtype) @ class_weights  # (B,)
    return (losses * weights).mean()


def _compute_bce(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Compute the binary cross entropy of each image, `(B,)`: the mean over the classes."""
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    classes = logits.shape[1]
    if targets.dim() == 1:
        targets = F.one_hot(targets, classes)
    smooth = targets.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / classes  # (B, classes)
    return F.binary_cross_entropy_with_logits(logits, smooth, reduction="none").mean(1)


def weigh_classes(
    labels: NDArray[np.int64], classes: Sequence[str], relative: Literal["balanced"] | Sequence[float]
) -> tuple[float, ...]:
    """Return a weight for each class; their mean over all images is 1, so that the learning rate keeps its meaning.

    Args:
        labels: of all training images, `(N,)`.
        classes: their names, C of them.
        relative: the weights up to a common factor. `balanced`: N / (C * images of the class), as in scikit-learn, so
            that each class counts the same.

    Raises:
        DataError: `balanced`, and a class has no training images.
    """
    counts = np.bincount(labels, minlength=len(classes))
    if relative == "balanced":
        if not counts.all():
            missing = classes[int(counts.argmin())]
            raise DataError(
                f"class_weights is balanced, but class {missing} has no training images; add some, remove the class, or"
                " set class_weights: null"
            )
        weights = len(labels) / (len(classes) * counts)
    else:
        weights = np.asarray(relative) * len(labels) / (counts @ np.asarray(relative))
    return tuple(weights.tolist())
