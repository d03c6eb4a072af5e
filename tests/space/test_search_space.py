"""The search space as data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from spos_cli.errors import ArchitectureError, ConfigError
from spos_cli.space.architecture import Architecture, parse
from spos_cli.space.choices import Choice
from spos_cli.space.layer import Layer
from spos_cli.space.search_space import OFFICIAL_SPACE, SearchSpace, Stage

KNOWN_CHOICES = st.just(Choice("shuffle_xception")) | st.builds(
    lambda half: Choice("shuffle", (("kernel", 2 * half + 1),)), st.integers(0, 15)
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Spaces whose channels at least double from stage to stage."""
    stem = 2 * draw(st.integers(1, 8))
    growths = draw(st.lists(st.integers(2, 3), min_size=1, max_size=4))
    stages, channels = [], stem
    for growth in growths:
        channels *= growth
        stages.append(Stage(draw(st.integers(1, 4)), channels, draw(st.integers(1, 2))))
    choices = draw(st.lists(KNOWN_CHOICES, min_size=1, max_size=4, unique=True))
    sizes = st.integers(1, 256)
    return SearchSpace(
        tuple(stages), tuple(choices), draw(sizes), draw(sizes), stem, draw(st.integers(1, 2)), draw(sizes)
    )


def test_the_official_space() -> None:
    assert OFFICIAL_SPACE.num_layers == 20
    assert OFFICIAL_SPACE.size == 4**20
    assert OFFICIAL_SPACE.layers[-1].out_size == 7
    layers = OFFICIAL_SPACE.layers
    assert layers[0] == Layer(0, 16, 64, 2, 112, OFFICIAL_SPACE.choices, True)
    assert layers[1] == Layer(1, 64, 64, 1, 56, OFFICIAL_SPACE.choices, True)
    assert layers[8] == Layer(8, 160, 320, 2, 28, OFFICIAL_SPACE.choices, True)
    assert layers[19] == Layer(19, 640, 640, 1, 7, OFFICIAL_SPACE.choices, True)
    assert [layer.index for layer in layers if layer.stride == 2] == [0, 4, 8, 16]
    assert [choice.name for choice in OFFICIAL_SPACE.choices] == [
        "shuffle 3x3", "shuffle 5x5", "shuffle 7x7", "shuffle_xception",
    ]  # fmt: skip
    assert OFFICIAL_SPACE.layers is layers


def test_the_official_architectures_are_valid() -> None:
    for entry in json.loads(Path(__file__).with_name("flops_params.json").read_text()):
        OFFICIAL_SPACE.validate(Architecture(tuple(entry["architecture"])))


def test_an_architecture_of_another_space_is_refused() -> None:
    with pytest.raises(ArchitectureError, match=r"3 layers.* 20"):
        OFFICIAL_SPACE.validate(parse("2,1,0"))
    with pytest.raises(ArchitectureError, match=r"layer 7 has choice 4;.* 0 = shuffle 3x3,.* 3 = shuffle_xception"):
        OFFICIAL_SPACE.validate(Architecture((0,) * 7 + (4,) + (0,) * 12))
    with pytest.raises(ArchitectureError, match="layer 0 has choice -1"):
        OFFICIAL_SPACE.validate(Architecture((-1,) + (0,) * 19))


@given(spaces())
def test_a_space_survives_yaml_and_json(space: SearchSpace) -> None:
    for values in (yaml.safe_load(yaml.safe_dump(space.to_dict())), json.loads(json.dumps(space.to_dict()))):
        again = SearchSpace.from_dict(values)
        assert again == space
        assert again.digest == space.digest


@given(spaces())
def test_layers_follow_one_another(space: SearchSpace) -> None:
    assert len(space.layers) == sum(stage.blocks for stage in space.stages)
    for before, after in zip(space.layers, space.layers[1:], strict=False):
        assert (before.out_channels, before.out_size) == (after.in_channels, after.in_size)
    assert space.layers[0].in_channels == space.stem_channels
    assert space.layers[-1].out_size >= 1


def test_the_digest_tells_spaces_apart_and_stays() -> None:
    assert dataclasses.replace(OFFICIAL_SPACE, classes=10).digest != OFFICIAL_SPACE.digest
    assert OFFICIAL_SPACE.digest == SearchSpace.from_dict(OFFICIAL_SPACE.to_dict()).digest
    assert len(OFFICIAL_SPACE.digest) == 64
    grey = dataclasses.replace(OFFICIAL_SPACE, in_channels=1)
    assert grey.digest != OFFICIAL_SPACE.digest
    assert SearchSpace.from_dict(json.loads(json.dumps(grey.to_dict()))) == grey
    assert "in_channels" not in OFFICIAL_SPACE.to_dict()["stem"], "files of three channels say what they always said"


