"""What a report says, against the same by brute force; and its page: nothing from a file becomes markup."""

from __future__ import annotations

import html
import itertools
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spos_cli.errors import RunError
from spos_cli.report import page as page_module
from spos_cli.report.findings import (
    CURVE,
    DIGITS,
    Audit,
    Findings,
    Search,
    Training,
    best_so_far,
    choice_shares,
    ops_of,
    page_data,
    thinned,
    width_shares,
)
from spos_cli.report.page import element, page
from spos_cli.search.journal import ranking
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import MAX_CHOICES, Choice
from spos_cli.space.search_space import OFFICIAL_SPACE, SearchSpace, Stage
from tests.runs import drawn

MBCONV = tuple(Choice("mbconv", (("expand", 2), ("kernel", kernel))) for kernel in (3, 5))
SPACE = SearchSpace(
    stages=(Stage(1, 16, 1, (Choice("shuffle_xception"), MBCONV[0])), Stage(3, 32)),
    choices=(*MBCONV, Choice("identity")),
    image_size=16,
    classes=10,
    stem_channels=8,
    stem_stride=1,
    head_channels=32,
    widths=(500, 1000, 1250),
)


def search_in(space: SearchSpace, candidates: int = 80, images: int = 300, **fields: Any) -> Search:
    entries, _ = drawn(space, candidates, images, 5)
    return Search(entries, {"flops": None}, ranking(entries)[0].architecture, **fields)


