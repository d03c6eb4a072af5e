"""The data of the report's charts, against brute force."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from spos_cli.report.chart_data import (
    DIGITS,
    MAX_CURVE_POINTS,
    count_bits_shares,
    count_choice_shares,
    count_width_shares,
    find_improvements,
    list_ops,
    make_chart_data,
    thin_out,
)
from spos_cli.report.findings import Findings, Search, Training
from spos_cli.report.page import make_page
from spos_cli.search.results import pareto
from spos_cli.space.architecture import Architecture
from spos_cli.space.bits import format_bits, split_bits
from spos_cli.space.choices import MAX_CHOICES
from spos_cli.space.cost_kinds import COST_KINDS, make_own_kind
from spos_cli.space.limits import Limit
from spos_cli.space.search_space import OFFICIAL_SPACE, SearchSpace
from tests.report.searches import QUANTIZED, SPACE, read_data, search_in


def test_improvements_of_the_best_score() -> None:
    rng = np.random.default_rng(0)
    for length in (1, 2, 10, 200):
        scores = rng.integers(0, 50, length) / 50
        positions, values = find_improvements(scores.tolist())
        assert positions[0] == 1
        assert positions[-1] == length
        everywhere = [values[np.searchsorted(positions, place, side="right") - 1] for place in range(1, length + 1)]
        assert everywhere == np.maximum.accumulate(scores).tolist()
        # An evaluation without a comparable score has a position, but is never the best.
        known = [score if keep else None for score, keep in zip(scores.tolist(), rng.random(length) < 0.5, strict=True)]
        positions, values = find_improvements(known)
        for place in range(1, length + 1):
            so_far = [score for score in known[:place] if score is not None]
            assert [value for at, value in zip(positions, values, strict=True) if at <= place][-1:] == [
                max(so_far) for _ in so_far[:1]
            ]
        assert positions[-1:] == [length for _ in values[:1]]
    assert find_improvements([]) == find_improvements([None]) == ([], [])


@pytest.mark.parametrize(
    "space", [SPACE, QUANTIZED, OFFICIAL_SPACE], ids=["own lists and widths", "widths and bits", "official"]
)
def test_shares(space: SearchSpace) -> None:
    archs = [entry.architecture for entry in search_in(space).entries]
    ops = list_ops(space)
    shares = count_choice_shares(space, archs)
    for layer in space.layers:
        for op, choice in enumerate(ops):
            if choice not in layer.choices:
                assert shares[op][layer.index] is None
                continue
            count = sum(layer.choices[arch[layer.index]] == choice for arch in archs)
            assert shares[op][layer.index] == pytest.approx(count / len(archs))
    for bits, row in zip(space.bits, count_bits_shares(space.bits, archs, space.num_layers), strict=True):
        counts = [sum(arch.options[layer].bits == bits for arch in archs) for layer in range(space.num_layers)]
        assert row == pytest.approx([count / len(archs) for count in counts])
    for width, row in zip(space.widths, count_width_shares(space.widths, archs, space.num_layers), strict=True):
        counts = [sum(arch.options[layer].width == width for arch in archs) for layer in range(space.num_layers)]
        assert row == pytest.approx([count / len(archs) for count in counts])


def test_thinned_curves_keep_their_last_point() -> None:
    steps = list(range(1, 10 * MAX_CURVE_POINTS + 4))
    values = [float(step) for step in steps]
    training = thin_out(Training("supernet", steps, values, values, values))
    assert len(training.steps) <= MAX_CURVE_POINTS
    assert training.steps[-1] == steps[-1]
    assert list(training.loss) == [float(step) for step in training.steps]


def test_the_page_has_every_candidate() -> None:
    search = search_in(SPACE)
    data = read_data(make_page(Findings("a run", SPACE, search)))["search"]
    assert len(DIGITS) >= MAX_CHOICES
    layers = SPACE.num_layers
    for line, entry in enumerate(search.entries):
        of_line = slice(line * layers, (line + 1) * layers)
        choices = tuple(DIGITS.index(letter) for letter in data["archs"][of_line])
        codes = re.findall("..", data["width_codes"])[of_line]
        widths = tuple(data["widths"][DIGITS.index(a) * 64 + DIGITS.index(b)] for a, b in codes)
        assert Architecture(choices, widths) == entry.architecture
    assert data["costs"]["flops"]["values"] == [entry.flops for entry in search.entries]
    assert data["score"] == pytest.approx([entry.top1 for entry in search.entries], abs=1e-5)
    assert all(low < score < high for low, score, high in zip(data["low"], data["score"], data["high"], strict=True))
    assert data["images"] == 300
    assert search.entries[data["winner"]].architecture == search.winner
    front = [search.entries[line] for line in data["front"]["flops"]]
    assert front[-1].top1 == max(entry.top1 for entry in search.entries)
    assert all(one.flops < other.flops and one.top1 < other.top1 for one, other in itertools.pairwise(front))


def test_the_page_has_the_bits_of_every_candidate() -> None:
    search = search_in(QUANTIZED)
    page = make_page(Findings("a run", QUANTIZED, search))
    data = read_data(page)["search"]
    layers = QUANTIZED.num_layers
    assert data["bits"] == ["", "w1a2", "w2a4", "w4a4"]
    for line, entry in enumerate(search.entries):
        codes = data["bits_codes"][line * layers : (line + 1) * layers]
        written = [data["bits"][DIGITS.index(code)] for code in codes]
        assert written == [format_bits(option.bits) if option.bits else "" for option in entry.architecture.options]
    weights, activations = split_bits(search.winner.options[0].bits)
    assert f"{weights} and {activations} bits" in page
    assert 'id="bits-all"' in page
    assert "bits" not in read_data(make_page(Findings("a run", SPACE, search_in(SPACE))))["search"]


def test_stopped_and_imported_scores_are_not_compared() -> None:
    search = search_in(SPACE)
    entries = list(search.entries)
    best = search.winner_line
    entries[0] = replace(entries[0], top1=1.0, images=50, partial=True)
    entries[1] = replace(entries[1], top1=1.0, images=9000, origin="imported")
    search = Search(entries, {}, search.winner)
    assert best not in (0, 1)
    data = make_chart_data(Findings("a run", SPACE, search))["search"]
    assert not {0, 1} & {*data["front"]["flops"], *data["front"]["params"]}
    assert data["best"]["score"][-1] == pytest.approx(search.best.top1, abs=1e-5)
    assert data["best"]["at"][-1] == len(entries) - 1  # a candidate that was stopped early is an evaluation
    assert data["stopped_early"] == [0]
    assert data["images"][:2] == [50, 9000]


def test_the_axis_is_the_cost_of_the_searched_front() -> None:
    """A latency is on the axis if every candidate has one."""
    search = search_in(SPACE)
    entries = [replace(entry, costs={"latency": 10**6 - entry.flops // 1000}) for entry in search.entries]
    timed = replace(search, entries=entries, limits={"latency": Limit(950_000)}, front_cost="latency")
    data = make_chart_data(Findings("a run", SPACE, timed))["search"]
    assert data["costs"]["latency"]["values"] == [entry.costs["latency"] for entry in entries]
    assert (data["cost"], data["limits"]) == ("latency", {"latency": 950_000})
    ranges = replace(timed, limits={"latency": Limit(950_000, 900_000), "flops": None})
    data = make_chart_data(Findings("a run", SPACE, ranges))["search"]
    assert data["limits"] == {"latency": [900_000, 950_000], "flops": None}
    assert data["front"].keys() == {"flops", "params", "latency"}
    assert [entries[line] for line in data["front"]["latency"]] == pareto(entries, "latency")
    assert data["front"]["latency"] != data["front"]["flops"]
    own = [replace(entry, costs={"energy": 3 * entry.flops}) for entry in search.entries]
    kinds = {**COST_KINDS, "energy": make_own_kind("energy", "mJ")}
    with_energy = replace(search, entries=own, front_cost="energy", kinds=kinds)
    data = make_chart_data(Findings("a run", SPACE, with_energy))["search"]
    values = [3 * entry.flops for entry in search.entries]
    assert data["costs"]["energy"] == {"title": "energy", "values": values, "scale": 10**6, "unit": "mJ"}
    assert (data["cost"], data["front"]["energy"]) == ("energy", data["front"]["flops"])
    incomplete = replace(timed, entries=[*entries[:-1], search.entries[-1]])
    data = make_chart_data(Findings("a run", SPACE, incomplete))["search"]
    assert data["costs"].keys() == {"flops", "params"}
    assert (data["cost"], data["front"].keys()) == ("flops", {"flops", "params"})
