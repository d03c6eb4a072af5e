"""What a network gets wrong: numbers counted by hand, and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics

from spos_cli.engine.distributed import Processes
from spos_cli.engine.metrics import AccuracyMeter
from spos_cli.engine.mistakes import ConfidenceBin, Mistakes, count_mistakes, find_most_confident
from spos_cli.engine.predictions import Predictions

NAMES = ["cat", "dog", "owl", "fox", "eel"]
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])  # no fox, no eel
PREDICTIONS = np.array([0, 0, 1, 1, 1, 1, 1, 0, 3])  # no owl, no eel


def count(labels: np.ndarray, predictions: np.ndarray, classes: int = 5) -> Mistakes:
    names = [f"class {label}" for label in range(classes)]
    return count_mistakes(names, labels, predictions, np.full(len(labels), 0.5))


def test_numbers_that_were_counted_by_hand() -> None:
    mistakes = count_mistakes(NAMES, LABELS, PREDICTIONS, np.full(9, 0.5))
    cat, dog, owl, fox, eel = mistakes.classes
    assert [(one.support, one.predicted, one.correct) for one in (cat, dog, owl, fox, eel)] == [
        (4, 3, 2),
        (3, 5, 3),
        (2, 0, 0),
        (0, 1, 0),
        (0, 0, 0),
    ]
    assert [one.recall for one in mistakes.classes] == [0.5, 1.0, 0.0, None, None]
    assert [one.precision for one in mistakes.classes] == [2 / 3, 0.6, None, 0.0, None]
    assert [one.f1 for one in mistakes.classes] == [4 / 7, 0.75, 0.0, 0.0, None]
    assert (mistakes.images, mistakes.accuracy) == (9, 5 / 9)
    assert mistakes.balanced_accuracy == 0.5  # (1/2 + 1 + 0) / 3
    assert mistakes.macro_precision == pytest.approx(0.422222, abs=1e-6)  # (2/3 + 3/5 + 0) / 3
    assert mistakes.macro_f1 == pytest.approx(0.330357, abs=1e-6)  # (4/7 + 3/4 + 0 + 0) / 4
    assert (mistakes.without_images, mistakes.without_predictions) == (2, 2)
    assert mistakes.confusions == [(0, 1, 2), (2, 0, 1), (2, 3, 1)]
    assert [mistakes.share_of(one) for one in mistakes.confusions] == [0.5, 0.5, 0.5]
    assert [NAMES[label] for label in mistakes.worst_classes] == ["owl", "cat", "dog", "fox"]


def test_scikit_learn_counts_the_same() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 400)  # no image of class 5
    predictions = np.where(rng.random(400) < 0.5, labels, rng.integers(0, 6, 400))
    predictions[predictions == 4] = 0  # never predicted
    mistakes = count(labels, predictions, 6)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predictions, labels=range(6), zero_division=np.nan
    )

    def column(name: str) -> list[float]:
        values = [getattr(one, name) for one in mistakes.classes]
        return [math.nan if value is None else value for value in values]

    np.testing.assert_allclose(column("precision"), precision, rtol=1e-12)
    np.testing.assert_allclose(column("recall"), recall, rtol=1e-12)
    assert column("support") == support.tolist()
    np.testing.assert_allclose(column("f1"), f1, rtol=1e-12)
    assert [mistakes.classes[label].f1 for label in (4, 5)] == [0.0, 0.0]

    macro = metrics.precision_score(labels, predictions, labels=range(6), average="macro", zero_division=np.nan)
    assert mistakes.macro_precision == pytest.approx(macro, rel=1e-12)
    known = predictions != 5  # scikit-learn warns of predicted classes without images
    assert count(labels[known], predictions[known], 6).balanced_accuracy == pytest.approx(
        metrics.balanced_accuracy_score(labels[known], predictions[known]), rel=1e-12
    )
    assert mistakes.accuracy == metrics.accuracy_score(labels, predictions)
    matrix = metrics.confusion_matrix(labels, predictions, labels=range(6))
    np.fill_diagonal(matrix, 0)
    assert {(one.label, one.predicted): one.images for one in mistakes.confusions} == {
        (row, column): matrix[row, column] for row, column in zip(*matrix.nonzero(), strict=True)
    }
    counts = [one.images for one in mistakes.confusions]
    assert counts == sorted(counts, reverse=True)


def test_a_calibration_error_that_was_computed_by_hand() -> None:
    """Two images in the last bin, one in the eighth, one on the upper edge of the sixth, which belongs to it."""
    confidences = np.array([0.95, 0.97, 0.5, 6 / 15])
    mistakes = count_mistakes(NAMES, np.zeros(4, np.int64), np.array([0, 1, 0, 1]), confidences)
    assert len(mistakes.bins) == 15
    assert {number: one for number, one in enumerate(mistakes.bins) if one.images} == {
        5: ConfidenceBin(1, 0, 0.4),
        7: ConfidenceBin(1, 1, 0.5),
        14: ConfidenceBin(2, 1, 0.96),
    }
    # (2 * |1/2 - 0.96| + |1 - 0.5| + |0 - 0.4|) / 4
    assert mistakes.calibration_error == pytest.approx(0.455, abs=1e-12)


def test_the_calibration_error_of_many_images_by_brute_force() -> None:
    rng = np.random.default_rng(1)
    confidences = rng.random(1000).astype(np.float32)
    labels, predictions = np.zeros(1000, np.int64), (rng.random(1000) > confidences**2).astype(np.int64)
    expected = 0.0
    for number in range(15):
        inside = [i for i, value in enumerate(confidences.tolist()) if number / 15 < value <= (number + 1) / 15]
        right = sum(predictions[i] == 0 for i in inside)
        expected += abs(right - sum(float(confidences[i]) for i in inside)) / 1000
    error = count_mistakes(NAMES, labels, predictions, confidences).calibration_error
    assert error == pytest.approx(expected, rel=1e-9)
    assert expected > 0.1


def test_confidences_that_are_not_finite() -> None:
    confidences = np.array([0.9, math.nan, 0.8])
    mistakes = count_mistakes(NAMES, np.array([0, 0, 0]), np.array([0, 1, 1]), confidences)
    assert mistakes.calibration_error is None
    assert sum(one.images for one in mistakes.bins) == 2
    assert find_most_confident(np.array([0, 0, 0]), np.array([0, 1, 1]), confidences, 5) == [2]


def test_the_most_confident_mistakes() -> None:
    labels, predictions = np.zeros(6, np.int64), np.array([1, 0, 1, 1, 0, 1])
    confidences = np.array([0.5, 0.99, 0.7, 0.9, 0.2, 0.7])
    assert find_most_confident(labels, predictions, confidences, 3) == [3, 2, 5]  # of equal ones, the first
    assert find_most_confident(labels, predictions, confidences, 10) == [3, 2, 5, 0]
    assert find_most_confident(labels, labels, confidences, 10) == []


def test_no_mistakes() -> None:
    mistakes = count(np.array([0, 1, 1]), np.array([0, 1, 1]))
    assert mistakes.confusions == []
    assert (mistakes.accuracy, mistakes.balanced_accuracy, mistakes.macro_f1) == (1.0, 1.0, 1.0)


def test_a_thousand_classes_and_a_hundred_thousand_of_them_need_no_matrix() -> None:
    rng = np.random.default_rng(2)
    for classes in (1_000, 100_000):
        labels, predictions = rng.integers(0, classes, (2, 50_000))
        mistakes = count(labels, predictions, classes)
        assert sum(one.images for one in mistakes.confusions) == (labels != predictions).sum()
        assert all(one.label != one.predicted for one in mistakes.confusions)


def test_predictions_of_batches_in_any_order() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(10, 7), torch.arange(10) % 7
    logits[3] = 2.0  # All classes tie: the prediction is the one that counts as top-1.
    predictions, meter = Predictions(10), AccuracyMeter(torch.device("cpu"))
    for part in (slice(6, 10), slice(0, 6)):
        indices = torch.arange(10)[part]
        predictions.add(indices, logits[indices].bfloat16())
        meter.add(logits[indices].bfloat16(), labels[indices])
    classes, confidences = predictions.collect(Processes(0, 1, torch.device("cpu")))
    probabilities = torch.softmax(logits.bfloat16().double(), 1)
    np.testing.assert_allclose(confidences, probabilities.max(1).values, rtol=1e-6)
    assert int((classes == labels.numpy()).sum()) == meter.total().top1_count
    assert (predictions.classes.element_size(), predictions.confidences.element_size()) == (4, 4)
