"""Costs, limits and path sampler: each planted fault is found."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from spos_cli.doctor import costs
from spos_cli.doctor.finding import attempt
from spos_cli.models import counting
from spos_cli.official import golden
from tests.doctor.setups import expect, make_setup

LEAST, MOST = 38_912, 62_848  # FLOPs of the tiny space


def test_a_counter_that_counts_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    expect([attempt("published costs", costs.check_official_costs)], "published costs", "ok", "322,918,720")
    one = counting.multiply_adds
    monkeypatch.setattr(costs, "count", counting.count)
    monkeypatch.setattr(counting, "multiply_adds", lambda forward, images: 2 * one(forward, images))
    finding = expect([costs.check_official_costs()], "published costs", "fail", "no cost or limit can be trusted")
    assert "645,837,440 instead of 322,918,720" in finding.seen
    assert "parameters" not in finding.seen


@pytest.mark.parametrize("anchor", ["WINNER_FLOPS", "WINNER_PARAMS", "LEAST_FLOPS", "MOST_FLOPS"])
def test_each_anchor_is_compared(anchor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flops = SimpleNamespace(of=lambda arch: 322_918_720, minimum=270_359_360, maximum=398_609_216)
    official = SimpleNamespace(flops=flops, params=SimpleNamespace(of=lambda arch: 3_558_464))
    monkeypatch.setattr(costs, "count", lambda space: official)
    assert costs.check_official_costs().status == "ok"
    monkeypatch.setattr(golden, anchor, 1)
    assert costs.check_official_costs().status == "fail"


@pytest.mark.parametrize(
    ("overrides", "check", "status", "phrase"),
    [
        (["search.flops_limit=10K"], "search space", "fail", "raise search.flops_limit to 38.91K or more"),
        ([f"search.flops_limit={LEAST}"], "search space", "warn", "0.39% at or under search.flops_limit"),
        ([f"search.flops_limit={MOST}"], "search space", "ok", "100% at or under"),
        (["supernet.sampler=flops_bins"], "path sampler", "fail", "no architecture is in the bins"),
        (
            [
                "supernet.sampler=flops_bins",
                f"supernet.flops_bins={{low: {LEAST + 1}, high: {MOST}, width: {MOST - LEAST - 1}}}",
                f"search.flops_limit={LEAST}",
            ],
            "path sampler",
            "warn",
            "no path at or under search.flops_limit is trained",
        ),
        (
            [
                "supernet.sampler=flops_bins",
                f"supernet.flops_bins={{low: {LEAST}, high: {MOST}, width: {MOST - LEAST}}}",
                f"search.flops_limit={LEAST}",
            ],
            "path sampler",
            "ok",
            "1 bin of FLOPs",
        ),
        (["space.widths=[0.5, 1.0, 1.5]"], "shape of the space", "warn", "channels are slow"),
        (["space.image_size=2"], "shape of the space", "warn", "1x1 pixels from layer 1 on, before the last stage"),
    ],
)
def test_limits_that_do_not_meet_the_space(overrides: list[str], check: str, status: str, phrase: str) -> None:
    expect(costs.check(make_setup(*overrides)), check, status, phrase)
