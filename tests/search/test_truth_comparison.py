"""A supernet's scores against the truth: correlations of SciPy, chances by enumeration, and searches that know all."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr, ttest_ind

from spos_cli.models.counting import count
from spos_cli.search.evolution import Evolution
from spos_cli.search.journal import Entry
from spos_cli.search.truth import Network
from spos_cli.search.truth_comparison import (
    ScoredNetworks,
    choose_band_width,
    compare_at_equal_flops,
    compare_picks,
    compare_subsets,
    compare_trainings,
    expect_best,
    measure_images,
    measure_top,
    sample_networks,
    split_into_bands,
)
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.limits import Limit
from spos_cli.space.search_space import SearchSpace, Stage

KERNELS = tuple(Choice("mbconv", (("expand", 2), ("kernel", kernel))) for kernel in (3, 5, 7))
SPACE = SearchSpace((Stage(2, 8), Stage(2, 16)), (*KERNELS, Choice("identity")), 16, 10, 8, 1, 32)
COSTS = count(SPACE)
ARCHS = [Architecture(choices) for choices in itertools.product(*(range(n) for n in SPACE.options.choice_counts))]


def make_networks(seed: int = 0, seeds: int = 3) -> list[Network]:
    """All architectures of the space, each as a network of its own, with accuracies that grow with FLOPs."""
    rng = np.random.default_rng(seed)
    flops = np.array([COSTS.flops.of(arch) for arch in ARCHS], float)
    truth = 0.5 + 0.2 * (flops - flops.min()) / np.ptp(flops) + 0.05 * rng.standard_normal(len(ARCHS))
    trainings = truth[:, None] + 0.01 * rng.standard_normal((len(ARCHS), seeds))
    return [Network((arch,), tuple(row)) for arch, row in zip(ARCHS, trainings.tolist(), strict=True)]


def give_scores(networks: list[Network], noise: float) -> ScoredNetworks:
    """The truth as score, with noise."""
    rng = np.random.default_rng(1)
    entries = [
        Entry(
            network.names[0],
            COSTS.flops.of(network.names[0]),
            COSTS.params.of(network.names[0]),
            float(np.clip(network.accuracy + noise * rng.standard_normal(), 0, 1)),
            1.0,
            100,
            0,
            "random",
        )
        for network in networks
    ]
    return ScoredNetworks(networks, entries)


def make_evolution(limit: int | None) -> Evolution:
    return Evolution(COSTS.flops, None if limit is None else Limit(limit), 10, 4, 4, 4, 4, 0.2, 0, main=COSTS.flops)


def test_correlations_are_those_of_scipy() -> None:
    scored = give_scores(make_networks(), 0.05)
    limit = float(np.median(scored.flops))
    rows = {row["part"]: row for row in compare_subsets(scored, {"cheap": scored.flops <= limit})}
    cheap = scored.flops <= limit
    best = scored.truth >= np.quantile(scored.truth, 0.9)
    for name, mask in (("all", np.ones(len(scored), bool)), ("cheap", cheap), ("best tenth", best)):
        row = rows.pop(name)
        assert row["networks"] == mask.sum()
        for key, values in (
            ("kendall", scored.scores),
            ("kendall_of_flops", scored.flops),
            ("kendall_of_params", scored.params),
        ):
            assert row[key]["value"] == pytest.approx(kendalltau(values[mask], scored.truth[mask]).statistic)
            assert row[key]["low"] < row[key]["value"] < row[key]["high"]
        assert row["spearman"]["value"] == pytest.approx(spearmanr(scored.scores[mask], scored.truth[mask]).statistic)
    assert rows
    for name, row in rows.items():  # The rest are bands of FLOPs.
        assert "to" in name
        assert 8 <= row["networks"] < len(scored)


def test_every_network_is_in_one_band() -> None:
    scored = give_scores(make_networks(), 0)
    bands = split_into_bands(scored.flops)
    assert (np.stack(list(bands.values())).sum(axis=0) == 1).all()
    width = choose_band_width(scored.flops.min(), scored.flops.max())
    assert all(np.ptp(scored.flops[mask]) < width for mask in bands.values() if mask.any())
    assert choose_band_width(7.7e6, 105.7e6) == 10_000_000
    assert choose_band_width(5, 5) == 1
    assert len(split_into_bands(np.array([5.0, 5.0]))) == 1


def test_one_training_is_compared_with_the_others() -> None:
    networks = make_networks(seeds=2)
    trainings = np.array([network.accuracies for network in networks])
    assert compare_trainings(networks) == pytest.approx(kendalltau(*trainings.T).statistic)
    assert compare_trainings(make_networks(seeds=1)) is None
    assert compare_trainings(networks[:7]) is None
    same = [Network(network.names, (network.accuracy,) * 3) for network in networks]
    assert compare_trainings(same) == pytest.approx(1)


def test_precision_at_the_top() -> None:
    networks = make_networks()
    exact = measure_top(give_scores(networks, 0))
    assert [row["networks"] for row in exact] == [round(share * len(ARCHS)) for share in (0.01, 0.05, 0.1)]
    assert all(row["precision"] == 1 and row["mean_accuracy"] == row["mean_accuracy_of_best"] for row in exact)
    scored = give_scores(networks, 0.1)
    noisy = measure_top(scored)[-1]
    number = noisy["networks"]
    truly, by_score, by_flops = (
        {ARCHS[index] for index in np.argsort(-values, kind="stable")[:number]}
        for values in (scored.truth, scored.scores, scored.flops)
    )
    assert noisy["precision"] == len(truly & by_score) / number < 1
    assert noisy["precision_of_flops"] == len(truly & by_flops) / number


def test_the_expected_best_of_some() -> None:
    values = np.array([0.1, 0.5, 0.7])
    every = [max(values[list(chosen)]) for chosen in itertools.product(range(3), repeat=4)]
    assert expect_best(values, 4) == pytest.approx(np.mean(every))
    assert expect_best(values, 1) == pytest.approx(values.mean())


def test_what_searches_find() -> None:
    networks, limit = make_networks(), int(np.median([COSTS.flops.of(arch) for arch in ARCHS]))
    scored = give_scores(networks, 0)
    under = scored.select(scored.flops <= limit)
    fitness = {entry.architecture: entry.top1 for entry in scored.entries}
    worst = under.networks[int(under.truth.argmin())].names[0]
    rows = {row["choice"]: row for row in compare_picks(under, fitness, make_evolution(limit), worst)}
    assert rows["the best of all"]["accuracy"] == rows["the highest score of all"]["accuracy"] == under.truth.max()
    assert rows["the most FLOPs"]["accuracy"] == under.truth[under.flops == under.flops.max()].mean()
    assert rows["a random one"]["accuracy"] == pytest.approx(under.truth.mean())
    lost = rows["the winner of the search in this run"]
    assert lost["better_than"] == 0
    assert lost["regret"] == pytest.approx(np.ptp(under.truth))
    for name in ("evolution", "evolution with a predictor", "random search"):
        row = rows[name]
        assert row["seeds"] == 5
        assert under.truth.mean() < row["low"] <= row["accuracy"] <= row["high"] <= under.truth.max()
    # Evolution with exact scores beats as many random draws.
    assert rows["evolution"]["regret"] <= rows["random search"]["regret"]
    assert [row["regret"] for row in rows.values()] == sorted(row["regret"] for row in rows.values())


def test_the_winner_is_compared_with_networks_of_about_its_flops() -> None:
    """Against a sum over all networks, and against Welch's interval by SciPy."""
    networks = make_networks()
    winner = networks[100]
    own = COSTS.flops.of(winner.names[0])
    others = [one for one in networks if one is not winner and 0.97 * own <= COSTS.flops.of(one.names[0]) <= 1.03 * own]
    accuracies = [one.accuracy for one in others]
    assert 2 < len(others) < len(networks) - 1
    result = compare_at_equal_flops(networks, COSTS.flops, winner.names[0])
    assert result is not None
    assert result["networks"] == len(others)
    assert result["mean_accuracy"] == pytest.approx(np.mean(accuracies))
    assert result["better_than"] == pytest.approx(np.mean([one < winner.accuracy for one in accuracies]))
    test = ttest_ind(winner.accuracies, accuracies, equal_var=False)
    interval = test.confidence_interval()
    assert result["difference"] == {
        "value": pytest.approx(winner.accuracy - np.mean(accuracies)),
        "low": pytest.approx(interval.low, rel=1e-6),
        "high": pytest.approx(interval.high, rel=1e-6),
    }
    assert compare_at_equal_flops(others, COSTS.flops, winner.names[0]) is None


def test_searches_are_not_repeated_with_unknown_scores() -> None:
    scored = give_scores(make_networks(), 0)
    some = {entry.architecture: entry.top1 for entry in scored.entries[::2]}
    rows = {row["choice"] for row in compare_picks(scored, some, make_evolution(None), None)}
    assert not rows & {"evolution", "random search", "the winner of the search in this run"}


def test_a_larger_sample_contains_a_smaller_one() -> None:
    networks = make_networks()
    small, large = ({one.names for one in sample_networks(networks, number, 3)} for number in (10, 30))
    assert len(small) == 10
    assert small < large
    assert {one.names for one in sample_networks(networks, 10, 4)} != small
    for number in (None, len(networks), 10**6):
        assert sample_networks(networks, number, 0) == networks


def test_more_images_agree_better() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(200)
    outcomes = rng.random((200, 800)) < truth[:, None]
    rows = measure_images(outcomes, truth)
    assert [row["images"] for row in rows] == [100, 200, 400, 800]
    values = [row["kendall"]["value"] for row in rows]
    assert values == sorted(values)
    assert values[0] == pytest.approx(kendalltau(outcomes[:, :100].mean(1), truth).statistic)
    assert not math.isnan(values[-1])
