"""YAML for the tests of the settings."""

from __future__ import annotations

from pathlib import Path

from spos_cli.config import loading
from spos_cli.config.schema import Config

ALIASES = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))


def load(tmp_path: Path, text: str, *overrides: str) -> Config:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return loading.load(path, overrides)
