"""MixUp and CutMix of a batch: torchvision's, with draws of their own, and targets that fit the pixels."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from spos_cli import seeding
from spos_cli.engine.mixing import Mixing

CLASSES, COUNT, SIZE = 5, 6, 16
LABELS = torch.tensor([0, 3, 1, 4, 3, 2])
KINDS = {"mixup": (0.4, None), "cutmix": (None, 1.0), "both": (0.4, 1.0)}


def numbered(count: int = COUNT) -> Tensor:
    """Images whose pixels are all the number of the image."""
    return torch.arange(count).float().view(-1, 1, 1, 1).expand(count, 3, SIZE, SIZE).contiguous()


def mixing(kind: str, seed: int = 7) -> Mixing:
    return Mixing(*KINDS[kind], CLASSES, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_torchvisions_with_the_same_seed(kind: str) -> None:
    mixup, cutmix = v2.MixUp(alpha=0.4, num_classes=CLASSES), v2.CutMix(alpha=1.0, num_classes=CLASSES)
    oracle = {"mixup": mixup, "cutmix": cutmix, "both": v2.RandomChoice([mixup, cutmix])}[kind]
    images = torch.randn(COUNT, 3, SIZE, SIZE)
    for step, part in itertools.product(range(10), range(2)):
        torch.manual_seed(seeding.torch_seed(7, "mix", step, part))
        expected = oracle(images, LABELS)
        ours = mixing(kind)(images, LABELS, step, part)
        assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))
        assert ours[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mass_of_labels_is_conserved(kind: str) -> None:
    for step in range(20):
        _, targets = mixing(kind)(numbered(), LABELS, step, 0)
        assert (targets.shape, targets.dtype) == ((COUNT, CLASSES), torch.float32)
        torch.testing.assert_close(targets.sum(1), torch.ones(COUNT))
        torch.testing.assert_close(targets.sum(0), torch.bincount(LABELS, minlength=CLASSES).float())
        assert (targets >= 0).all()


def test_the_rectangle_of_cutmix_has_the_area_of_the_labels_weight() -> None:
    areas = set()
    for step in range(40):
        images, targets = mixing("cutmix")(numbered(), LABELS, step, 0)
        foreign = images != numbered()  # (COUNT, 3, SIZE, SIZE): pixels of the image before
        assert (images[foreign] == numbered().roll(1, 0)[foreign]).all()
        area = foreign.float().mean((1, 2, 3))
        own = targets.gather(1, LABELS[:, None])[:, 0]  # no two neighbours have the same label
        torch.testing.assert_close(area, 1 - own)
        areas.add(round(float(area[0]), 6))
    assert len(areas) > 20


def test_the_pixels_of_mixup_have_the_labels_weights() -> None:
    for step in range(20):
        images, targets = mixing("mixup")(numbered(), LABELS, step, 0)
        own = targets.gather(1, LABELS[:, None])[:, 0]
        expected = own * torch.arange(COUNT) + (1 - own) * torch.arange(COUNT).roll(1)
        torch.testing.assert_close(images.mean((1, 2, 3)), expected)


def test_one_of_two_is_drawn_evenly() -> None:
    """CutMix leaves whole pixels, MixUp does not."""
    both = mixing("both")
    cut = sum(bool((both(numbered(), LABELS, step, 0)[0].frac() == 0).all()) for step in range(400))
    assert 140 < cut < 260


def test_draws_depend_on_seed_step_and_part_only_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, _ = mixing("both")(numbered(), LABELS, 3, 1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = mixing("both"), mixing("both", seed=8)
    assert torch.equal(again(numbered(), LABELS, 3, 1)[0], first)
    for drawn in (again(numbered(), LABELS, 4, 1), again(numbered(), LABELS, 3, 0), other(numbered(), LABELS, 3, 1)):
        assert not torch.equal(drawn[0], first)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_mixed_label_is_the_mean_of_both_labels_losses(smoothing: float) -> None:
    """Label smoothing included; and a target without a mixture is the label itself."""
    criterion = nn.CrossEntropyLoss(label_smoothing=smoothing)
    logits = torch.randn(COUNT, CLASSES, generator=torch.Generator().manual_seed(0))
    hard = nn.functional.one_hot(LABELS, CLASSES).float()
    torch.testing.assert_close(criterion(logits, hard), criterion(logits, LABELS))
    for step in range(10):
        _, targets = mixing("mixup")(numbered(), LABELS, step, 0)
        weight = targets[0, LABELS[0]]
        expected = weight * criterion(logits, LABELS) + (1 - weight) * criterion(logits, LABELS.roll(1))
        torch.testing.assert_close(criterion(logits, targets), expected)
        with torch.autocast("cpu", torch.bfloat16):
            assert criterion(logits.bfloat16(), targets).dtype == torch.float32
