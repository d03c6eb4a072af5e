"""Compute once what commands in the process of the tests compute again and again.

To parse YAML is most of the time of a command that does little else; plotly.js has five million letters.
"""

from __future__ import annotations

import functools
import importlib.util
import pickle
from typing import Any

import pytest
import yaml


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


def read_plotly_once(patch: pytest.MonkeyPatch) -> None:
    """Read the script of the report once, if it is installed."""
    if importlib.util.find_spec("plotly") is not None:
        from plotly import offline

        patch.setattr(offline, "get_plotlyjs", functools.cache(offline.get_plotlyjs))


def list_shapes_once(patch: pytest.MonkeyPatch) -> None:
    """List the shapes of an option's tensors once. They are those of a block that is built for it."""
    from spos_cli.official import weights

    patch.setattr(weights, "_list_shapes", functools.cache(weights._list_shapes))
