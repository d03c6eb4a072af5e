"""The report as one HTML file: header, sections, footer, style and scripts.

All text is escaped where it becomes HTML (`elements.Html`). The page's security policy allows two scripts, plotly.js
and page.js, and no request to a network.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources

from spos_cli.errors import RunError
from spos_cli.report.chart_data import make_chart_data
from spos_cli.report.elements import (
    Html,
    element,
    format_percent,
    format_range,
    format_size,
    paragraph,
    tile,
)
from spos_cli.report.findings import Findings, Search, score_interval
from spos_cli.report.sections import make_sections
from spos_cli.space.cost_kinds import format_cost
from spos_cli.space.limits import describe_all, format_limit

PLOTLY_MISSING = "the report needs plotly, which is not installed: pip install 'spos[report]'"


def make_page(findings: Findings) -> str:
    """Return the HTML file.

    Raises:
        RunError: plotly is not installed.
    """
    library, script = read_plotly_js(), _read_own("page.js")
    # "<" is escaped so that no text of the run can end the script element.
    data = json.dumps(make_chart_data(findings), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    allowed = " ".join(f"'sha256-{_digest(code)}'" for code in (library, script))
    policy = (
        f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:;"
        " worker-src blob:; base-uri 'none'; form-action 'none'"
    )
    head = [
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        element("title", f"{findings.name} · spos"),
        element("style", Html(_read_own("page.css"))),
    ]
    body = [
        element("main", header(findings), make_sections(findings), footer()),
        element("div", id="card", role="status", hidden=""),
        element("script", Html(data), type="application/json", id="data"),
        element("script", Html(library)),
        element("script", Html(script)),
    ]
    return f'<!DOCTYPE html>\n<html lang="en">{element("head", head)}{element("body", body)}</html>\n'


def read_plotly_js() -> str:
    """Return the source of plotly.js, which draws the charts.

    Raises:
        RunError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise RunError(PLOTLY_MISSING) from None
    return str(get_plotlyjs()).replace("\r\n", "\n")


def _read_own(name: str) -> str:
    return resources.files("spos_cli.report").joinpath(name).read_text(encoding="utf-8")


def _digest(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


def header(findings: Findings) -> Html:
    """Return the title, what was searched, and the most important numbers."""
    search, space = findings.search, findings.space
    sentences = []
    if space is not None:
        sentences.append(f"A space of {format_size(space.size)} architectures with {space.num_layers} choice blocks.")
    if search is not None:
        sentences.append(f"{describe_scores(search)}{describe_limits(search)}.")
    else:
        sentences.append("It has not been searched yet.")
    return element(
        "header",
        element("p", "spos report", class_="kicker"),
        element("h1", findings.name),
        element("p", " ".join(sentences), class_="lede"),
        element("dl", *tiles(findings), class_="tiles"),
    )


def describe_limits(search: Search) -> str:
    """Return the limits of a search, to end a sentence with; empty if there are none."""
    limits = [(search.kinds[name], limit) for name, limit in search.limits.items() if limit is not None]
    if any(limit.is_range for _, limit in limits):
        return f", with {describe_all(limits)}"
    written = ", ".join(f"{format_limit(kind, limit)} {kind.label}" for kind, limit in limits)
    return f", under a limit of {written}" if limits else ""


def describe_scores(search: Search) -> str:
    """Return, in words, how many candidates were scored, and on how many images."""
    number, stopped, earlier = len(search.new), search.stopped_early, len(search.counted) - len(search.new)
    planned = f" of {search.planned:,} planned" if search.planned is not None and number < search.planned else ""
    sizes = sorted({search.entries[line].images for line in search.comparable})
    if not sizes:
        on = " (all of them stopped early)" if stopped else ""
    elif len(sizes) > 1:  # which no journal of ours has
        on = f" on {sizes[0]:,} to {sizes[-1]:,} images"
    elif stopped:
        on = f" on the same {sizes[0]:,} images ({stopped:,} of them stopped early, on the first of these images)"
    else:
        on = f", each on the same {sizes[0]:,} images"
    more = f" and {earlier:,} of an earlier search" if earlier else ""
    return f"{number:,}{planned} candidates{more} were scored with the supernet’s weights{on}"


def tiles(findings: Findings) -> list[Html]:
    """Return the most important numbers."""
    shown = []
    if (search := findings.search) is not None:
        best = search.best
        low, high = best.interval
        title = f"Best one-shot {best.score_name}"
        shown.append(tile(title, format_percent(best.score), f"95 % interval {format_range(low, high)}"))
        kind = search.main_cost
        limit = search.limits.get(kind.name)
        share = (
            f"{format_percent(best.main_cost / limit.high, 0)} of the limit" if limit else f"no limit on {kind.noun}"
        )
        if limit is not None and limit.is_range:
            share = f"from a range of {format_limit(kind, limit)}"
        params = f"{share} · {format_cost(best.params)} params"
        shown.append(tile(f"{kind.noun} of the winner", format_cost(best.main_cost), params))
        if search.ties is not None:
            shown.append(tile("Statistically tied with it", f"{len(search.ties):,}", "candidates, by a paired test"))
    if last := [network for network in findings.retrained if not network.evaluations]:
        network = max(last, key=lambda network: network.top1)
        low, high = score_interval(network.right, network.images)
        note = f"of {network.images:,} validation images, {format_range(low, high)}"
        shown.append(tile("Retrained top-1", format_percent(network.top1), note))
    if not shown and findings.trainings:
        training = findings.trainings[0]
        known = [value for value in training.top1 if value is not None]
        if known:
            note = f"{training.name}, step {training.steps[-1]:,}"
            shown.append(tile("Training top-1", format_percent(known[-1]), note))
    return shown


def footer() -> Html:
    """Return the notes on how to read the page."""
    return element(
        "footer",
        paragraph(
            "A one-shot score is a candidate’s accuracy with the supernet’s shared weights. It ranks architectures; it"
            " is not the accuracy that they reach stand-alone. Intervals are Wilson’s, at 95 %. FLOPs are multiply-adds"
            " of convolutions and linear layers. This page works without a network and requests nothing."
        ),
    )
