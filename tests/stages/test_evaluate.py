"""What `spos evaluate --details` shows on the screen."""

from __future__ import annotations

import numpy as np
import pytest

from spos_cli.config.schema import Config
from spos_cli.engine.mistakes import count_mistakes
from spos_cli.run.command import Run
from spos_cli.stages.evaluate import WORST, show_worst, summarize


def test_classes_without_images_or_predictions_are_counted() -> None:
    labels, predictions = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 1, 1, 1, 0, 3])
    mistakes = count_mistakes(["cat", "dog", "owl", "fox", "eel"], labels, predictions, np.full(9, 0.5))
    assert summarize(mistakes) == [
        ("balanced accuracy", "50.00%, the mean recall of 3 classes (without images: 2)"),
        ("mean precision", "42.22% of 3 classes (never predicted: 2)"),
        ("mean F1", "33.04%"),
        ("calibration error", "5.56% (ECE, 15 bins)"),
    ]
    whole = count_mistakes(["cat", "dog"], np.array([0, 1]), np.array([0, 1]), np.array([0.5, np.nan]))
    assert [value for _, value in summarize(whole)] == [
        "100.00%, the mean recall of 2 classes",
        "100.00% of 2 classes",
        "100.00%",
        "some logits are not finite",
    ]


def test_only_the_worst_of_a_thousand_classes_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 1000, (2, 20_000))
    predictions[::2] = labels[::2]
    names = [f"[bold]{label}[/bold]" for label in range(1000)]
    mistakes = count_mistakes(names, labels, predictions, np.full(20_000, 0.5))
    show_worst(Run(Config()), mistakes)
    shown = capsys.readouterr().out
    assert "lowest recall, 10 of 1,000 classes" in shown
    assert f"most frequent confusions, 10 of {len(mistakes.confusions):,}" in shown
    rows = [line for line in shown.splitlines() if "[bold]" in line]
    assert len(rows) == 2 * WORST
    assert names[mistakes.worst_classes[0]] in rows[0]
    show_worst(Run(Config(), as_json=True), mistakes)
    assert capsys.readouterr().out == ""
