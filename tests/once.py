"""Compute once what commands in the process of the tests compute again and again.

Both are most of the time of a command that does little else.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable
from typing import Any

import pytest
import yaml


def count_spaces_once(patch: pytest.MonkeyPatch) -> None:
    """Count the costs of each space once, in all commands."""
    from spos_cli.models import counting
    from spos_cli.stages import audit, doctor, evaluate, export_arch, flops_table, retrain, search  # noqa: F401

    for name, module in list(sys.modules.items()):
        if name.startswith("spos_cli.") and module is not counting and getattr(module, "count", None) is counting.count:
            patch.setattr(module, "count", count)


def count(space: Any) -> Any:
    """Return the costs of a space; the code of a user's own block may change."""
    from spos_cli.models import counting

    return counting.count(space) if any(choice.is_own for choice in space.choices) else count_once(space)


@functools.cache
def count_once(space: Any) -> Any:
    """Return the costs of a space that has no blocks of the user."""
    from spos_cli.models import counting

    return counting.count(space)


def parse_yaml_once(patch: pytest.MonkeyPatch) -> None:
    """Parse each YAML text once."""
    for name in ("safe_load", "compose"):
        patch.setattr(yaml, name, parse_once(getattr(yaml, name)))


def parse_once(parse: Callable[..., Any]) -> Callable[..., Any]:
    """Return a parser that remembers texts; its values may be changed."""
    remembered = functools.lru_cache(maxsize=256)(parse)

    def parse_text(stream: Any, *loader: Any) -> Any:
        return (
            copy.deepcopy(remembered(stream, *loader)) if isinstance(stream, (str, bytes)) else parse(stream, *loader)
        )

    return parse_text
