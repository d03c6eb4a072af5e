"""What the oldest PyTorch cannot do; with any other one, the same is a failure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from spos_cli.errors import ConfigError
from spos_cli.export.pt2_file import import_torchao


def is_oldest_torch() -> bool:
    """Return whether the installed PyTorch is the oldest one that is supported."""
    oldest = re.search(r"^torch==([\d.]+)$", Path(__file__).with_name("oldest.txt").read_text(), re.MULTILINE)
    assert oldest is not None
    return torch.__version__.partition("+")[0] == oldest[1]


def require_torchao() -> None:
    """Skip the test where torchao does not fit the oldest PyTorch."""
    try:
        import_torchao()
    except ConfigError as error:
        if not is_oldest_torch():
            raise
        pytest.skip(f"the oldest PyTorch: {error}")


def require_exporter() -> None:
    """Skip the test with the oldest PyTorch, whose exporters fail for some networks."""
    if is_oldest_torch():
        pytest.skip("the oldest PyTorch cannot write every network as ONNX or .pt2")
