"""The YAML: every mistake is reported, with its line, and nothing but a ConfigError comes out."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from spos_cli.config import loading
from spos_cli.config.schema import LATER, Config, Section
from spos_cli.errors import ConfigError

# Each alias stands for ten of the one before: written out, they would fill any memory.
ALIASES = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))


def load(tmp_path: Path, text: str, *overrides: str) -> Config:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return loading.load(path, overrides)


@pytest.mark.parametrize("name", sorted(loading.shipped()))
def test_shipped_recipes_load(name: str) -> None:
    settings = loading.load(loading.find(name))
    assert settings.name == name
    assert settings.space.build().num_layers > 0


def test_imagenet_recipe_is_the_papers() -> None:
    settings = loading.load(loading.shipped()["imagenet"])
    supernet, search, retrain = settings.supernet, settings.search, settings.retrain
    assert (supernet.steps, supernet.batch_size, supernet.lr, supernet.schedule) == (
        150_000,
        1024,
        0.5,
        "linear",
    )
    assert (retrain.steps, retrain.batch_size, retrain.lr, retrain.schedule) == (300_000, 1024, 0.5, "linear")
    for training in (supernet, retrain):
        assert (training.momentum, training.weight_decay, training.label_smoothing) == (0.9, 4e-5, 0.1)
    bins = supernet.flops_bins
    assert (bins.low, bins.high, bins.width) == (290_000_000, 360_000_000, 10_000_000)
    assert supernet.sampler == "flops_bins"
    assert (search.population, search.generations, search.parents) == (50, 20, 10)
    assert (search.mutations, search.crossovers, search.mutation_probability) == (25, 25, 0.1)
    assert (search.flops_limit, search.split) == (330_000_000, "holdout")
    assert search.calibration_images == 2_560  # not 20,000: measured to be as close as the published 200 batches
    assert (supernet.affine, retrain.affine, settings.data.holdout_per_class) == (False, True, 50)
    assert settings == Config(name="imagenet", data=settings.data)  # the defaults say the same


def test_published_recipe_differs_where_the_published_code_does() -> None:
    """Every field that is not the paper's, and no other one."""
    paper, code = (loading.load(loading.shipped()[name]).dump() for name in ("imagenet", "imagenet_published"))
    assert dict(differences(paper, code)) == {
        "name": "imagenet_published",
        "data.holdout_per_class": 0,  # the supernet sees all training images
        "supernet.schedule_first": 1,  # stepped before the update
        "search.split": "val",
        "search.images": 40 * 200,
        "search.calibration_images": 200 * 128,
        "search.calibration_momentum": 0.1,
        "retrain.schedule_first": 1,
        "retrain.evaluate_every": 10_000,
        "retrain.batchnorm_pass_steps": 1_280_000 // 1024,
    }


