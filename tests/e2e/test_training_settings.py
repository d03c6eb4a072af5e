"""Optimizers, losses, balance and stochastic depth from the settings to the files, also when killed."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path

import pytest

from spos_cli.engine import checkpoint
from tests.conftest import Mistake, Spos

SPACE = ("--set", "space.choices=[mbconv: {kernel: 3, expand: 2}, identity]")


def set_all(section: str, **values: object) -> tuple[str, ...]:
    """Return options that set the fields of a section."""
    return tuple(part for name, value in values.items() for part in ("--set", f"{section}.{name}={value}"))


RETRAIN = (
    *SPACE,
    *set_all("retrain", optimizer="adamw", lr=0.02, betas=[0.8, 0.99], eps=1e-7, weight_decay=0.02),
    *set_all("retrain", schedule="step", step_every=60, step_factor=0.5, min_lr=0.0025, warmup_steps=5),
    *set_all("retrain", loss="bce", class_weights=[1, 1, 1, 1, 1, 2, 2, 2, 2, 2], sampling="balanced"),
    *set_all("retrain", stochastic_depth=0.3, dropout=0.2, steps=250, clip_grad_norm=1),
    *set_all("retrain", mixup=0.2, cutmix=1.0),
)


@pytest.mark.slow
def test_a_retraining_with_everything_is_killed(tmp_path: Path) -> None:
    """It ends in the same bytes, with other workers, and has learned."""
    whole, killed = Spos(tmp_path / "whole"), Spos(tmp_path / "killed")
    whole.here("retrain", "0,0,0,0", *RETRAIN)
    (model,) = whole.run.glob("retrain/*/model.pt")
    folder = killed.run / model.relative_to(whole.run).parent
    saved = folder / "step-00000010.pt"
    code, _ = killed.interrupt(signal.SIGKILL, lambda: saved.exists(), "retrain", "0,0,0,0", *RETRAIN)
    assert code == -signal.SIGKILL
    killed.here("retrain", "0,0,0,0", *RETRAIN, "--set", "data.workers=1")
    for name in ("last.pt", "model.pt"):
        assert (folder / name).read_bytes() == (model.parent / name).read_bytes()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rates = [line["lr"] for line in lines if "lr" in line]
    assert rates == pytest.approx([max(0.0025, 0.02 * 0.5 ** ((step - 6) // 60)) for step in range(10, 251, 10)])
    assert lines[0]["loss"] < 1.5 * math.log(2), "BCE, averaged over the classes"
    assert json.loads(whole.here("evaluate", "--weights", model, "--json").stdout)["top1"] > 0.5


@pytest.mark.slow
def test_a_supernet_with_balanced_weights_is_searched(tmp_path: Path) -> None:
    spos = Spos(tmp_path)
    spos.here(
        *("supernet-train", *SPACE, *set_all("supernet", optimizer="rmsprop", alpha=0.9, eps=0.0316, lr=0.01)),
        *set_all("supernet", loss="bce", class_weights="balanced", schedule="cosine", min_lr=0.001),
    )
    content = checkpoint.load(spos.run / "supernet" / "last.pt")
    assert content["optimizer"]["param_groups"][0]["alpha"] == 0.9
    assert content["recipe"]["supernet"]["class_weights"] == "balanced"
    done = spos.here("search", *SPACE)
    assert "no better than guessing" not in done.stderr + done.stdout


@pytest.mark.slow
def test_an_architecture_without_shortcuts_is_trained_with_a_warning(tmp_path: Path) -> None:
    spos = Spos(tmp_path)
    short = (*SPACE, *set_all("retrain", steps=2, stochastic_depth=0.3))
    assert "so retrain.stochastic_depth has no effect" in spos.here("retrain", "0,1,0,1", *short).stderr
    assert "stochastic_depth" not in spos.here("retrain", "0,0,0,1", *short).stderr


@pytest.mark.parametrize(
    ("settings", "phrase"),
    [
        (["retrain.betas=[0.8,0.9]"], "--set retrain.betas=[0.8,0.9]: retrain: betas is for optimizer: adamw"),
        (["retrain.optimizer=adamw", "retrain.lr=0.5"], "is for SGD"),
        (["retrain.schedule=step"], "needs step_every"),
        (["retrain.stochastic_depth=0.2"], "but the space has none; set retrain.stochastic_depth: 0"),
        (["retrain.class_weights=[1,2]"], "retrain.class_weights has 2 weights, but space.classes is 10"),
        (["retrain.class_weights=balanced", "retrain.sampling=balanced"], "use one of them"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(mistake: Mistake, settings: list[str], phrase: str) -> None:
    overrides = [part for setting in settings for part in ("--set", setting)]
    message = mistake("retrain", "0,0,0,0", *overrides)
    assert phrase in message
    assert message.count("error:") == 1