GROUPS = Choice("mbconv", (("expand", 3), ("groups", 3), ("kernel", 3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": ()}, "at least one stage"),
        ({"choices": ()}, "number of choices is 0"),
        ({"choices": (Choice("shuffle_xception"),) * 2}, "listed twice"),
        ({"choices": tuple(Choice(f"c{i}") for i in range(65))}, "number of choices is 65"),
        ({"stages": (Stage(4, 65),)}, "65 is odd"),
        ({"stages": (Stage(4, 65_538),)}, "stage 0 channels is 65538"),
        ({"stages": (Stage(0, 64),)}, "stage 0 blocks is 0"),
        ({"stages": (Stage(400, 64), Stage(400, 128))}, "number of layers is 800"),
        ({"stages": (Stage(4, 64, 3),)}, "stride must be 1 or 2"),
        ({"stages": (Stage(4, 16, 2),)}, "needs more than 16"),
        ({"stages": (Stage(4, 8, 1),)}, "needs more than 8"),
        ({"stages": (Stage(4, 64, 1),), "stem_channels": 15}, "cannot be split"),
        ({"stem_stride": 0}, "stride must be 1 or 2"),
        ({"stem_channels": 0}, "stem channels is 0"),
        ({"image_size": -1}, "image_size is -1"),
        ({"classes": 0}, "classes is 0"),
        ({"head_channels": 0}, "head_channels is 0"),
        (
            {"choices": (GROUPS,)},
            "16 input and 64 output channels cannot be divided into the 3 groups",
        ),
        ({"head_linear": -1}, "head_linear is -1"),
        ({"activation": "gelu"}, "activation is 'gelu'; it must be one of relu6, relu, hswish, silu"),
        ({"in_channels": 17}, "stem in_channels is 17"),
    ],
)
def test_impossible_spaces(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(OFFICIAL_SPACE, **change)


def test_stem_and_head_of_other_families_survive_as_plain_values() -> None:
    space = dataclasses.replace(OFFICIAL_SPACE, activation="hswish", head_linear=1280, linear_bias=True)
    values = yaml.safe_load(yaml.safe_dump(space.to_dict()))
    assert SearchSpace.from_dict(values) == space
    assert space.digest != OFFICIAL_SPACE.digest
    assert OFFICIAL_SPACE.to_dict().keys() == values.keys() - {"activation", "head_linear", "linear_bias"}
    for wrong in ({"activation": 3}, {"head_linear": True}, {"linear_bias": 1}):
        with pytest.raises(ConfigError):
            SearchSpace.from_dict(values | wrong)


RESNET = SearchSpace(
    (Stage(2, 8, 1), Stage(2, 16)),
    (Choice("basic", (("kernel", 3),)), Choice("bottleneck", (("kernel", 3),)), Choice("identity")),
    *(8, 10, 8, 1, 32),
    bits=(12, 24, 44),
)
MBCONV = Choice("mbconv", (("expand", 6), ("kernel", 3)))


def test_bits_are_options_of_the_ops_that_take_them() -> None:
    assert [list(map(str, options)) for options in RESNET.options.by_layer] == [
        ["0:w1a2", "0:w2a4", "0:w4a4", "1:w1a2", "1:w2a4", "1:w4a4", *identity]
        for identity in (["2"], ["2"], [], ["2"])
    ]
    assert RESNET.size == 7**3 * 6
    wide = dataclasses.replace(RESNET, widths=(500, 1000))
    assert list(map(str, wide.options.by_layer[2][:4])) == ["0@0.5:w1a2", "0@0.5:w2a4", "0@0.5:w4a4", "0@1.0:w1a2"]
    for space in (RESNET, wide):
        assert SearchSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space
    assert RESNET.to_dict()["bits"] == ["w1a2", "w2a4", "w4a4"]
    plain = dataclasses.replace(RESNET, bits=())
    assert "bits" not in plain.to_dict()
    assert plain.digest != RESNET.digest
    same, other = (RESNET.network_key(parse(f"0:w1a2,2,0:{bits},2")) for bits in ("w2a4", "w4a4"))
    assert same != other
    # `skip` is the identity where the shape stays.
    skip = (Choice("basic", (("kernel", 3),)), Choice("skip"))
    stages = (Stage(2, 8, 1, skip), Stage(1, 16, 2, skip[:1]))
    assert dataclasses.replace(RESNET, stages=stages, choices=skip[:1]).size == 16 * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": (12, 24, 12)}, "bits must be different pairs, got w1a2, w2a4, w1a2"),
        ({"bits": (56,)}, "w5a6 is not a pair of bits; write w and a, each with 1, 2, 3, 4 or 8"),
        (
            {"choices": (*RESNET.choices[:2], MBCONV)},
            "layer 0: mbconv 3x3 x6 takes no bits.* basic and bottleneck,",
        ),
        ({"choices": (Choice("blocks:Mine"), *RESNET.choices)}, "layer 0: Mine takes no bits"),
        ({"choices": (RESNET.choices[0], Choice("skip"))}, "layer 2: skip is a convolution where the shape changes"),
        ({"choices": (Choice("skip"),), "stages": (Stage(2, 8, 1),)}, "this space has none; remove the bits"),
        ({"activation": "hswish"}, "activation is hswish, which may be negative.* must be relu or relu6"),
    ],
)
def test_impossible_bits(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(RESNET, **change)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("0,2,0:w1a2,2", "layer 0 has no bits; the bits are w1a2, w2a4, w4a4, so write 0:w4a4, for example"),
        ("0:w1a2,1:w2a2,0:w1a2,2", "layer 1 has bits w2a2; the bits are .*, so write 1:w4a4"),
        ("0:w1a2,2:w1a2,0:w1a2,2", "layer 1 is 2:w1a2, but identity has no bits; write 2"),
        ("0@0.5:w1a2,2,0:w1a2,2", "layer 0 is 0@0.5:w1a2, but the space has no widths; write 0:w4a4"),
    ],
)
def test_wrong_bits_are_refused(arch: str, message: str) -> None:
    RESNET.validate(parse("0:w1a2,1:w2a4,0:w4a4,2"))
    with pytest.raises(ArchitectureError, match=message):
        RESNET.validate(parse(arch))
    with pytest.raises(ArchitectureError, match=r"layer 0 is 0:w2a4, but the space has no bits; write 0$"):
        dataclasses.replace(RESNET, bits=()).validate(parse("0:w2a4,2,0,2"))