def data_of(text: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    content: dict[str, Any] = json.loads(found)
    return content


def test_best_so_far() -> None:
    rng = np.random.default_rng(0)
    for length in (1, 2, 10, 200):
        scores = rng.integers(0, 50, length) / 50
        places, values = best_so_far(scores.tolist())
        assert places[0] == 1
        assert places[-1] == length
        at_all = [values[np.searchsorted(places, place, side="right") - 1] for place in range(1, length + 1)]
        assert at_all == np.maximum.accumulate(scores).tolist()
        # Those without a score that can be compared are evaluations, too; none is the best.
        known = [score if keep else None for score, keep in zip(scores.tolist(), rng.random(length) < 0.5, strict=True)]
        places, values = best_so_far(known)
        for place in range(1, length + 1):
            so_far = [score for score in known[:place] if score is not None]
            assert [value for at, value in zip(places, values, strict=True) if at <= place][-1:] == [
                max(so_far) for _ in so_far[:1]
            ]
        assert places[-1:] == [length for _ in values[:1]]
    assert best_so_far([]) == best_so_far([None]) == ([], [])


@pytest.mark.parametrize("space", [SPACE, OFFICIAL_SPACE], ids=["own lists and widths", "published"])
def test_shares(space: SearchSpace) -> None:
    archs = [entry.architecture for entry in search_in(space).entries]
    ops = ops_of(space)
    shares = choice_shares(space, archs)
    for layer in space.layers:
        for op, choice in enumerate(ops):
            if choice not in layer.choices:
                assert shares[op][layer.index] is None
                continue
            having = sum(layer.choices[arch[layer.index]] == choice for arch in archs)
            assert shares[op][layer.index] == pytest.approx(having / len(archs))
    for width, row in zip(space.widths, width_shares(space.widths, archs, space.num_layers), strict=True):
        having = [sum(arch.options[layer].width == width for arch in archs) for layer in range(space.num_layers)]
        assert row == pytest.approx([count / len(archs) for count in having])


def test_thinned_curves_end_where_they_ended() -> None:
    steps = list(range(1, 10 * CURVE + 4))
    values = [float(step) for step in steps]
    training = thinned(Training("supernet", steps, values, values, values))
    assert len(training.steps) <= CURVE
    assert training.steps[-1] == steps[-1]
    assert list(training.loss) == [float(step) for step in training.steps]


def test_the_page_has_every_candidate() -> None:
    search = search_in(SPACE)
    data = data_of(page(Findings("a run", SPACE, search)))["search"]
    assert len(DIGITS) >= MAX_CHOICES
    layers = SPACE.num_layers
    for line, entry in enumerate(search.entries):
        of_line = slice(line * layers, (line + 1) * layers)
        choices = tuple(DIGITS.index(letter) for letter in data["archs"][of_line])
        codes = re.findall("..", data["width_codes"])[of_line]
        widths = tuple(data["widths"][DIGITS.index(a) * 64 + DIGITS.index(b)] for a, b in codes)
        assert Architecture(choices, widths) == entry.architecture
    assert data["flops"] == [entry.flops for entry in search.entries]
    assert data["top1"] == pytest.approx([entry.top1 for entry in search.entries], abs=1e-5)
    assert all(low < top1 < high for low, top1, high in zip(data["low"], data["top1"], data["high"], strict=True))
    assert data["images"] == 300
    assert search.entries[data["winner"]].architecture == search.winner
    front = [search.entries[line] for line in data["front"]["flops"]]
    assert front[-1].top1 == max(entry.top1 for entry in search.entries)
    assert all(one.flops < other.flops and one.top1 < other.top1 for one, other in itertools.pairwise(front))


def test_partial_and_imported_scores_are_not_compared() -> None:
    search = search_in(SPACE)
    entries = list(search.entries)
    best = search.winner_line
    entries[0] = replace(entries[0], top1=1.0, images=50, partial=True)
    entries[1] = replace(entries[1], top1=1.0, images=9000, origin="imported")
    search = Search(entries, {}, search.winner)
    assert best not in (0, 1)
    data = page_data(Findings("a run", SPACE, search))["search"]
    assert not {0, 1} & {*data["front"]["flops"], *data["front"]["params"]}
    assert data["best"]["top1"][-1] == pytest.approx(search.best.top1, abs=1e-5)
    assert data["best"]["at"][-1] == len(entries) - 1  # what was stopped early was an evaluation
    assert data["partial"] == [0]
    assert data["images"][:2] == [50, 9000]


def text_of(findings: Findings) -> str:
    """What the page says, without its scripts and its elements."""
    text = re.sub("<(script|style).*?</\\1>", "", page(findings), flags=re.DOTALL)
    return html.unescape(re.sub("<[^>]*>", "", text)).replace("\u00a0", " ")


def test_how_many_images_a_score_is_of() -> None:
    search = search_in(SPACE)
    entries, best = list(search.entries), search.winner_line
    assert "80 candidates were scored with the supernet’s weights, each on the same 300 images." in text_of(
        Findings("a run", SPACE, search)
    )
    for line in range(2):  # another search's are not of this one's images, nor of its number
        entries[line] = replace(entries[line], top1=1.0, images=9000, origin="imported", partial=line == 0)
    winner = entries[1].architecture
    text = text_of(Findings("a run", SPACE, Search(entries, {}, winner, planned=90)))
    assert "78 of 90 planned candidates were scored with the supernet’s weights, each on the same 300 images." in text
    assert "Crosses" not in text

    entries[2] = replace(entries[2], top1=1.0, images=50, partial=True)
    text = text_of(Findings("a run", SPACE, Search(entries, {"flops": 10**9}, entries[best].architecture, {2: 0.5})))
    assert "each on the same" not in text
    assert (
        "78 candidates were scored with the supernet’s weights on the same 300 images (1 of them, stopped early, only"
        " on the first of these), under a limit of 1G FLOPs." in text
    )
    assert "Crosses (1) were stopped early" in text
    assert "Diamonds (2) come from another search" in text
    assert "Candidates that were stopped early are evaluations, too." in text
    assert "All candidates are scored on the same" not in text
    assert "of all 77 candidates that this search has scored to the end, and of the 10 best" in text

    entries = [replace(entry, partial=True) for entry in entries]
    text = text_of(Findings("a run", SPACE, Search(entries, {}, entries[best].architecture)))
    assert "78 candidates were scored with the supernet’s weights (all of them stopped early)." in text
    entries = [replace(entry, origin="imported") for entry in entries]
    text = text_of(Findings("a run", SPACE, Search(entries, {}, entries[best].architecture)))
    assert "0 candidates were scored with the supernet’s weights." in text
    lines = [replace(entry, images=100 + line) for line, entry in enumerate(search.entries)]
    text = text_of(Findings("a run", SPACE, Search(lines, {}, search.winner)))
    assert "80 candidates were scored with the supernet’s weights on 100 to 179 images." in text


def test_what_an_audit_compared() -> None:
    search = search_in(SPACE)
    curves = {kind: [[0.5] * length, [0.6] * 10] for kind, length in (("random", 70), ("evolution", 80))}
    rest = {"operators": {"mutation": {"proposed": 2}}, "images": [(100, 0.1, 3)]}
    text = text_of(Findings("a run", SPACE, search, audit=Audit(curves, **rest)))
    assert "With the same budget, evolution ends at 50.0–60.0 % (2 seeds)" in text
    assert "when it had" not in text
    assert "random search ends at 50.0–60.0 % (2 seeds)" in text
    curves["evolution"][0] = [0.5] * 32
    text = text_of(Findings("a run", SPACE, search, audit=Audit(curves | {"random": [[0.5] * 32]}, **rest)))
    assert "With the same budget" not in text
    assert "The audit compared searches of 32 candidates, where this one has 80 now: evolution ends at" in text
    assert "random search ends at 50.0 % (1 seed)" in text
    assert text.count("This search was audited when it had 32 candidates.") == 2  # operators, and more images


@pytest.mark.parametrize("number", [1, 7])
def test_few_architectures_show_no_correlation(number: int) -> None:
    scores = [0.5 + 0.01 * place for place in range(number)]
    said = {"kendall": (-1.0, -1.0, -1.0), "kendall_of_flops": (0.5, 0.2, 0.7)}
    found = Audit(one_shot=scores, alone=scores, correlations=said, winner=(0.9, 0.515))
    text = text_of(Findings("a run", SPACE, None, audit=found))
    assert "τ" not in text
    assert "too few for a rank correlation, which takes 8" in text
    assert "raise audit.architectures to 9 or more" in text
    assert ("1 architecture was trained alone" in text) == (number == 1)
    assert f"So was the winner: with 51.50 % it is better than {min(number, 2)} of them." in text
    assert page_data(Findings("a run", SPACE, None, audit=found))["audit"]["winner"] == [0.9, 0.515]


def test_what_is_said_of_correlations() -> None:
    scores = [0.5 + 0.01 * place for place in range(8)]
    said = {"kendall": (-1.0, -1.0, -1.0), "kendall_of_flops": (0.5, 0.2, 0.7)}
    text = text_of(Findings("a run", SPACE, None, audit=Audit(one_shot=scores, alone=scores, correlations=said)))
    assert "0 none at all: Kendall’s τ −1.00 (95 % interval −1.00 to −1.00); for comparison, τ between FLOPs" in text
    assert "too few" not in text
    assert "the winner" not in text
    for kept in ({}, {"kendall_of_flops": (0.5, 0.2, 0.7)}):
        text = text_of(Findings("a run", SPACE, None, audit=Audit(one_shot=scores, alone=scores, correlations=kept)))
        assert "There is no rank correlation with the supernet’s scores that has a value" in text
        assert ("For comparison, τ between FLOPs and top-1 alone 0.50 (95 % interval 0.20 to 0.70)." in text) == bool(
            kept
        )
        assert "0 none at all" not in text
        assert "An interval that includes 0" not in text


def test_text_from_files_is_no_markup() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    trainings = [Training(evil, [1, 2], [1.0, float("nan")], [None, 0.5], [0.1, 0.1])]
    text = page(Findings(evil, SPACE, search_in(SPACE), trainings))
    own = text.replace(page_module.plotly_js(), "")
    assert "<script>alert" not in own
    assert "<img" not in own
    assert own.count("<script") == own.count("</script>") == 3
    assert data_of(text)["trainings"][0] == {
        "name": evil,
        "step": [1, 2],
        "loss": [1.0, None],
        "top1": [None, 0.5],
        "lr": [0.1, 0.1],
        "val_step": [],
        "val_loss": [],
        "val_top1": [],
    }
    assert element("a", "<b>", element("i", "&"), data_x='"') == '<a data-x="&quot;">&lt;b&gt;<i>&amp;</i></a>'


def test_the_page_loads_nothing() -> None:
    text = page(Findings("a run", SPACE, search_in(SPACE)))
    own = text.replace(page_module.plotly_js(), "")
    assert "default-src 'none'" in own
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", own)


def test_without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(RunError, match=r"pip install 'spos\[report\]'"):
        page(Findings("a run", SPACE, search_in(SPACE)))


def test_own_files_are_in_the_package() -> None:
    folder = Path(page_module.__file__).parent
    for name in ("page.css", "page.js"):
        assert (folder / name).is_file()
        assert not re.search("</(script|style)", (folder / name).read_text(encoding="utf-8"))
