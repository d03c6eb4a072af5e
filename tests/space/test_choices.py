"""The ops that a choice block may be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spos_cli.errors import ConfigError
from spos_cli.space.choices import Choice

WORDS = st.from_regex(r"[a-z][a-z_]{0,9}", fullmatch=True)
CHOICES = st.builds(
    lambda op, parameters: Choice(op, tuple(parameters.items())),
    WORDS,
    st.dictionaries(WORDS, st.integers(0, 99), max_size=3),
)


@given(CHOICES)
def test_a_choice_survives_its_specification(choice: Choice) -> None:
    assert Choice.from_spec(choice.to_spec()) == choice


def test_choices_as_text() -> None:
    shuffle = Choice.from_spec({"shuffle": {"kernel": 5}})
    assert (str(shuffle), shuffle.name) == ("shuffle kernel=5", "shuffle 5x5")
    assert str(Choice.from_spec("shuffle_xception")) == "shuffle_xception"
    assert Choice("x", (("b", 1), ("a", 2))) == Choice("x", (("a", 2), ("b", 1)))


@pytest.mark.parametrize(
    "spec",
    ["", "two words", "x" * 65, 5, None, [], {}, {"a": {}, "b": {}}, {"a": 3}, {1: {}}, {"a": {1: 2, "b": 3}},
     {"a": {"k": True}}, {"a": {"k": 1.5}}, {"a": {"k": 1 << 90_000}}],
)  # fmt: skip
def test_what_is_not_a_choice(spec: Any) -> None:
    with pytest.raises(ConfigError, match="choices"):
        Choice.from_spec(spec)
