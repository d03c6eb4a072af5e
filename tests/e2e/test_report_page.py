"""The report in a real browser: a search's own, one of 20,000 candidates, on a phone, in the dark, without WebGL."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spos_cli.report.writing import write_report
from spos_cli.run.folder import RunFolder
from spos_cli.search.journal import Journal
from tests.browser import PROGRAM, Page, browser
from tests.conftest import TINY, Spos
from tests.runs import audited, write_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="there is no chromium, so nobody looks at the report"),
]

CHANNELS = Path(__file__).parents[2] / "configs" / "fashion_mnist_channels.yaml"
CANDIDATES = 20_000
# Where a point of the candidates is on the screen, once the picture is in sight.
PLACE = """
(async (number) => {
  const picture = document.getElementById("scatter");
  picture.scrollIntoView({ block: "center" });
  // The page takes the card away when it hears of the scrolling, which is at the next frame.
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const { left, top } = picture.getBoundingClientRect();
  const { xaxis, yaxis } = picture._fullLayout;
  const candidates = picture.data.find((trace) => trace.name === "candidates");
  return {
    x: left + xaxis._offset + xaxis.d2p(candidates.x[number]), y: top + yaxis._offset + yaxis.d2p(candidates.y[number]),
    top1: candidates.y[number], type: candidates.type, points: candidates.x.length,
  };
})(%d)
"""
TEXT_OF = "document.getElementById('%s').innerText"
FITS = "document.documentElement.scrollWidth <= innerWidth"
DRAWN = "[...document.querySelectorAll('.chart')].every((chart) => chart.querySelector('.main-svg'))"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def require_quiet(page: Page) -> None:
    """No script has complained, and nothing was asked of a network."""
    assert page.complaints == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in page.requests)


def lowest(path: Path) -> int:
    """The line of the candidate with the least top-1: no other point hides it."""
    scores = [entry.top1 for entry in Journal(path).read()]
    return scores.index(min(scores))


def shown(card: str) -> dict[str, str]:
    """A card's rows by name."""
    lines = [line for line in card.splitlines() if line]
    return dict(itertools.pairwise(lines))


def test_of_a_real_run(page: Page, finished: Spos) -> None:
    folder, path = finished.run / "search", finished.run / "search" / "report.html"
    page.look(path)
    require_quiet(page)
    entries = Journal(folder / "journal.jsonl").read()
    assert page("document.querySelectorAll('#scatter .scatterlayer .trace path.point').length") >= len(entries)
    place = page(PLACE % lowest(folder / "journal.jsonl"))
    assert (place["type"], place["points"]) == ("scatter", len(entries))
    assert page("document.getElementById('card').hidden")
    page.move_to(place["x"], place["y"])
    page.wait_for("!document.getElementById('card').hidden")
    found = shown(page(TEXT_OF % "card"))
    least = min(entry.top1 for entry in entries)
    assert found["top-1"].startswith(f"{least:.2%}".replace("%", " %"))
    assert Journal(folder / "journal.jsonl").read()[lowest(folder / "journal.jsonl")].architecture.to_list() == [
        int(choice) for choice in found["architecture"].split(",")
    ]
    page.move_to(5, 5)
    page.wait_for("document.getElementById('card').hidden")
    page.click(place["x"], place["y"])
    page.wait_for(f"{TEXT_OF % 'kept'}.includes({json.dumps(found['architecture'])})")
    for section in ("tradeoff", "progress", "winner", "tie", "choices", "retrained", "trainings", "costs"):
        assert page(f"document.getElementById('{section}').getBoundingClientRect().height") > 100
    assert page(DRAWN)
    assert "not recorded" not in page(TEXT_OF % "costs")
    require_quiet(page)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a long search in a space with widths, audited."""
    run = tmp_path_factory.mktemp("large") / "run"
    write_run(run, CHANNELS.read_text(), CANDIDATES, images=200, generations=400, audit=audited())
    write_report(RunFolder(run))
    return run


def test_of_a_long_search(page: Page, large: Path) -> None:
    path = large / "search" / "report.html"
    assert path.stat().st_size < 8e6
    page.look(path)
    place = page(PLACE % lowest(large / "search" / "journal.jsonl"))
    assert (place["type"], place["points"]) == ("scattergl", CANDIDATES)
    page.move_to(place["x"], place["y"])
    page.wait_for("!document.getElementById('card').hidden")
    assert shown(page(TEXT_OF % "card"))["top-1"].startswith(f"{place['top1']:.2f} %")
    page("document.querySelector('[data-cost=params]').click()")
    page.wait_for("document.getElementById('scatter').layout.annotations[0].text === 'parameters'")
    assert page(DRAWN)
    require_quiet(page)


def test_on_a_phone_in_the_dark(page: Page, large: Path, finished: Spos) -> None:
    colours: list[Any] = []
    for path in (large / "search" / "report.html", finished.run / "search" / "report.html"):
        for dark in (False, True):
            page.look(path, 390, 844, phone=True, dark=dark)
            assert page("innerWidth") == 390
            assert page(FITS)
            assert page("[...document.querySelectorAll('.chart')].every((chart) => chart.offsetWidth < 390)")
            ink = "getComputedStyle(document.body).color + document.getElementById('best').data.at(-1).line.color"
            colours.append(page(f"getComputedStyle(document.body).backgroundColor + {ink}"))
            require_quiet(page)
    assert colours[:2] == colours[2:]
    assert colours[0] != colours[1]
    line = lowest(finished.run / "search" / "journal.jsonl")
    place = page(PLACE % line)
    at = [{"x": place["x"], "y": place["y"]}]
    page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=at)
    page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    page.wait_for(f"{TEXT_OF % 'kept'}.includes('{place['top1']:.2f} %')")
    require_quiet(page)


def test_without_webgl(tmp_path: Path) -> None:
    write_run(tmp_path / "run", CHANNELS.read_text(), 2100, images=100)
    write_report(RunFolder(tmp_path / "run"))
    with browser(tmp_path / "profile", webgl=False) as page:
        page.look(tmp_path / "run" / "search" / "report.html")
        assert "no WebGL, so 2,100 points" in page(TEXT_OF % "drawing")
        assert page("document.querySelectorAll('#scatter .scatterlayer .trace path.point').length") >= 2100
        require_quiet(page)


def test_hostile_names_are_shown_as_they_are(page: Page, tmp_path: Path) -> None:
    run = tmp_path / "<img src=x onerror=document.title=1>"
    evil = "<b onclick=alert(1)>&lt;img src=x><a href='javascript:alert(1)'>x"
    write_run(run, TINY)
    (run / "config.yaml").write_text("name: [")  # so that the folder gives the name
    folder = run / "retrain" / evil
    shutil.copytree(run / "supernet", folder)
    write_report(RunFolder(run))
    page.look(run / "search" / "report.html")
    assert page("document.querySelector('h1').textContent") == run.name
    assert evil in page(TEXT_OF % "training-legend")
    assert page("document.querySelectorAll('main img, main b[onclick], main a').length") == 0
    assert page("document.title").startswith("<img")
    require_quiet(page)
