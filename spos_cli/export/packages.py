"""Import the packages of optional formats, or say how to install them."""

from __future__ import annotations

import importlib
from typing import Any

from spos_cli.errors import ConfigError


def import_package(name: str, purpose: str, install: str) -> Any:
    """Import an optional package.

    Args:
        name: of the module, such as `onnxruntime`.
        purpose: the beginning of the message, such as "--format onnx".
        install: what pip is to install, such as `spos[onnx]`.

    Raises:
        ConfigError: it is not installed, or does not fit the installed PyTorch.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # A package that does not fit the installed PyTorch may raise anything.
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        reason = f"{missing} is not installed" if missing else " ".join(str(error).split())[:200]
        command = "pip install" if missing else "pip install --upgrade torch"
        raise ConfigError(f"{purpose} needs {name.partition('.')[0]}, but {reason}: {command} '{install}'") from None
