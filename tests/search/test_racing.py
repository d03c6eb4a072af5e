"""The bound of a race, by simulation and against a plain z-test."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spos_cli.search.racing import Race

IMAGES, LOOKS = 2000, range(200, 2000, 200)


def outcomes(rng: np.random.Generator, ours: float, rival: float, together: float) -> tuple[np.ndarray, np.ndarray]:
    """Of two candidates that share a part `together` of their luck, as those of one supernet do."""
    shared, own = rng.random(IMAGES), rng.random((2, IMAGES))
    luck = np.where(rng.random(IMAGES) < together, shared, own)
    return luck[0] < ours, luck[1] < rival


def lost(race: Race, ours: np.ndarray) -> bool:
    return any(race.is_lost(ours[:look]) for look in LOOKS)


@pytest.mark.parametrize("together", [0.0, 0.7])
def test_equals_are_stopped_no_more_often_than_the_risk_says(together: float) -> None:
    rng, risk = np.random.default_rng(0), 0.02
    stops = 0
    for _ in range(400):
        ours, rival = outcomes(rng, 0.6, 0.6, together)
        differing = rng.permutation(np.flatnonzero(ours != rival))
        ours[differing] = np.arange(len(differing)) % 2  # so that over all images they are equal
        rival[differing] = ~ours[differing]
        stops += lost(Race(rival, risk), ours)
    assert 0 < stops / 400 < len(LOOKS) * risk


def test_those_that_are_far_behind_stop_at_once() -> None:
    rng = np.random.default_rng(0)
    ours, rival = outcomes(rng, 0.4, 0.6, 0.5)
    assert Race(rival, 0.01).is_lost(ours[:200])


def test_the_bound_is_the_paired_one_of_a_finite_population() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        ours, rival = outcomes(rng, 0.55, 0.6, 0.5)
        d = ours[:300].astype(float) - rival[:300]
        bound = d.mean() + 2.3263478740408408 * math.sqrt(d.var(ddof=1) / 300 * (1 - 300 / IMAGES))
        assert Race(rival, 0.01).is_lost(ours[:300]) == (bound < 0)


def test_one_image_tells_nothing() -> None:
    assert not Race(np.ones(9, bool), 0.01).is_lost(np.zeros(1, bool))
