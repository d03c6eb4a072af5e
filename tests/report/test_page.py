"""The report's page: its sentences, and that nothing from a file becomes markup."""

from __future__ import annotations

import html
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from spos_cli.errors import RunError
from spos_cli.report import page
from spos_cli.report.chart_data import make_chart_data
from spos_cli.report.elements import element
from spos_cli.report.findings import Audit, Findings, Search, Training
from spos_cli.report.page import make_page
from spos_cli.space.limits import Limit
from tests.report.searches import SPACE, read_data, search_in


def text_of(findings: Findings) -> str:
    """Return the text of the page, without scripts and tags."""
    text = re.sub("<(script|style).*?</\\1>", "", make_page(findings), flags=re.DOTALL)
    return html.unescape(re.sub("<[^>]*>", "", text)).replace("\u00a0", " ")


def test_the_number_of_images_of_a_score() -> None:
    search = search_in(SPACE)
    entries, best = list(search.entries), search.winner_line
    assert "80 candidates were scored with the supernet’s weights, each on the same 300 images." in text_of(
        Findings("a run", SPACE, search)
    )
    for line in range(2):  # imported lines do not count
        entries[line] = replace(entries[line], top1=1.0, images=9000, origin="imported", partial=line == 0)
    winner = entries[1].architecture
    text = text_of(Findings("a run", SPACE, Search(entries, {}, winner, planned=90)))
    assert "78 of 90 planned candidates were scored with the supernet’s weights, each on the same 300 images." in text
    assert "Crosses" not in text

    entries[2] = replace(entries[2], top1=1.0, images=50, partial=True)
    limits = {"flops": Limit(10**9)}
    text = text_of(Findings("a run", SPACE, Search(entries, limits, entries[best].architecture, {2: 0.5})))
    assert "each on the same" not in text
    assert (
        "78 candidates were scored with the supernet’s weights on the same 300 images (1 of them stopped early, on the"
        " first of these images), under a limit of 1G FLOPs." in text
    )
    assert "Crosses (1) were stopped early" in text
    assert "Diamonds (2) come from another search" in text
    assert "stopped early count as evaluations" in text
    assert "All candidates are scored on the same" not in text
    assert "in all 77 candidates that this search has scored to the end, and in the 10 best" in text

    entries = [replace(entry, partial=True) for entry in entries]
    text = text_of(Findings("a run", SPACE, Search(entries, {}, entries[best].architecture)))
    assert "78 candidates were scored with the supernet’s weights (all of them stopped early)." in text
    entries = [replace(entry, origin="imported") for entry in entries]
    text = text_of(Findings("a run", SPACE, Search(entries, {}, entries[best].architecture)))
    assert "0 candidates were scored with the supernet’s weights." in text
    lines = [replace(entry, images=100 + line) for line, entry in enumerate(search.entries)]
    text = text_of(Findings("a run", SPACE, Search(lines, {}, search.winner)))
    assert "80 candidates were scored with the supernet’s weights on 100 to 179 images." in text


