"""The sections of the report: texts, tables and empty elements for charts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from spos_cli.report.chart_data import TOP_CANDIDATES, list_network_stages, list_ops
from spos_cli.report.elements import (
    Content,
    Html,
    chart,
    element,
    escape,
    format_count,
    format_percent,
    format_range,
    format_signed,
    format_wall_time,
    paragraph,
    section,
    strip,
    table,
)
from spos_cli.report.findings import Audit, Effort, EqualFlops, Findings, Retrained, Search, score_interval
from spos_cli.report.mistakes import show_mistakes
from spos_cli.report.truth import compare_with_truth
from spos_cli.search.results import is_counted
from spos_cli.search.statistics import MIN_PAIRS
from spos_cli.space.architecture import Architecture, Option, format_width
from spos_cli.space.bits import split_bits
from spos_cli.space.cost_kinds import format_cost
from spos_cli.space.layer import Layer
from spos_cli.space.search_space import SearchSpace

OP_COLOURS = 7  # in page.css; an eighth op has the colour of the first one, hatched
MAX_TIED_ROWS = 12
CORRELATIONS = {
    "kendall": "Kendall’s τ",
    "spearman": "Spearman’s ρ",
    "kendall_of_flops": "for comparison, τ between FLOPs and stand-alone top-1",
}


def make_sections(findings: Findings) -> list[Html]:
    """Return a section for everything that the run has."""
    space, search, audit = findings.space, findings.search, findings.audit
    sections: list[Html | None] = []
    if space is not None and search is not None:
        sections += [
            tradeoff(search),
            progress(search, audit),
            winner(space, search),
            ties(search),
            choices(space, search),
        ]
    if audit is not None:
        changed = search is not None and audit.candidates not in (0, len(search.new))
        note = f" This search was audited when it had {audit.candidates:,} candidates." if changed else ""
        sections += [fidelity(audit), operators(audit, note), more_images(audit, note)]
    if findings.truth is not None:
        sections.append(compare_with_truth(findings.truth))
    if findings.retrained:
        sections.append(retrained(findings))
    if findings.evaluation is not None:
        sections.append(show_mistakes(findings.evaluation))
    if findings.trainings:
        sections.append(trainings())
    if findings.efforts:
        sections.append(costs(findings.efforts))
    return list(filter(None, sections))


def tradeoff(search: Search) -> Html:
    """Return the chart of accuracy against cost."""
    imported = len(search.entries) - len(search.counted)
    notes = [
        "Each point is a candidate; the later its generation, the stronger its colour. The line is the Pareto front: no"
        " candidate is both cheaper and better than one on it. The band is the winner’s 95 % interval."
    ]
    if search.ties:
        notes.append("Rings mark candidates that are statistically tied with the winner.")
    if search.stopped_early:
        notes.append(f"Crosses ({search.stopped_early:,}) were stopped early; their scores come from fewer images.")
    if imported:
        notes.append(
            f"Diamonds ({imported:,}) come from another search. Their scores were measured on other images and do not"
            " count here; the best of them were scored again."
        )
    if search.hypervolume is not None:
        notes.append(
            f"The front covers {format_percent(search.hypervolume, 1)} of the rectangle from 0 to the"
            f" {search.kinds[search.front_cost].noun} limit and from 0 to 100 % {search.best.score_name} (its"
            " hypervolume). Use this number to compare searches of the same space."
        )
    if search.latency_of:
        notes.append(f"Latencies are sums over the blocks, by the table of {search.latency_of}.")
    buttons = [
        element(
            "button",
            kind.noun[0].upper() + kind.noun[1:],
            type="button",
            data_cost=kind.name,
            aria_pressed=str(kind == search.shown_cost).lower(),
        )
        for kind in search.costs
    ]
    switch = element(
        "div",
        buttons,
        class_="switch",
        role="group",
        aria_label="Cost on the horizontal axis",
    )
    return section(
        "tradeoff",
        "Accuracy against cost",
        paragraph(" ".join(notes)),
        switch,
        chart("scatter", f"{search.best.score_name.capitalize()} against cost of every candidate", "tall"),
        element("p", id="drawing", class_="note", hidden=""),
        paragraph(
            "Select a point to keep its card here. At first, this is the winner’s card.",
            element("span", " Drag over a chart to zoom in; double-click to zoom out.", class_="mouse"),
        ),
        element("div", id="kept", class_="card"),
        element("div", id="legend", class_="legend"),
    )


def progress(search: Search, audit: Audit | None) -> Html:
    """Return the chart of the best score so far, with random search for comparison if the search was audited."""
    text = (
        "The best score so far, after each evaluation. It never falls, and it is the largest of many noisy scores: the"
        " winner’s true accuracy is likely a little lower."
    )
    if len(search.new) < len(search.counted):
        text += " Scores that were known before the search count from the beginning."
    if any(search.entries[line].partial for line in search.new):
        text += " Candidates that were stopped early count as evaluations."
    if audit is not None and audit.curves.get("random"):
        text += " " + describe_baseline(search, audit)
    else:
        text += " This does not show whether evolution beats random search: spos audit compares them."
    return section(
        "progress", "Best so far", paragraph(text), chart("best", f"Best {search.best.score_name} so far by evaluation")
    )


def describe_baseline(search: Search, audit: Audit) -> str:
    """Return, in words, what the audit's searches reach with the same budget, or with the budget at that time."""
    ends = {kind: [seed[-1] for seed in seeds if seed] for kind, seeds in audit.curves.items()}
    results = [
        f"{'random search' if kind == 'random' else kind} ends at {format_range(min(values), max(values))}"
        f" ({format_count(len(values), 'seed')})"
        for kind, values in sorted(ends.items())
        if values
    ]
    if audit.candidates == len(search.new):
        budget = "With the same budget, "
    else:
        budget = (
            f"The audit compared searches of {audit.candidates:,} candidates; this one has {len(search.new):,} now: "
        )
    return f"{budget}{'; '.join(results)}."


