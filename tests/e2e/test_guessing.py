"""Trainings that diverge without a NaN, or collapse: they end with exit code 0 and a warning."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tests.conftest import Spos

pytestmark = pytest.mark.slow

WARNING = ": the training has "


def stage(spos: Spos, name: str) -> dict[str, Any]:
    """Return what `spos status --json` says of the first stage whose name begins with `name`."""
    stages = json.loads(spos.here("status", "--json").stdout)["stages"]
    return next(dict(one) for one in stages if one["name"].startswith(name))


def test_a_supernet_that_diverges(spos: Spos) -> None:
    diverging = ("--set", "supernet.steps=20", "--set", "supernet.lr=1000")
    done = spos("supernet-train", *diverging)
    (line,) = [line for line in done.stderr.splitlines() if WARNING in line]
    assert line.startswith("supernet: ")
    for part in ("training loss", "top-1", "guessing has 2.303 and 10.0%", "Lower supernet.lr (it is 1000)", "--fresh"):
        assert part in line
    assert "warmup_steps" in line
    assert "clip_grad_norm" in line
    assert spos.here("supernet-train", *diverging).stderr.count(WARNING) == 1  # There is nothing left to train.

    found = stage(spos, "supernet")
    assert found["note"] == "diverged: no better than guessing"
    assert found["guessing"]["loss"] > 20
    assert found["guessing"]["guess"] == pytest.approx(math.log(10))
    assert "no better than guessing" in spos.here("status").stdout

    searched = spos.here("search", *diverging, "--set", "search.generations=0", "--json")
    assert searched.stderr.count("the supernet has diverged, so scores are hardly more than chance") == 1
    assert json.loads(searched.stdout)
    elsewhere = ("--weights", spos.run / "supernet" / "last.pt", "--run-dir", "other", "--set", "search.generations=0")
    assert "the supernet has diverged" in spos.here("search", *diverging, *elsewhere).stderr


def test_several_processes_warn_once(spos: Spos) -> None:
    diverging = ("--set", "supernet.steps=4", "--set", "supernet.lr=1000")
    done = spos.together("supernet-train", *diverging, "--set", "supernet.log_every=2")
    assert [one.stderr.count(WARNING) for one in done] == [1, 0]


def test_a_retraining_that_collapses(spos: Spos) -> None:
    """Its weights decay to zero: the loss is that of guessing, to five digits."""
    done = spos.here("retrain", "0,1,2,3", "--set", "retrain.weight_decay=15", "--set", "retrain.momentum=0")
    assert done.stderr.count("retrain: the training has learned nothing") == 1
    assert "Lower retrain.lr (it is 0.05)" in done.stderr
    assert stage(spos, "retrain")["guessing"]["chance"] == pytest.approx(0.1)


def test_healthy_trainings_cause_no_warning(finished: Spos, spos: Spos) -> None:
    for steps in (1, 8, 100):
        for command in (("supernet-train", "--fresh"), ("retrain", "0,1,2,3", "--fresh")):
            section = "supernet" if command[0] == "supernet-train" else "retrain"
            assert WARNING not in spos.here(*command, "--set", f"{section}.steps={steps}").stderr
        assert "guessing" not in stage(spos, "supernet")
        assert "guessing" not in stage(spos, "retrain")
    weights = ("--weights", finished.run / "supernet" / "last.pt", "--set", "search.generations=0")
    assert "the supernet has" not in spos.here("search", *weights).stderr
