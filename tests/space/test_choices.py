"""The ops that a choice block may be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spos_cli.errors import ConfigError
from spos_cli.space.choices import Choice, check_choices

WORDS = st.from_regex(r"[a-z][a-z_]{0,9}", fullmatch=True)
CHOICES = st.builds(
    lambda op, parameters: Choice(op, tuple(parameters.items())),
    WORDS,
    st.dictionaries(WORDS, st.integers(0, 99) | st.floats(0, 99) | WORDS, max_size=3),
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
     {"a": {"k": True}}, {"a": {"k": float("nan")}}, {"a": {"k": float("inf")}}, {"a": {"k": 1 << 90_000}}],
)  # fmt: skip
def test_what_is_not_a_choice(spec: Any) -> None:
    with pytest.raises(ConfigError, match="choices"):
        Choice.from_spec(spec)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kernel": 3, "expand": 3, "activation": "gelu"}, "activation must be relu6, relu, hswish or silu"),
        ({"kernel": 3, "expand": 3, "activation": 6}, "activation must be relu6, relu, hswish or silu"),
        ({"kernel": "three", "expand": 3}, "kernel must be a whole number"),
        ({"kernel": 3.0, "expand": 3}, "kernel must be a whole number"),
        ({"kernel": 3, "expand": 3, "se": 0}, "se must be a number from 0.001 to 1, such as 0.25"),
        ({"kernel": 3, "expand": 3, "se": 1.5}, "se must be a number from 0.001 to 1, such as 0.25"),
        ({"kernel": 3, "expand": 3, "groups": 1}, "groups must be a whole number from 2 to 64"),
        ({"kernel": 3, "expand": 3, "groups": 2.0}, "groups must be a whole number from 2 to 64"),
        ({"kernel": 3, "expand": 3, "se": "yes"}, "se must be a number from 0.001 to 1, such as 0.25"),
        (
            {"kernel": 3, "expand": 3, "stride": 2},
            "mbconv takes expand, kernel and optionally activation, groups, se, not",
        ),
        ({"kernel": 3, "activation": "relu"}, "mbconv takes expand, kernel and optionally activation, groups, se, not"),
    ],
)
def test_wrong_parameters_of_an_inverted_residual(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_choices((Choice.from_spec({"mbconv": parameters}),))


def test_activations_are_different_choices() -> None:
    plain, relu = (
        Choice.from_spec({"mbconv": {"kernel": 3, "expand": 6, **more}}) for more in ({}, {"activation": "relu"})
    )
    assert (plain.name, relu.name) == ("mbconv 3x3 x6", "mbconv 3x3 x6 relu")
    assert relu.to_spec() == {"mbconv": {"activation": "relu", "expand": 6, "kernel": 3}}
    check_choices((plain, relu))


def test_gates_are_different_choices() -> None:
    plain, gated = (Choice.from_spec({"shuffle": {"kernel": 5, **more}}) for more in ({}, {"se": 0.25}))
    assert (plain.name, gated.name) == ("shuffle 5x5", "shuffle 5x5 se 0.25")
    assert gated.to_spec() == {"shuffle": {"kernel": 5, "se": 0.25}}
    check_choices((plain, gated))


def test_ops_without_these_parameters_refuse_them() -> None:
    with pytest.raises(ConfigError, match="bottleneck takes kernel, not kernel, se"):
        check_choices((Choice.from_spec({"bottleneck": {"kernel": 3, "se": 0.25}}),))
