"""Losses against PyTorch's, and weights of classes against scikit-learn's and against balanced images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn import functional as F

from spos_cli.engine.losses import compute_loss, weigh_classes
from spos_cli.errors import DataError

CLASSES = 4
NAMES = ("a", "b", "c", "d")
LABELS = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, 3, 3])
WEIGHTS = torch.tensor([0.5, 1.0, 3.0, 2.0])
KINDS = ("cross_entropy", "bce")


def make_logits() -> Tensor:
    return torch.randn(len(LABELS), CLASSES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def one_hot() -> Tensor:
    return F.one_hot(LABELS, CLASSES).double()


def mix() -> Tensor:
    """Targets of images that are mixed with the image before them."""
    return 0.7 * one_hot() + 0.3 * one_hot().roll(1, 0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_pytorchs(smoothing: float) -> None:
    """To the bit: a training has the same bytes as with `nn.CrossEntropyLoss`."""
    oracle = nn.CrossEntropyLoss(label_smoothing=smoothing)
    for targets in (LABELS, mix()):
        assert torch.equal(
            compute_loss(make_logits(), targets, label_smoothing=smoothing), oracle(make_logits(), targets)
        )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_labels_are_probabilities_of_one(kind: Any, smoothing: float, weights: Tensor | None) -> None:
    hard = compute_loss(make_logits(), LABELS, kind, smoothing, weights)
    torch.testing.assert_close(compute_loss(make_logits(), one_hot(), kind, smoothing, weights), hard)


def test_bce_is_pytorchs_with_smoothed_labels() -> None:
    """Smoothed as in timm's BinaryCrossEntropy: s / C for all classes, and 1 - s more for the right one."""
    off = 0.1 / CLASSES
    smooth = torch.full((len(LABELS), CLASSES), off, dtype=torch.float64)
    smooth[torch.arange(len(LABELS)), LABELS] = 1 - 0.1 + off
    oracle = nn.BCEWithLogitsLoss()
    torch.testing.assert_close(compute_loss(make_logits(), LABELS, "bce", 0.1), oracle(make_logits(), smooth))
    torch.testing.assert_close(compute_loss(make_logits(), mix(), "bce"), oracle(make_logits(), mix()))


def test_smoothing_is_the_same_for_both_losses() -> None:
    """Smoothed labels as targets are the labels with smoothing."""
    for kind in KINDS:
        smooth = one_hot() * 0.9 + 0.1 / CLASSES
        expected = compute_loss(make_logits(), smooth, kind)  # type: ignore[arg-type]
        torch.testing.assert_close(compute_loss(make_logits(), LABELS, kind, 0.1), expected)  # type: ignore[arg-type]


def test_weighted_cross_entropy_is_pytorchs_sum_over_the_images() -> None:
    weights = WEIGHTS.double()
    expected = F.cross_entropy(make_logits(), LABELS, weights, reduction="sum") / len(LABELS)
    torch.testing.assert_close(compute_loss(make_logits(), LABELS, class_weights=WEIGHTS), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixed_image_weighs_as_the_mean_of_its_classes(kind: Any) -> None:
    expected = torch.zeros((), dtype=torch.float64)
    for logits, target in zip(make_logits(), mix(), strict=True):
        expected += compute_loss(logits[None], target[None], kind, 0.1) * (target @ WEIGHTS.double())
    torch.testing.assert_close(compute_loss(make_logits(), mix(), kind, 0.1, WEIGHTS), expected / len(LABELS))


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_batch_have_its_mean(kind: Any) -> None:
    """So several processes and passes give the gradient of the whole batch."""
    parts = [compute_loss(make_logits()[part], LABELS[part], kind, 0.1, WEIGHTS) for part in (slice(5), slice(5, 10))]
    torch.testing.assert_close(sum(parts) / 2, compute_loss(make_logits(), LABELS, kind, 0.1, WEIGHTS))


@pytest.mark.parametrize("kind", KINDS)
def test_balanced_weights_have_the_loss_of_as_many_images_of_each_class(kind: Any) -> None:
    """Ten copies of each image, divided by the size of its class: all classes are then equal."""
    weights = weigh_classes(LABELS.numpy(), NAMES, "balanced")
    copies = torch.cat([torch.full((10 // int((label == LABELS).sum()),), i) for i, label in enumerate(LABELS)])
    assert torch.bincount(LABELS[copies]).tolist() == [10] * CLASSES
    expected = compute_loss(make_logits()[copies], LABELS[copies], kind, 0.1)
    torch.testing.assert_close(compute_loss(make_logits(), LABELS, kind, 0.1, torch.tensor(weights)), expected)


def test_balanced_weights_are_scikit_learns() -> None:
    expected = compute_class_weight("balanced", classes=np.arange(CLASSES), y=LABELS.numpy())
    assert weigh_classes(LABELS.numpy(), NAMES, "balanced") == pytest.approx(expected)


@pytest.mark.parametrize("factor", [1, 7])
def test_only_ratios_of_weights_count(factor: int) -> None:
    weights = np.array(weigh_classes(LABELS.numpy(), NAMES, [factor * 1.0, factor * 2.0, factor * 2.0, factor * 4.0]))
    assert weights / weights[0] == pytest.approx([1, 2, 2, 4])
    assert weights[LABELS.numpy()].mean() == pytest.approx(1)


def test_a_class_without_images_cannot_be_balanced() -> None:
    with pytest.raises(DataError, match="class d has no training images"):
        weigh_classes(np.array([0, 1, 2, 2]), NAMES, "balanced")
    assert weigh_classes(np.array([0, 1, 2, 2]), NAMES, [1, 1, 1, 9]) == (1, 1, 1, 9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_bce_of_half_precision_is_computed_in_single_precision(dtype: torch.dtype) -> None:
    logits = make_logits().to(dtype)
    loss = compute_loss(logits, LABELS, "bce", 0.1, WEIGHTS)
    assert torch.equal(loss, compute_loss(logits.float(), LABELS, "bce", 0.1, WEIGHTS))
