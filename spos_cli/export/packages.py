"""Call the packages of optional formats: import them, and shorten what they say."""

from __future__ import annotations

import importlib
from typing import Any

from spos_cli.errors import ConfigError
from spos_cli.files.own_code import shorten_reason


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
        reason = f"{missing} is not installed" if missing else shorten_reason(error)
        command = "pip install" if missing else "pip install --upgrade torch"
        raise ConfigError(f"{purpose} needs {name.partition('.')[0]}, but {reason}: {command} '{install}'") from None


def shorten(error: Exception) -> str:
    """Return the first line of an error's message, in at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
