"""`space.bits`, and the settings that need it or do not go together with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from spos_cli.config.identity import training_identity
from spos_cli.errors import ConfigError
from spos_cli.space.limits import Limit
from tests.config.yaml_texts import load

RESNET = "space: {activation: relu, choices: [{basic: {kernel: 3}}, identity], bits: [w1a2, w2a4]}\n"


def test_bits_are_read_and_written_as_people_write_them(tmp_path: Path) -> None:
    settings = load(tmp_path, RESNET, "search.bitops_limit=6.21G", "search.flops_limit=null")
    space = settings.space.build()
    assert space.bits == (12, 24)
    assert settings.search.cost_limits == {"bitops": Limit(6_210_000_000)}
    written = yaml.safe_load(settings.to_yaml())
    assert (written["space"]["bits"], written["search"]["bitops_limit"]) == (["w1a2", "w2a4"], 6_210_000_000)
    assert load(tmp_path, settings.to_yaml()) == settings
    assert load(tmp_path, RESNET, "space.bits=[w4a4]").space.build().bits == (44,)
    assert load(tmp_path, "").space.build().bits == ()
    assert load(tmp_path, RESNET, "search.bitops_limit=4G-6G").search.bitops_limit == Limit(6 * 10**9, 4 * 10**9)


def test_a_training_depends_on_the_bits(tmp_path: Path) -> None:
    one, other = (load(tmp_path, RESNET, f"space.bits={bits}") for bits in ("[w1a2, w2a4]", "[w1a2]"))
    for section in ("supernet", "retrain"):
        assert training_identity(one, section) != training_identity(other, section)


@pytest.mark.parametrize(
    ("override", "phrase"),
    [
        ("space.bits=[w1a2, 24]", "bits: 24 is not a pair of bits; write w and a, each with 1, 2, 3, 4 or 8"),
        ("space.bits=[w5a4]", "'w5a4' is not a pair of bits"),
        ("space.bits=[w2a4, w2a4]", "bits must be different pairs"),
        ("space.choices=[shuffle_xception]", "shuffle_xception takes no bits"),
        ("space.activation=silu", "activation is silu, which may be negative"),
        ("supernet.amp=fp16", "supernet.amp: fp16 cannot hold the sums"),
        ("retrain.amp=fp16", "set retrain.amp: bf16 or off"),
        ("space.channels_of=0:w1a2", "does not work with space.bits; give space.widths beside"),
    ],
)
def test_mistakes_beside_bits(tmp_path: Path, override: str, phrase: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, RESNET, override)
    assert phrase in str(caught.value)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("search: {bitops_limit: 6G}\n", "search.bitops_limit needs a space with bits, but space.bits is empty"),
        ("search: {objective: pareto, pareto_cost: bitops}\n", "search.pareto_cost: bitops needs a space with bits"),
        ("space: {bitwidth: [w1a2]}\n", "bits"),
        ("search: {max_bitops: 6G}\n", "bitops_limit"),
    ],
)
def test_what_needs_bits(tmp_path: Path, text: str, phrase: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert phrase in str(caught.value)
