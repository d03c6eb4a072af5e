"""A limit above the whole space is allowed and excludes nothing. Each command says so, once."""

from __future__ import annotations

import json

import pytest
import yaml

from spos_cli.config import loading
from spos_cli.doctor import costs
from spos_cli.doctor.setup import Setup
from spos_cli.models.counting import count
from spos_cli.run.command import Run
from spos_cli.space.cost_kinds import format_cost
from tests.conftest import TINY, Spos
from tests.forks import Finished

IDLE = "excludes nothing: no architecture of the space has more than"


def maxima(spos: Spos) -> tuple[int, int]:
    """Return the largest FLOPs and parameters of the space."""
    costs = count(loading.load(spos.folder / "spos.yaml").space.build())
    return costs.flops.maximum, costs.params.maximum


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_search(finished: Spos, spos: Spos, processes: int) -> None:
    supernet, (flops, params) = finished.run / "supernet" / "last.pt", maxima(spos)

    def program(*arguments: object) -> Finished:
        if processes == 1:
            return spos.here(*arguments)
        first, second = spos.together(*arguments)
        assert IDLE not in second.stderr
        return first

    arguments = ("search", "--json", "--weights", supernet, "--set", "search.generations=0")
    done = program(*arguments, "--flops-limit", "330M", "--params-limit", "1G")
    assert done.stderr.count(IDLE) == 2
    assert f"the limit of 330M FLOPs {IDLE} {format_cost(flops)}; set search.flops_limit lower, or" in done.stderr
    assert f"the limit of 1G parameters {IDLE} {format_cost(params)}; set search.params_limit lower" in done.stderr
    assert json.loads(done.stdout)
    at_the_maximum = ("--flops-limit", flops, "--params-limit", params, "--run-dir", "other")
    assert IDLE not in program(*arguments, *at_the_maximum).stderr
    if processes == 1:
        spos.here("flops-table", "--latency", "--run-dir", "third")
        done = spos.here(*arguments, "--run-dir", "third", "--latency-limit", "1000s")
        assert f"the limit of 1000s of latency {IDLE}" in done.stderr


def test_flops_table(spos: Spos) -> None:
    flops, _ = maxima(spos)
    for archs in ((), ("0,1,2,3",)):
        done = spos.here("flops-table", *archs, "--flops-limit", "330M", "--json")
        assert done.stderr.count(f"the limit of 330M FLOPs {IDLE} {format_cost(flops)}") == 1
        assert json.loads(done.stdout)
        assert not spos.here("flops-table", *archs, "--flops-limit", flops, "--json").stderr


@pytest.mark.slow
def test_export_arch(finished: Spos, spos: Spos) -> None:
    flops, params = maxima(spos)
    where = ("--from", finished.run / "search" / "journal.jsonl", "--json")
    done = spos.here("export-arch", *where, "--flops-limit", "330M", "--params-limit", "330M")
    assert done.stderr.count(IDLE) == 2
    assert json.loads(done.stdout)
    assert not spos.here("export-arch", *where, "--flops-limit", flops, "--params-limit", params).stderr


def setup(*overrides: str) -> Setup:
    """Return the tiny experiment with other settings, as `spos doctor` checks it."""
    return Setup(Run(loading.validate(yaml.safe_load(TINY), overrides)))


def test_doctor(spos: Spos) -> None:
    flops, params = maxima(spos)
    for limits, advice in {
        ("flops_limit=330M",): "lower search.flops_limit, or set it to null",
        ("params_limit=330M",): "lower search.params_limit, or set it to null",
        (f"flops_limit={flops}", "params_limit=1G"): "lower search.params_limit",
    }.items():
        finding = costs.check_limits(setup(*(f"search.{limit}" for limit in limits)))
        assert (finding.status, finding.advice.count(IDLE)) == ("warn", 1)
        assert advice in finding.advice
    none = costs.check_limits(setup(f"search.flops_limit={flops}", f"search.params_limit={params}"))
    assert (none.status, none.advice) == ("ok", "")
    low = costs.check_limits(setup("search.params_limit=1K"))
    assert low.status == "fail"
    assert "raise search.params_limit to" in low.advice


def test_bins(spos: Spos) -> None:
    flops, _ = maxima(spos)
    bins = ("supernet.sampler=flops_bins", "supernet.flops_bins={low: 10K, high: 330M, width: 329990K}")
    finding = costs.check_sampler(setup(*bins))
    assert finding.status == "warn"
    assert f"the space from 38.91K to {format_cost(flops)}" in finding.advice
    done = spos.here("supernet-train", *(f"--set={one}" for one in (*bins, "supernet.steps=2")))
    assert done.stderr.count("more than half of a bin") == 1
