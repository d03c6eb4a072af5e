"""The report as one HTML file: texts and tables here, pictures by `page.js` with plotly.js, which the file contains.

All text is escaped where it becomes HTML (`Html`), and only the two scripts that are named in the head may run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Iterable, Sequence
from importlib import resources

from spos_cli.errors import RunError
from spos_cli.report.findings import (
    TOP,
    Audit,
    Effort,
    Findings,
    Retrained,
    Search,
    ops_of,
    page_data,
    score_interval,
    stages_of,
)
from spos_cli.search.results import is_own
from spos_cli.search.statistics import ENOUGH
from spos_cli.space.architecture import Architecture, format_width
from spos_cli.space.cost import LABELS, format_cost, format_duration
from spos_cli.space.search_space import SearchSpace

COLOURS = 7  # of ops, in page.css; an eighth op has the first one's colour again, hatched
SHOWN = 12  # rows of the table of ties
CORRELATIONS = {
    "kendall": "Kendall’s τ",
    "spearman": "Spearman’s ρ",
    "kendall_of_flops": "for comparison, τ between FLOPs and top-1 alone",
}
BEFORE_PERCENT = re.compile(r"(?<=\d) (?=%)")  # no line ends there
MISSING = "the report is drawn with plotly, which is not installed: pip install 'spos[report]'"


class Html(str):
    """Text that is HTML already."""


Content = str | int | Html | Iterable["Content"] | None


def element(name: str, *content: Content, **attributes: str | int | None) -> Html:
    """`<name ...>content</name>`; what is not `Html` is escaped. `class_` is `class`, `data_x` is `data-x`."""
    pairs = (
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{''.join(pairs)}>{_joined(content)}</{name}>")


def _joined(content: Content) -> Html:
    if content is None:
        return Html("")
    if isinstance(content, Html):
        return content
    if isinstance(content, str | int):
        return Html(BEFORE_PERCENT.sub("\u00a0", html.escape(str(content))))
    return Html("".join(map(_joined, content)))


def page(findings: Findings) -> str:
    """The whole file.

    Raises:
        RunError: plotly is not installed.
    """
    library = plotly_js()
    script = _own("page.js")
    data = json.dumps(page_data(findings), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
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
        element("style", Html(_own("page.css"))),
    ]
    body = [
        element("main", *_body(findings)),
        element("div", id="card", role="status", hidden=""),
        element("script", Html(data), type="application/json", id="data"),
        element("script", Html(library)),
        element("script", Html(script)),
    ]
    return f'<!DOCTYPE html>\n<html lang="en">{element("head", head)}{element("body", body)}</html>\n'


def plotly_js() -> str:
    """The library that draws, as text.

    Raises:
        RunError: it is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise RunError(MISSING) from None
    return str(get_plotlyjs()).replace("\r\n", "\n")


def _own(name: str) -> str:
    return resources.files("spos_cli.report").joinpath(name).read_text(encoding="utf-8")


