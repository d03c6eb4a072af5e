"""The data of the report's charts, as JSON for `page.js`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from spos_cli.engine.mistakes import Mistakes
from spos_cli.report.findings import Audit, Findings, Number, Search, Training, TruthComparison
from spos_cli.search.journal import Origin
from spos_cli.search.results import Results, ranking
from spos_cli.space.architecture import Architecture
from spos_cli.space.bits import format_bits
from spos_cli.space.choices import Choice
from spos_cli.space.cost_kinds import CostKind
from spos_cli.space.limits import Limit
from spos_cli.space.search_space import SearchSpace

# The digits of choices (at most `MAX_CHOICES`) and of bits, one each, and of widths (two digits each); as in page.js.
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
TOP_CANDIDATES = 10  # whose choices are compared with the choices of all candidates
MAX_CURVE_POINTS = 1500
MAX_MATRIX_CLASSES = 30  # of a confusion matrix as a picture


def make_chart_data(findings: Findings) -> dict[str, Any]:
    """Return what `page.js` draws, as plain types and short: 20,000 candidates take about a megabyte."""
    data: dict[str, Any] = {"trainings": [_training(thin_out(training)) for training in findings.trainings]}
    if findings.space is not None and findings.search is not None:
        data["space"] = _space(findings.space)
        data["search"] = _search(findings.space, findings.search)
    if findings.audit is not None:
        data["audit"] = _audit(findings.audit)
    if findings.truth is not None:
        data["truth"] = _truth(findings.truth)
    if findings.evaluation is not None:
        data["mistakes"] = _mistakes(findings.evaluation.mistakes)
    return data


def list_ops(space: SearchSpace) -> list[Choice]:
    """Return the different choices of all layers, in order of appearance; identity is last."""
    choices = dict.fromkeys(choice for layer in space.layers for choice in layer.choices)
    return sorted(choices, key=lambda choice: choice.op == "identity")


def list_network_stages(space: SearchSpace) -> list[int]:
    """Return the network stage of each layer, from 0."""
    return [number for number, stage in enumerate(space.stages) for _ in range(stage.blocks)]


def count_choice_shares(space: SearchSpace, archs: Sequence[Architecture]) -> list[list[Number]]:
    """Return the share of architectures with each op in each layer: `[op][layer]`, ops as in `list_ops`.

    None where a layer does not have the op.
    """
    ops, count = list_ops(space), max(1, len(archs))
    choices = np.array([arch.choices for arch in archs], np.int64).reshape(len(archs), space.num_layers)
    shares: list[list[Number]] = [[None] * space.num_layers for _ in ops]
    for layer in space.layers:
        counts = np.bincount(choices[:, layer.index], minlength=len(layer.choices))
        for choice, number in zip(layer.choices, counts.tolist(), strict=False):
            shares[ops.index(choice)][layer.index] = number / count
    return shares


def count_width_shares(widths: Sequence[int], archs: Sequence[Architecture], layers: int) -> list[list[Number]]:
    """Return the share of architectures with each width (in thousandths) in each layer: `[width][layer]`."""
    return _count_shares(widths, [arch.widths for arch in archs], layers)


def count_bits_shares(bits: Sequence[int], archs: Sequence[Architecture], layers: int) -> list[list[Number]]:
    """Return the share of architectures with each pair of bits in each layer: `[pair][layer]`."""
    return _count_shares(bits, [arch.bits for arch in archs], layers)


def _count_shares(values: Sequence[int], rows: Sequence[Sequence[int]], layers: int) -> list[list[Number]]:
    """Return the share of rows with each value in each layer; an empty row has zeros."""
    table = np.array([row or (0,) * layers for row in rows], np.int64).reshape(len(rows), layers)
    return [((table == value).mean(axis=0) if len(rows) else np.zeros(layers)).tolist() for value in values]


def find_improvements(scores: Sequence[Number]) -> tuple[list[int], list[float]]:
    """Return where the best score so far rises, and its new values.

    Positions are counted from 1. The last position is always added, so that a curve extends to the end. A score of
    None has a position but is never the best; if there is no other score, both lists are empty.
    """
    positions: list[int] = []
    values: list[float] = []
    for position, score in enumerate(scores, 1):
        if score is not None and (not values or score > values[-1]):
            positions.append(position)
            values.append(score)
    if positions and positions[-1] < len(scores):
        positions.append(len(scores))
        values.append(values[-1])
    return positions, values


def thin_out(training: Training) -> Training:
    """Return the same curves with at most `MAX_CURVE_POINTS` points at equal distances, including the last one."""
    stride = math.ceil(len(training.steps) / MAX_CURVE_POINTS)
    if stride <= 1:
        return training
    keep = slice((len(training.steps) - 1) % stride, None, stride)
    values = (training.steps[keep], training.loss[keep], training.top1[keep], training.lr[keep])
    return Training(training.name, *values, training.val_steps, training.val_loss, training.val_top1)


def _training(training: Training) -> dict[str, Any]:
    return {
        "name": training.name,
        "step": list(training.steps),
        "loss": _rounded(training.loss),
        "top1": _rounded(training.top1),
        "lr": _rounded(training.lr),
        "val_step": list(training.val_steps),
        "val_loss": _rounded(training.val_loss),
        "val_top1": _rounded(training.val_top1),
    }


def _space(space: SearchSpace) -> dict[str, Any]:
    ops = list_ops(space)
    return {
        "ops": [choice.name for choice in ops],
        "identity": [index for index, choice in enumerate(ops) if choice.op == "identity"],
        "layers": [[ops.index(choice) for choice in layer.choices] for layer in space.layers],
        "stages": list_network_stages(space),
    }


def _search(space: SearchSpace, search: Search) -> dict[str, Any]:
    entries = search.entries
    intervals = [entry.interval for entry in entries]
    origins = list(get_args(Origin))
    comparable = [entries[line] for line in search.comparable]
    archs = [entry.architecture for entry in comparable]
    top = [entry.architecture for entry in ranking(comparable)[:TOP_CANDIDATES]]
    positions, values = find_improvements([score if score >= 0 else None for score in Results.of(entries).best_so_far])
    data = {
        # One digit per layer, one candidate after another.
        "archs": "".join(DIGITS[choice] for entry in entries for choice in entry.architecture),
        "costs": {kind.name: _cost(kind, [entry.get_cost(kind.name) for entry in entries]) for kind in search.costs},
        "score": _rounded(entry.score for entry in entries),
        "score_name": search.best.score_name,
        "top5": _rounded(entry.top5 for entry in entries),
        "low": _rounded(low for low, _ in intervals),
        "high": _rounded(high for _, high in intervals),
        "images": _one_if_equal([entry.images for entry in entries]),
        "generation": [entry.generation for entry in entries],
        "origins": origins,
        "origin": [origins.index(entry.origin) for entry in entries],
        "stopped_early": [line for line, entry in enumerate(entries) if entry.partial],
        "earlier": [line for line, entry in enumerate(entries) if entry.earlier],
        "tied": sorted(search.ties or ()),
        "exported": sorted(line for arch, line in search.line_of.items() if arch in search.exported),
        "winner": search.winner_line,
        "front": {kind.name: search.front(kind.name) for kind in search.costs},
        "cost": search.shown_cost.name,  # on the axis at first
        # By cost, its maximum, or the two ends of its range.
        "limits": {name: _bounds(limit) for name, limit in search.limits.items()},
        "best": {"at": positions, "score": _rounded(values)},
        "choice_shares": {
            "all": _matrix(count_choice_shares(space, archs)),
            "top": _matrix(count_choice_shares(space, top)),
        },
    }
    if space.widths:
        data |= _widths(space, search, archs, top)
    return data | _bits(space, search, archs, top) if space.bits else data


def _cost(kind: CostKind, values: list[int]) -> dict[str, Any]:
    """Return the values of a cost, and how to write them: as sizes, or divided by a scale, with a unit."""
    return {"title": kind.noun, "values": values, "scale": kind.scale, "unit": kind.unit}


def _bounds(limit: Limit | None) -> int | list[int] | None:
    if limit is None:
        return None
    return limit.high if limit.low is None else [limit.low, limit.high]


def _widths(
    space: SearchSpace, search: Search, archs: Sequence[Architecture], top: Sequence[Architecture]
) -> dict[str, Any]:
    """Return the widths of all candidates, and how often each width occurs in `archs` and in `top`."""
    base, widths = len(DIGITS), [0, *space.widths]  # 0: a layer without a width, such as identity
    codes = {width: DIGITS[index // base] + DIGITS[index % base] for index, width in enumerate(widths)}
    return {
        "widths": widths,
        # Two digits per layer, one candidate after another.
        "width_codes": "".join(codes[width] for entry in search.entries for width in entry.architecture.columns[1]),
        "width_shares": {
            "all": _matrix(count_width_shares(space.widths, archs, space.num_layers)),
            "top": _matrix(count_width_shares(space.widths, top, space.num_layers)),
        },
    }


def _bits(
    space: SearchSpace, search: Search, archs: Sequence[Architecture], top: Sequence[Architecture]
) -> dict[str, Any]:
    """Return the bits of all candidates, and how often each pair occurs in `archs` and in `top`."""
    codes = {pair: DIGITS[index] for index, pair in enumerate((0, *space.bits))}  # 0: a layer without bits
    return {
        "bits": ["", *map(format_bits, space.bits)],
        # One digit per layer, one candidate after another.
        "bits_codes": "".join(codes[pair] for entry in search.entries for pair in entry.architecture.columns[2]),
        "bits_shares": {
            "all": _matrix(count_bits_shares(space.bits, archs, space.num_layers)),
            "top": _matrix(count_bits_shares(space.bits, top, space.num_layers)),
        },
    }


def _audit(audit: Audit) -> dict[str, Any]:
    curves = {}
    for kind, seeds in audit.curves.items():
        improvements = [find_improvements(seed) for seed in seeds]
        curves[kind] = [{"at": positions, "score": _rounded(values)} for positions, values in improvements]
    return {
        "curves": curves,
        "one_shot": _rounded(audit.one_shot),
        "stand_alone": _rounded(audit.stand_alone),
        "winner": _rounded(audit.winner or ()),
        "equal_one_shot": _rounded(audit.equal_flops.one_shot if audit.equal_flops else ()),
        "equal_stand_alone": _rounded(audit.equal_flops.stand_alone if audit.equal_flops else ()),
        "flops": list(audit.fidelity_flops),
    }


def _truth(truth: TruthComparison) -> dict[str, Any]:
    """Return the networks at equal distances in their order, at most `MAX_CURVE_POINTS` of them."""
    points = truth.points[:: max(1, math.ceil(len(truth.points) / MAX_CURVE_POINTS))]
    return {
        "one_shot": _rounded(one_shot for one_shot, _, _ in points),
        "stand_alone": _rounded(alone for _, alone, _ in points),
        "flops": _rounded(flops for _, _, flops in points),
    }


def list_matrix_classes(mistakes: Mistakes) -> list[int]:
    """Return the classes that occur, in the order of labels, if a confusion matrix can show them; else none."""
    classes = [label for label, one in enumerate(mistakes.classes) if one.occurs]
    return classes if len(classes) <= MAX_MATRIX_CLASSES else []


def _mistakes(mistakes: Mistakes) -> dict[str, Any]:
    """Return the confusion matrix, `[class][predicted class]`, if it is small, and the bins that have images."""
    classes = list_matrix_classes(mistakes)
    row_of = {label: row for row, label in enumerate(classes)}
    matrix = [[0] * len(classes) for _ in classes]
    for row, label in enumerate(classes):
        matrix[row][row] = mistakes.classes[label].correct
    for one in mistakes.confusions if classes else ():
        matrix[row_of[one.label]][row_of[one.predicted]] = one.images
    bins = [one for one in mistakes.bins if one.images]
    return {
        "classes": [mistakes.classes[label].name for label in classes],
        "matrix": matrix,
        "confidence": _rounded(one.confidence for one in bins),
        "accuracy": _rounded(one.accuracy for one in bins),
        "images": [one.images for one in bins],
    }


def _rounded(values: Any) -> list[Number]:
    """Round to five digits, more than a screen shows; None for numbers that JSON does not have."""
    return [None if value is None or not math.isfinite(value) else float(f"{value:.5g}") for value in values]


def _matrix(rows: Sequence[Sequence[Number]]) -> list[list[Number]]:
    return [_rounded(row) for row in rows]


def _one_if_equal(values: Sequence[int]) -> int | list[int]:
    """Return one number if all values are equal, else the list."""
    return values[0] if len(set(values)) == 1 else list(values)
