"""Score every architecture of a small space: one by one in plain PyTorch, and as trees of candidates as in `spos`.

The space is that of a recipe: eight layers of three choices, as NAS-Bench-Macro. A candidate has one batch of
calibration and four times as many scored images, about as in the recipe. Both sides are measured on samples, and the
time of all 6,561 architectures is extrapolated. A tree is a group of `audit --truth`, all completions of a beginning,
and groups share nothing. The samples are balanced: their mean cost is that of the space.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from spos_cli.engine.evaluation import CPU_BATCH
from spos_cli.models.skeleton import build_initialized
from spos_cli.models.supernet import Supernet
from spos_cli.search.tree import Tree
from spos_cli.space.architecture import Architecture
from spos_cli.space.search_space import SearchSpace
from spos_cli.stages.audit_truth import GROUP_SIZE
from tests.benchmarks import plain, small_images
from tests.benchmarks.comparison import Comparison, compare

RECIPE = "cifar10_nas_bench_macro"
CALIBRATION, SCORED = 128, 512  # images
SAMPLE = 9  # architectures that are scored one by one
GROUPS = 3  # groups that are scored as trees
TURNS = 5  # A turn takes about twenty seconds.


def make_space() -> SearchSpace:
    """Make the space of the recipe."""
    return small_images.load_recipe(RECIPE).space.build()


def draw_balanced(counts: Sequence[int], number: int) -> list[tuple[int, ...]]:
    """Draw choices for each layer, the same ones in each call.

    Each choice of a layer is drawn equally often if `number` is a multiple of the layer's count. Costs add up over
    layers, so the mean cost of the draw is then the mean cost of all architectures.

    Args:
        counts: number of choices, by layer.
        number: of draws.
    """
    rng = random.Random(0)
    columns = [rng.sample([index % count for index in range(number)], number) for count in counts]
    return list(zip(*columns, strict=True))


def draw_groups(space: SearchSpace, number: int) -> list[list[Architecture]]:
    """Draw groups of `GROUP_SIZE` neighbours in lexicographic order, as they are scored together."""
    counts = space.options.counts
    # A group is all completions of a beginning of this length.
    length = next(length for length in range(len(counts)) if math.prod(counts[length:]) == GROUP_SIZE)
    endings = list(itertools.product(*map(range, counts[length:])))
    return [
        [Architecture((*beginning, *ending)) for ending in endings]
        for beginning in draw_balanced(counts[:length], number)
    ]


def make_images(space: SearchSpace, number: int, seed: int) -> Tensor:
    """Make images `(number, 3, S, S)` float in channels_last memory."""
    images = torch.randn(number, 3, space.image_size, space.image_size, generator=torch.Generator().manual_seed(seed))
    return images.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def score_as_tree(
    supernet: Supernet, archs: Sequence[Architecture], calibration: Tensor, batches: Sequence[Tensor]
) -> list[list[Tensor]]:
    """Return the logits of each batch `(B, classes)` for each architecture of a group, in their order."""
    tree = Tree(supernet, archs, torch.float32)
    tree.calibrate(calibration, 1.0)
    tree.fold()
    by_batch = [dict(tree.logits(batch)) for batch in batches]
    return [[logits[number] for logits in by_batch] for number in range(len(archs))]


def compare_scoring(
    sample: int = SAMPLE, groups: int = GROUPS, turns: int = TURNS, images: tuple[int, int] = (CALIBRATION, SCORED)
) -> Comparison:
    """Compare architectures per second, in turns.

    Args:
        sample: how many are scored one by one.
        groups: how many groups are scored as trees.
        images: how many calibrate a candidate, and how many it is scored on.
    """
    space = make_space()
    ours = build_initialized(lambda: Supernet(space), 0).to(memory_format=torch.channels_last).eval()
    baseline = plain.Supernet(small_images.describe_plain_space(space, dropout=0))
    baseline.load_state_dict(ours.state_dict())
    baseline.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sampled = [Architecture(choices) for choices in draw_balanced(space.options.counts, sample)]
    paths = [small_images.to_plain_path(space, arch) for arch in sampled]
    trees = draw_groups(space, groups)
    calibration, scored = (make_images(space, number, seed) for seed, number in enumerate(images))
    batches = torch.split(scored, CPU_BATCH)

    def score_one_by_one() -> None:
        for path in paths:
            plain.score(baseline, path, [calibration], batches)

    def score_as_trees() -> None:
        for group in trees:
            score_as_tree(ours, group, calibration, batches)

    comparison = compare(
        f"scoring a space of {space.size:,} architectures, extrapolated from {groups * GROUP_SIZE} as trees"
        f" and {sample} one by one",
        "architectures/s",
        1,
        score_one_by_one,
        score_as_trees,
        turns,
        "one by one, plain PyTorch",
    )
    return replace(
        comparison,
        baseline=[rate * sample for rate in comparison.baseline],
        ours=[rate * groups * GROUP_SIZE for rate in comparison.ours],
    )


def lines(full: bool) -> Iterator[Comparison]:
    """Compare the scoring of a whole space."""
    yield compare_scoring()