def test_the_narrowest_spaces_that_are_possible() -> None:
    dataclasses.replace(OFFICIAL_SPACE, stages=(Stage(4, 18, 2),))
    dataclasses.replace(OFFICIAL_SPACE, stages=(Stage(4, 10, 1),))
    dataclasses.replace(OFFICIAL_SPACE, stages=(Stage(4, 64, 2),), stem_channels=15)


@given(key=st.sampled_from([*OFFICIAL_SPACE.to_dict(), "surprise"]), value=VALUES, inside=st.booleans())
def test_a_broken_description_is_a_config_error(key: str, value: Any, inside: bool) -> None:
    values = OFFICIAL_SPACE.to_dict()
    (values["stages"][0] if inside else values)[key] = value
    try:
        space = SearchSpace.from_dict(values)
    except ConfigError:
        pass
    else:
        assert space.to_dict() == values


@pytest.mark.parametrize("values", [[], None, "space", {}, {**OFFICIAL_SPACE.to_dict(), "image_size": 1 << 90_000}])
def test_what_is_no_description(values: Any) -> None:
    with pytest.raises(ConfigError, match="cannot read the search space"):
        SearchSpace.from_dict(values)


def test_blocks_that_do_nothing_make_no_other_network() -> None:
    mbconv = Choice("mbconv", (("expand", 3), ("kernel", 3)))
    space = SearchSpace((Stage(3, 16), Stage(2, 16, 1)), (Choice("skip"), mbconv), 16, 10, 8, 1, 32)
    keys = {text: space.network_key(parse(text)) for text in ("1,1,0,0,0", "1,0,1,0,0", "0,1,0,0,0", "1,0,0,1,0")}
    assert keys["1,1,0,0,0"] == keys["1,0,1,0,0"] == keys["1,0,0,1,0"]  # Both stages have the same shape.
    assert len(keys["0,1,0,0,0"]) == 2  # The first block's `skip` is a convolution.
    wide = SearchSpace((Stage(2, 16),), (Choice("shuffle", (("kernel", 3),)),), 16, 10, 8, 1, 32, widths=(600, 1000))
    assert wide.network_key(parse("0@0.6,0@1.0")) != wide.network_key(parse("0@1.0,0@0.6"))


def test_the_smallest_image_size_counts_for_batchnorm() -> None:
    """The last layers see one pixel of the smallest images only."""
    mbconv = Choice("mbconv", (("expand", 3), ("kernel", 3)))
    space = SearchSpace((Stage(1, 16, 2), Stage(1, 16, 2)), (mbconv,), 16, 10, 8, 2, 32)
    space.require_variance(1, "batch_size")
    sized = dataclasses.replace(space, image_sizes=(8, 16))
    sized.require_variance(2, "batch_size")
    with pytest.raises(ConfigError, match=r"raise batch_size, or space\.image_sizes"):
        sized.require_variance(1, "batch_size")


def test_an_architecture_with_another_image_size() -> None:
    arch = parse("160px,2,1,0")
    assert str(arch.with_image_size(96)) == "96px,2,1,0"
    assert arch.with_image_size(0) == parse("2,1,0")
    assert arch.with_image_size(0).with_image_size(160) == arch
