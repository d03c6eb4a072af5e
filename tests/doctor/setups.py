"""Setups for the doctor's tests: the tiny experiment, and the same on class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from spos_cli.config import loading
from spos_cli.doctor.finding import Finding, Findings
from spos_cli.doctor.setup import Setup
from spos_cli.run.command import Run
from tests.conftest import TINY

HEALTHY = ["search.calibration_images=320", "supernet.steps=1000"]


def make_setup(*overrides: str, full: bool = False) -> Setup:
    """Make a setup on the digits in which every check is ok, except for what the overrides change."""
    settings = loading.validate(yaml.safe_load(TINY), [*HEALTHY, *overrides])
    return Setup(Run(settings, as_json=True), full)


def make_folder_setup(root: Path, *overrides: str, full: bool = False) -> Setup:
    """Make a setup on class folders; 5 of the 15 training images of each class are held out."""
    return make_setup("data.source=folder", f"data.root={root}", "data.holdout_per_class=5", *overrides, full=full)


def save(path: Path, seed: int, side: int = 8) -> Path:
    """Save a JPEG of noise, with other content for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")
    return path


def expect(findings: Findings, check: str, status: str, phrase: str) -> Finding:
    """Return the only finding of a check, which has this status and phrase; it has advice unless it is ok."""
    (finding,) = [finding for finding in findings if finding.check == check]
    assert finding.status == status, finding
    assert phrase in f"{finding.seen} → {finding.advice}", finding
    assert bool(finding.advice) == (status != "ok"), finding
    return finding
