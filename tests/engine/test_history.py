"""When metrics say that a training is no better than guessing, and when they do not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spos_cli.engine.history import CHANCE_DEVIATIONS, DIVERGED_RATIO, find_guessing
from spos_cli.engine.losses import compute_loss


def lines(*windows: tuple[float, float], images: int = 500, every: int = 10) -> list[dict[str, Any]]:
    """Make metrics of windows with these losses and accuracies."""
    return [
        {"step": every * number, "loss": loss, "top1": top1, "images": images}
        for number, (loss, top1) in enumerate(windows, 1)
    ]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_guessing_is_what_equal_probabilities_give(classes: int, smoothing: float) -> None:
    """By PyTorch's own loss: label smoothing does not change it."""
    labels = torch.arange(4 * classes) % classes
    loss = F.cross_entropy(torch.full((len(labels), classes), 0.7), labels, label_smoothing=smoothing).item()
    found = find_guessing(lines(*[(loss, 1 / classes)] * 6, images=100 * classes), classes)
    assert found is not None
    assert found.guess == pytest.approx(loss, rel=1e-6)
    assert found.chance == 1 / classes


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_guessing_with_bce_is_what_a_dead_network_gives(classes: int, smoothing: float) -> None:
    """Its features are 0, and so are its logits, since the classifier has no bias."""
    labels = torch.arange(4 * classes) % classes
    loss = compute_loss(torch.zeros(len(labels), classes), labels, "bce", smoothing).item()
    found = find_guessing(lines(*[(loss, 1 / classes)] * 6, images=100 * classes), classes, "bce")
    assert found is not None
    assert found.guess == pytest.approx(loss, rel=1e-6)
    assert found.verdict == "learned nothing"
    assert find_guessing(lines(*[(loss * 0.9, 1 / classes)] * 6, images=100 * classes), classes, "bce") is None
    diverged = find_guessing(lines((loss * 2.1, 0.5)), classes, "bce")
    assert diverged is not None
    assert diverged.verdict == "diverged"


@pytest.mark.parametrize("loss", [0.1, 50.0])
def test_with_a_teacher_only_top1_tells(loss: float) -> None:
    """Its loss at a temperature may be far above or below ln C."""
    found = find_guessing(lines(*[(loss, 0.1)] * 6, images=1000), 10, None)
    assert found is not None
    assert (found.guess, found.verdict) == (None, "learned nothing")
    assert str(found) == "training top-1 10.0% in the last 1,000 images; guessing has 10.0%"
    assert find_guessing(lines(*[(loss, 0.2)] * 6, images=1000), 10, None) is None
    assert find_guessing(lines(*[(loss, 0.1)] * 6, images=100), 10, None) is None, "too few images"


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_what_has_diverged_is_seen_in_one_line(classes: int) -> None:
    """However few images it has, and whatever top-1 is: always naming a class of 90 % of the images gives 90 %."""
    guess = math.log(classes)
    for loss in (DIVERGED_RATIO * guess * 1.01, 793.0, 1e17, 1e300, math.inf, 10**400):
        for top1 in (0.0, 1 / classes, 0.9):
            found = find_guessing(lines((guess, 0.5), (loss, top1), images=6), classes)
            assert found is not None
            assert found.images == 6
            assert f"{found.chance:.1%}" in str(found)
    assert find_guessing(lines((793.0, 0.1), (guess * 0.99, 0.1), images=6), classes) is None  # it has recovered


def test_what_has_collapsed_is_seen_in_enough_images() -> None:
    dead = (2.302585, 0.1)
    assert find_guessing(lines(*[dead] * 4), 10) is not None
    assert find_guessing(lines(*[dead] * 4, images=100), 10) is None
    late = find_guessing(lines((1.0, 0.7), (1.2, 0.6), *[dead] * 4), 10)
    assert late is not None
    assert late.images == 1000  # no more than are needed
    assert find_guessing(lines((1.0, 0.7), (1.2, 0.6), (1.1, 0.6), dead), 10) is None


@pytest.mark.parametrize(
    "windows",
    [
        [(2.31, 0.1)],
        [(2.34, 0.0625), (2.36, 0.125)],
        [(2.5, 0.1), (2.4, 0.1), (2.3, 0.1), (2.29, 0.1)],
        [(2.29, 0.09)] * 9,
        [(2.9, 0.2)] * 9,
        [(0.01, 1.0)] * 9,
    ],
    ids=["one line", "two small lines", "falling", "below guessing", "well above chance", "learned"],
)
def test_new_and_healthy_trainings_are_not_accused(windows: list[tuple[float, float]]) -> None:
    assert find_guessing(lines(*windows, images=320 if len(windows) < 9 else 500), 10) is None


def test_chance_seldom_looks_better_than_chance() -> None:
    """By simulation: guessing is recognised as often as a normal distribution is below so many deviations."""
    rng = np.random.default_rng(0)
    for classes in (2, 10, 100):
        images = 100 * classes
        counts = rng.binomial(images, 1 / classes, 2000)
        windows = [lines((math.log(classes), count / images), images=images) for count in counts]
        found = np.mean([find_guessing(window, classes) is not None for window in windows])
        assert found == pytest.approx(0.5 * (1 + math.erf(CHANCE_DEVIATIONS / math.sqrt(2))), abs=0.02)


def test_lines_without_metrics_are_left_out() -> None:
    good = lines((793.0, 0.1))
    odd: list[dict[str, Any]] = [
        {},
        {"step": 20, "loss": "x", "top1": 0.5, "images": 9},
        {"step": 20, "loss": math.nan, "top1": 0.5, "images": 9},
        {"step": 20, "loss": True, "top1": 0.5, "images": 9},
        {"step": 20, "loss": 0.1, "top1": None, "images": 9},
        {"step": 20, "loss": 0.1, "top1": 0.5, "images": 0},
        {"step": 20, "val_loss": 0.1, "val_top1": 0.5},
    ]
    assert find_guessing([*good, *odd], 10) is not None
    assert find_guessing(odd, 10) is None
    assert find_guessing([], 10) is None
    assert find_guessing(good, 1) is None  # there is nothing to guess
