"""Compare a search of fifty candidates at 224 px: the official way one by one, ours as trees of candidates.

Rates are measured on some batches of each side, in turns, and the whole search is extrapolated from them. An official
candidate needs 200 batches of 128 training images and 8,000 scored images, which are decoded again each time. Ours
needs the default number of calibration images and the same 8,000 images, which are decoded once. So scores have the
same interval on both sides. Loading and scoring take turns on both sides.
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
from spos_cli.search.scoring import GROUP_SIZE
from spos_cli.search.tree import Tree
from spos_cli.space.architecture import Architecture
from spos_cli.space.limits import Limit
from spos_cli.space.search_space import OFFICIAL_SPACE
from tests.benchmarks import official, photographs
from tests.benchmarks.comparison import Comparison

CANDIDATES, SCORED = 50, 8000
CALIBRATED = SearchConfig().calibration_images
LIMIT = 330_000_000
# Share of images scored with `racing` at about 0.1, by `python -m tests.benchmarks.racing` on Fashion-MNIST.
RACING_SHARE = 0.80


def draw_candidates() -> list[list[Architecture]]:
    """Draw the candidates of a search of five generations, in the groups that are scored together.

    Their scores are their cost with some noise.
    """
    table, rng = count(OFFICIAL_SPACE).flops, np.random.default_rng(0)
    evolution = Evolution(
        table=table,
        limit=Limit(LIMIT),
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
    return [group for generation in generations for group in chunks(generation, GROUP_SIZE)]


@dataclass
class Seconds:
    """Seconds of one image in one candidate, on average over the candidates, without decoding."""

    calibration: float
    scoring: float


def score_all(tree: Tree, images: Tensor) -> None:
    """Compute the logits of all candidates without keeping them."""
    for _ in tree.logits(images):
        pass


def measure_seconds(work: Callable[[], object]) -> float:
    """Return the seconds of a piece of work."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure_ours(supernet: Supernet, pixels: Tensor, groups: list[list[Architecture]], dtype: torch.dtype) -> Seconds:
    """Measure one batch of calibration and four smaller ones of scoring, for all candidates."""
    seconds = Seconds(0.0, 0.0)
    images = preprocess("spos", pixels)
    number = sum(map(len, groups))
    with torch.inference_mode():
        for group in groups:
            tree = Tree(supernet, group, dtype)
            seconds.calibration += measure_seconds(partial(tree.calibrate, images, 1.0)) / len(pixels) / number
            tree.fold()
            for part in torch.split(images, CPU_BATCH):
                seconds.scoring += measure_seconds(partial(score_all, tree, part)) / len(pixels) / number
    return seconds


def measure_official(
    model: official.Supernet, path: Architecture, loaded: dict[bool, Iterator[official.Batch]]
) -> Seconds:
    """Measure one batch of calibration and one of scoring of one candidate, decoding included."""
    calibration = measure_seconds(lambda: official.calibrate(model, path, loaded[True], 1)) / official.CALIBRATION_BATCH
    scoring = measure_seconds(lambda: official.score(model, path, loaded[False], 1)) / official.SCORING_BATCH
    return Seconds(calibration, scoring)


def compare_searches(dtype: torch.dtype = torch.bfloat16, turns: int = 3) -> list[Comparison]:
    """Compare searches of fifty candidates per hour, without races and with them."""
    supernet = Supernet(OFFICIAL_SPACE)
    initialize(supernet, 0)
    model = official.load_weights(official.Supernet(), supernet.state_dict())
    supernet.to(memory_format=torch.channels_last).eval()
    groups = draw_candidates()
    baseline: list[float] = []
    plain: list[float] = []
    raced: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        paths, labels = photographs.write(Path(folder), 64)
        transform = EvalTransform("spos", 224, stored=False)
        images = torch.stack([transform(decode(path)) for path in paths])
        batch = torch.cat((images, images)).contiguous(memory_format=torch.channels_last)
        decoding = measure_seconds(lambda: [transform(decode(path)) for path in paths]) / len(paths)
        sizes = {True: official.CALIBRATION_BATCH, False: official.SCORING_BATCH}
        loaded = {
            train: official.load_batches(paths, labels, train=train, batch=sizes[train]) for train in (True, False)
        }
        for turn in range(turns + 1):
            there = measure_official(model, groups[0][0], loaded)
            here = measure_ours(supernet, batch, groups, dtype)
            if turn:
                images_there = official.CALIBRATION_BATCHES * official.CALIBRATION_BATCH
                baseline.append(CANDIDATES * (images_there * there.calibration + SCORED * there.scoring))
                once = decoding * (CALIBRATED + SCORED)
                calibrating = CANDIDATES * CALIBRATED * here.calibration
                plain.append(once + calibrating + CANDIDATES * SCORED * here.scoring)
                raced.append(once + calibrating + RACING_SHARE * CANDIDATES * SCORED * here.scoring)
    kind = "bf16" if dtype == torch.bfloat16 else "fp32"

    def per_hour(seconds: list[float]) -> list[float]:
        return [3600 / second for second in seconds]

    saved = f"{count_shared():.0%} shared"
    return [
        Comparison(f"search of 50 candidates, {kind}, {saved}", "an hour", per_hour(baseline), per_hour(plain)),
        Comparison(f"the same with racing ({RACING_SHARE:.0%} scored)", "an hour", per_hour(baseline), per_hour(raced)),
    ]


def count_shared() -> float:
    """Return the share of multiply-adds that candidates save by common first layers."""
    table = count(OFFICIAL_SPACE).flops
    whole = sum(table.of(arch) for group in draw_candidates() for arch in group)
    needed = 0
    for group in draw_candidates():
        beginnings = {tuple(arch)[:length] for arch in group for length in range(1, len(arch) + 1)}
        needed += table.fixed * len(group)
        needed += sum(table.rows[len(beginning) - 1][beginning[-1]] for beginning in beginnings)
    return 1 - needed / whole


def lines(full: bool) -> Iterator[Comparison]:
    """Compare searches in bf16, and in a full run also in float32."""
    yield from compare_searches()
    if full:
        yield from compare_searches(torch.float32)
