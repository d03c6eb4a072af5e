"""Official weights files: their forms, and the architecture that their tensors show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from spos_cli.errors import CheckpointError
from spos_cli.models.network import Network
from spos_cli.models.supernet import Supernet
from spos_cli.official.weights import (
    detect_kind,
    explain_content,
    find_state,
    infer_architecture,
    is_affine,
    to_official,
)
from spos_cli.space.architecture import Architecture
from spos_cli.space.search_space import OFFICIAL_SPACE, SearchSpace, Stage
from tests.once import list_shapes_once

ARCHS = [
    case["architecture"] for case in json.loads((Path(__file__).parents[1] / "space/flops_params.json").read_text())
]
SMALL = SearchSpace((Stage(1, 16), Stage(2, 32)), OFFICIAL_SPACE.choices, 32, 10, 8, 2, 32)


@pytest.mark.parametrize("affine", [True, False])
def test_the_architecture_is_inferred(affine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All fifty golden architectures, from names and shapes alone."""
    list_shapes_once(monkeypatch)
    for choices in ARCHS[:: 1 if affine else 5]:
        with torch.device("meta"):
            state = Network(OFFICIAL_SPACE, Architecture(tuple(choices)), affine).state_dict()
        assert list(infer_architecture(OFFICIAL_SPACE, state)) == choices
        assert (detect_kind(state), is_affine(state)) == ("network", affine)


def test_the_winner_is_inferred_from_the_golden_names_and_shapes() -> None:
    """Names and shapes as the official code has them."""
    shapes = json.loads((Path(__file__).parent / "golden/network_state_dict.json").read_text())
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    assert str(infer_architecture(OFFICIAL_SPACE, state)) == "2,1,0,1,2,0,2,0,2,0,2,3,0,0,0,0,3,2,3,3"
    shapes = json.loads((Path(__file__).parent / "golden/supernet_state_dict.json").read_text())
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    assert (detect_kind(state), is_affine(state)) == ("supernet", False)


def test_every_form_of_an_official_checkpoint() -> None:
    state = Supernet(SMALL).state_dict()
    prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
    for content in ({"state_dict": state}, {"state_dict": prefixed}, dict(state), prefixed):
        found = find_state(content)
        assert found is not None
        assert list(found) == list(state)
        assert all(found[name] is tensor for name, tensor in state.items())
    wrapped = [
        {"model": state, "epoch": 3},
        {"state_dict": {f"_orig_mod.{name}": tensor for name, tensor in state.items()}},
        {"model": {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}},
        {"state_dict": {f"_orig_mod.{name}": tensor for name, tensor in prefixed.items()}},
        {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}, "hyper_parameters": {}},
        {"state_dict": {name.replace("features.1.", "features.1._orig_mod."): state[name] for name in state}},
        {"state_dict_ema": state, "state_dict": {name: torch.zeros(1) for name in state}},
        {"model": {name: torch.zeros(1) for name in state}, "model_ema": {"n_averaged": torch.tensor(7), **prefixed}},
    ]
    for content in wrapped:
        found = find_state(content)
        assert found is not None
        assert list(found) == list(state)
        assert all(found[name] is tensor for name, tensor in state.items())
    assert to_official(state)["state_dict"].keys() == prefixed.keys()


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"state_dict": {}},
        {"state_dict": 3},
        {"state_dict": {"conv1.weight": torch.zeros(1)}},
        {"vis_dict": {}},
        {"first_conv.0.weight": "a text"},
        {"state_dict": {1: torch.zeros(1)}},
    ],
    ids=str,
)
def test_other_contents_have_no_state(content: dict[str, object]) -> None:
    assert find_state(content) is None


def test_counters_of_batchnorm_are_filled_in() -> None:
    state = Network(SMALL, Architecture((0, 1, 2))).state_dict()
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    found = find_state({"state_dict": old})
    assert found is not None
    assert {name: tensor.shape for name, tensor in found.items()} == {name: state[name].shape for name in state}
    assert str(infer_architecture(SMALL, found)) == "0,1,2"
    Network(SMALL, Architecture((0, 1, 2))).load_state_dict(found)


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        ({"state_dict": 3}, "the names in it are 'state_dict'"),
        ({"state_dict": {1: torch.zeros(1)}}, "not all names in it are texts"),
        ({"state_dict": {}}, "the names in it are none"),
        (
            {"model": {"conv1.weight": torch.zeros(1)}},
            "it has no first_conv.0.weight; the names in it are 'conv1.weight'",
        ),
        ({"vis_dict": {}, "epoch": 3}, "the names in it are 'vis_dict', 'epoch'"),
        ({"first_conv.0.weight": "a text"}, "'first_conv.0.weight' is not a tensor, but a str"),
    ],
    ids=str,
)
def test_why_there_is_no_state(content: dict[str, object], phrase: str) -> None:
    assert phrase in explain_content(content)


def test_a_layer_that_almost_fits_names_what_does_not() -> None:
    state = Network(SMALL, Architecture((0, 1, 2))).state_dict()
    name = "features.1.branch_main.1.running_mean"
    for other, phrase in (
        ({}, "closest to shuffle 5x5, but branch_main.1.running_mean is missing"),
        ({name: torch.zeros(3)}, "but branch_main.1.running_mean is 3, not 16"),
        ({name: state[name], "features.1.total_ops": torch.zeros(1)}, "but total_ops is not in it"),
    ):
        changed = {key: tensor for key, tensor in state.items() if key != name} | other
        with pytest.raises(CheckpointError, match="layer 1 of the network is none of the space's choices") as raised:
            infer_architecture(SMALL, changed)
        assert phrase in str(raised.value)


def test_networks_of_other_spaces_are_refused() -> None:
    state = Network(SMALL, Architecture((0, 1, 2))).state_dict()
    deeper = SearchSpace((Stage(2, 16), Stage(2, 32)), OFFICIAL_SPACE.choices, 32, 10, 8, 2, 32)
    with pytest.raises(CheckpointError, match="has 3 layers, the space 4"):
        infer_architecture(deeper, state)
    fewer = SearchSpace(SMALL.stages, OFFICIAL_SPACE.choices[:2], 32, 10, 8, 2, 32)
    with pytest.raises(CheckpointError, match=r"layer 2 of the network is none of .* the depthwise ones 16x1x7x7"):
        infer_architecture(fewer, state)
    del state["features.1.branch_main.0.weight"]
    with pytest.raises(CheckpointError, match="layer 1 of the network is none"):
        infer_architecture(SMALL, state)