def _digest(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


def _body(findings: Findings) -> list[Html]:
    space, search, audit = findings.space, findings.search, findings.audit
    sections: list[Html] = []
    if space is not None and search is not None:
        sections += [
            tradeoff(search),
            progress(search, audit),
            winner(space, search),
            tie(search),
            choices(space, search),
        ]
    if audit is not None:
        sections += audited(audit, search)
    if findings.retrained:
        sections.append(retrained(findings))
    if findings.trainings:
        sections.append(trainings(findings))
    if findings.efforts:
        sections.append(costs(findings.efforts))
    return [header(findings), *sections, footer()]


def header(findings: Findings) -> Html:
    """What was searched, and the figures that matter most."""
    search, space = findings.search, findings.space
    sentences = []
    if space is not None:
        sentences.append(f"A space of {_many(space.size)} architectures, {space.num_layers} choice blocks deep.")
    if search is not None:
        limits = ", ".join(_limit(name, limit) for name, limit in search.limits.items() if limit is not None)
        sentences.append(f"{scored(search)}{', under a limit of ' + limits if limits else ''}.")
    else:
        sentences.append("It has not been searched yet.")
    return element(
        "header",
        element("p", "spos report", class_="kicker"),
        element("h1", findings.name),
        element("p", " ".join(sentences), class_="lede"),
        element("dl", *tiles(findings), class_="tiles"),
    )


def scored(search: Search) -> str:
    """How many candidates a search has scored, and on what, in words."""
    number, stopped, earlier = len(search.new), search.stopped, len(search.own) - len(search.new)
    of = f" of {search.planned:,} planned" if search.planned is not None and number < search.planned else ""
    sizes = sorted({search.entries[line].images for line in search.compared})
    images = " to ".join(f"{size:,}" for size in dict.fromkeys((*sizes[:1], *sizes[-1:])))
    if not sizes:
        on = " (all of them stopped early)" if stopped else ""
    elif len(sizes) > 1:  # in no journal of ours
        on = f" on {images} images"
    elif stopped:
        on = f" on the same {images} images ({stopped:,} of them, stopped early, only on the first of these)"
    else:
        on = f", each on the same {images} images"
    more = f" and {earlier:,} of an earlier search" if earlier else ""
    return f"{number:,}{of} candidates{more} were scored with the supernet’s weights{on}"


def tiles(findings: Findings) -> list[Html]:
    """The figures at the top."""
    found = []
    if (search := findings.search) is not None:
        best = search.best
        low, high = score_interval(best.right, best.images)
        found.append(tile("Best one-shot top-1", _percent(best.top1), f"95 % interval {_range(low, high)}"))
        limit = search.limits.get("flops")
        share = f"{_percent(best.flops / limit, 0)} of the limit" if limit else "no limit on FLOPs"
        found.append(
            tile("FLOPs of the winner", format_cost(best.flops), f"{share} · {format_cost(best.params)} params")
        )
        if search.ties is not None:
            found.append(tile("Tied with it", f"{len(search.ties):,}", "candidates, by a paired test"))
    if findings.retrained:
        best_alone = max(findings.retrained, key=lambda network: network.top1)
        low, high = score_interval(best_alone.right, best_alone.images)
        note = f"of {best_alone.images:,} validation images, {_range(low, high)}"
        found.append(tile("Retrained top-1", _percent(best_alone.top1), note))
    for training in findings.trainings[: 0 if found else 1]:
        known = [value for value in training.top1 if value is not None]
        if known:
            found.append(tile("Training top-1", _percent(known[-1]), f"{training.name}, step {training.steps[-1]:,}"))
    return found


def tile(title: str, value: str, note: str) -> Html:
    """One figure and what it is."""
    return element("div", element("dt", title), element("dd", value), element("dd", note, class_="note"))


def section(name: str, title: str, *content: Content) -> Html:
    """A part of the page."""
    return element("section", element("h2", title), *content, id=name)


def paragraph(*content: Content) -> Html:
    """A paragraph of explanation."""
    return element("p", *content, class_="text")


def chart(name: str, label: str, height: str = "") -> Html:
    """Where the script draws."""
    return element("div", id=name, class_=f"chart {height}".strip(), role="img", aria_label=label)


def strip(line: int) -> Html:
    """The architecture of a line of the journal, as blocks that the script draws."""
    return element("span", data_line=line, class_="strip")


def table(columns: Sequence[str], rows: Iterable[Sequence[Content]], marked: int | None = None) -> Html:
    """Rows under columns; those whose title ends in a colon are aligned left. On a narrow screen it scrolls alone."""
    left = [column.endswith(":") for column in columns]

    def cells(name: str, contents: Iterable[Content]) -> list[Html]:
        return [element(name, c, class_="left" if at else None) for c, at in zip(contents, left, strict=True)]

    head = element("thead", element("tr", cells("th", [column.rstrip(":") for column in columns])))
    lines = [
        element("tr", cells("td", row), class_="marked" if number == marked else None)
        for number, row in enumerate(rows)
    ]
    return element("div", element("table", head, element("tbody", lines)), class_="scroll")


def tradeoff(search: Search) -> Html:
    """Accuracy against cost, of all candidates."""
    imported = len(search.entries) - len(search.own)
    notes = [
        "Each point is a candidate; the later its generation, the stronger its colour. The line is the Pareto front: no"
        " candidate is both cheaper and better than one on it. The band is the winner’s 95 % interval."
    ]
    if search.ties:
        notes.append("Rings mark what a paired test cannot tell from the winner.")
    if search.stopped:
        notes.append(f"Crosses ({search.stopped:,}) were stopped early, so their scores are of fewer images.")
    if imported:
        notes.append(
            f"Diamonds ({imported:,}) come from another search; their scores were found on other images and do not"
            " count here. The best of them were scored again."
        )
    if search.covered is not None:
        notes.append(
            f"The front covers {_percent(search.covered, 1)} of the rectangle from no FLOPs to the limit and from 0 to"
            " 100 % (its hypervolume), which serves to compare searches of one space."
        )
    switch = element(
        "div",
        element("button", "FLOPs", type="button", data_cost="flops", aria_pressed="true"),
        element("button", "Parameters", type="button", data_cost="params", aria_pressed="false"),
        class_="switch",
        role="group",
        aria_label="Cost on the horizontal axis",
    )
    return section(
        "tradeoff",
        "Accuracy against cost",
        paragraph(" ".join(notes)),
        switch,
        chart("scatter", "Top-1 against cost of every candidate", "tall"),
        element("p", id="drawing", class_="note", hidden=""),
        paragraph(
            "Choose a point to keep its card here; the winner’s is here to begin with.",
            element("span", " Drag over a picture to enlarge a part of it; double-click to go back.", class_="mouse"),
        ),
        element("div", id="kept", class_="card"),
        element("div", id="legend", class_="legend"),
    )


def progress(search: Search, audit: Audit | None) -> Html:
    """The best so far, and the baseline where there is one."""
    text = (
        "The best score so far after each evaluation. It only ever rises, and it is the largest of many noisy scores:"
        " the winner’s true accuracy is likely a little lower than what is shown."
    )
    if len(search.new) < len(search.own):
        text += " What was known before the first counts from the beginning."
    if any(search.entries[line].partial for line in search.new):
        text += " Candidates that were stopped early are evaluations, too."
    if audit is not None and audit.curves.get("random"):
        text += " " + baseline(search, audit)
    else:
        text += " Whether evolution has done better than chance cannot be seen here: spos audit makes the comparison."
    return section("progress", "Best so far", paragraph(text), chart("best", "Best top-1 so far by evaluation"))


def baseline(search: Search, audit: Audit) -> str:
    """What random search reaches with the same budget, or with that of the search when it was audited, in words."""
    ends = {kind: [seed[-1] for seed in seeds if seed] for kind, seeds in audit.curves.items()}
    said = [
        f"{'random search' if kind == 'random' else kind} ends at {_range(min(values), max(values))}"
        f" ({len(values)} seed{'s' if len(values) > 1 else ''})"
        for kind, values in sorted(ends.items())
        if values
    ]
    budget = "With the same budget, "
    if audit.candidates != len(search.new):
        budget = (
            f"The audit compared searches of {audit.candidates:,} candidates, where this one has"
            f" {len(search.new):,} now: "
        )
    return f"{budget}{'; '.join(said)}."


def winner(space: SearchSpace, search: Search) -> Html:
    """The best architecture, drawn layer by layer."""
    best = search.best
    text = (
        f"Found in generation {best.generation} ({best.origin}). Read from left to right, from the image to the"
        " classes; the number in a block is that of its choice."
    )
    if space.widths:
        text += " Its height is the width, of which a block has so many channels inside."
    return section(
        "winner",
        "The winner, layer by layer",
        paragraph(text),
        paragraph(element("code", str(best.architecture))),
        network(space, best.architecture),
    )


def network(space: SearchSpace, arch: Architecture) -> Html:
    """An architecture as groups of blocks, one group a stage."""
    ops, stages, middles = ops_of(space), stages_of(space), space.hidden_channels(arch)
    first, last = space.layers[0], space.layers[-1]
    groups = [
        group(
            "Stem",
            f"{first.in_size} × {first.in_size} px",
            [fixed("3×3 conv", f"{space.stem_channels} channels", space.stem_stride)],
        )
    ]
    for number, stage in enumerate(space.stages):
        blocks = []
        for layer, option in zip(space.layers, arch.options, strict=True):
            if stages[layer.index] != number:
                continue
            op = ops.index(layer.choices[option.choice])
            meta = []
            if layer.in_channels != layer.out_channels:
                meta.append(f"{layer.in_channels} → {layer.out_channels}")
            if layer.stride > 1:
                meta.append(f"stride {layer.stride}")
            if option.width:
                meta.append(f"width {format_width(option.width)}, {middles[layer.index]} inside")
            share = 0.5 + 0.5 * option.width / max(space.widths) if option.width else 1.0
            colour = element("span", option.choice, class_=op_class(space, op), style=f"--h:{share:.3f}")
            blocks.append(
                element(
                    "li",
                    element("span", colour, class_="swatch"),
                    element("b", breakable(layer.choices[option.choice].name)),
                    element("small", " · ".join(meta) or " "),
                    class_="layer",
                )
            )
        size = next(layer.out_size for layer in space.layers if stages[layer.index] == number)
        groups.append(group(f"Stage {number + 1}", f"{stage.channels} channels · {size} × {size} px", blocks))
    head = [
        fixed("1×1 conv", f"{space.head_channels} channels", 1),
        fixed("pool, linear", f"{space.classes} classes", 1),
    ]
    groups.append(group("Head", f"{last.out_size} × {last.out_size} px", head))
    return element("div", groups, class_="network")


def breakable(name: str) -> Html:
    """A name that may be broken after each `_`."""
    return Html(_joined(name).replace("_", "_<wbr>"))


def group(title: str, note: str, blocks: Sequence[Html]) -> Html:
    """A stage of a network."""
    return element("div", element("h3", title, " ", element("small", note)), element("ol", blocks), class_="stage")


def fixed(name: str, note: str, stride: int) -> Html:
    """A layer that is the same in all architectures."""
    notes = [note, *([f"stride {stride}"] if stride > 1 else [])]
    swatch = element("span", element("span", "", class_="b fixed"), class_="swatch")
    return element("li", swatch, element("b", name), element("small", " · ".join(notes)), class_="layer")


def op_class(space: SearchSpace, op: int) -> str:
    """How an op looks; `page.js` does the same."""
    if ops_of(space)[op].op == "identity":
        return "b identity"
    return f"b op{op % COLOURS}{' hatched' if op >= COLOURS else ''}"


def tie(search: Search) -> Html:
    """What cannot be told from the winner."""
    best, title = search.best, "What is tied with it"
    if search.ties is None:
        return section(
            "tie", title, paragraph(f"The winner cannot be compared with others in pairs: {search.unknown}.")
        )
    others = _count(len(search.ties), "other candidate")
    error = math.sqrt(best.top1 * (1 - best.top1) / best.images)
    text = (
        f"All candidates{_compared(search)} are scored on the same {best.images:,} images, so they are compared in"
        f" pairs. By McNemar’s test (exact, risk 5 %, each pair for itself) {others} of"
        f" {len(search.compared) - 1:,} cannot be told from the winner. It was picked for its outcomes on these very"
        " images, so more than these may really be as good. The standard error of its score is"
        f" {100 * error:.2f} points."
    )
    cheapest = search.entries[search.cheapest]
    if search.cheapest != search.winner_line:
        text += (
            f" The cheapest of them has {format_cost(cheapest.flops)} FLOPs,"
            f" {_percent(1 - cheapest.flops / best.flops, 0)} fewer than the winner; these images cannot say which"
            " is better."
        )
    if search.unknown:
        text += f" But {search.unknown}."
    lines = search.cheapest_first(search.ties)[:SHOWN]
    rows = [_tied_row(search, line) for line in [search.winner_line, *lines]]
    more = len(search.ties) - len(lines)
    return section(
        "tie",
        title,
        paragraph(text),
        table(["architecture:", "top-1", "FLOPs", "p", "95 % interval", "params"], rows, marked=0),
        element("p", f"The winner, and the {len(lines)} cheapest; {more:,} more are tied.", class_="note")
        if more
        else None,
    )


def _compared(search: Search) -> str:
    """Which candidates are meant, where there are others."""
    return "" if len(search.compared) == len(search.entries) else " that this search has scored to the end"


def _tied_row(search: Search, line: int) -> list[Content]:
    entry, p = search.entries[line], (search.ties or {}).get(line)
    low, high = score_interval(entry.right, entry.images)
    name = element("span", strip(line), element("code", str(entry.architecture)), class_="arch")
    p_value = "winner" if p is None else f"{p:.2f}"
    costs = format_cost(entry.flops), format_cost(entry.params)
    return [name, _percent(entry.top1), costs[0], p_value, _range(low, high), costs[1]]


def choices(space: SearchSpace, search: Search) -> Html:
    """Which choices the best have."""
    text = (
        f"How often each layer has each choice: of all {len(search.compared):,} candidates{_compared(search)}, and of"
        f" the {TOP} best. A row that is stronger on the right than on the left is one that the search has come to"
        " prefer there. Ten architectures are few, and they descend from each other."
    )
    charts = [
        chart("choices-all", "Choices by layer, all candidates"),
        chart("choices-top", "Choices by layer, the best"),
    ]
    if space.widths:
        charts += [
            chart("widths-all", "Widths by layer, all candidates"),
            chart("widths-top", "Widths by layer, the best"),
        ]
    return section("choices", "Choices by layer", paragraph(text), element("div", charts, class_="pair"))


def audited(audit: Audit, search: Search | None) -> list[Html]:
    """What `spos audit` has found; the search may have gone on since."""
    sections, earlier = [], ""
    if search is not None and audit.candidates not in (0, len(search.new)):
        earlier = f" This search was audited when it had {audit.candidates:,} candidates."
    if audit.one_shot:
        sections.append(
            section(
                "fidelity",
                "Does the supernet’s ranking hold?",
                paragraph(agreement(audit)),
                chart("fidelity-chart", "Top-1 alone against one-shot top-1"),
            )
        )
    if audit.operators:
        rows = []
        for name, counts in audit.operators.items():
            proposed = counts.get("proposed", 0)
            shares = [
                f"{counts[key]:,} ({_percent(counts[key] / proposed, 0)})" if key in counts and proposed else "–"
                for key in ("accepted", "duplicate", "over_limit")
            ]
            rows.append([name, f"{proposed:,}", *shares])
        text = f"What became of the children that each operator proposed.{earlier}"
        columns = ["operator:", "proposed", "accepted", "seen before", "over a limit"]
        sections.append(section("operators", "Operators", paragraph(text), table(columns, rows)))
    if audit.images:
        text = (
            "How the tie would shrink with more search images, if differences stayed as they are: what the paired test"
            " would just tell apart, and how many of the (at most 100) best would be tied, the winner among them."
            f"{earlier}"
        )
        rows = [[f"{images:,}", f"{100 * width:.2f} points", f"{tied:,}"] for images, width, tied in audit.images]
        columns = ["images", "told apart beyond", "tied"]
        sections.append(section("images", "Would more images help?", paragraph(text), table(columns, rows)))
    return sections


def agreement(audit: Audit) -> str:
    """Whether the supernet's ranking is that of networks trained alone, in words."""
    number = len(audit.one_shot)
    steps = f" for {audit.fidelity_steps:,} steps" if audit.fidelity_steps else ""
    text = f"{_count(number, 'architecture')} {'was' if number == 1 else 'were'} trained alone{steps}."
    if audit.winner is not None:
        below = sum(alone < audit.winner[1] for alone in audit.alone)
        text += (
            f" So was the winner: with {_percent(audit.winner[1])} it is better than {below} of them. It was picked for"
            " its score, so it is not counted in the ranking."
        )
    if number < ENOUGH:
        return text + (
            f" They are too few for a rank correlation, which takes {ENOUGH}: rankings of fewer agree by chance too"
            f" often; raise audit.architectures to {ENOUGH + 1} or more."
        )
    said = "; ".join(
        f"{CORRELATIONS.get(name, name)} {_signed(value)} (95 % interval {_signed(low)} to {_signed(high)})"
        for name, (value, low, high) in audit.correlations.items()
    )
    if audit.correlations.keys() - {"kendall_of_flops"}:
        text += (
            f" 1 would be the same ranking as the supernet’s, 0 none at all: {said}. An interval that includes 0"
            " means that the supernet’s ranking has not been shown to mean anything."
        )
    else:
        text += (
            " There is no rank correlation with the supernet’s scores that has a value, as where all scores are equal."
        )
        text += f" {said[0].upper()}{said[1:]}." if said else ""
    return text


def retrained(findings: Findings) -> Html:
    """The networks that were trained alone."""
    search = findings.search

    def row(network: Retrained) -> list[Content]:
        line = search.lines.get(network.architecture) if search else None
        entry = search.entries[line] if search and line is not None else None
        low, high = score_interval(network.right, network.images)
        return [
            element(
                "span",
                strip(line) if line is not None else None,
                element("code", str(network.architecture)),
                class_="arch",
            ),
            format_cost(entry.flops) if entry else "–",
            f"{network.steps:,}",
            _percent(entry.top1) if entry and is_own(entry) else "–",
            _percent(network.top1),
            _range(low, high),
        ]

    text = (
        "Trained from scratch, and measured on the validation images at the end, after the last BatchNorm pass."
        " One-shot scores are of the supernet’s weights on the search’s images, so only their order can be compared."
    )
    columns = ["architecture:", "FLOPs", "steps", "one-shot top-1", "top-1 alone", "95 % interval"]
    best_first = sorted(findings.retrained, key=lambda network: -network.top1)
    return section("retrained", "Trained alone", paragraph(text), table(columns, map(row, best_first)))


def trainings(findings: Findings) -> Html:
    """Curves of all trainings."""
    text = (
        "Of the supernet and of what was retrained. The supernet’s top-1 is that of another random path at each step."
        " Dots are measured on the validation images, all else on the training images as augmentation makes them."
    )
    charts = [chart("loss", "Loss by step"), chart("top1", "Top-1 by step"), chart("lr", "Learning rate by step")]
    key = element("div", id="training-legend", class_="legend")
    return section("trainings", "Trainings", paragraph(text), key, element("div", charts, class_="triple"))


def costs(efforts: Sequence[Effort]) -> Html:
    """What each stage has cost."""
    rows = [
        [
            effort.stage,
            effort.work,
            _duration(effort.seconds, effort.complete),
            "–" if effort.images_per_second is None else f"{effort.images_per_second:,.0f}",
            effort.device or "not recorded",
        ]
        for effort in efforts
    ]
    text = "Wall time of the work itself, without the start of the command."
    if not all(effort.complete for effort in efforts):
        text += " “At least”: of some of the work no time was written down, since a process was killed."
    columns = ["stage:", "work:", "wall time", "images a second", "device:"]
    return section("costs", "What it has cost", paragraph(text), table(columns, rows))


def footer() -> Html:
    """How the page is to be read."""
    return element(
        "footer",
        paragraph(
            "One-shot top-1 is a candidate’s accuracy with the supernet’s shared weights; it ranks architectures, it"
            " does not say how well they do when they are trained alone. Intervals are Wilson’s, at 95 %. FLOPs are"
            " multiply-adds of convolutions and linear layers. This page works without a network and asks for nothing."
        ),
    )


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"


def _range(low: float, high: float) -> str:
    return f"{100 * low:.1f}–{100 * high:.1f} %" if low < high else _percent(low, 1)


def _signed(number: float) -> str:
    return f"{number:.2f}".replace("-", "−")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _limit(name: str, limit: int) -> str:
    return f"{format_duration(limit) if name == 'latency' else format_cost(limit)} {LABELS[name]}"


def _many(number: int) -> str:
    """`65,536`; from a million on `1.1 × 10^12`, in letters that a browser has."""
    if number < 10**6:
        return f"{number:,}"
    mantissa, exponent = f"{number:.1e}".split("e") if number < 10**300 else ("1", str(len(str(number)) - 1))
    return f"{mantissa} × 10{str(int(exponent)).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def _duration(seconds: float | None, complete: bool) -> str:
    """`4.2 s`, `3:05 min`, `2:07 h`."""
    if seconds is None:
        return "not recorded"
    if seconds < 60:
        text = f"{seconds:.1f} s"
    elif seconds < 3600:
        text = f"{int(seconds // 60)}:{int(seconds % 60):02} min"
    else:
        text = f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02} h"
    return text if complete else f"at least {text}"
