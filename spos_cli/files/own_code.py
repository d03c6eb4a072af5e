"""Import a user's own code, as usual or from the working folder."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from spos_cli.errors import ConfigError

MAX_REASON = 200  # characters


def call_own_code(path: str, what: str, /, *arguments: object, **parameters: object) -> Any:
    """Import a class or a function, and return what it returns.

    Only paths that the user's own settings name may come here: importing runs code.

    Args:
        path: `package.module:name`.
        what: the beginning of a message, such as "cannot build package.module:name".
        arguments, parameters: of the call.

    Raises:
        ConfigError: the import or the call fails.
    """
    module, _, name = path.partition(":")
    if not {"", str(Path.cwd())} & set(sys.path):  # A console script does not search the working folder.
        sys.path.append(str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), name)(*arguments, **parameters)
    except (Exception, SystemExit) as error:  # A user's code may raise anything.
        raise ConfigError(f"{what}: {shorten_reason(error)}") from error


def shorten_reason(error: BaseException) -> str:
    """Return the message of an error in one line, or its type if it has none."""
    return " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
