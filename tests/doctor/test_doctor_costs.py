"""Costs, limits and path sampler: each planted fault is found."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from spos_cli.doctor import costs
from spos_cli.doctor.finding import attempt
from spos_cli.models import counting
from spos_cli.official import golden
from tests.doctor.setups import expect, make_setup

LEAST, MOST = 38_912, 62_848  # FLOPs of the tiny space


def test_a_wrong_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    expect([attempt("official costs", costs.check_official_costs)], "official costs", "ok", "322,918,720")
    multiply_adds = counting.count_multiply_adds
    monkeypatch.setattr(counting, "count_multiply_adds", lambda forward, images: 2 * multiply_adds(forward, images))
    finding = expect([costs.check_official_costs()], "official costs", "fail", "costs and limits are wrong")
    assert "645,837,440 instead of 322,918,720" in finding.seen
    assert "parameters" not in finding.seen


@pytest.mark.parametrize("number", ["WINNER_FLOPS", "WINNER_PARAMS", "MIN_FLOPS", "MAX_FLOPS"])
def test_each_official_number_is_compared(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flops = SimpleNamespace(of=lambda arch: 322_918_720, minimum=270_359_360, maximum=398_609_216)
    official = SimpleNamespace(flops=flops, params=SimpleNamespace(of=lambda arch: 3_558_464))
    monkeypatch.setattr(costs, "count", lambda space: official)
    assert costs.check_official_costs().status == "ok"
    monkeypatch.setattr(golden, number, 1)
    assert costs.check_official_costs().status == "fail"


@pytest.mark.parametrize(
    ("overrides", "check", "status", "phrase"),
    [
        (["search.flops_limit=10K"], "search space", "fail", "raise search.flops_limit to 38912 or more"),
        ([f"search.flops_limit={LEAST}"], "search space", "warn", "0.39% are at or under search.flops_limit"),
        ([f"search.flops_limit={MOST}"], "search space", "ok", "100% are at or under"),
        (["supernet.sampler=flops_bins"], "path sampler", "fail", "no architecture is in the bins"),
        (
            [
                "supernet.sampler=flops_bins",
                f"supernet.flops_bins={{low: {LEAST + 1}, high: {MOST}, width: {MOST - LEAST - 1}}}",
                f"search.flops_limit={LEAST}",
            ],
            "path sampler",
            "warn",
            "no path at or under search.flops_limit (38.91K) is trained",
        ),
        (
            [
                "supernet.sampler=flops_bins",
                f"supernet.flops_bins={{low: {LEAST}, high: {MOST}, width: {MOST - LEAST}}}",
                f"search.flops_limit={LEAST}",
            ],
            "path sampler",
            "ok",
            "1 FLOPs bin from",
        ),
        (["space.widths=[0.5, 1.0, 1.5]"], "space shape", "warn", "channels are slow"),
        (["space.image_size=2"], "space shape", "warn", "1x1 pixels from layer 1 on, before the last network stage"),
    ],
)
def test_limits_and_bins_outside_the_space(overrides: list[str], check: str, status: str, phrase: str) -> None:
    expect(costs.check(make_setup(*overrides)), check, status, phrase)


@pytest.mark.parametrize("limit", ["flops_limit", "params_limit"])
def test_the_advised_limit_leaves_architectures(limit: str) -> None:
    finding = costs.check_limits(make_setup(f"search.{limit}=1K"))
    advised = re.search(rf"raise search\.{limit} to (\S+) or more", finding.advice)
    assert advised
    assert costs.check_limits(make_setup(f"search.{limit}={advised[1]}")).status != "fail"


@pytest.mark.parametrize(
    ("overrides", "check", "status", "phrase"),
    [
        (["search.flops_limit=1M-2M"], "search space", "fail", "no architecture has 1M to 2M FLOPs; the space reaches"),
        ([f"search.flops_limit={LEAST}-{MOST}"], "search space", "ok", "100% are within search.flops_limit"),
        (["search.flops_limit=1K-1G"], "search space", "warn", "narrow search.flops_limit, or set it to null"),
        ([f"search.flops_limit={LEAST}-{LEAST}"], "search space", "warn", "widen search.flops_limit"),
        ([f"search.flops_limit={LEAST + 1}-{LEAST + 1}"], "search space", "fail", "the nearest have 38,912 and"),
        (
            [
                f"search.flops_limit={MOST}-{MOST}",
                "supernet.sampler=flops_bins",
                f"supernet.flops_bins={{low: {LEAST}, high: {MOST - 1}, width: {MOST - 1 - LEAST}}}",
            ],
            "path sampler",
            "warn",
            "raise supernet.flops_bins.high, or lower the limit",
        ),
    ],
)
def test_ranges(overrides: list[str], check: str, status: str, phrase: str) -> None:
    expect(costs.check(make_setup(*overrides)), check, status, phrase)
