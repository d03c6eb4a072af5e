"""Find how many calibration batches are enough: `python -m tests.benchmarks.calibration RUN`.

RUN is the folder of a trained supernet. For some paths, the statistics of every batch of training images are recorded
once. Each estimator (the official one, and averages over some batches) is then drawn many times from the recorded
batches, in random order, and compared with the average over all of them. The accuracy is that of a path with the drawn
statistics.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau
from torch import Tensor

from spos_cli.config import loading
from spos_cli.engine.distributed import Processes
from spos_cli.models.counting import count
from spos_cli.run.command import Run
from spos_cli.run.images import Images
from spos_cli.run.search_inputs import make_evaluator
from spos_cli.run.weights_file import read_weights
from spos_cli.search.evaluator import Evaluator
from spos_cli.search.tree import Node, Tree
from spos_cli.space.architecture import Architecture

MOMENTUM, OFFICIAL_BATCHES = 0.1, 200
BATCHES = (5, 10, 16, 20, 24, 32, 40)
COLUMNS = ("error of statistics", "change of top-1, points", "tau, same batches", "tau, other batches for each")


def list_nodes(node: Node) -> list[Node]:
    """List a node and all nodes below it."""
    return [node, *itertools.chain.from_iterable(map(list_nodes, node.children.values()))]


def list_statistics(tree: Tree) -> list[Tensor]:
    """List the means and variances `(C,)` of all layers of a tree, in the order in which they are used."""
    return [
        tensor
        for node in list_nodes(tree.root)
        for calibration in node.calibrations
        for pair in zip(calibration.means, calibration.variances, strict=True)
        for tensor in pair
    ]


def make_official_weights(length: int) -> np.ndarray:
    """Return the weight of each batch in a running average with momentum; the initial value is negligible."""
    return MOMENTUM * (1 - MOMENTUM) ** np.arange(length)[::-1]


def record(evaluator: Evaluator, trees: Mapping[Architecture, Tree]) -> dict[Architecture, list[Tensor]]:
    """Record the statistics of every batch: for each path, `(batches, channels)` for each list of `list_statistics`."""
    calibration = evaluator.calibration
    recorded: dict[Architecture, list[Tensor]] = {}
    for path, tree in trees.items():
        batches: list[list[Tensor]] = []
        for images in torch.split(calibration.images, calibration.batch)[: calibration.batches]:
            tree.calibrate(evaluator.preprocess(images), 1.0)
            batches.append([tensor.clone() for tensor in list_statistics(tree)])
        recorded[path] = [torch.stack(layer) for layer in zip(*batches, strict=True)]
    return recorded


def measure_accuracy(evaluator: Evaluator, tree: Tree, values: list[Tensor]) -> float:
    """Return the top-1 of a path with these statistics."""
    for tensor, value in zip(list_statistics(tree), values, strict=True):
        tensor.copy_(value)
    tree.fold()
    images = torch.split(evaluator.images, evaluator.batch)
    predictions = [logits.argmax(1) for part in images for _, logits in tree.logits(evaluator.preprocess(part))]
    return float((torch.cat(predictions) == evaluator.labels).double().mean())


def measure_error(values: list[Tensor], full: list[Tensor]) -> float:
    """Return the RMS error over all channels: of means in standard deviations, of variances relative."""
    errors = []
    for mean, variance, full_mean, full_variance in zip(values[::2], values[1::2], full[::2], full[1::2], strict=True):
        errors.append((mean - full_mean) / (full_variance + 1e-5).sqrt())
        errors.append(variance / (full_variance + 1e-12) - 1)
    return float(torch.cat(errors).square().mean().sqrt())


def measure_estimator(
    weights: np.ndarray,
    draws: int,
    recorded: Mapping[Architecture, list[Tensor]],
    full: Mapping[Architecture, list[Tensor]],
    best: Mapping[Architecture, float],
    score: Callable[[Architecture, list[Tensor]], float],
) -> list[float]:
    """Draw an estimator many times, and return the means of four figures, in the order of `COLUMNS`.

    Args:
        weights: of the drawn batches.
        draws: how often to draw.
        recorded: statistics of every batch.
        full: their average over all batches.
        best: top-1 of each path with `full`.
        score: returns the top-1 of a path with other statistics.
    """
    paths, batches = list(recorded), len(next(iter(recorded.values()))[0])
    errors, changes, taus, other_taus = [], [], [], []
    scores: list[dict[Architecture, float]] = []
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(batches)[: len(weights)]
        part = torch.tensor(weights / weights.sum(), dtype=torch.float32)
        scores.append({})
        for path in paths:
            values = [torch.tensordot(part, layer[order], 1) for layer in recorded[path]]
            errors.append(measure_error(values, full[path]))
            scores[-1][path] = score(path, values)
            changes.append(abs(scores[-1][path] - best[path]) * 100)
        taus.append(kendalltau(list(best.values()), list(scores[-1].values())).statistic)
    for shift in range(draws):
        mixed = [scores[(shift + i) % draws][path] for i, path in enumerate(paths)]
        other_taus.append(kendalltau(list(best.values()), mixed).statistic)
    return [statistics.mean(figures) for figures in (errors, changes, taus, other_taus)]


def main() -> None:
    """Measure all estimators on a trained supernet, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--paths", type=int, default=16)
    parser.add_argument("--draws", type=int, default=12)
    options = parser.parse_args()
    config = loading.load(options.run / "config.yaml", [f"run_dir={options.run}", "search.calibration_images=1000000"])
    processes = Processes(0, 1, torch.device("cpu"))
    supernet = read_weights(options.run / "supernet" / "last.pt").supernet(config)
    evaluator = make_evaluator(Run(config), Run(config).folder.search, supernet, Images(config, processes), processes)
    table, rng = count(supernet.space).flops, np.random.default_rng(0)
    paths: list[Architecture] = [table.distribution().draw(rng, None, None) for _ in range(options.paths)]
    trees = {path: Tree(supernet, [path], torch.float32) for path in paths}

    def score(path: Architecture, values: list[Tensor]) -> float:
        return measure_accuracy(evaluator, trees[path], values)

    estimators = {f"momentum {MOMENTUM}, {OFFICIAL_BATCHES} batches": make_official_weights(OFFICIAL_BATCHES)}
    estimators |= {f"average of {number} batches": np.full(number, 1 / number) for number in BATCHES}
    results = Table("estimator", *COLUMNS, title=f"{options.run}, {len(paths)} paths, {options.draws} draws")
    with torch.inference_mode():
        recorded = record(evaluator, trees)
        full = {path: [layer.mean(0) for layer in recorded[path]] for path in trees}
        best = {path: score(path, full[path]) for path in trees}
        for name, weights in estimators.items():
            figures = measure_estimator(weights, options.draws, recorded, full, best, score)
            results.add_row(name, *(f"{figure:.4f}" for figure in figures))
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(results)
    spread = sorted(best.values())
    console.print(f"top-1 of the paths: {spread[0]:.2%} to {spread[-1]:.2%}, mean {statistics.mean(spread):.2%}")


if __name__ == "__main__":
    main()
