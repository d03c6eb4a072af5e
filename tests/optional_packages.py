"""Whether torchao fits the installed PyTorch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from spos_cli.errors import ConfigError
from spos_cli.export.pt2_file import import_torchao


def require_torchao() -> None:
    """Skip the test where torchao does not fit the oldest PyTorch; with any other one, that is a failure."""
    try:
        import_torchao()
    except ConfigError as error:
        oldest = re.search(r"^torch==([\d.]+)$", Path(__file__).with_name("oldest.txt").read_text(), re.MULTILINE)
        assert oldest is not None
        if torch.__version__.partition("+")[0] != oldest[1]:
            raise
        pytest.skip(f"the oldest PyTorch: {error}")
