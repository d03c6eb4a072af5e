"""Costs of the user's own: from their tables to searches under limits, fronts, exports and reports."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from spos_cli.config import loading
from spos_cli.models.counting import count
from tests.conftest import PROGRAM, TINY, Mistake, Spos
from tests.runs import SHORT_AUDIT

OPTIONS = range(4)  # choices of each layer of the tiny space
ENERGY = "costs: [{name: energy, table: energy.csv, unit: mJ}]\n"
PAGE = (Path(__file__).parents[2] / "configs" / "README.md").read_text(encoding="utf-8")
SECTION = PAGE.split("### Costs of your own\n")[1].split("\n## ")[0]


def energy(layer: int, choice: int) -> float:
    """Return the energy of a choice; where one has more FLOPs than another, it needs less."""
    return round(0.125 * (layer + 1) + 0.4375 * (3 - choice), 4)


def energy_of(arch: list[int]) -> float:
    return 6.0625 + sum(energy(layer, choice) for layer, choice in enumerate(arch))


def fill(path: Path, cost: Callable[[int, int], float] = energy, fixed: float = 6.0625) -> None:
    """Fill in a template, as a script would that has measured every op."""
    lines = []
    for line in path.read_text().splitlines():
        layer, choice, *_ = line.split(",") if line.endswith(",") and not line.startswith("#") else ("", "")
        if layer:
            line += str(fixed if layer == "fixed" else cost(int(layer), int(choice)))
        lines.append(line)
    path.write_text("\n".join(lines) + "\n")


def add_energy(spos: Spos) -> None:
    (spos.folder / "spos.yaml").write_text(TINY + ENERGY)
    spos.here("flops-table", "--cost-template", "energy")
    fill(spos.folder / "energy.csv")


def read_lines(spos: Spos) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (spos.run / "search" / "journal.jsonl").read_text().splitlines()]


def list_energies() -> list[float]:
    return sorted(energy_of(list(arch)) for arch in itertools.product(OPTIONS, repeat=4))


@pytest.mark.slow
def test_all_commands_with_an_own_cost(tmp_path: Path) -> None:
    """As installed: a training, a search under a limit, its exports, its report and its status."""
    spos = Spos(tmp_path)
    add_energy(spos)
    limit = list_energies()[60]
    spos("supernet-train", "--set", "supernet.steps=20", program=(PROGRAM,))
    search = ("search", "--set", "supernet.steps=20", "--limit", f"energy={limit}")
    shown = spos(*search, program=(PROGRAM,)).stdout
    assert f"at or under {limit:.4g} mJ of energy" in shown
    assert "energy (mJ)" in shown
    lines = read_lines(spos)
    assert len(lines) == 18
    assert [line["costs"] for line in lines] == [{"energy": energy_of(line["architecture"])} for line in lines]
    assert max(line["costs"]["energy"] for line in lines) <= limit
    result = yaml.safe_load((spos.run / "search" / "result.yaml").read_text())
    assert result["limits"] == {"energy": limit}

    exported = json.loads(
        spos("export-arch", "--pareto", "--pareto-cost", "energy", "--json", program=(PROGRAM,)).stdout
    )
    energies = [one["costs"]["energy"] for one in exported]
    assert energies == sorted(energies)
    best = max(line["top1"] for line in lines)
    assert exported[-1]["top1"] == best
    assert yaml.safe_load((spos.folder / exported[0]["file"]).read_text())["costs"] == exported[0]["costs"]
    lower = (limit + min(energies)) / 2
    (one,) = json.loads(spos("export-arch", "--limit", f"energy={lower}", "--json").stdout)
    assert one["costs"]["energy"] <= lower
    spos("report", program=(PROGRAM,))
    page = (spos.run / "search" / "report.html").read_text(encoding="utf-8")
    assert f"under a limit of {limit:.4g} mJ of energy" in page
    assert re.search('data-cost="energy"[^>]*>Energy<', page)
    assert " mJ of energy" in spos("status").stdout
    spos("audit", *SHORT_AUDIT, "--set", "supernet.steps=20", "--set", f"search.limits.energy={limit}")
    compared = [json.loads(line) for line in (spos.run / "audit" / "journal.jsonl").read_text().splitlines()]
    assert compared
    assert all(line["costs"]["energy"] == energy_of(line["architecture"]) <= limit for line in compared)


@pytest.mark.slow
def test_an_own_cost_that_equals_flops_gives_the_search_under_a_flops_limit(finished: Spos, tmp_path: Path) -> None:
    by_flops, by_cost = Spos(tmp_path / "flops"), Spos(tmp_path / "cost")
    costs = count(loading.load(by_flops.folder / "spos.yaml").space.build())
    weights = ("--weights", finished.run / "supernet" / "last.pt")
    limit = costs.flops.distribution().quantile(0.3)
    add_energy(by_cost)
    (by_cost.folder / "energy.csv").unlink()
    by_cost.here("flops-table", "--cost-template", "energy")
    fill(by_cost.folder / "energy.csv", lambda layer, choice: costs.flops.rows[layer][choice], costs.flops.fixed)
    by_flops.here("search", *weights, "--flops-limit", limit)
    by_cost.here("search", *weights, "--limit", f"energy={limit}")
    ours = read_lines(by_cost)
    assert [one.pop("costs") for one in ours] == [{"energy": one["flops"]} for one in ours]
    assert ours == read_lines(by_flops)


@pytest.mark.slow
def test_a_search_for_the_front_of_an_own_cost(finished: Spos, spos: Spos) -> None:
    """It resumes with the same numbers, here by two processes, and not after one has changed."""
    add_energy(spos)
    weights = ("--weights", finished.run / "supernet" / "last.pt", "--seed", 1)  # The front has several candidates.
    search = ("search", *weights, "--objective", "pareto", "--pareto-cost", "energy")
    shown = spos.here(*search).stdout
    assert "the front (energy) of 18 candidates" in shown
    before, path = (spos.run / "search" / "journal.jsonl").read_bytes(), spos.folder / "energy.csv"
    path.write_text(path.read_text().replace("6.0625", "6.06250"))
    spos.together(*search)
    assert (spos.run / "search" / "journal.jsonl").read_bytes() == before
    lines, result = read_lines(spos), yaml.safe_load((spos.run / "search" / "result.yaml").read_text())
    energies = [energy_of(one["architecture"]) for one in result["front"]]
    assert len(energies) > 1
    assert energies == sorted(energies)
    assert result["reference"] == {"energy": list_energies()[-1], "top1": 0}
    assert 0 < result["hypervolume"] < result["reference"]["energy"]
    assert max(lines, key=lambda one: one["top1"])["top1"] == result["front"][-1]["top1"]
    page = (spos.run / "search" / "report.html").read_text(encoding="utf-8")
    assert 'data-cost="energy" aria-pressed="true"' in page
    path.write_text(path.read_text().replace("6.06250", "6.063"))
    message = spos.here(*search, code=2).stderr
    assert "holds a search with other settings (search.cost_tables.energy:" in message


@pytest.mark.slow
def test_a_cost_that_the_search_did_not_have(finished: Spos, tmp_path: Path, mistake: Mistake) -> None:
    """`export-arch` takes it from its table, as it does with latencies."""
    spos = Spos(tmp_path / "again")
    shutil.copytree(finished.run, spos.run)
    add_energy(spos)
    found = json.loads(spos.here("export-arch", "--pareto", "--pareto-cost", "energy", "--json").stdout)
    assert [one["costs"] for one in found] == [{"energy": energy_of(one["architecture"])} for one in found]
    message = spos.here("export-arch", "--limit", "energy=1", code=2).stderr
    assert "no scored candidate has at most 1 mJ of energy; they have " in message
    assert f"no architecture of the space has less than {list_energies()[0]:.4f} mJ of energy" in message
    within = list_energies()[128]
    message = spos.here("export-arch", "--flops-limit", "1K", "--limit", f"energy={within}", code=2).stderr
    assert "of energy" in message


def test_the_table_of_costs(spos: Spos, mistake: Mistake) -> None:
    (spos.folder / "spos.yaml").write_text(TINY + ENERGY)
    message = mistake("flops-table")
    assert "costs: energy has no table, since there is no energy.csv; run spos flops-table --cost-template" in message
    assert message.count("\n") == 1
    done = spos.here("flops-table", "--cost-template", "energy")
    assert "next: spos flops-table\n" in done.stdout
    assert "# Write the energy (mJ) of each op" in (spos.folder / "energy.csv").read_text()
    assert "energy.csv:4: the row fixed: cost is empty; it must be a number from 0 to 1,000,000,000" in mistake(
        "flops-table"
    )
    fill(spos.folder / "energy.csv")
    assert "energy.csv already exists, and may have been filled in; move it away first" in mistake(
        "flops-table", "--cost-template", "energy"
    )
    done = spos.here("flops-table")
    for phrase in ("energy (mJ) of each choice", "0: 1.438", "energy, minimum and maximum", " mJ to "):
        assert phrase in done.stdout
    table = json.loads((spos.run / "flops_table.json").read_text())["costs"]["energy"]
    assert table["fixed"] == 6.0625
    assert table["table"] == [[energy(layer, choice) for choice in OPTIONS] for layer in range(4)]
    assert (table["minimum"], table["maximum"]) == (list_energies()[0], list_energies()[-1])
    (one,) = json.loads(spos.here("flops-table", "0,1,2,3", "--json").stdout)
    assert one["costs"] == {"energy": energy_of([0, 1, 2, 3])}


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (("search", "--limit", "energie=3"), "there is no cost 'energie'; did you mean 'energy'?"),
        (("search", "--limit", "energy"), "--limit energy: expected NAME=LIMIT, such as --limit energy=12.5"),
        (("search", "--limit", "energy=3", "--limit", "energy=4"), "energy has the limit 3 already; give it once"),
        (("search", "--limit", "energy=3mJ"), "'3mJ' is not a cost"),
        (
            ("export-arch", "--pareto", "--pareto-cost", "enery"),
            "--pareto-cost enery: there is no cost 'enery'; did",
        ),
        (("flops-table", "--cost-template", "heat"), "--cost-template heat: there is no cost 'heat'; known: energy"),
        (("flops-table", "--cost-template", "energy", "--latency"), "do different things; give one of them"),
    ],
)
def test_mistakes(spos: Spos, mistake: Mistake, arguments: tuple[str, ...], phrase: str) -> None:
    (spos.folder / "spos.yaml").write_text(TINY + ENERGY)
    message = mistake(*arguments)
    assert phrase in message
    assert message.count("\n") == 1


@pytest.mark.slow
def test_limits_that_no_architecture_is_within(finished: Spos, spos: Spos, mistake: Mistake) -> None:
    add_energy(spos)
    search = ("search", "--weights", finished.run / "supernet" / "last.pt")
    message = mistake(*search, "--limit", "energy=5.5")
    least, most = (f"{list_energies()[end]:.4g} mJ" for end in (0, -1))
    assert f"no architecture has at most 5.5 mJ of energy; the space reaches from {least} to {most}" in message
    (spos.folder / "energy.csv").write_text((spos.folder / "energy.csv").read_text().replace("\n3,3,", "\n4,3,"))
    assert "layer is '4'; it must be fixed, or a layer from 0 to 3" in mistake(*search)


@pytest.mark.slow
def test_the_example_of_the_page(finished: Spos, spos: Spos) -> None:
    """Its settings, its function and its commands, on the tiny space."""
    settings, commands, code = (
        re.findall(rf"^```{language}\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE)[0]
        for language in ("yaml", "sh", "python")
    )
    (spos.folder / "spos.yaml").write_text(TINY + settings)
    (spos.folder / "my_costs.py").write_text(code)
    shutil.copytree(finished.run / "supernet", spos.run / "supernet")
    lines = [line.split("#")[0].replace("imagenet", "tiny").split()[1:] for line in commands.splitlines()]
    for number, words in enumerate(lines):
        spos(*words)
        if number == 0:
            fill(spos.folder / "energy.csv", lambda layer, choice: energy(layer, choice) * 2, 6.0625)
    lines = read_lines(spos)
    assert all(line["costs"]["energy"] <= 12.5 for line in lines)
    assert all(0 < line["costs"]["traffic"] < 0.02 for line in lines)
    front = (spos.folder / "runs" / "front" / "search" / "result.yaml").read_text()
    assert yaml.safe_load(front)["reference"].keys() == {"energy", "top1"}
    # A weights file that names a function imports nothing.
    (spos.folder / "my_costs.py").write_text("raise SystemExit('imported')\n")
    spos("evaluate", "--weights", spos.run / "supernet" / "last.pt", "--arch", "0,1,2,3")
    assert "cannot compute traffic with my_costs:traffic: imported" in spos("flops-table", code=2).stderr