def differences(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in other.items():
        if isinstance(value, dict):
            yield from differences(one[key], value, f"{prefix}{key}.")
        elif one[key] != value:
            yield prefix + key, value


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("supernet: {steps: 5}\nsupernet: {steps: 6}\n", "x.yaml:2: supernet is given twice"),
        ("a: [1,\n", "not valid YAML"),
        ("- 1\n", "expected a mapping"),
        ("seed: -1\n", "seed"),
        ("seed: .nan\n", "seed"),
        ("supernet: {steps: 10, warmup_steps: 10}\n", "warmup_steps (10) must be below steps (10)"),
        ("search: {population: 10, mutations: 6, crossovers: 6}\n", "must not exceed population (10)"),
        ("data: {holdout_per_class: 0}\n", "search.split is holdout, but data.holdout_per_class is 0"),
        ("search: {objective: pareto, racing: 0.01}\n", "so it is not for objective: pareto"),
        ("search: {calibration_momentum: 0}\n", "search.calibration_momentum"),
        ("search: {flops_limit: lots}\n", "search.flops_limit"),
        ("space: {stages: [{blocks: 2, channels: 33}]}\n", "33"),
        ("space: {stages: [{blocks: 2, chanels: 32}]}\n", "did you mean 'channels'?"),
        ("space: {choices: [{shuffle: {kernel: 3}}, {shuffle: {kernel: 3}}]}\n", "space"),
        ("space: {choices: [shuffel]}\n", "there is no op 'shuffel'"),
        ("space: {widths: [1.0, 0.5]}\n", "widths must ascend, without one that comes twice: 1.0, 0.5 do not"),
        ("space: {widths: 0.5}\n", "space.widths: input should be a list (it is 0.5)"),
        ("space: {widths: [0.5, wide]}\n", "widths: 'wide' is none; write numbers such as 0.8 or 1.4, from 0.001"),
        ("space: {widths: [0.01, 1]}\n", "layer 0: width 0.01 leaves shuffle 3x3 0 of 32 middle channels"),
        (
            "space: {widths: [0.5, 1]}\nsupernet: {steps: 9, width_warmup_steps: 9, sampler: fair}\n",
            "width_warmup_steps (9) must be below supernet.steps (9), or the narrowest is hardly trained",
        ),
        (
            "space: {choices: [mbconv: {kernel: 3, expand: 1}], widths: [0.5, 1]}\n",
            "widths are of middle channels, which no choice of this space has",
        ),
        ("supernet: {width_warmup_steps: 9}\n", "for a space with widths; space.widths has none"),
        (
            "space: {widths: [0.5, 1]}\nsupernet: {width_warmup_steps: 9}\n",
            "begins with wide paths, which bins of FLOPs do not; use supernet.sampler: uniform or fair",
        ),
        ("space: {choices: [{shuffle: {kernel: 4}}]}\n", "kernel must be an odd number"),
        ("space: {choices: [{shuffle_xception: {kernel: 3}}]}\n", "shuffle_xception takes no parameters, not kernel"),
        ("supernet: {flops_bins: {low: 400M}}\n", "do not divide the range"),
        ("supernet: {steps: yes}\n", "should be a number, not true"),
        ("devices: true\n", "should be auto, cpu or a number of processes"),
        ("seed: !!int ''\n", "not valid YAML"),
        ("name: ../../etc\n", "name"),
        ("supernet: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("a: &a [*a]\n", "unknown setting 'a'"),
        (f"{ALIASES}devices: *a11\n", "devices: should be auto, cpu or a number of processes, not [["),
        (f"{ALIASES}search: {{images: *a11}}\n", "search.images: input should be a valid integer (it is [["),
        (f"{ALIASES}space: *a11\n", "space: input should be a valid dictionary or instance of SpaceConfig (it is [["),
    ],
    ids=lambda value: value[-40:],
)
def test_each_mistake(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert said in str(caught.value)


def test_overrides(tmp_path: Path) -> None:
    overrides = ["supernet.lr=0.1", "search.flops_limit=0.3G", "space.stages.1.blocks=7", "name=other"]
    settings = load(tmp_path, "space:\n  stages: [{blocks: 1, channels: 32}, {blocks: 1, channels: 64}]\n", *overrides)
    assert settings.supernet.lr == 0.1
    assert settings.search.flops_limit == 300_000_000
    assert settings.space.stages[1].blocks == 7
    assert settings.name == "other"
    changed = load(tmp_path, "", "space.stages.2.blocks=9")
    assert [stage.blocks for stage in changed.space.stages] == [4, 4, 9, 4]


@pytest.mark.parametrize(
    ("override", "said"),
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
def test_each_wrong_override(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "seed: 3\n", override)
    assert said in str(caught.value)


def test_a_rule_between_fields_names_what_was_typed_for_them(tmp_path: Path) -> None:
    text = "seed: 3\nsearch: {crossovers: 5}\n"
    for overrides, said in (
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
        assert said in str(caught.value)


def test_what_is_printed_loads_again(tmp_path: Path) -> None:
    for name, path in loading.shipped().items():
        settings = loading.load(path)
        assert load(tmp_path, settings.to_yaml()) == settings, name


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("auto", "auto"),
        ("dtype", "dtype"),
        ("[0, 4095]", (0, 4095)),
        ("[-1000.0, 3000]", (-1000, 3000)),
        ("[0.25, 1e3]", (0.25, 1000)),
    ],
)
def test_a_range_of_values(tmp_path: Path, text: str, value: object) -> None:
    settings = load(tmp_path, "", f"data.value_range={text}")
    assert settings.data.value_range == value
    assert load(tmp_path, settings.to_yaml()) == settings
    assert settings.portable() != Config().portable() or value == "auto", "results depend on it"


@pytest.mark.parametrize(
    "text", ["true", "4095", "[0]", "[0, 1, 2]", "[1, 1]", "[2, 1]", "[0, .nan]", "[0, .inf]", "[0, 1e99]", "[no, yes]"]
)
def test_what_is_no_range_of_values(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.value_range: should be auto, dtype or two numbers"):
        load(tmp_path, "", f"data.value_range={text}")


def test_every_field_says_what_it_is() -> None:
    def walk(section: type[Section]) -> None:
        for name, field in section.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, Section):
                walk(kind)
            else:
                assert field.description, f"{section.__name__}.{name}"

    walk(Config)


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


def test_off_is_off(tmp_path: Path) -> None:
    """YAML reads it as false."""
    text = "search: {amp: off}\nretrain: {compile: off}\n"
    settings = load(tmp_path, text, "supernet.amp=off", "supernet.gradient_compression=off")
    assert (settings.search.amp, settings.retrain.compile, settings.supernet.amp) == ("off", "off", "off")
    assert yaml.safe_load(settings.to_yaml())["search"]["amp"] == "off"


def test_settings_that_came_later_are_left_out_at_their_default(tmp_path: Path) -> None:
    """So that what earlier versions have written down compares equal."""
    portable = Config().portable()
    assert all(name not in portable[section] for section, name in LATER)
    changed = load(tmp_path, "", "supernet.compile=blocks", "search.racing=0.01", "data.store=ram").portable()
    assert (changed["supernet"]["compile"], changed["search"]["racing"]) == ("blocks", 0.01)
    assert changed["data"]["store"] == "disk"  # the same images


def test_the_oldest_versions_are_those_that_are_promised() -> None:
    """`make test-oldest` runs the tests with them."""
    root = Path(__file__).parents[2]
    promised = re.search(
        r"^dependencies = \[\n(.*?)^\]", (root / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE
    )
    assert promised is not None
    least = dict(re.findall(r'"([\w-]+)>=([\d.]+)"', promised[1]))
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (root / "tests" / "oldest.txt").read_text(), re.MULTILINE))
    assert pinned.keys() == least.keys()
    assert all(f"{pinned[name]}.".startswith(f"{version}.") for name, version in least.items())
