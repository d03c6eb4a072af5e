"""`spos audit`: its numbers against SciPy and the journals, killed and resumed, and mistakes."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy.stats import kendalltau, spearmanr

from spos_cli.engine import checkpoint
from spos_cli.report.reading import read_findings
from spos_cli.run.folder import RunFolder
from spos_cli.search.journal import Journal
from tests.conftest import Mistake, Spos

pytestmark = pytest.mark.slow

QUICK = (
    *("--set", "audit.architectures=9", "--set", "audit.equal_flops=2", "--set", "audit.winner_seeds=2"),
    *("--set", "audit.steps=10", "--set", "audit.seeds=2", "--set", "retrain.batchnorm_pass_steps=2"),
)


def copy_of(finished: Spos, folder: Path) -> Spos:
    spos = Spos(folder)
    for stage in ("supernet", "search"):
        shutil.copytree(finished.run / stage, spos.run / stage)
    return spos


def test_numbers_and_a_kill(finished: Spos, tmp_path: Path) -> None:
    whole, broken = (copy_of(finished, tmp_path / name) for name in ("whole", "broken"))
    found = json.loads(whole.here("audit", *QUICK, "--json").stdout)
    folders = [spos.run / "audit" for spos in (whole, broken)]
    harmless = ("--set", "retrain.log_every=5")
    code, _ = broken.interrupt(
        signal.SIGKILL, lambda: any(folders[1].glob("alone/*/model.pt")), "audit", broken.run, *QUICK, *harmless
    )
    assert code == -signal.SIGKILL
    said = broken.here("audit", broken.run, *QUICK).stdout
    assert "agreement of both rankings, 8 architectures; without the winner" in said
    for name in ("result.json", "journal.jsonl", "outcomes.bits"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    assert json.loads((folders[0] / "result.json").read_text()) == found
    check_searches(found, whole)
    check_fidelity(found["fidelity"], whole)
    assert read_findings(RunFolder(whole.run)).audit is not None  # The audit belongs to this search.
    whole.here("report", whole.run)
    assert "With the same budget, " in (whole.run / "search" / "report.html").read_text()
    settings = yaml.safe_load((whole.run / "config.yaml").read_text())
    assert settings["retrain"]["steps"] == 100  # Not those of the short trainings.


def check_searches(found: dict[str, Any], spos: Spos) -> None:
    searched = Journal(spos.run / "search" / "journal.jsonl").read()
    audited = Journal(spos.run / "audit" / "journal.jsonl").read()
    assert not {entry.architecture for entry in searched} & {entry.architecture for entry in audited}
    curves = {(name, curve["seed"]): curve["best"] for name in ("evolution", "random") for curve in found[name]}
    assert list(curves) == [("evolution", 0), ("evolution", 1), ("random", 0), ("random", 1)]
    assert all(len(best) == 18 and best == sorted(best) for best in curves.values())
    assert curves["evolution", 0][-1] == max(entry.top1 for entry in searched)
    # The first generation of any search is random, so it is the same for both.
    assert curves["evolution", 1][:6] == curves["random", 1][:6]
    every = {entry.top1 for entry in [*searched, *audited]}
    assert all(set(best) <= every for best in curves.values())
    origins = [entry.origin for entry in searched]
    for origin, draws in found["operators"].items():
        assert draws["accepted"] == origins.count(origin)
        assert draws["proposed"] == draws["accepted"] + draws["duplicate"] + draws["over_limit"]
    images = found["images"]
    assert [row["images"] for row in images] == [100 * times for times in (1, 2, 4, 8, 16)]
    assert images[0]["tie_width"] == pytest.approx(4 * images[-1]["tie_width"])
    assert [row["tied"] for row in images] == sorted((row["tied"] for row in images), reverse=True)


def check_fidelity(found: dict[str, Any], spos: Spos) -> None:
    rows, others = [found["winner"], *found["architectures"]], found["architectures"]
    assert found["steps"] == 10
    assert len(rows) == len({str(row["architecture"]) for row in rows}) == 9
    best = yaml.safe_load((spos.run / "search" / "result.yaml").read_text())["best"][0]
    assert (rows[0]["architecture"], rows[0]["one_shot"]) == (best["architecture"], best["top1"])
    assert [row["flops"] for row in rows[1:]] == sorted(row["flops"] for row in rows[1:])  # ascending parts
    models = [checkpoint.load(path) for path in spos.run.glob("audit/alone/*/model.pt")]
    trained = {(str(model["architecture"]), model["config"]["seed"]): model["metrics"] for model in models}
    equals = found["equal_flops"]["architectures"]
    assert len(equals) == 2
    assert all(abs(row["flops"] / rows[0]["flops"] - 1) <= 0.03 for row in equals)
    assert all(trained[str(row["architecture"]), 0]["top1"] == row["alone"] for row in [*others, *equals])
    assert found["winner"]["trainings"] == [trained[str(best["architecture"]), seed]["top1"] for seed in (0, 1)]
    assert found["winner"]["alone"] == pytest.approx(sum(found["winner"]["trainings"]) / 2)
    assert found["winner"]["trainings"][0] != found["winner"]["trainings"][1]
    assert all(metrics["steps"] == 10 for metrics in trained.values())
    shots, alone = [row["one_shot"] for row in others], [row["alone"] for row in others]
    assert found["kendall"]["value"] == pytest.approx(kendalltau(shots, alone).statistic)
    assert found["spearman"]["value"] == pytest.approx(spearmanr(shots, alone).statistic)
    flops = [row["flops"] for row in others]
    assert found["kendall_of_flops"]["value"] == pytest.approx(kendalltau(flops, alone).statistic)
    for name in ("kendall", "spearman", "kendall_of_flops"):
        assert -1 <= found[name]["low"] <= found[name]["value"] <= found[name]["high"] <= 1


def test_mistakes(finished: Spos, spos: Spos, mistake: Mistake) -> None:
    assert "no search in runs/tiny yet; run spos search first" in mistake("audit")
    assert "no search in nowhere: nowhere/search/config.yaml is missing" in mistake("audit", "nowhere")
    assert "give one of them" in mistake("audit", "nowhere", "--run-dir", "elsewhere")
    assert "unknown setting 'audit.seedz'; did you mean 'seeds'?" in mistake("audit", "--set", "audit.seedz=2")
    copy = copy_of(finished, spos.folder)
    journal = copy.run / "search" / "journal.jsonl"
    other = copy.run / "supernet" / "step-00000090.pt"
    assert "is not the supernet of the search" in mistake("audit", "--weights", other)
    assert "18 of 24 candidates are there" in mistake("audit", "--set", "search.generations=3")
    for changed in ("search.images=50", "search.calibration_images=64", "data.holdout_per_class=5", "search.amp=bf16"):
        assert f"holds a search with other settings ({changed.partition('=')[0]}: " in mistake(
            "audit", "--set", changed
        )
    lines = journal.read_bytes().splitlines(keepends=True)
    alien = lines[-1].replace(b'"architecture": [', b'"architecture": ["0@0.5", ')
    journal.write_bytes(b"".join([*lines[:-1], alien]))
    for command in ("audit", "search", "export-arch"):
        assert "journal.jsonl:18 is a candidate of another space: the architecture has 5 layers" in mistake(command)
    journal.write_bytes(b"".join(lines[:-1]))
    assert "17 of 18 candidates are there" in mistake("audit", copy.run)
    journal.write_bytes(b"".join(lines))
    settings = copy.run / "audit" / "settings.json"
    settings.parent.mkdir()
    settings.write_text('{"architectures": 7}')
    said = mistake("audit", copy.run)
    assert "holds an audit with other settings" in said
    assert "architectures: 12, was 7" in said
    assert "--fresh" in said
