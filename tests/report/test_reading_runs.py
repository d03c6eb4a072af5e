"""`spos report` on run folders that are young, old, half written or hostile."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from spos_cli.engine import checkpoint
from spos_cli.errors import RunError, SposError
from spos_cli.report.findings import Findings
from spos_cli.report.reading import read_findings
from spos_cli.report.writing import write_report
from spos_cli.run.folder import RunFolder
from spos_cli.search.journal import Journal
from spos_cli.search.outcomes import OutcomesFile
from spos_cli.search.results import SIGNIFICANCE_LEVEL, ranking
from spos_cli.search.statistics import mcnemar
from spos_cli.space.architecture import Architecture
from spos_cli.space.limits import Limit
from spos_cli.stages import report
from tests.conftest import TINY, Mistake
from tests.runs import make_audit, write_run


def read(folder: Path) -> Findings:
    return read_findings(RunFolder(folder))


def write(folder: Path) -> Path:
    return write_report(RunFolder(folder))


def test_a_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = write_run(tmp_path / "run", TINY, audit=make_audit())
    best = ranking(entries)[0]
    folder = tmp_path / "run" / "retrain" / best.architecture.id
    folder.mkdir(parents=True)
    lines = [{"step": 10, "loss": 1.0, "top1": 0.5, "lr": 0.1, "images": 320, "images_per_second": 100.0}]
    lines += [{"step": 10, "val_loss": 0.9, "val_top1": 0.6}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = {"top1": 0.75, "top5": 1.0, "loss": 0.9, "images": 200, "steps": 10}
    checkpoint.save(folder / "model.pt", {"architecture": best.architecture.to_list(), "metrics": metrics})

    findings = read(tmp_path / "run")
    assert findings.name == "tiny"
    assert findings.search is not None
    assert findings.search.best == best
    assert list(findings.search.entries) == entries
    assert findings.search.ties
    assert [(network.right, network.images) for network in findings.retrained] == [(150, 200)]
    supernet, retrained = findings.trainings
    assert (supernet.steps[-1], retrained.val_top1) == (990, [0.6])
    costs = {effort.stage: effort for effort in findings.efforts}
    assert costs["search"].seconds == 125.0
    assert costs["search"].complete
    assert costs["search"].images_per_second == pytest.approx(60 * 400 / 125)
    assert costs["search"].device == "2 processes on a CPU, 4 threads"
    assert costs["supernet"].seconds == pytest.approx(99 * 2)  # from the metrics: it has no recorded time
    assert not costs["supernet"].complete
    assert findings.audit is not None
    assert findings.audit.correlations["kendall"] == (0.21, -0.2, 0.6)
    assert findings.audit.winner == (0.81, 0.915)
    assert len(findings.audit.stand_alone) == 12

    path = write(tmp_path / "run")
    text = path.read_text(encoding="utf-8")
    for phrase in (
        "τ between FLOPs and stand-alone top-1 −0.10",
        "Stand-alone networks",
        "75.00 %",
        "Kendall’s τ 0.21 (95 % interval −0.20 to 0.60)",
        "45 (45 %)",
        "2:05 min",
    ):
        assert phrase.replace(" %", "\u00a0%") in text
    before = path.stat().st_mtime_ns
    report.run(tmp_path / "run", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"file": str(path)}
    assert path.stat().st_mtime_ns == before  # the same page is not written again


def test_statistically_tied_are_the_candidates_of_the_paired_test(tmp_path: Path) -> None:
    entries = write_run(tmp_path / "run", TINY, 200)
    findings = read(tmp_path / "run")
    assert findings.search is not None
    assert findings.search.ties is not None
    bits = OutcomesFile(tmp_path / "run" / "search" / "outcomes.bits", 400)
    outcomes = [row for line in range(200) if (row := bits.read(line)) is not None]
    winner = outcomes[findings.search.winner_line]
    p_values = {
        line: mcnemar(int((winner & ~other).sum()), int((other & ~winner).sum())) for line, other in enumerate(outcomes)
    }
    del p_values[findings.search.winner_line]
    assert findings.search.ties == {line: p for line, p in p_values.items() if p > SIGNIFICANCE_LEVEL}
    assert 0 < len(findings.search.ties) < 199
    cheapest = min(entries[line].flops for line in [*findings.search.ties, findings.search.winner_line])
    assert entries[findings.search.cheapest_tied].flops == cheapest


def test_the_winner_of_a_search_that_was_killed_in_a_generation(tmp_path: Path) -> None:
    """Its result is from the generation before. Imported scores, which were found on other images, do not count."""
    run = tmp_path / "run"
    entries = write_run(run, TINY.replace("flops_limit: null", "flops_limit: 1G\n  params_limit: 1G"))
    best = ranking(entries)
    result = run / "search" / "result.yaml"
    result.write_text(yaml.safe_dump({"flops_limit": 10**9, "best": [entry.to_dict() for entry in best[1:4]]}))
    search = read(run).search
    assert search is not None
    assert search.best == best[0]
    assert search.ties
    assert entries.index(best[1]) in search.ties

    # Two candidates are imported. The winner was scored again, so it has two lines.
    imported = [replace(entry, origin="imported", top1=1.0) for entry in (best[0], best[5])]
    lines = [*imported, *(entry for entry in entries if entry != best[5])]
    journal, bits = run / "search" / "journal.jsonl", run / "search" / "outcomes.bits"
    journal.write_text("".join(entry.to_line() for entry in lines))
    rows = np.frombuffer(bits.read_bytes(), np.uint8).reshape(len(entries), -1)
    bits.write_bytes(bytes(2 * rows.shape[1]) + np.delete(rows, entries.index(best[5]), 0).tobytes())
    result.write_text(yaml.safe_dump({"best": [imported[0].to_dict()]}))
    search = read(run).search
    assert search is not None
    assert search.best == best[0]
    assert search.winner_line == lines.index(best[0])
    assert search.ties
    assert search.ties_unknown == ""
    assert min(search.ties) > 1
    assert search.limits == {"flops": Limit(10**9), "params": Limit(10**9)}
    for written, limit in (("2M-4M", Limit(4_000_000, 2_000_000)), ([1, 2], Limit(10**9)), (None, None)):
        result.write_text(yaml.safe_dump({"flops_limit": written}))
        search = read(run).search
        assert search is not None
        assert search.limits == {"flops": limit, "params": Limit(10**9)}
    (effort,) = [effort for effort in read(run).efforts if effort.stage == "search"]
    assert effort.work == f"{len(entries) - 1} candidates"
    journal.write_text("".join(entry.to_line() for entry in imported))
    assert read(run).search is None  # all scores are imported


def test_candidates_without_outcomes_are_mentioned(tmp_path: Path) -> None:
    run = tmp_path / "run"
    entries = write_run(run, TINY)
    bits, width = run / "search" / "outcomes.bits", 400 // 8
    lost = min(25, entries.index(ranking(entries)[0]))
    assert f"outcomes of {lost}" not in write(run).read_text(encoding="utf-8")
    bits.write_bytes(bytes(lost * width) + bits.read_bytes()[lost * width :])
    assert f"the outcomes of {lost} candidates" in write(run).read_text(encoding="utf-8")


@pytest.mark.parametrize("cost", ["flops", "params", "latency"])
def test_the_front_of_a_search_over_a_cost(tmp_path: Path, cost: str) -> None:
    text = TINY.replace("flops_limit: null", f"flops_limit: null\n  objective: pareto\n  pareto_cost: {cost}")
    write_run(tmp_path / "run", text)
    path = tmp_path / "run" / "search" / "result.yaml"
    result = yaml.safe_load(path.read_text())
    front = {"hypervolume": 30.0, "reference": {cost: 120, "top1": 0.0}, "latency_of": "Pixel 8, imported"}
    path.write_text(yaml.safe_dump({**result, **front}))
    search = read(tmp_path / "run").search
    assert search is not None
    assert (search.front_cost, search.hypervolume, search.latency_of) == (cost, 0.25, "Pixel 8, imported")


def test_missing_parts_are_left_out(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, TINY)
    (run / "search" / "outcomes.bits").unlink()
    (run / "search" / "result.yaml").write_text("best: [: broken")
    findings = read(run)
    assert findings.search is not None
    assert findings.search.ties is None
    assert findings.search.winner == ranking(findings.search.entries)[0].architecture
    assert write(run).exists()

    shutil.rmtree(run / "search")
    findings = read(run)
    assert (findings.search, len(findings.trainings)) == (None, 1)
    assert "not been searched yet" in write(run).read_text(encoding="utf-8")

    shutil.rmtree(run / "supernet")
    with pytest.raises(RunError, match="neither scores nor metrics"):
        write(run)


def test_broken_lines_are_left_out(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, TINY)
    evil = "<script>alert(1)</script>"
    deep = "[" * 100_000
    for name in ("supernet/metrics.jsonl", "search/timing.jsonl"):
        with (run / name).open("a") as file:
            file.write(
                f'nonsense\n{deep}\n[1]\n{{"step": "x", "done": -1}}\n{{"step": 1e999, "seconds": NaN}}\n'
                + json.dumps({"seconds": 1e30, "done": 1, "unit": "candidates", "device": evil})
                + "\n"
                + json.dumps({"seconds": 5, "done": 1, "unit": "candidates", "device": evil, "threads": evil})
                + '\n{"step": 2000, "loss": NaN, "top1": null, "lr": "fast"}\n{"step": 3'
            )
    for number in range(2):
        folder = run / "retrain" / f"{evil.replace('/', '')}{number}"
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
        (folder / "model.pt").write_bytes(b"no checkpoint")
    checkpoint.save(folder / "model.pt", {"architecture": [], "metrics": {}})
    (run / "search" / "result.yaml").write_text("best: [{architecture: []}]")
    audits: list[Any] = [
        3,
        {"random": 3, "fidelity": [], "images": [{"images": "x"}], "operators": {evil: {"proposed": 2}}},
    ]
    (run / "audit").mkdir()
    for audit in audits:
        (run / "audit" / "result.json").write_text(json.dumps(audit))
        text = write(run).read_text(encoding="utf-8")
        assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text  # it is shown as text
    training = read(run).trainings[0]
    assert (training.steps[-1], training.loss[-1], training.lr[-1]) == (2000, None, None)


def test_an_audit_of_another_search_is_left_out(tmp_path: Path) -> None:
    """The search was replaced by hand. An audit stays valid if the search has continued or was repeated."""
    run = tmp_path / "run"
    write_run(run, TINY, audit=make_audit())
    search = {"seed": 0, "supernet": "abc", "data": {"source": "digits"}, "search": {"images": 400}}
    audit = {
        "supernet": "abc",
        "search": {"images": 400, "generations": 2},
        "training": {"seed": 0, "space": {"classes": 9}, "data": {"source": "digits"}, "retrain": {"steps": 10}},
        "architectures": 12,
    }
    (run / "audit" / "settings.json").write_text(json.dumps(audit))
    assert read(run).audit is not None  # unknown without the search's settings
    settings = run / "search" / "settings.json"
    same: list[dict[str, Any]] = [{}, {"space": {"classes": 9}}, {"search": {"images": 400, "latency_table": "def"}}]
    for changes in same:
        settings.write_text(json.dumps(search | changes))
        assert read(run).audit is not None
    others: list[dict[str, Any]] = [
        {"seed": 1},
        {"supernet": "x"},
        {"space": {"classes": 10}},
        {"data": {"source": "cifar10"}},
        {"search": {"images": 100}},
        {"search": {}},
        {"search": {"images": 400, "racing": 0.05}},
    ]
    for changes in others:
        settings.write_text(json.dumps(search | changes))
        assert read(run).audit is None
        assert "spos audit compares them" in write(run).read_text(encoding="utf-8")
    images = {"training": {"cat": "40 images a b c"}}
    settings.write_text(json.dumps(search | {"images": images}))
    (run / "audit" / "settings.json").write_text(json.dumps(audit | {"images": images, "alone_on": {}}))
    assert read(run).audit is not None
    settings.write_text(json.dumps(search | {"images": {"training": {"cat": "41 images a b c"}}}))
    assert read(run).audit is None
    for wild in (3, [], {"search": 3, "training": 3}, {"supernet": [], "training": {}}):
        (run / "audit" / "settings.json").write_text(json.dumps(wild))
        read(run)


def test_infinite_times_are_left_out(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, TINY)
    metrics, timing = run / "supernet" / "metrics.jsonl", run / "search" / "timing.jsonl"
    metrics.write_text('{"step": 9, "loss": 2.0, "images": 1e18, "images_per_second": 1e-300}\n')
    timing.write_text('{"seconds": 1e-300, "done": 1000000000, "unit": "candidates", "device": "a CPU"}\n')
    write(run)
    costs = {effort.stage: effort for effort in read(run).efforts}
    assert costs["supernet"].seconds is None
    assert costs["search"].images_per_second is None


def test_a_journal_of_another_space(tmp_path: Path) -> None:
    write_run(tmp_path / "run", TINY)
    path = tmp_path / "run" / "search" / "journal.jsonl"
    entry = Journal(path).read()[0]
    for arch in (Architecture((0, 0)), Architecture((0, 0, 0, 9)), Architecture((0, 0, 0, 0), (0, 0, 0, 700))):
        path.write_text(replace(entry, architecture=arch).to_line())
        with pytest.raises(SposError, match=r"layers|has choice 9|no widths"):
            read(tmp_path / "run")


def test_mistakes(mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no run folder" in mistake("report", tmp_path / "nowhere")
    assert "no run folder runs/tiny" in mistake("report")
    assert "give one of them" in mistake("report", "a", "--run-dir", "b")
    (tmp_path / "empty").mkdir()
    assert f"spos status {tmp_path / 'empty'} shows the next command" in mistake("report", tmp_path / "empty")
    write_run(tmp_path / "run", TINY)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert "pip install 'spos[report]'" in mistake("report", tmp_path / "run")
