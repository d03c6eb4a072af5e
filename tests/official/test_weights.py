"""Official weights files: their forms, and the architecture that their tensors show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from spos_cli.errors import CheckpointError
from spos_cli.models.network import Network
from spos_cli.models.supernet import Supernet
from spos_cli.official.weights import detect_kind, find_state, infer_architecture, is_affine, to_official
from spos_cli.space.architecture import Architecture
from spos_cli.space.search_space import OFFICIAL_SPACE, SearchSpace, Stage

ARCHS = [
    case["architecture"] for case in json.loads((Path(__file__).parents[1] / "space/flops_params.json").read_text())
]
SMALL = SearchSpace((Stage(1, 16), Stage(2, 32)), OFFICIAL_SPACE.choices, 32, 10, 8, 2, 32)


@pytest.mark.parametrize("affine", [True, False])
def test_the_architecture_is_inferred(affine: bool) -> None:
    """All fifty golden architectures, from names and shapes alone."""
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