def winner(space: SearchSpace, search: Search) -> Html:
    """Return the drawing of the best architecture."""
    best = search.best
    text = (
        f"Found in generation {best.generation} ({best.origin}). Read it from left to right, from the image to the"
        " classes. The number in a block is the index of its choice."
    )
    if space.widths:
        text += " The height of a block shows its width; below it is the number of its hidden channels."
    if space.bits:
        text += " Below a block are the bits of its weights, and then those of its activations."
    return section(
        "winner",
        "The winner, layer by layer",
        paragraph(text),
        paragraph(element("code", str(best.architecture))),
        network(space, best.architecture),
    )


def network(space: SearchSpace, arch: Architecture) -> Html:
    """Return an architecture as groups of blocks, one group per network stage."""
    network_stages, hidden = list_network_stages(space), space.hidden_channels(arch)
    all_layers = space.layers_of(arch)
    first, last = all_layers[0], all_layers[-1]
    stem = [fixed_layer("3×3 conv", f"{space.stem_channels} channels", space.stem_stride)]
    groups = [layer_group("Stem", f"{first.in_size} × {first.in_size} px", stem)]
    for number in range(len(space.stages)):
        layers = [layer for layer in all_layers if network_stages[layer.index] == number]
        blocks = [choice_block(space, layer, arch.options[layer.index], hidden) for layer in layers]
        channels, size = layers[0].out_channels, layers[0].out_size
        groups.append(layer_group(f"Stage {number + 1}", f"{channels} channels · {size} × {size} px", blocks))
    head = [
        fixed_layer("1×1 conv", f"{space.head_channels} channels", 1),
        *([fixed_layer("pool, linear", f"{space.head_linear} features", 1)] if space.head_linear else []),
        fixed_layer("linear" if space.head_linear else "pool, linear", f"{space.classes} classes", 1),
    ]
    groups.append(layer_group("Head", f"{last.out_size} × {last.out_size} px", head))
    return element("div", groups, class_="network")


