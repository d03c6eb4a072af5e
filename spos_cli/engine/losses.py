"""The training loss: cross entropy or BCE, weights of classes, and the loss against a teacher."""

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
TeacherLossKind = Literal["soft", "hard"]


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
    logits = _raise_precision(logits)
    classes = logits.shape[1]
    if targets.dim() == 1:
        targets = F.one_hot(targets, classes)
    smooth = targets.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / classes  # (B, classes)
    return F.binary_cross_entropy_with_logits(logits, smooth, reduction="none").mean(1)


def compute_teacher_loss(
    logits: Tensor, teacher_logits: Tensor, kind: TeacherLossKind = "soft", temperature: float = 1.0
) -> Tensor:
    """Compute the loss of a batch against a teacher, `()`: the mean over its images.

    Args:
        logits: of the network that is trained, `(B, classes)`.
        teacher_logits: `(B, classes)`, without a gradient.
        kind: `soft` is the Kullback-Leibler divergence from the teacher's probabilities, both at the temperature, times
            temperature^2, so that the gradient keeps its size (Hinton et al., arXiv 1503.02531, section 2). `hard` is
            the cross entropy with the teacher's top class, without smoothing (DeiT, arXiv 2012.12877, section 4).
        temperature: of `soft`.
    """
    logits, teacher_logits = _raise_precision(logits), _raise_precision(teacher_logits)
    if kind == "hard":
        return F.cross_entropy(logits, teacher_logits.argmax(1))
    ours, theirs = (F.log_softmax(values / temperature, 1) for values in (logits, teacher_logits))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


def _raise_precision(logits: Tensor) -> Tensor:
    """Return logits of mixed precision in single precision, and others unchanged."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def weigh_classes(
    labels: NDArray[np.int64], classes: Sequence[str], relative: Literal["balanced"] | Sequence[float]
) -> tuple[float, ...]:
    """Return a weight for each class; their mean over all images is 1, so that the learning rate keeps its meaning.

    Args:
        labels: of all training images, `(N,)`, or as often as each class is drawn.
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
