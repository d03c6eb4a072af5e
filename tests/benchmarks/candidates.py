"""A search of fifty candidates at 224 px: the published way one by one, ours as trees of candidates.

Rates are measured on some batches of each side, in turns, and the whole is extrapolated from them: 200 batches of 128
training images and 8,000 scored images for each published candidate, which decodes them again; for ours the default
number of calibration images and the same 8,000 images, which are decoded once. What is scored has intervals of one
width on both sides. Loading and scoring take turns on both sides.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spos_cli.config.schema import SearchConfig
from spos_cli.data.image_files import decode
from spos_cli.data.loaders import chunks
from spos_cli.data.transforms import EvalTransform, preprocess
from spos_cli.engine.evaluation import CPU_BATCH
from spos_cli.models.counting import count
from spos_cli.models.skeleton import initialize
from spos_cli.models.supernet import Supernet
from spos_cli.search.evolution import Evolution
from spos_cli.search.scoring import GROUP
from spos_cli.search.tree import Tree
from spos_cli.space.architecture import Architecture
from spos_cli.space.search_space import PUBLISHED
from tests.benchmarks import photographs, published
from tests.benchmarks.comparison import Comparison

CANDIDATES, SCORED = 50, 8000
CALIBRATED = SearchConfig().calibration_images
LIMIT = 330_000_000
# Share of the images that are scored with `racing` about 0.1: `python -m tests.benchmarks.racing` on Fashion-MNIST.
RACED = 0.80


def candidates() -> list[list[Architecture]]:
    """Those of a search of five generations, whose scores are the cost and some noise, in groups as they are scored."""
    table, rng = count(PUBLISHED).flops, np.random.default_rng(0)
    evolution = Evolution(
        table=table,
        limit=LIMIT,
        population=CANDIDATES // 5,
        generations=4,
        parents=5,
        mutations=5,
        crossovers=5,
        mutation_probability=0.1,
        seed=0,
    )
    scored = evolution.search(lambda drawn: [table.of(c.architecture) * rng.normal(1, 0.02) for c in drawn])
    generations = [sorted(candidate.architecture for candidate, _ in generation) for generation in scored]
    return [group for generation in generations for group in chunks(generation, GROUP)]


@dataclass
class Seconds:
    """Of one image in one candidate, on average over the candidates; decoding apart."""

    calibration: float
    scoring: float


def exhaust(tree: Tree, images: Tensor) -> None:
    """The logits of all candidates, not kept."""
    for _ in tree.logits(images):
        pass


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def ours(supernet: Supernet, pixels: Tensor, groups: list[list[Architecture]], dtype: torch.dtype) -> Seconds:
    """One batch of calibration and four smaller ones of scoring, of all candidates."""
    seconds = Seconds(0.0, 0.0)
    images = preprocess("spos", pixels)
    number = sum(map(len, groups))
    with torch.inference_mode():
        for group in groups:
            tree = Tree(supernet, group, dtype)
            seconds.calibration += timed(partial(tree.calibrate, images, 1.0)) / len(pixels) / number
            tree.fold()
            for part in torch.split(images, CPU_BATCH):
                seconds.scoring += timed(partial(exhaust, tree, part)) / len(pixels) / number
    return seconds


def theirs(model: published.Supernet, path: Architecture, loaded: dict[bool, Iterator[published.Batch]]) -> Seconds:
    """One batch of calibration and one of scoring of one candidate, decoding included."""
    calibration = timed(lambda: published.calibration_pass(model, path, loaded[True], 1)) / published.CALIBRATION_BATCH
    scoring = timed(lambda: published.scoring_pass(model, path, loaded[False], 1)) / published.SCORING_BATCH
    return Seconds(calibration, scoring)


def search(dtype: torch.dtype = torch.bfloat16, turns: int = 3) -> list[Comparison]:
    """Searches of fifty candidates an hour, without races and with them."""
    supernet = Supernet(PUBLISHED)
    initialize(supernet, 0)
    model = published.load(published.Supernet(), supernet.state_dict())
    supernet.to(memory_format=torch.channels_last).eval()
    groups = candidates()
    baseline: list[float] = []
    plain: list[float] = []
    raced: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        paths, labels = photographs.write(Path(folder), 64)
        transform = EvalTransform("spos", 224, stored=False)
        images = torch.stack([transform(decode(path)) for path in paths])
        batch = torch.cat((images, images)).contiguous(memory_format=torch.channels_last)
        decoding = timed(lambda: [transform(decode(path)) for path in paths]) / len(paths)
        sizes = {True: published.CALIBRATION_BATCH, False: published.SCORING_BATCH}
        loaded = {train: published.batches(paths, labels, train=train, batch=sizes[train]) for train in (True, False)}
        for turn in range(turns + 1):
            there = theirs(model, groups[0][0], loaded)
            here = ours(supernet, batch, groups, dtype)
            if turn:
                images_there = published.CALIBRATION_BATCHES * published.CALIBRATION_BATCH
                baseline.append(CANDIDATES * (images_there * there.calibration + SCORED * there.scoring))
                once = decoding * (CALIBRATED + SCORED)
                calibrating = CANDIDATES * CALIBRATED * here.calibration
                plain.append(once + calibrating + CANDIDATES * SCORED * here.scoring)
                raced.append(once + calibrating + RACED * CANDIDATES * SCORED * here.scoring)
    kind = "bf16" if dtype == torch.bfloat16 else "fp32"

    def per_hour(seconds: list[float]) -> list[float]:
        return [3600 / second for second in seconds]

    saved = f"{shared():.0%} shared"
    return [
        Comparison(f"search of 50 candidates, {kind}, {saved}", "an hour", per_hour(baseline), per_hour(plain)),
        Comparison(f"the same with racing ({RACED:.0%} scored)", "an hour", per_hour(baseline), per_hour(raced)),
    ]


def shared() -> float:
    """The share of multiply-adds that common beginnings save over the candidates."""
    table = count(PUBLISHED).flops
    whole = sum(table.of(arch) for group in candidates() for arch in group)
    needed = 0
    for group in candidates():
        beginnings = {tuple(arch)[:length] for arch in group for length in range(1, len(arch) + 1)}
        needed += table.fixed * len(group)
        needed += sum(table.rows[len(beginning) - 1][beginning[-1]] for beginning in beginnings)
    return 1 - needed / whole


def lines(full: bool) -> Iterator[Comparison]:
    """In bf16, and in float32 too in a full run."""
    yield from search()
    if full:
        yield from search(torch.float32)
