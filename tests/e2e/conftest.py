"""What the tests of whole commands share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.once import parse_yaml_once, read_plotly_once


@pytest.fixture(scope="module", autouse=True)
def quick_commands() -> Iterator[None]:
    """Let commands in this process parse YAML and read plotly.js once, and let the doctor measure rates briefly."""
    from spos_cli.doctor import speed

    with pytest.MonkeyPatch.context() as patch:
        parse_yaml_once(patch)
        read_plotly_once(patch)
        patch.setattr(speed, "MEASURED_SECONDS", 0.01)
        yield
