"""The YAML: every mistake is reported with its line, and as a ConfigError."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from spos_cli.config import loading
from spos_cli.config.schema import Config
from spos_cli.errors import ConfigError
from spos_cli.space.limits import Limit
from tests.config.yaml_texts import load


def test_all_mistakes_are_reported_with_their_lines(tmp_path: Path) -> None:
    text = "name: x\nsupernet:\n  stepz: 5\n  lr: fast\ndata:\n  source: floder\nspase: {}\n"
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert any("x.yaml:3: unknown setting 'supernet.stepz'; did you mean 'steps'?" in line for line in lines)
    assert any("x.yaml:4: supernet.lr" in line and "'fast'" in line for line in lines)
    assert any("x.yaml:6: data.source" in line and "'folder'" in line for line in lines)
    assert any("x.yaml:7: unknown setting 'spase'; did you mean 'space'?" in line for line in lines)


def test_overrides(tmp_path: Path) -> None:
    overrides = ["supernet.lr=0.1", "search.flops_limit=0.3G", "space.stages.1.blocks=7", "name=other"]
    settings = load(tmp_path, "space:\n  stages: [{blocks: 1, channels: 32}, {blocks: 1, channels: 64}]\n", *overrides)
    assert settings.supernet.lr == 0.1
    assert settings.search.flops_limit == Limit(300_000_000)
    assert settings.space.stages[1].blocks == 7
    assert settings.name == "other"
    changed = load(tmp_path, "", "space.stages.2.blocks=9")
    assert [stage.blocks for stage in changed.space.stages] == [4, 4, 9, 4]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "supernet.stepz=1",
            "--set supernet.stepz=1: unknown setting 'supernet.stepz'; did you mean 'steps'?",
        ),
        ("supernet", "expected section.key=value"),
        ("=1", "expected section.key=value"),
        ("seed.x=1", "there is no seed.x to set"),
        ("space.stages.9.blocks=1", "there is no space.stages.9.blocks to set"),
        ("supernet.lr=[", "not a valid YAML value"),
        ("supernet.lr=-1", "--set supernet.lr=-1: supernet.lr"),
        ("serch.population=3", "--set serch.population=3: unknown setting 'serch'; did you mean 'search'?"),
    ],
)
def test_each_wrong_override(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "seed: 3\n", override)
    assert message in str(caught.value)


def test_a_rule_between_fields_names_what_was_typed_for_them(tmp_path: Path) -> None:
    text = "seed: 3\nsearch: {crossovers: 5}\n"
    for overrides, message in (
        (["search.population=8"], "x.yaml:2 with --set search.population=8: search: mutations + crossovers (25 + 5)"),
        (
            ["search.population=8", "search.mutations=6", "search.images=9", "supernet.lr=0.5"],
            "x.yaml:2 with --set search.population=8 and --set search.mutations=6: search: mutations + crossovers (6 +",
        ),
        (["data.holdout_per_class=0", "seed=4"], "x.yaml with --set data.holdout_per_class=0: search.split is holdout"),
        (["supernet.warmup_steps=10", "supernet.steps=10"], "x.yaml with --set supernet.warmup_steps=10 and --set sup"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path, text, *overrides)
        assert message in str(caught.value)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
keys = st.sampled_from([*Config.model_fields, "steps", "lr", "stages", "blocks", "choices"]) | st.text(max_size=5)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(keys, trees, max_size=4), st.lists(st.text(max_size=20), max_size=2))
def test_any_yaml_gives_a_config_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, object], overrides: list[str]
) -> None:
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    with contextlib.suppress(ConfigError):
        assert isinstance(loading.load(path, overrides), Config)


@given(st.text(max_size=60))
def test_any_text_gives_a_config_or_an_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with contextlib.suppress(ConfigError):
        loading.load(path)
