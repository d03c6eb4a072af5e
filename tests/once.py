"""Compute once what commands in the process of the tests compute again and again.

Both are most of the time of a command that does little else.
"""

from __future__ import annotations

import functools
import pickle
import sys
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
    """Parse each YAML text once. Values are copied, since they may be changed; nodes never are."""
    safe_load, compose = yaml.safe_load, functools.lru_cache(maxsize=256)(yaml.compose)

    @functools.lru_cache(maxsize=256)
    def pickle_values(text: str | bytes) -> bytes:
        return pickle.dumps(safe_load(text))

    def load(stream: Any) -> Any:
        try:
            return pickle.loads(pickle_values(stream)) if isinstance(stream, (str, bytes)) else safe_load(stream)
        except RecursionError:  # Perhaps it was pickle's.
            return safe_load(stream)

    patch.setattr(yaml, "safe_load", load)
    patch.setattr(yaml, "compose", compose)
