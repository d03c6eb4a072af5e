"""The oldest versions of the dependencies."""

from __future__ import annotations

import re
from pathlib import Path


def test_the_oldest_versions_are_those_that_are_promised() -> None:
    """`make test-oldest` runs the tests with them."""
    root = Path(__file__).parents[1]
    text = (root / "pyproject.toml").read_text()
    promised = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert promised is not None
    # The newest versions of these extras do not work with the oldest NumPy.
    extras = re.findall(r"^(?:parquet|huggingface) = .*$", text, re.MULTILINE)
    least = dict(re.findall(r'"([\w-]+)>=([\d.]+)"', "\n".join([promised[1], *extras])))
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (root / "tests" / "oldest.txt").read_text(), re.MULTILINE))
    # The oldest Typer loses the help of arguments with a click that is much newer.
    assert pinned.keys() == {*least, "click"}
    assert all(f"{pinned[name]}.".startswith(f"{version}.") for name, version in least.items())
