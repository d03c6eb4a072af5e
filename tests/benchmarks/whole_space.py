"""Score every architecture of a small space: one by one in plain PyTorch, and as trees of candidates as in `spos`.

The space has eight layers of three choices, as NAS-Bench-Macro, with a quarter of its channels and of its pixels. There
are few images, so both sides are bound by the number of operations more than a real scoring. The trees score all 6,561
architectures, in groups of `audit --truth`. One by one, only a sample is scored, and the time of all is extrapolated.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from spos_cli.data.loaders import chunks
from spos_cli.models.skeleton import build_initialized
from spos_cli.models.supernet import Supernet
from spos_cli.search.tree import Tree
from spos_cli.space.architecture import Architecture
from spos_cli.space.search_space import SearchSpace, Stage
from spos_cli.stages.audit_truth import GROUP_SIZE
from tests.benchmarks import plain, small_images
from tests.benchmarks.comparison import Comparison, compare

RECIPE = "cifar10_nas_bench_macro"
CHANNELS, IMAGE_SIZE = 4, 16  # by how much channels are divided, and pixels of a side
CALIBRATION, SCORED = 32, 32  # images, in one batch each
SAMPLE = 27  # architectures that are scored one by one
TURNS = 3  # A turn of the trees takes half a minute.


def make_space() -> SearchSpace:
    """Make the space of the recipe, smaller."""
    space = small_images.load_recipe(RECIPE).space.build()
    stages = tuple(Stage(stage.blocks, stage.channels // CHANNELS, stage.stride) for stage in space.stages)
    return replace(
        space,
        stages=stages,
        image_size=IMAGE_SIZE,
        stem_channels=space.stem_channels // CHANNELS,
        head_channels=space.head_channels // CHANNELS,
    )


def list_architectures(space: SearchSpace) -> list[Architecture]:
    """List all architectures, in lexicographic order."""
    return [Architecture(choices) for choices in itertools.product(*map(range, space.options.counts))]


def make_images(space: SearchSpace, number: int, seed: int) -> Tensor:
    """Make images `(number, 3, S, S)` float in channels_last memory."""
    images = torch.randn(number, 3, space.image_size, space.image_size, generator=torch.Generator().manual_seed(seed))
    return images.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def score_as_trees(
    supernet: Supernet, archs: Sequence[Architecture], calibration: Tensor, images: Tensor
) -> list[Tensor]:
    """Return the logits `(images, classes)` of each architecture, in their order."""
    scores: list[Tensor] = []
    for group in chunks(list(archs), GROUP_SIZE):
        tree = Tree(supernet, group, torch.float32)
        tree.calibrate(calibration, 1.0)
        tree.fold()
        logits = dict(tree.logits(images))
        scores += [logits[number] for number in range(len(group))]
    return scores


def compare_scoring(sample: int = SAMPLE, turns: int = TURNS, number: int | None = None) -> Comparison:
    """Compare architectures per second, in turns.

    Args:
        sample: how many are scored one by one.
        number: of architectures that are scored as trees; None for the whole space.
    """
    space = make_space()
    ours = build_initialized(lambda: Supernet(space), 0).to(memory_format=torch.channels_last).eval()
    baseline = plain.Supernet(small_images.describe_plain_space(space, dropout=0))
    baseline.load_state_dict(ours.state_dict())
    baseline.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    archs = list_architectures(space)
    sampled = [small_images.to_plain_path(space, arch) for arch in archs[:: len(archs) // sample][:sample]]
    calibration, images = make_images(space, CALIBRATION, 0), make_images(space, SCORED, 1)
    scored = archs[:number]

    def score_one_by_one() -> None:
        for path in sampled:
            plain.score(baseline, path, [calibration], [images])

    what = f"scoring a space of {len(archs):,} architectures, {len(sampled)} of them one by one (extrapolated)"
    comparison = compare(
        what,
        "architectures/s",
        1,
        score_one_by_one,
        lambda: score_as_trees(ours, scored, calibration, images),
        turns,
        "one by one, plain PyTorch",
    )
    return replace(
        comparison,
        baseline=[rate * len(sampled) for rate in comparison.baseline],
        ours=[rate * len(scored) for rate in comparison.ours],
    )


def lines(full: bool) -> Iterator[Comparison]:
    """Compare the scoring of a whole space."""
    yield compare_scoring()