def choice_block(space: SearchSpace, layer: Layer, option: Option, hidden: Sequence[int | None]) -> Html:
    """Return one choice block of a network.

    Args:
        option: of the layer.
        hidden: hidden channels of each layer.
    """
    choice, width, bits, notes = option.choice, option.width, option.bits, list[str]()
    if layer.in_channels != layer.out_channels:
        notes.append(f"{layer.in_channels} → {layer.out_channels}")
    if layer.stride > 1:
        notes.append(f"stride {layer.stride}")
    if width:
        notes.append(f"width {format_width(width)}, {hidden[layer.index]} hidden")
    if bits:
        notes.append("{} and {} bits".format(*split_bits(bits)))
    height = 0.5 + 0.5 * width / max(space.widths) if width else 1.0
    op = list_ops(space).index(layer.choices[choice])
    colour = element("span", choice, class_=op_class(space, op), style=f"--h:{height:.3f}")
    # A name may be broken after each `_`.
    name = Html(escape(layer.choices[choice].name).replace("_", "_<wbr>"))
    return element(
        "li",
        element("span", colour, class_="swatch"),
        element("b", name),
        element("small", " · ".join(notes) or " "),
        class_="layer",
    )


def fixed_layer(name: str, note: str, stride: int) -> Html:
    """Return a layer that all architectures have."""
    notes = [note, *([f"stride {stride}"] if stride > 1 else [])]
    swatch = element("span", element("span", "", class_="b fixed"), class_="swatch")
    return element("li", swatch, element("b", name), element("small", " · ".join(notes)), class_="layer")


def layer_group(title: str, note: str, blocks: Sequence[Html]) -> Html:
    """Return the blocks of a network stage, or of the stem or the head."""
    return element("div", element("h3", title, " ", element("small", note)), element("ol", blocks), class_="stage")


def op_class(space: SearchSpace, op: int) -> str:
    """Return the CSS classes of an op, as `opClass` in page.js does."""
    if list_ops(space)[op].op == "identity":
        return "b identity"
    return f"b op{op % OP_COLOURS}{' hatched' if op >= OP_COLOURS else ''}"


def ties(search: Search) -> Html:
    """Return the table of candidates that are statistically tied with the winner."""
    best, title = search.best, "Statistically tied with the winner"
    if search.ties is None:
        return section("tie", title, paragraph(f"The paired test is not possible: {search.ties_unknown}."))
    number = len(search.ties)
    error = math.sqrt(best.score * (1 - best.score) / (best.effective_images or best.images))
    test = "McNemar’s exact test" if best.balanced is None else "a sign-flip test with the weights of balanced accuracy"
    text = (
        f"All candidates{_which_scored(search)} are scored on the same {best.images:,} images, so they can be compared"
        " image by image. By"
        f" {test} (significance level 5 %, each pair by itself),"
        f" {number:,} of the {len(search.comparable) - 1:,} other candidates {'is' if number == 1 else 'are'}"
        " statistically tied with the winner. The winner was selected on these images, so the set of truly equivalent"
        f" candidates is likely larger. The standard error of its score is {100 * error:.2f} points."
    )
    if search.cheapest_tied != search.winner_line:
        cost, label = search.entries[search.cheapest_tied].main_cost, search.main_cost.label
        text += (
            f" The cheapest of them has {format_cost(cost)} {label}, {format_percent(1 - cost / best.main_cost, 0)}"
            " fewer than the winner; these images do not show which of the two is better."
        )
    if search.ties_unknown:
        text += f" Note: {search.ties_unknown}."
    lines = search.sort_by_cost(search.ties)[:MAX_TIED_ROWS]
    rows = [_tied_row(search, line) for line in [search.winner_line, *lines]]
    more = number - len(lines)
    columns = ["architecture:", best.score_name, search.main_cost.title, "p", "95 % interval", "params"]
    note = f"The winner and the {len(lines)} cheapest tied candidates; {more:,} more are tied."
    return section(
        "tie",
        title,
        paragraph(text),
        table(columns, rows, marked=0),
        element("p", note, class_="note") if more else None,
    )


def _which_scored(search: Search) -> str:
    """Return which candidates are meant, if there are others."""
    return "" if len(search.comparable) == len(search.entries) else " that this search has scored to the end"


