"""Limits that are ranges, `250M-330M`: in the settings, in a search and in what follows it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from spos_cli.config import loading
from spos_cli.models.counting import Costs, count
from spos_cli.space.architecture import parse
from spos_cli.space.limits import Limit
from tests.conftest import Spos


def read_costs(spos: Spos) -> Costs:
    return count(loading.load(spos.folder / "spos.yaml").space.build())


def test_the_settings_keep_a_range(spos: Spos) -> None:
    printed = spos.here("search", "--flops-limit", "50K-60K", "--print-config").stdout
    assert "flops_limit: 50K-60K\n" in printed
    (spos.folder / "again.yaml").write_text(printed)
    search = loading.load(spos.folder / "again.yaml", ["search.latency_limit=8ms-12ms"]).search
    assert (search.flops_limit, search.latency_limit) == (Limit(60_000, 50_000), Limit(12_000, 8_000))
    for command in ("search", "export-arch", "flops-table"):
        message = spos.here(command, "--flops-limit", "60K-50K", code=2).stderr
        assert "--flops-limit 60K-50K: search.flops_limit: '60K-50K' is reversed" in message
        assert "write 50K-60K" in message
    assert "'-60K' is not a size" in spos.here("search", "--flops-limit", "-60K", code=2).stderr


def test_the_share_of_a_range(spos: Spos) -> None:
    flops = read_costs(spos).flops
    every = sorted(flops.of(arch) for arch in flops.distribution().enumerate(None, None))
    low, high = every[len(every) // 4], every[len(every) // 2]
    inside = sum(low <= cost <= high for cost in every) / len(every)
    table = json.loads(spos.here("flops-table", "--flops-limit", f"{low}-{high}", "--json").stdout)
    assert table["share_within_limit"] == inside
    assert f"share of {low / 1000:.4g}K to {high / 1000:.4g}K" in spos.here(
        "flops-table", "--flops-limit", f"{low}-{high}"
    ).stdout.replace("\n", "")
    archs = ("0,0,0,0", "3,3,3,3", str(flops.most_expensive), str(flops.cheapest))
    shown = spos.here("flops-table", *archs, "--flops-limit", f"{flops.minimum + 1}-{flops.maximum}").stdout
    within = [flops.of(parse(arch)) > flops.minimum for arch in archs]
    assert [shown.count("yes"), shown.count("no")] == [within.count(True), within.count(False)]


@pytest.mark.slow
def test_a_search_within_two_ranges(finished: Spos, spos: Spos) -> None:
    costs = read_costs(spos)
    every = list(costs.flops.distribution().enumerate(None, None))
    flops = [int(q) for q in np.quantile([costs.flops.of(arch) for arch in every], (0.3, 0.8))]
    params = [int(q) for q in np.quantile([costs.params.of(arch) for arch in every], (0.2, 0.9))]
    limits = ("--flops-limit", f"{flops[0]}-{flops[1]}", "--params-limit", f"{params[0]}-{params[1]}")
    weights = ("--weights", finished.run / "supernet" / "last.pt")
    shown = spos.here("search", *weights, *limits).stdout
    assert "candidates at" in shown.replace("\n", " ")
    lines = [json.loads(line) for line in (spos.run / "search" / "journal.jsonl").read_text().splitlines()]
    assert lines
    assert all(flops[0] <= line["flops"] <= flops[1] and params[0] <= line["params"] <= params[1] for line in lines)
    result = yaml.safe_load((spos.run / "search" / "result.yaml").read_text())
    written = loading.load(spos.run / "search" / "config.yaml").search.flops_limit
    assert written == Limit(flops[1], flops[0])
    assert loading.validate({"search": {"flops_limit": result["flops_limit"]}}).search.flops_limit == written
    # The same command resumes; with another range, the difference is named.
    assert spos.here("search", *weights, *limits).stdout
    message = spos.here("search", *weights, "--flops-limit", "40K-90K", *limits[2:], code=2).stderr
    assert "search.flops_limit" in message

    # Of the scored candidates, those of a narrower range; without a range, those of the search's.
    costs_of = sorted(line["flops"] for line in lines)
    low, high = costs_of[len(lines) // 4], costs_of[len(lines) // 2]
    given = json.loads(spos.here("export-arch", "--flops-limit", f"{low}-{high}", "--top", 3, "--json").stdout)
    inside = sorted((line for line in lines if low <= line["flops"] <= high), key=lambda line: -line["top1"])
    assert [one["top1"] for one in given] == [line["top1"] for line in inside[:3]]
    message = spos.here("export-arch", "--flops-limit", "1G-2G", code=2).stderr.replace("\n", " ")
    assert "no scored candidate has 1G to 2G FLOPs" in message
    assert f"no architecture of the space has more than {costs.flops.maximum:,} FLOPs" in message
    gap = costs_of[0] + 1
    assert gap not in costs_of
    message = spos.here("export-arch", "--flops-limit", f"{gap}-{gap}", code=2).stderr.replace("\n", " ")
    assert f"search --fresh --flops-limit {gap}-{gap}" in message
    spos.here("report")
    page = (spos.run / "search" / "report.html").read_text()
    assert f'"limits":{{"flops":[{flops[0]},{flops[1]}]' in page.replace(" ", "")
