"""The official search's checkpoint as entries of a journal."""

from __future__ import annotations

from typing import Any

import pytest

from spos_cli.errors import CheckpointError
from spos_cli.models.counting import count
from spos_cli.official.search_checkpoint import is_search, read_entries
from spos_cli.space.architecture import Architecture, parse
from spos_cli.space.search_space import OFFICIAL_SPACE

WINNER = parse("2,1,0,1,2,0,2,0,2,0,2,3,0,0,0,0,3,2,3,3")
COSTS = count(OFFICIAL_SPACE)


def search(*records: tuple[Any, Any]) -> dict[str, Any]:
    """Return the content of an official search checkpoint with these candidates."""
    best = [choices for choices, _ in records]
    return {"memory": [best], "candidates": best, "vis_dict": dict(records), "keep_top_k": {10: best}, "epoch": 20}


def entries(*records: tuple[Any, Any]) -> list[Any]:
    return read_entries(search(*records), OFFICIAL_SPACE, COSTS.flops, COSTS.params, "x.pth.tar")


def test_scored_candidates_become_entries() -> None:
    found = entries(
        (WINNER.choices, {"flops": 322918720.0, "err": (0.4025, 0.18), "visited": True}),
        ((0,) * 20, {"flops": 270359360 + 2000000}),  # over a limit, or only drawn, so it has no score
        ((1,) * 20, {}),
        ((3,) * 20, {"err": (0.5, 0.25), "visited": True}),
    )
    assert [str(entry.architecture) for entry in found] == [str(WINNER), ",".join("3" * 20)]
    first = found[0]
    assert (first.flops, first.params, first.images) == (322918720, 3558464, 8000)
    assert (first.top1, first.top5) == pytest.approx((0.5975, 0.82))
    assert (first.generation, first.origin) == (0, "imported")
    assert found[1].flops == COSTS.flops.of(Architecture((3,) * 20))
    assert is_search(search())
    assert not is_search({"state_dict": {}})
    assert not is_search({"vis_dict": []})


@pytest.mark.parametrize(
    ("choices", "info", "message"),
    [
        (WINNER.choices, {"err": (0.1, 0.1), "flops": 328000000}, "has 328000000 FLOPs there and 322,918,720 here"),
        ((0,) * 19, {"err": (0.1, 0.1)}, "not in this space: the architecture has 19 layers"),
        ((7,) * 20, {"err": (0.1, 0.1)}, "layer 0 has choice 7"),
        (((0,) * 20, (4,) * 20), {"err": (0.1, 0.1)}, "is not a tuple of choices"),
        ("2,1,0", {"err": (0.1, 0.1)}, "is not a tuple of choices"),
        (WINNER.choices, {"err": 0.1}, "has the errors 0.1, expected two from 0 to 1"),
        (WINNER.choices, {"err": (40.2, 18.0)}, "expected two from 0 to 1"),
        (WINNER.choices, {"err": (float("nan"), 0.1)}, "expected two from 0 to 1"),
        (WINNER.choices, {"err": ("a", "b")}, "expected two from 0 to 1"),
        (WINNER.choices, 3, "has 3 instead of a record"),
    ],
)
def test_invalid_candidates_are_refused(choices: Any, info: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        entries((choices, info))
