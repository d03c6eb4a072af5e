"""The six commands on real digits: what each writes, and that repeating one changes nothing."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import yaml

from spos_cli.engine import checkpoint
from tests.conftest import PROGRAM, Mistake, Spos
from tests.search.test_ties import tied

pytestmark = pytest.mark.slow

FIELDS = {"architecture", "flops", "params", "top1", "top5", "images", "generation", "origin"}


def journal(spos: Spos) -> list[dict[str, object]]:
    return [json.loads(line) for line in (spos.run / "search" / "journal.jsonl").read_text().splitlines()]


def check_ties(folder: Path, entries: list[dict[str, Any]], result: dict[str, Any]) -> None:
    """Check the intervals, and what is statistically tied with the best, one comparison at a time."""
    bits = np.unpackbits(np.fromfile(folder / "outcomes.bits", np.uint8).reshape(len(entries), -1), axis=1, count=100)
    outcomes = {tuple(entry["architecture"]): row for entry, row in zip(entries, bits.astype(bool), strict=True)}
    winner = outcomes[tuple(result["best"][0]["architecture"])]
    for entry in result["best"]:
        right = scipy.stats.binomtest(int(outcomes[tuple(entry["architecture"])].sum()), 100)
        assert right.statistic == entry["top1"]
        assert entry["interval"] == pytest.approx(list(right.proportion_ci(0.95, method="wilson")), abs=1e-6)
        assert entry["tied"] == tied(winner, outcomes[tuple(entry["architecture"])])
    assert result["tied"] == sum(tied(winner, row) for row in outcomes.values())


def test_what_each_command_writes(finished: Spos) -> None:
    run = finished.run
    assert (run / "supernet" / "last.pt").read_bytes() == (run / "supernet" / "step-00000100.pt").read_bytes()
    assert len(list((run / "supernet").glob("step-*.pt"))) == 2  # keep_checkpoints
    steps = [json.loads(line)["step"] for line in (run / "supernet" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(10, 101, 10))

    entries = journal(finished)
    assert all(set(entry) == FIELDS for entry in entries)
    assert len({tuple(entry["architecture"]) for entry in entries}) == len(entries) == 18  # type: ignore[arg-type]
    assert {entry["images"] for entry in entries} == {100}

    result = yaml.safe_load((run / "search" / "result.yaml").read_text())
    best = max(entries, key=lambda entry: (entry["top1"], -entry["flops"]))  # type: ignore[operator]
    assert result["best"][0]["architecture"] == best["architecture"]
    check_ties(run / "search", entries, result)
    exported = yaml.safe_load(finished.arch().read_text())
    assert (exported["architecture"], exported["flops"]) == (best["architecture"], best["flops"])

    assert yaml.safe_load((run / "config.yaml").read_text())["supernet"]["steps"] == 100
    (model,) = run.glob("retrain/*/model.pt")
    content = torch.load(model, weights_only=True)
    assert content["architecture"] == best["architecture"]
    assert content["preprocessing"] == {
        "preset": "standard",
        "image_size": 8,
        "in_channels": 3,
        "exif": "apply",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    assert content["classes"] == list("0123456789")


def test_evaluate_needs_nothing_but_the_file(finished: Spos, tmp_path: Path) -> None:
    (model,) = finished.run.glob("retrain/*/model.pt")
    elsewhere = Spos(tmp_path / "elsewhere")
    (elsewhere.folder / "spos.yaml").unlink()
    shutil.copy(model, elsewhere.folder / "some name.pt")
    done = elsewhere("evaluate", "--weights", "some name.pt", "--json", "--save-logits", "logits.npz")
    result = json.loads(done.stdout)
    accuracies, speeds = {"top1", "top5", "balanced_accuracy", "loss", "images"}, {"images_per_second"}
    assert set(result) == accuracies | speeds | {"image_size", "trained_image_size", "flops", "params"}

    metrics = torch.load(model, weights_only=True)["metrics"]
    assert {key: result[key] for key in ("top1", "top5", "images")} == {
        key: metrics[key] for key in ("top1", "top5", "images")
    }
    assert result["loss"] == pytest.approx(metrics["loss"], rel=1e-4)
    assert result["top1"] > 0.4, "it has begun to learn digits, where chance is 0.1"

    saved = np.load(elsewhere.folder / "logits.npz")
    assert saved["logits"].shape == (result["images"], 10)
    assert float((saved["logits"].argmax(1) == saved["labels"]).mean()) == result["top1"]
    assert len(set(saved["paths"].tolist())) == result["images"]


def test_another_config_changes_where_images_are_but_not_how_they_are_prepared(finished: Spos, tmp_path: Path) -> None:
    (model,) = finished.run.glob("retrain/*/model.pt")
    spos = Spos(tmp_path)
    text = (spos.folder / "spos.yaml").read_text().replace("preset: standard", "preset: spos")
    (spos.folder / "other.yaml").write_text(text)
    elsewhere = json.loads(spos.here("evaluate", "--weights", model, "--json").stdout)
    other = json.loads(spos.here("evaluate", "--weights", model, "--json", "--config", "other.yaml").stdout)
    assert elsewhere["top1"] == other["top1"]
    assert elsewhere["loss"] == pytest.approx(other["loss"], rel=1e-5)  # threads differ, so the last digits may


def test_a_path_of_the_supernet(finished: Spos) -> None:
    """The calibration is that of the search, but the images are the validation set: close, but not equal."""
    entry = journal(finished)[0]
    arch = ",".join(map(str, entry["architecture"]))  # type: ignore[call-overload]
    before = {path: path.stat().st_mtime_ns for path in finished.run.rglob("*")}
    weights = finished.run / "supernet" / "last.pt"
    result = json.loads(finished.here("evaluate", "--weights", weights, "--arch", arch, "--json").stdout)
    assert result["flops"] == entry["flops"]
    assert result["top1"] == pytest.approx(entry["top1"], abs=0.25)
    assert {path: path.stat().st_mtime_ns for path in finished.run.rglob("*")} == before, "nothing is written"


def test_a_path_of_the_supernet_scores_the_same_as_in_the_search(finished: Spos, tmp_path: Path) -> None:
    """With `split: val` the search scores the images that evaluate does, in another order."""
    other = Spos(tmp_path)
    weights = finished.run / "supernet" / "last.pt"
    other.here("search", "--weights", weights, "--set", "search.split=val", "--set", "search.generations=0")
    for entry in journal(other)[:2]:
        arch = ",".join(map(str, entry["architecture"]))  # type: ignore[call-overload]
        result = json.loads(other.here("evaluate", "--weights", weights, "--arch", arch, "--json").stdout)
        assert (result["top1"], result["images"]) == (entry["top1"], entry["images"])


def test_the_same_command_again_changes_nothing(finished: Spos) -> None:
    files = [path for path in finished.run.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    for command in ("supernet-train", "search", "export-arch", "retrain", "report"):
        message = finished.here(command).stdout
        assert ("report: runs/tiny/search/report.html" in message) == (command in ("search", "report"))
    assert {path: path.read_bytes() for path in files} == before


def test_export_under_another_limit_and_several(finished: Spos, tmp_path: Path) -> None:
    spos = Spos(tmp_path)
    shutil.copytree(finished.run / "search", spos.run / "search")
    limit = int(np.median([entry["flops"] for entry in journal(finished)]))  # type: ignore[misc]
    found = json.loads(spos.here("export-arch", "--top", 3, "--flops-limit", limit, "--json").stdout)
    allowed = [entry for entry in journal(finished) if entry["flops"] <= limit]  # type: ignore[operator]
    allowed.sort(key=lambda entry: (-entry["top1"], entry["flops"]))  # type: ignore[operator]
    assert [entry["architecture"] for entry in found] == [entry["architecture"] for entry in allowed[:3]]
    assert len(list(spos.run.glob("archs/*/arch.yaml"))) == 3
    for nothing in ((), ("",)):  # A shell makes an empty text of a variable that is not set.
        message = spos.here("retrain", *nothing, code=2).stderr  # It cannot tell which of the three.
        assert "there are several arch.yaml files; name one of" in message


def test_fresh_keeps_what_was_there(finished: Spos, tmp_path: Path) -> None:
    spos = Spos(tmp_path)
    shutil.copytree(finished.run / "supernet", spos.run / "supernet")
    old = (spos.run / "supernet" / "last.pt").read_bytes()
    spos.here("supernet-train", "--fresh", "--set", "supernet.steps=20", "--seed", 5)
    assert (spos.run / "previous" / "supernet-1" / "last.pt").read_bytes() == old
    assert (spos.run / "supernet" / "step-00000020.pt").exists()


def test_fresh_retraining_leaves_one_model_to_evaluate(finished: Spos, tmp_path: Path) -> None:
    spos = Spos(tmp_path / "a folder, née «x»")
    shutil.copytree(finished.run / "archs", spos.run / "archs")
    short = ("--set", "retrain.steps=20")
    spos.here("retrain", *short)
    spos.here("retrain", *short, "--seed", 3, "--fresh")
    assert json.loads(spos.here("evaluate", "--json").stdout)["images"] == 359
    (previous,) = (spos.run / "previous").iterdir()
    assert (previous / "model.pt").exists()


def test_a_random_search_has_the_same_budget(finished: Spos, tmp_path: Path) -> None:
    spos = Spos(tmp_path)
    weights = finished.run / "supernet" / "last.pt"
    spos.here("search", "--weights", weights, "--set", "search.algorithm=random")
    entries = journal(spos)
    assert len(entries) == 18
    assert {entry["origin"] for entry in entries} == {"random"}


def test_a_limit_is_respected(finished: Spos, tmp_path: Path) -> None:
    spos = Spos(tmp_path)
    limit = int(np.median([entry["flops"] for entry in journal(finished)]))  # type: ignore[misc]
    spos.here("search", "--weights", finished.run / "supernet" / "last.pt", "--flops-limit", limit)
    assert all(entry["flops"] <= limit for entry in journal(spos))  # type: ignore[operator]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_bytes(finished: Spos, tmp_path: Path, workers: int) -> None:
    spos = Spos(tmp_path)
    spos.here("supernet-train", "--set", f"data.workers={workers}")
    theirs = (finished.run / "supernet" / "last.pt").read_bytes()
    assert (spos.run / "supernet" / "last.pt").read_bytes() == theirs


def test_two_processes_give_the_same_journal(finished: Spos, tmp_path: Path) -> None:
    spos = Spos(tmp_path)
    spos.together("search", "--weights", finished.run / "supernet" / "last.pt")
    ours, theirs = (folder.run / "search" / "journal.jsonl" for folder in (spos, finished))
    assert ours.read_bytes() == theirs.read_bytes()


def test_official_costs(spos: Spos) -> None:
    winner = "2,1,0,1,2,0,2,0,2,0,2,3,0,0,0,0,3,2,3,3"
    (spos.folder / "spos.yaml").unlink()
    assert json.loads(spos.here("flops-table", winner, "--json", "--config", "imagenet").stdout) == [
        {"architecture": [int(choice) for choice in winner.split(",")], "flops": 322918720, "params": 3558464}
    ]


def test_flops_table_of_the_space(spos: Spos) -> None:
    table = json.loads(spos.here("flops-table", "--json", "--flops-limit", "300K").stdout)
    assert np.array(table["table"]).shape == (4, 4)
    assert table == json.loads((spos.run / "flops_table.json").read_text())
    rows = np.array(table["table"])
    sums = [table["fixed"] + sum(rows[range(4), list(np.unravel_index(i, (4, 4, 4, 4)))]) for i in range(256)]
    assert (table["minimum"], table["maximum"]) == (min(sums), max(sums))
    assert table["share_under_limit"] == np.mean(np.array(sums) <= 300_000)
    assert table["mean"] == pytest.approx(np.mean(sums))


def test_help_and_version_are_instant_and_have_examples() -> None:
    commands = ["supernet-train", "flops-table", "search", "export-arch", "retrain", "evaluate", "status"]
    top = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(command in top for command in commands)
    for command in commands:
        text = subprocess.run([PROGRAM, command, "--help"], capture_output=True, text=True, check=True).stdout
        assert f"Example: spos {command}" in text
        assert "--config" in text
    version = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    assert version.startswith("spos 0.")
    assert subprocess.run([sys.executable, "-m", "spos_cli", "--version"], check=True, capture_output=True).stdout


def test_print_config(spos: Spos) -> None:
    printed = yaml.safe_load(spos("supernet-train", "--print-config", "--set", "supernet.lr=0.25").stdout)
    assert printed["supernet"]["lr"] == 0.25
    assert not spos.run.exists()


def test_a_training_resumes_with_other_processes_but_not_with_other_settings(tmp_path: Path) -> None:
    spos = Spos(tmp_path)
    saved = spos.run / "supernet" / "last.pt"
    code, _ = spos.interrupt(signal.SIGTERM, saved.exists, "supernet-train", "--set", "supernet.steps=150")
    assert code == 143
    other = ("--seed", 7, "--set", "supernet.lr=0.1")
    message = spos.here("supernet-train", "--set", "supernet.steps=150", *other, code=2).stderr
    assert "recipe.seed: 7, was 0" in message
    assert "recipe.supernet.lr: 0.1, was 0.05" in message
    step = checkpoint.load(saved)["step"]
    harmless = ("--set", "data.workers=1", "--set", "supernet.log_every=500")
    harmless += ("--set", "supernet.checkpoint_every=1000", "--set", "timeout_minutes=5")
    done = spos.together("supernet-train", "--set", "supernet.steps=150", *harmless)
    assert f"resuming at step {step} of 150" in done[0].stderr
    assert checkpoint.load(saved)["step"] == 150


def test_the_settings_in_a_weights_file_do_not_say_where_to_work(finished: Spos, spos: Spos, mistake: Mistake) -> None:
    (model,) = finished.run.glob("retrain/*/model.pt")
    outside = spos.folder.parent / f"{spos.folder.name}-outside"
    content = checkpoint.load(model)
    config = content["config"] | {"run_dir": str(outside), "name": "evil", "devices": 64, "max_restarts": 10**6}
    checkpoint.save(spos.folder / "evil.pt", {**content, "config": config})
    assert json.loads(spos.here("evaluate", "--weights", "evil.pt", "--json").stdout)["images"] == 359
    for root in (outside, "../elsewhere", "/"):
        config["data"] = {**config["data"], "source": "cifar10", "root": str(root)}
        checkpoint.save(spos.folder / "evil.pt", {**content, "config": config})
        assert "the settings in the weights file ask for images in" in mistake("evaluate", "--weights", "evil.pt")
    assert not outside.exists()


def test_set_reaches_the_evaluation_with_and_without_a_config(finished: Spos) -> None:
    (model,) = finished.run.glob("retrain/*/model.pt")
    for extra in ((), ("--config", "spos.yaml")):
        command = ("evaluate", "--weights", model, *extra, "--set", "search.batch_size=7", "--print-config")
        assert yaml.safe_load(finished.here(*command).stdout)["search"]["batch_size"] == 7
