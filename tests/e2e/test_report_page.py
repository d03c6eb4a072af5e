"""The report in a real browser: after a real run, with 20,000 candidates, on a phone, dark, without WebGL."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from spos_cli.data.thumbnails import make_thumbnail
from spos_cli.engine.mistakes import count_mistakes
from spos_cli.report.writing import write_report
from spos_cli.run.details import make_content, write_details
from spos_cli.run.folder import RunFolder
from spos_cli.search.journal import Journal
from spos_cli.search.results import pareto
from tests.browser import PROGRAM, Page, start_browser
from tests.conftest import TINY, Spos
from tests.runs import make_audit, write_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="the report needs chromium to be looked at"),
]

CHANNELS = Path(__file__).parents[2] / "configs" / "fashion_mnist_channels.yaml"
CANDIDATES = 20_000
# The position of a candidate's point on the screen, once the chart is in view.
POINT = """
(async (number) => {
  const chart = document.getElementById("scatter");
  chart.scrollIntoView({ block: "center" });
  // The page hides its card when it scrolls, which it notices at the next frame.
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const { left, top } = chart.getBoundingClientRect();
  const { xaxis, yaxis } = chart._fullLayout;
  const candidates = chart.data.find((trace) => trace.name === "candidates");
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
    with start_browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


def require_quiet(page: Page) -> None:
    """Check that no script has complained, and that nothing was requested from a network."""
    assert page.complaints == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in page.requests)


def find_lowest(path: Path) -> int:
    """Return the line of the candidate with the lowest top-1, whose point no other one hides."""
    scores = [entry.top1 for entry in Journal(path).read()]
    return scores.index(min(scores))


def parse_card(card: str) -> dict[str, str]:
    """Return the rows of a card by name."""
    lines = [line for line in card.splitlines() if line]
    return dict(itertools.pairwise(lines))


def test_the_report_of_a_real_run(page: Page, finished: Spos) -> None:
    folder, path = finished.run / "search", finished.run / "search" / "report.html"
    page.open(path)
    require_quiet(page)
    entries = Journal(folder / "journal.jsonl").read()
    assert page("document.querySelectorAll('#scatter .scatterlayer .trace path.point').length") >= len(entries)
    point = page(POINT % find_lowest(folder / "journal.jsonl"))
    assert (point["type"], point["points"]) == ("scatter", len(entries))
    assert page("document.getElementById('card').hidden")
    page.move_to(point["x"], point["y"])
    page.wait_for("!document.getElementById('card').hidden")
    card = parse_card(page(TEXT_OF % "card"))
    lowest = min(entry.top1 for entry in entries)
    assert card["top-1"].startswith(f"{lowest:.2%}".replace("%", " %"))
    assert Journal(folder / "journal.jsonl").read()[find_lowest(folder / "journal.jsonl")].architecture.to_list() == [
        int(choice) for choice in card["architecture"].split(",")
    ]
    page.move_to(5, 5)
    page.wait_for("document.getElementById('card').hidden")
    page.click(point["x"], point["y"])
    page.wait_for(f"{TEXT_OF % 'kept'}.includes({json.dumps(card['architecture'])})")
    for section in ("tradeoff", "progress", "winner", "tie", "choices", "retrained", "trainings", "costs"):
        assert page(f"document.getElementById('{section}').getBoundingClientRect().height") > 100
    assert page(DRAWN)
    assert "not recorded" not in page(TEXT_OF % "costs")
    require_quiet(page)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a long and audited search in a space with widths."""
    run = tmp_path_factory.mktemp("large") / "run"
    write_run(run, CHANNELS.read_text(), CANDIDATES, images=200, generations=400, audit=make_audit())
    write_report(RunFolder(run))
    return run


def test_the_report_of_a_long_search(page: Page, large: Path) -> None:
    path = large / "search" / "report.html"
    assert path.stat().st_size < 8e6
    page.open(path)
    point = page(POINT % find_lowest(large / "search" / "journal.jsonl"))
    assert (point["type"], point["points"]) == ("scattergl", CANDIDATES)
    page.move_to(point["x"], point["y"])
    page.wait_for("!document.getElementById('card').hidden")
    assert parse_card(page(TEXT_OF % "card"))["top-1"].startswith(f"{point['top1']:.2f} %")
    page("document.querySelector('[data-cost=params]').click()")
    page.wait_for("document.getElementById('scatter').layout.annotations[0].text === 'parameters'")
    assert page(DRAWN)
    require_quiet(page)


def test_bits_are_drawn_and_written(page: Page, tmp_path: Path) -> None:
    """The winner's card has its literal; BitOPs are on a button, and the bits of all layers in a chart."""
    run = tmp_path / "run"
    entries = write_run(run, (CHANNELS.parent / "cifar10_resnet_bits.yaml").read_text())
    costed = [replace(entry, costs={"bitops": entry.flops * 4}) for entry in entries]
    (run / "search" / "journal.jsonl").write_text("".join(entry.to_line() for entry in costed))
    write_report(RunFolder(run))
    page.open(run / "search" / "report.html")
    best = min(costed, key=lambda entry: entry.rank)
    assert parse_card(page(TEXT_OF % "kept"))["architecture"] == str(best.architecture)
    page("document.querySelector('[data-cost=bitops]').click()")
    page.wait_for("document.getElementById('scatter').layout.annotations[0].text === 'BitOPs'")
    assert page("document.getElementById('bits-all').data[0].y.length") == 6
    assert page(DRAWN)
    require_quiet(page)


def test_a_front_over_latency_is_drawn_in_milliseconds(page: Page, tmp_path: Path) -> None:
    run = tmp_path / "run"
    text = TINY.replace("flops_limit: null", "flops_limit: null\n  objective: pareto\n  pareto_cost: latency")
    timed = [replace(entry, costs={"latency": entry.flops // 10_000}) for entry in write_run(run, text)]
    (run / "search" / "journal.jsonl").write_text("".join(entry.to_line() for entry in timed))
    result = yaml.safe_load((run / "search" / "result.yaml").read_text())
    del result["flops_limit"]
    limit = max(entry.flops // 10_000 for entry in timed)
    (run / "search" / "result.yaml").write_text(yaml.safe_dump({**result, "latency_limit": limit}))
    write_report(RunFolder(run))
    page.open(run / "search" / "report.html")
    trace = "document.getElementById('scatter').data.find((trace) => trace.name === '%s').x"
    front = [entry.costs["latency"] / 1000 for entry in pareto(timed, "latency")]
    assert page(trace % "Pareto front") == front
    assert sorted(page(trace % "candidates")) == sorted(entry.costs["latency"] / 1000 for entry in timed)
    layout = "document.getElementById('scatter').layout"
    assert page(f"{layout}.annotations.map((one) => one.text)") == ["latency, ms", f"limit {limit / 1000:.4g} ms"]
    assert page(f"{layout}.shapes[1].x0") == limit / 1000
    assert parse_card(page(TEXT_OF % "kept"))["latency"].endswith(" ms")
    page("document.querySelector('[data-cost=flops]').click()")
    page.wait_for(f"{layout}.annotations[0].text === 'FLOPs'")
    page("document.querySelector('[data-cost=latency]').click()")
    page.wait_for(f"{layout}.annotations[0].text === 'latency, ms'")
    require_quiet(page)


def test_on_a_phone_in_the_dark(page: Page, large: Path, finished: Spos) -> None:
    colours: list[Any] = []
    for path in (large / "search" / "report.html", finished.run / "search" / "report.html"):
        for dark in (False, True):
            page.open(path, 390, 844, phone=True, dark=dark)
            assert page("innerWidth") == 390
            assert page(FITS)
            assert page("[...document.querySelectorAll('.chart')].every((chart) => chart.offsetWidth < 390)")
            ink = "getComputedStyle(document.body).color + document.getElementById('best').data.at(-1).line.color"
            colours.append(page(f"getComputedStyle(document.body).backgroundColor + {ink}"))
            require_quiet(page)
    assert colours[:2] == colours[2:]
    assert colours[0] != colours[1]
    line = find_lowest(finished.run / "search" / "journal.jsonl")
    point = page(POINT % line)
    at = [{"x": point["x"], "y": point["y"]}]
    page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=at)
    page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    page.wait_for(f"{TEXT_OF % 'kept'}.includes('{point['top1']:.2f} %')")
    require_quiet(page)


def test_without_webgl(tmp_path: Path) -> None:
    write_run(tmp_path / "run", CHANNELS.read_text(), 2100, images=100)
    write_report(RunFolder(tmp_path / "run"))
    with start_browser(tmp_path / "profile", webgl=False) as page:
        page.open(tmp_path / "run" / "search" / "report.html")
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
    page.open(run / "search" / "report.html")
    assert page("document.querySelector('h1').textContent") == run.name
    assert evil in page(TEXT_OF % "training-legend")
    assert page("document.querySelectorAll('main img, main b[onclick], main a').length") == 0
    assert page("document.title").startswith("<img")
    require_quiet(page)


def write_evaluation(folder: Path, names: list[str]) -> Path:
    """Write a run folder with nothing but a made-up evaluation, and return its report."""
    rng = np.random.default_rng(0)
    labels, others = rng.integers(0, len(names), (2, 20 * len(names)))
    predictions = np.where(rng.random(len(labels)) < 0.6, labels, others)
    mistakes = count_mistakes(names, labels, predictions, rng.random(len(labels)))
    picture = make_thumbnail(torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8))
    confident = {"path": f"{names[0]}/0.png", "label": 0, "predicted": 1, "confidence": 0.9, "picture": picture}
    content = {"weights": "w.pt", "architecture": "0,1", "images_of": "val", "most_confident": [confident] * 24}
    write_details(RunFolder(folder).evaluation, mistakes, content | make_content(mistakes))
    return write_report(RunFolder(folder))


COLUMN = "[...document.querySelectorAll('table.sortable')][0].querySelectorAll('tbody td:nth-child(%d)')"
CELLS = f"[...{COLUMN}].map((cell) => cell.textContent)"
SORT = (
    "[...document.querySelectorAll('table.sortable th button')].find((button) => button.textContent === '%s').click()"
)


def test_what_the_network_gets_wrong(page: Page, tmp_path: Path) -> None:
    evil = "<b onclick=alert(1)>&lt;img src=x><a href='javascript:alert(1)'>x"
    path = write_evaluation(tmp_path / "run", [evil, *(f"class {label}" for label in range(11))])
    for phone in (False, True):
        page.open(path, *((390, 844) if phone else (1200, 900)), phone=phone, dark=phone)
        assert page(DRAWN)
        assert page(FITS)
        assert page("document.getElementById('confusion-matrix').data[0].z.length") == 12
        assert page("document.getElementById('reliability').data[1].x.length") == 15
        assert (
            page("[...document.querySelectorAll('.gallery img')].filter((image) => image.naturalWidth === 64).length")
            == 24
        )
        assert evil in page(TEXT_OF % "mistakes")
        assert evil in page("document.querySelector('.gallery img').alt")
        assert page("document.querySelectorAll('main b[onclick], main a, main img[src=x]').length") == 0
        assert page("document.querySelector('#confusion-matrix .main-svg').querySelectorAll('a').length") == 0
        require_quiet(page)


def test_tables_of_a_thousand_classes_are_sorted(page: Page, tmp_path: Path) -> None:
    path = write_evaluation(tmp_path / "run", [f"class {label}" for label in range(1000)])
    page.open(path, 390, 844, phone=True)
    assert page(FITS)
    assert page("document.querySelector('.scroll.long').getBoundingClientRect().height") < 450
    recalls = [float(text.split()[0]) for text in page(CELLS % 3)]
    assert recalls == sorted(recalls)
    assert len(recalls) == 1000
    page(SORT % "precision")
    precisions = [float(text.split()[0]) for text in page(CELLS % 4) if text != "–"]
    assert precisions == sorted(precisions)
    assert page(CELLS % 4)[: len(precisions)][-1] != "–"
    page(SORT % "precision")
    assert [float(text.split()[0]) for text in page(CELLS % 4) if text != "–"] == sorted(precisions, reverse=True)
    page(SORT % "class")
    assert page(CELLS % 1)[:3] == ["class 0", "class 1", "class 2"]
    assert page("[...document.querySelectorAll('[aria-sort]')].map((head) => head.textContent)") == ["class"]
    require_quiet(page)
