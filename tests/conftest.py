"""What all tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Spos = Callable[..., subprocess.CompletedProcess[str]]

# Seconds of everything: two blocks a stage, a handful of steps. Each test overrides what it is about.
TINY = """
name: tiny
devices: cpu
threads: 1
space:
  image_size: 8
  classes: 10
  stem: {channels: 8, stride: 1}
  stages:
    - {blocks: 2, channels: 16, stride: 2}
    - {blocks: 2, channels: 32, stride: 2}
  head_channels: 32
data:
  source: digits
  preset: standard
  augmentation: {crop: padded, padding: 1, flip: false, jitter: 0}
  holdout_per_class: 10
  workers: 0
supernet: {steps: 60, batch_size: 32, lr: 0.05, sampler: uniform, log_every: 10, checkpoint_every: 10}
search:
  flops_limit: null
  population: 6
  generations: 2
  parents: 3
  mutations: 2
  crossovers: 2
  calibration_images: 128
  calibration_batch_size: 64
  batch_size: 50
retrain:
  {steps: 60, batch_size: 32, lr: 0.05, log_every: 10, checkpoint_every: 10, evaluate_every: 30}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with a `spos.yaml` in it."""
    (tmp_path / "spos.yaml").write_text(TINY)
    return tmp_path


def environment() -> dict[str, str]:
    """That of a user's shell, without what a test runner or a launcher may have put there."""
    dropped = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "TORCHELASTIC", "SPOS_", "OMP_", "PYTEST")
    return {key: value for key, value in os.environ.items() if not key.startswith(dropped)}


@pytest.fixture
def spos(folder: Path) -> Spos:
    """Runs the installed `spos` in the working folder and checks how it ends."""
    program = Path(sys.executable).with_name("spos")

    def call(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [str(program), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == code, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        if code == 2:
            assert "Traceback" not in done.stderr, done.stderr
        return done

    return call