def test_the_cost_of_the_front_and_its_device_are_named() -> None:
    search = search_in(SPACE)
    assert "Latenc" not in text_of(Findings("a run", SPACE, search))
    timed = replace(
        search,
        entries=[replace(entry, costs={"latency": entry.flops // 1000}) for entry in search.entries],
        limits={"latency": Limit(250_000)},
        front_cost="latency",
        hypervolume=0.5,
        latency_of="<b>Pixel</b> 8, imported",
    )
    text = text_of(Findings("a run", SPACE, timed))
    assert "under a limit of 250ms of latency" in text
    ranges = replace(timed, limits={"flops": Limit(4_000_000, 2_000_000), "latency": Limit(250_000)})
    text_of_ranges = text_of(Findings("a run", SPACE, ranges))
    assert "images, with 2M to 4M FLOPs and at most 250ms of latency." in text_of_ranges
    assert "from a range of 2M to 4M" in text_of_ranges
    assert "of the rectangle from 0 to the latency limit and" in text
    assert "by the table of <b>Pixel</b> 8, imported." in text
    html_text = make_page(Findings("a run", SPACE, timed))
    pressed = {cost: f'data-cost="{cost}" aria-pressed="true"' in html_text for cost in ("flops", "params", "latency")}
    assert pressed == {"flops": False, "params": False, "latency": True}


def test_which_searches_an_audit_has_compared() -> None:
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
    assert "searches of 32 candidates; this one has 80 now: evolution ends at" in text
    assert "random search ends at 50.0 % (1 seed)" in text
    assert text.count("audited when it had 32 candidates") == 2  # operators, and more images


@pytest.mark.parametrize("number", [1, 7])
def test_few_architectures_show_no_correlation(number: int) -> None:
    scores = [0.5 + 0.01 * index for index in range(number)]
    correlations = {"kendall": (-1.0, -1.0, -1.0), "kendall_of_flops": (0.5, 0.2, 0.7)}
    audit = Audit(one_shot=scores, stand_alone=scores, correlations=correlations, winner=(0.9, 0.515))
    text = text_of(Findings("a run", SPACE, None, audit=audit))
    assert "τ" not in text
    assert "too few for a rank correlation, which needs 8" in text
    assert "audit.architectures to 9 or more" in text
    assert ("1 architecture was trained stand-alone" in text) == (number == 1)
    assert f"the winner: with 51.50 % it is better than {min(number, 2)} of them." in text
    assert make_chart_data(Findings("a run", SPACE, None, audit=audit))["audit"]["winner"] == [0.9, 0.515]


def test_correlations_in_words() -> None:
    scores = [0.5 + 0.01 * index for index in range(8)]
    correlations = {"kendall": (-1.0, -1.0, -1.0), "kendall_of_flops": (0.5, 0.2, 0.7)}
    text = text_of(
        Findings("a run", SPACE, None, audit=Audit(one_shot=scores, stand_alone=scores, correlations=correlations))
    )
    assert "0 is chance): Kendall’s τ −1.00 (95 % interval −1.00 to −1.00); for comparison, τ between FLOPs" in text
    assert "too few" not in text
    assert "the winner" not in text
    for correlations in ({}, {"kendall_of_flops": (0.5, 0.2, 0.7)}):
        audit = Audit(one_shot=scores, stand_alone=scores, correlations=correlations)
        text = text_of(Findings("a run", SPACE, None, audit=audit))
        assert "correlation with the supernet’s scores is undefined" in text
        of_flops = "For comparison, τ between FLOPs and stand-alone top-1 0.50 (95 % interval 0.20 to 0.70)."
        assert (of_flops in text) == bool(correlations)
        assert "0 is chance" not in text
        assert "includes 0" not in text


def test_text_from_files_is_not_markup() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    trainings = [Training(evil, [1, 2], [1.0, float("nan")], [None, 0.5], [0.1, 0.1])]
    text = make_page(Findings(evil, SPACE, search_in(SPACE), trainings))
    own = text.replace(page.read_plotly_js(), "")
    assert "<script>alert" not in own
    assert "<img" not in own
    assert own.count("<script") == own.count("</script>") == 3
    assert read_data(text)["trainings"][0] == {
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
    text = make_page(Findings("a run", SPACE, search_in(SPACE)))
    own = text.replace(page.read_plotly_js(), "")
    assert "default-src 'none'" in own
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", own)


def test_without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(RunError, match=r"pip install 'spos\[report\]'"):
        make_page(Findings("a run", SPACE, search_in(SPACE)))


def test_own_files_are_in_the_package() -> None:
    folder = Path(page.__file__).parent
    for name in ("page.css", "page.js"):
        assert (folder / name).is_file()
        assert not re.search("</(script|style)", (folder / name).read_text(encoding="utf-8"))
