"""The risk and the power of a race, by simulation; its check against SciPy's hypergeometric distribution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest, hypergeom

from spos_cli.search.racing import MAX_CHECKS, Race, list_interim_checks
from spos_cli.search.statistics import hypergeometric_tail


def outcomes(rng: np.random.Generator, images: int, differ: int, behind: int) -> tuple[np.ndarray, np.ndarray]:
    """Make outcomes of a candidate and its rival; the rival has `behind` of the images on which they differ."""
    neither, both = np.split(np.arange(differ, images), [differ + (images - differ) // 3])
    ours, rival = np.zeros((2, images), bool)
    rival[:behind], ours[behind:differ] = True, True
    ours[both], rival[both] = True, True
    assert neither.size
    order = rng.permutation(images)
    return ours[order], rival[order]


def stop(race: Race, ours: np.ndarray) -> int:
    """Return after how many images a candidate stops."""
    ends = [round(check) for check in list_interim_checks(len(ours))]
    return next((end for end in ends if race.is_lost(ours[:end])), len(ours))


def test_the_interim_checks_are_spread_over_the_images() -> None:
    assert list_interim_checks(2000) == [200, 400, 600, 800, 1000, 1200, 1400, 1600, 1800]
    assert len(list_interim_checks(7)) == MAX_CHECKS
    assert max(list_interim_checks(7)) < 7


@pytest.mark.parametrize("risk", [0.01, 0.05, 0.3])
@pytest.mark.parametrize(
    ("images", "differ"), [(2000, 10), (2000, 60), (2000, 200), (2000, 600), (2000, 1400), (100, 30), (10_000, 2000)]
)
def test_equals_are_stopped_no_more_often_than_the_risk_of_the_whole_race(
    images: int, differ: int, risk: float
) -> None:
    """They are equal over all images. The number of stops is one that the risk allows in 999 of 1,000 tests."""
    rng, races = np.random.default_rng(0), 600
    stops = 0
    for _ in range(races):
        ours, rival = outcomes(rng, images, differ, differ // 2)
        stops += stop(Race(rival, risk), ours) < images
    assert stops <= binom.ppf(0.999, races, risk)
    if risk == 0.3 and differ >= 200:
        assert stops / races > risk / 10  # the test is not too cautious


@pytest.mark.parametrize(("differ", "scored"), [(100, 0.25), (200, 0.35), (600, 0.55)])
def test_those_that_are_five_points_worse_are_stopped(differ: int, scored: float) -> None:
    rng, ends = np.random.default_rng(1), []
    for _ in range(200):
        ours, rival = outcomes(rng, 2000, differ, (differ + 100) // 2)
        ends.append(stop(Race(rival, 0.01), ours))
    assert np.mean(np.array(ends) < 2000) > 0.98
    assert np.mean(ends) < scored * 2000


def test_the_better_are_hardly_ever_stopped() -> None:
    rng = np.random.default_rng(2)
    pairs = [outcomes(rng, 2000, 400, 180) for _ in range(300)]
    assert not [1 for ours, rival in pairs if stop(Race(rival, 0.05), ours) < 2000]


def test_those_that_are_far_behind_stop_at_once() -> None:
    ours, rival = outcomes(np.random.default_rng(3), 2000, 500, 450)
    assert stop(Race(rival, 0.01), ours) == 200


def test_a_check_is_between_the_tests_of_the_set_and_of_an_infinite_one() -> None:
    """It is at most as cautious as a fair coin, and more cautious than with the differing images seen so far."""
    rng, lost, certain = np.random.default_rng(4), 0, 0
    for _ in range(400):
        differ = int(rng.integers(40, 400)) * 2
        ours, rival = outcomes(rng, 2000, differ, int(rng.integers(differ // 2, differ * 3 // 4)))
        end = int(rng.integers(100, 1900))
        behind, ahead = int((rival & ~ours)[:end].sum()), int((ours & ~rival)[:end].sum())
        is_lost, level = Race(rival, 0.05).is_lost(ours[:end]), 0.05 / MAX_CHECKS
        coin = binomtest(behind, behind + ahead, alternative="greater").pvalue if behind + ahead else 1.0
        if coin < level:
            assert is_lost
            certain += 1
        if is_lost:
            half = round((behind + ahead) * 2000 / end / 2)
            assert hypergeom.sf(behind - 1, 2 * half, half, behind + ahead) < level
            lost += 1
    assert 0 < certain < lost < 400


def test_few_images_decide_nothing() -> None:
    for images in range(1, 8):  # 1 / 2**7 is more than the level
        assert not Race(np.ones(9000, bool), 0.05).is_lost(np.zeros(images, bool))
    assert Race(np.ones(9000, bool), 0.05).is_lost(np.zeros(9, bool))


def test_the_tail_is_that_of_scipy() -> None:
    for size, drawn in ((2, 1), (10, 4), (40, 40), (400, 37), (6000, 2500)):
        for least in range(drawn // 2 + 1, min(drawn, size // 2 + 1) + 1):
            expected = hypergeom.sf(least - 1, size, size // 2, drawn)
            assert hypergeometric_tail(size, drawn, least) == pytest.approx(expected, rel=1e-8, abs=1e-300)
