"""Candidates of several image sizes: each is scored as in a space with its size only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spos_cli.engine.precision import Amp
from spos_cli.models.skeleton import initialize
from spos_cli.models.supernet import Supernet
from spos_cli.search.evaluator import CalibrationSet, Evaluator, Score
from spos_cli.search.evaluator_by_size import EvaluatorBySize
from spos_cli.search.racing import Race
from spos_cli.search.scoring import order_key
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.search_space import SearchSpace, Stage

SIZES = (8, 12, 16)
CPU = torch.device("cpu")
SHUFFLES = tuple(map(Choice.from_spec, ({"shuffle": {"kernel": 3}}, "shuffle_xception")))
SPECS = (
    {"mbconv": {"kernel": 3, "expand": 2, "se": 0.25}},
    {"fused_mbconv": {"kernel": 5, "expand": 2}},
    {"basic": {"kernel": 3}},
    {"bottleneck": {"kernel": 3}},
    {"shuffle": {"kernel": 7}},
    "skip",
)
MIXED = tuple(map(Choice.from_spec, SPECS))


def make_space(choices: tuple[Choice, ...]) -> SearchSpace:
    """Return a space whose last layers see one pixel of the smallest images."""
    return SearchSpace(
        stages=(Stage(1, 16, 2), Stage(2, 32, 2)),
        choices=choices,
        image_size=16,
        classes=7,
        stem_channels=8,
        stem_stride=2,
        head_channels=24,
        image_sizes=SIZES,
    )


def draw_images(count: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count * side)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def make_evaluator(space: SearchSpace, side: int, amp: Amp) -> Evaluator:
    supernet = Supernet(space)
    initialize(supernet, 3)
    return Evaluator(
        supernet,
        lambda images: images.float() / 255,
        calibration=CalibrationSet(draw_images(40, side), 16),
        images=draw_images(45, side),
        labels=torch.arange(45) % 7,
        batch=20,
        device=CPU,
        amp=amp,
    )


def draw_archs(space: SearchSpace, count: int) -> list[Architecture]:
    rng = np.random.default_rng(0)
    archs = [space.options.draw(rng) for _ in range(count)]
    # The same blocks at each size.
    return list(dict.fromkeys(arch.with_image_size(side) for arch in archs for side in SIZES))


def is_same(one: Score, other: Score) -> bool:
    return np.array_equal(one.top1, other.top1) and replace(one, top1=other.top1) == other


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("choices", [SHUFFLES, MIXED], ids=["shuffles", "mixed"])
def test_a_score_is_that_of_the_space_with_that_size_only(choices: tuple[Choice, ...], amp: Amp) -> None:
    """To the bit, whatever else is scored together with a candidate."""
    space = make_space(choices)
    archs = draw_archs(space, 6)
    evaluator = EvaluatorBySize({side: make_evaluator(space, side, amp) for side in SIZES})
    assert evaluator.images.shape == (45, 3, 16, 16)
    together = evaluator.score(archs)
    assert together is not None
    assert len({score.top1.tobytes() for score in together}) > len(archs) / 2
    for arch, score in zip(archs, together, strict=True):
        side = arch.image_size
        only = make_evaluator(replace(space, image_size=side, image_sizes=()), side, amp)
        (expected,) = only.score([arch.with_image_size(0)]) or []
        assert is_same(score, expected)
        assert [is_same(score, one) for one in evaluator.score([arch]) or []] == [True]


def test_a_race_stops_candidates_of_any_size() -> None:
    space = make_space(SHUFFLES)
    archs = draw_archs(space, 2)
    evaluator = EvaluatorBySize({side: make_evaluator(space, side, "off") for side in SIZES})
    scores = evaluator.score(archs, Race(np.ones(45, bool), 0.01)) or []
    assert {arch.image_size for arch in archs} == set(SIZES)
    assert [(score.images, score.stopped_early) for score in scores] == [(20, True)] * len(archs)


def test_progress_counts_pixels_and_a_stop_ends_all_sizes() -> None:
    space = make_space(SHUFFLES)
    archs = [Architecture((0, 0, 0), sizes=(side, 0, 0)) for side in (16, 8)]
    evaluator = EvaluatorBySize({side: make_evaluator(space, side, "off") for side in SIZES})
    shares: list[float] = []

    def go_on(share: float) -> bool:
        shares.append(share)
        return len(shares) < 8

    assert evaluator.score(archs, go_on=go_on) is None
    assert shares == sorted(shares)
    small, all_work = 8**2, 8**2 + 16**2
    assert shares[4] == small / all_work  # after two batches to calibrate and three to score
    assert shares[5] == pytest.approx((small + 16**2 / 4) / all_work)


def test_neighbours_have_one_size() -> None:
    archs = sorted(draw_archs(make_space(MIXED), 5), key=order_key)
    sides = [arch.image_size for arch in archs]
    assert sides == sorted(sides)
    plain = sorted((arch.with_image_size(0) for arch in archs), key=order_key)
    assert plain == sorted(plain, key=lambda arch: arch.options)