def _tied_row(search: Search, line: int) -> list[Content]:
    entry, p_value = search.entries[line], (search.ties or {}).get(line)
    low, high = entry.interval
    return [
        element("span", strip(line), element("code", str(entry.architecture)), class_="arch"),
        format_percent(entry.score),
        format_cost(entry.main_cost),
        "winner" if p_value is None else f"{p_value:.2f}",
        format_range(low, high),
        format_cost(entry.params),
    ]


def choices(space: SearchSpace, search: Search) -> Html:
    """Return the charts of how often each layer has each choice, each width and each pair of bits."""
    text = (
        "How often each choice occurs in each layer: in"
        f" all {len(search.comparable):,} candidates{_which_scored(search)}, and in the {TOP_CANDIDATES} best. A"
        " choice that is stronger among the best is one that the search has come to prefer in that layer. But"
        f" {TOP_CANDIDATES} architectures are few, and they descend from each other."
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
    if space.bits:
        charts += [chart("bits-all", "Bits by layer, all candidates"), chart("bits-top", "Bits by layer, the best")]
    return section("choices", "Choices by layer", paragraph(text), element("div", charts, class_="pair"))


def fidelity(audit: Audit) -> Html | None:
    """Return the chart of stand-alone against one-shot accuracy; None if nothing was trained stand-alone."""
    if not audit.one_shot:
        return None
    return section(
        "fidelity",
        "Does the supernet’s ranking hold?",
        paragraph(describe_agreement(audit)),
        paragraph(describe_equals(audit.equal_flops)) if audit.equal_flops else None,
        chart("fidelity-chart", "Stand-alone top-1 against one-shot top-1"),
    )


def describe_agreement(audit: Audit) -> str:
    """Return, in words, how well the supernet's ranking agrees with the ranking of stand-alone networks."""
    number = len(audit.one_shot)
    steps = f" for {audit.fidelity_steps:,} steps" if audit.fidelity_steps else ""
    text = f"{format_count(number, 'architecture')} {'was' if number == 1 else 'were'} trained stand-alone{steps}."
    if audit.winner is not None:
        below = sum(top1 < audit.winner[1] for top1 in audit.stand_alone)
        text += (
            f" So was the winner: with {format_percent(audit.winner[1])} it is better than {below} of them. It was"
            " selected for its score, so the correlation leaves it out."
        )
    if number < MIN_PAIRS:
        return text + (
            f" They are too few for a rank correlation, which needs {MIN_PAIRS}: shorter rankings too often agree by"
            f" chance. Raise audit.architectures to {MIN_PAIRS + 1} or more."
        )
    values = "; ".join(
        f"{CORRELATIONS.get(name, name)} {format_signed(value)}"
        f" (95 % interval {format_signed(low)} to {format_signed(high)})"
        for name, (value, low, high) in audit.correlations.items()
    )
    if audit.correlations.keys() - {"kendall_of_flops"}:
        return text + (
            f" Correlation with the supernet’s ranking (1 is the same ranking, 0 is chance): {values}. If an interval"
            " includes 0, the supernet’s ranking has not been shown to mean anything."
        )
    text += " The rank correlation with the supernet’s scores is undefined, as where all scores are equal."
    return text + (f" {values[0].upper()}{values[1:]}." if values else "")


def describe_equals(equals: EqualFlops) -> str:
    """Return, in words, how the winner compares with random networks of about its FLOPs, shown as diamonds."""
    number = len(equals.stand_alone)
    text = f"Diamonds are random networks of about the winner’s FLOPs ({number}): what a search has to tell apart."
    if equals.kendall is not None:
        value, low, high = map(format_signed, equals.kendall)
        text += f" Among them, Kendall’s τ of the supernet is {value} (95 % interval {low} to {high})."
    if equals.difference is not None:
        value, low, high = (f"{100 * number:+.2f}" for number in equals.difference)
        text += (
            f" The winner’s mean top-1 minus theirs is {value} points (95 % interval {low} to {high}). If the interval"
            " includes 0, the search has not been shown to beat chance."
        )
    return text


def operators(audit: Audit, note: str) -> Html | None:
    """Return the table of what happened to each operator's children; None if the audit has none."""
    if not audit.operators:
        return None
    rows = []
    for name, counts in audit.operators.items():
        proposed = counts.get("proposed", 0)
        shares = [
            f"{counts[key]:,} ({format_percent(counts[key] / proposed, 0)})" if key in counts and proposed else "–"
            for key in ("accepted", "duplicate", "over_limit")
        ]
        rows.append([name, f"{proposed:,}", *shares])
    text = f"What happened to the children that each operator proposed.{note}"
    columns = ["operator:", "proposed", "accepted", "seen before", "outside a limit"]
    return section("operators", "Operators", paragraph(text), table(columns, rows))


def more_images(audit: Audit, note: str) -> Html | None:
    """Return the table of what the paired test would detect with more search images; None if the audit has none."""
    if not audit.images:
        return None
    text = (
        "What more search images would show if the differences between candidates stayed the same: the smallest"
        " difference that the paired test would detect, and how many of the (at most 100) best candidates, including"
        f" the winner, would be statistically tied.{note}"
    )
    rows = [[f"{images:,}", f"{100 * width:.2f} points", f"{tied:,}"] for images, width, tied in audit.images]
    columns = ["images", "smallest difference", "tied"]
    return section("images", "Would more images help?", paragraph(text), table(columns, rows))


def retrained(findings: Findings) -> Html:
    """Return the table of networks that were trained stand-alone; those with the last weights come first."""
    search = findings.search

    def row(network: Retrained) -> list[Content]:
        line = search.line_of.get(network.architecture) if search else None
        entry = search.entries[line] if search and line is not None else None
        low, high = score_interval(network.right, network.images)
        blocks = strip(line) if line is not None else None
        ended_early = f" of {network.planned_steps:,}, ended early" if network.planned_steps else ""
        return [
            element("span", blocks, element("code", str(network.architecture)), class_="arch"),
            format_cost(entry.main_cost) if entry else "–",
            f"{network.steps:,}{ended_early}",
            *([f"best of {network.evaluations:,}" if network.evaluations else "last"] if is_selected else []),
            format_percent(entry.score) if entry and is_counted(entry) else "–",
            format_percent(network.top1),
            format_range(low, high),
        ]

    is_selected = any(network.evaluations for network in findings.retrained)
    text = (
        "Trained from scratch, and measured on the validation images at the end, after the last BatchNorm pass."
        " One-shot scores use the supernet’s weights and the search’s images, so compare only their order."
    )
    if is_selected:
        text += (
            " The weights of best.pt were chosen as the best of several evaluations on these validation images, so"
            " their accuracy there is optimistic."
        )
    one_shot = f"one-shot {search.best.score_name if search else 'top-1'}"
    cost = search.main_cost.title if search else "FLOPs"
    columns = ["architecture:", cost, "steps", *["weights"] * is_selected, one_shot, "stand-alone top-1"]
    in_order = sorted(findings.retrained, key=lambda network: (network.evaluations > 0, -network.top1))
    rows = table([*columns, "95 % interval"], map(row, in_order))
    return section("retrained", "Stand-alone networks", paragraph(text), rows)


def trainings() -> Html:
    """Return the charts of all trainings."""
    text = (
        "The trainings of the supernet and of stand-alone networks. The supernet’s top-1 is measured on another random"
        " path at each step. Dots are measured on the validation images, everything else on augmented training images."
    )
    charts = [chart("loss", "Loss by step"), chart("top1", "Top-1 by step"), chart("lr", "Learning rate by step")]
    key = element("div", id="training-legend", class_="legend")
    return section("trainings", "Trainings", paragraph(text), key, element("div", charts, class_="triple"))


def costs(efforts: Sequence[Effort]) -> Html:
    """Return the table of what each stage has cost."""
    rows = [
        [
            effort.stage,
            effort.work,
            format_wall_time(effort.seconds, effort.complete),
            "–" if effort.images_per_second is None else f"{effort.images_per_second:,.0f}",
            effort.device or "not recorded",
        ]
        for effort in efforts
    ]
    text = "Wall time of the work itself, without the start of the command."
    if not all(effort.complete for effort in efforts):
        text += " “At least”: a process was killed, and the time of its last work was not recorded."
    columns = ["stage:", "work:", "wall time", "images per second", "device:"]
    return section("costs", "Time and devices", paragraph(text), table(columns, rows))
