"""Which settings a result depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spos_cli.config import identity
from spos_cli.config.schema import Config
from tests.config.yaml_texts import load

# Where a run is, on what machine it works, and what comes after all results.
INDIFFERENT = {
    "name=other",
    "run_dir=elsewhere",
    "devices=3",
    "threads=2",
    "timeout_minutes=5",
    "max_restarts=0",
    "data.workers=0",
    "data.bad_images=0",
    "audit.seeds=2",
}
# What a training reports, and what it keeps.
REPORTING = {
    *("log_every=7", "checkpoint_every=7", "keep_checkpoints=7", "milestone_every=7", "evaluate_every=7"),
    "keep_best=false",
}


@pytest.mark.parametrize("override", sorted(INDIFFERENT))
def test_a_run_may_continue_elsewhere(tmp_path: Path, override: str) -> None:
    assert identity.portable_settings(load(tmp_path, "", override)) == identity.portable_settings(Config())


@pytest.mark.parametrize(
    "override",
    ["seed=1", "space.classes=9", "space.widths=[0.5, 1]", "data.root=x", "data.preset=standard", "supernet.lr=0.1",
     "supernet.compile=blocks", "search.racing=0.01", "search.images=5", "retrain.steps=9", "data.store=disk",
     "data.exif=ignore"],
)  # fmt: skip
def test_a_result_depends_on_all_other_settings(tmp_path: Path, override: str) -> None:
    assert identity.portable_settings(load(tmp_path, "", override)) != identity.portable_settings(Config())


def test_every_setting_is_portable_or_of_the_place() -> None:
    def names(values: dict[str, Any]) -> set[str]:
        return {f"{section}.{name}" for section, inner in values.items() if isinstance(inner, dict) for name in inner}

    config = Config()
    kept = identity.portable_settings(config)
    assert config.dump().keys() - kept.keys() == {*identity.PLACE_AND_MACHINE, "audit"}
    assert {name for name in names(config.dump()) - names(kept) if not name.startswith("audit.")} == {
        f"data.{name}" for name in identity.LOADING
    }


def test_a_cache_in_memory_gives_the_same_images_as_one_on_disk(tmp_path: Path) -> None:
    ram, disk = (identity.portable_settings(load(tmp_path, "", f"data.store={kind}")) for kind in ("ram", "disk"))
    assert ram == disk
    assert ram["data"]["store"] == "disk"


def test_a_training_may_report_more_often(tmp_path: Path) -> None:
    changed = load(tmp_path, "", *(f"retrain.{override}" for override in REPORTING), "data.root=moved")
    assert identity.training_identity(changed, "retrain") == identity.training_identity(Config(), "retrain")
    for override in ("retrain.steps=9", "seed=4", "space.classes=9", "data.holdout_per_class=1"):
        other = load(tmp_path, "", override)
        assert identity.training_identity(other, "retrain") != identity.training_identity(Config(), "retrain")
        assert (identity.training_identity(other, "supernet") == identity.training_identity(Config(), "supernet")) == (
            override.startswith("retrain.")
        )


def test_processes_may_have_images_in_different_folders(tmp_path: Path) -> None:
    moved = load(tmp_path, "", "data.root=moved", "devices=2")
    assert identity.shared_settings(moved) == identity.shared_settings(Config())
    assert identity.shared_settings(load(tmp_path, "", "audit.seeds=2")) != identity.shared_settings(Config())


def test_a_weights_file_does_not_say_where_to_work() -> None:
    values = Config().dump()
    kept = identity.without_machine(values)
    assert values.keys() - kept.keys() == set(identity.PLACE_AND_MACHINE)
    assert values["data"].keys() - kept["data"].keys() == set(identity.LOADING)
    assert identity.without_machine({"data": 5, "name": "x"}) == {"data": 5}
    kept["space"]["classes"] = -1
    assert values["space"]["classes"] == 1000, "a copy"


@pytest.mark.parametrize(("trained_with", "expected"), [("auto", (0, 4095)), ("dtype", "dtype")])
def test_images_and_machine_of_other_settings(tmp_path: Path, trained_with: str, expected: object) -> None:
    prepared = ("data.preset=standard", "data.exif=ignore", "data.std=[0.5, 0.5, 0.5]")
    trained = load(tmp_path, "", *prepared, "space.classes=9", f"data.value_range={trained_with}")
    mine = load(tmp_path, "", "name=mine", "devices=2", "data.root=r", "data.workers=1", "data.value_range=[0, 4095]")
    config = identity.with_images_of(trained, mine)
    assert (config.name, config.devices, config.data.root, config.data.workers) == ("mine", 2, "r", 1)
    assert (config.data.preset, config.space.classes) == ("standard", 9)
    assert (config.data.exif, config.data.std) == ("ignore", (0.5, 0.5, 0.5))
    assert config.data.value_range == expected
