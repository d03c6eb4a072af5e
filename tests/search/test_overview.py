"""The overview of a running search."""

from __future__ import annotations

from spos_cli.engine.progress import Curve
from spos_cli.search.evolution import Draws, Proposal
from spos_cli.search.journal import Entry, Origin
from spos_cli.search.overview import Overview
from spos_cli.space.architecture import Architecture


def entry(top1: float, choice: int, origin: Origin = "random", stopped_early: bool = False) -> Entry:
    return Entry(Architecture((choice, 1)), 3_000_000 + choice, 10, top1, 1.0, 100, 0, origin, stopped_early)


def test_an_overview() -> None:
    overview = Overview(2)
    overview.begin(0, Proposal([], {"random": Draws(4, 4)}))
    assert overview.rows == [("accepted", ["100% of random draws"])]
    assert overview.summary == {}
    overview.add([entry(0.5, 0), entry(0.9, 1, stopped_early=True), entry(0.3, 2)])
    overview.begin(1, Proposal([], {"mutation": Draws(10, 2, 5, 3), "random": Draws(4, 0, 4, 0)}))
    overview.add([entry(0.7, 3), entry(0.5, 4)])
    assert overview.phase == "generation 1 of 2"
    assert overview.summary == {"best_top1": 0.7, "mean_top1": 0.6}
    assert overview.rows == [
        ("best", ("70.00%", "3M FLOPs", "3,1")),
        ("so far", (Curve([0.5, 0.5, 0.7, 0.7]), "50.0% to 70.0%")),
        ("scores", (Curve([0.5, 0.3, 0.7, 0.5]), "30.0% to 70.0%")),
        ("accepted", ["50% of random draws", "20% of mutations"]),
    ]


def test_equal_scores_go_to_the_cheaper() -> None:
    overview = Overview(0)
    overview.add([entry(0.5, 7), entry(0.5, 1), entry(0.5, 4)])
    assert overview.best is not None
    assert overview.best.architecture.choices == (1, 1)
