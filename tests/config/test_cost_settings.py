"""The settings of own costs: what is read, and one clear line for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from spos_cli.config import loading
from spos_cli.config.identity import shared_settings
from spos_cli.config.loading import CliOption
from spos_cli.errors import ConfigError
from spos_cli.space.limits import Limit

COSTS = "costs: [{name: energy, table: energy.csv, unit: mJ}, {name: peak_memory, table: 'mine:memory'}]\n"


def load(folder: Path, text: str, *overrides: str | CliOption) -> loading.Config:
    (folder / "spos.yaml").write_text(text)
    return loading.load(folder / "spos.yaml", overrides)


def test_own_costs_and_their_limits(tmp_path: Path) -> None:
    text = COSTS + "search: {limits: {peak_memory: 3-8, energy: 12.5}, objective: pareto, pareto_cost: energy}\n"
    config = load(tmp_path, text)
    energy, memory = config.costs
    assert (energy.is_own_code, memory.is_own_code) == (False, True)
    assert list(config.cost_kinds) == ["flops", "params", "bitops", "latency", "energy", "peak_memory"]
    assert config.cost_kinds["energy"].format(12_500_000) == "12.5 mJ"
    own = {"energy": Limit(12_500_000), "peak_memory": Limit(8_000_000, 3_000_000)}
    assert config.search.cost_limits == {"flops": Limit(330_000_000), **own}
    written = yaml.safe_load(config.to_yaml())
    assert written["search"]["limits"] == {"energy": 12.5, "peak_memory": "3-8"}
    assert loading.validate(written) == config
    assert "costs" not in shared_settings(config)  # Processes compare the tables.


def test_limits_on_the_command_line(tmp_path: Path) -> None:
    text = COSTS + "search: {limits: {energy: 12.5}}\n"
    option = CliOption("--limit", "search.limits.energy", "8-9.25", "--limit energy=8-9.25")
    assert load(tmp_path, text, option).search.limits == {"energy": Limit(9_250_000, 8_000_000)}
    assert load(tmp_path, COSTS, option).search.limits == {"energy": Limit(9_250_000, 8_000_000)}
    assert load(tmp_path, text, "search.limits.energy=null").search.limits == {}


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("costs: [{name: flops, table: a.csv}]\n", "costs.0.name: flops is a built-in cost; choose a name other than"),
        ("costs: [{name: Energy, table: a.csv}]\n", "costs.0.name: should be a name of at most 32 lower-case letters"),
        (f"costs: [{{name: {33 * 'a'}, table: a.csv}}]\n", "costs.0.name: should be a name of at most 32"),
        ("costs: [{name: energy}]\n", "costs.0.table: field required"),
        ("costs: [{name: energy, table: ''}]\n", "costs.0.table: should be a CSV file or package.module:function"),
        ("costs: [{name: energy, table: a.csv, unit: ''}]\n", "costs.0.unit: should be 1 to 16 printable letters"),
        ("costs: [{name: energy, table: a.csv, units: mJ}]\n", "did you mean 'unit'?"),
        ("costs: [{name: a, table: a.csv}, {name: a, table: b.csv}]\n", "costs: a is there twice"),
        (
            COSTS + "search: {limits: {energie: 3}}\n",
            "search.limits: there is no cost 'energie'; did you mean 'energy'?",
        ),
        (
            "search: {limits: {heat: 3}}\n",
            "there is no cost 'heat'; known: flops, params, bitops, latency; own ones",
        ),
        (COSTS + "search: {limits: {flops: 3M}}\n", "flops has a limit of its own: search.flops_limit, or --flops-lim"),
        (COSTS + "search: {limits: {energy: 12.5mJ}}\n", "search.limits: energy: '12.5mJ' is not a cost"),
        (COSTS + "search: {limits: {energy: 8-3}}\n", "energy: '8-3' is reversed: the smaller end is first; write 3-8"),
        (COSTS + "search: {limits: 12}\n", "search.limits: should be a mapping of costs and limits"),
        (
            COSTS + "search: {objective: pareto, pareto_cost: enrgy}\n",
            "search.pareto_cost: there is no cost 'enrgy'; did you mean 'energy'?",
        ),
        ("search: {energy: 3}\n", "did you mean 'limits'?"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, phrase: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert phrase in message
    assert "\n" not in message


def test_a_mistake_on_the_command_line_is_quoted(tmp_path: Path) -> None:
    option = CliOption("--limit", "search.limits.energie", "3", "--limit energie=3")
    with pytest.raises(ConfigError, match=r"with --limit energie=3: search\.limits: there is no cost 'energie'"):
        load(tmp_path, COSTS, option)
