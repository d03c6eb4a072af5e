"""The oldest versions of the dependencies."""

from __future__ import annotations

import re
from pathlib import Path


def test_the_oldest_versions_are_those_that_are_promised() -> None:
    """`make test-oldest` runs the tests with them."""
    root = Path(__file__).parents[1]
    promised = re.search(
        r"^dependencies = \[\n(.*?)^\]", (root / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE
    )
    assert promised is not None
    least = dict(re.findall(r'"([\w-]+)>=([\d.]+)"', promised[1]))
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (root / "tests" / "oldest.txt").read_text(), re.MULTILINE))
    assert pinned.keys() == least.keys()
    assert all(f"{pinned[name]}.".startswith(f"{version}.") for name, version in least.items())
