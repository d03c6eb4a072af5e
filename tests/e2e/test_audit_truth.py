"""`spos audit --truth`: its numbers against SciPy, killed and resumed, in two processes, and mistakes."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from spos_cli.config import loading
from spos_cli.models.counting import count
from spos_cli.report.reading import read_findings
from spos_cli.run.folder import RunFolder
from spos_cli.search.journal import Journal
from spos_cli.space.architecture import Architecture
from tests.conftest import Mistake, Spos
from tests.e2e.test_audit import copy_of

pytestmark = pytest.mark.slow

SCORES = ("journal.jsonl", "outcomes.bits", "result.json")


def write_truth(spos: Spos, flops_times: int = 1) -> Path:
    """Write made-up accuracies of two seeds for the whole space: deeper kernels are better, with noise."""
    costs = count(loading.load(spos.folder / "spos.yaml").space.build()).flops
    rng = np.random.default_rng(0)
    path = spos.folder / "truth.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["architecture", "accuracy_1", "accuracy_2", "flops"])
        for choices in itertools.product(range(4), repeat=4):
            accuracies = (80 + sum(choices) + rng.standard_normal(2)).tolist()
            flops = costs.of(Architecture(choices)) * flops_times
            writer.writerow(["".join(map(str, choices)), *accuracies, flops])
    return path


def read_accuracies(truth: Path) -> dict[Architecture, float]:
    """Read the mean of both seeds of each architecture, as a share."""
    with truth.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        Architecture(tuple(map(int, row["architecture"]))): sum(float(row[f"accuracy_{n}"]) for n in (1, 2)) / 200
        for row in rows
    }


def test_the_whole_space(finished: Spos, tmp_path: Path) -> None:
    whole, killed, two = (copy_of(finished, tmp_path / name) for name in ("whole", "killed", "two"))
    truth = write_truth(whole)
    for spos in (killed, two):
        shutil.copy(truth, spos.folder)
    found = json.loads(whole.here("audit", "--truth", "truth.csv", "--json").stdout)
    folder = killed.run / "truth"
    code, _ = killed.interrupt(
        signal.SIGKILL, lambda: (folder / "journal.jsonl").exists(), "audit", killed.run, "--truth", "truth.csv"
    )
    assert code == -signal.SIGKILL
    assert not (folder / "result.json").exists()
    said = killed.here("audit", killed.run, "--truth", "truth.csv").stdout
    assert "256 of 256 networks" in said
    assert "evolution" in said
    two.together("audit", "--truth", "truth.csv")
    for spos in (killed, two):
        for name in SCORES:
            assert (spos.run / "truth" / name).read_bytes() == (whole.run / "truth" / name).read_bytes()
    entries = Journal(whole.run / "truth" / "journal.jsonl").read()
    assert len({entry.architecture for entry in entries}) == 256
    # What a search has scored on the same images has the same score here.
    searched = Journal(whole.run / "search" / "journal.jsonl").read()
    scores = {entry.architecture: entry.top1 for entry in entries}
    assert all(entry.top1 == scores[entry.architecture] for entry in searched)
    accuracy = read_accuracies(truth)
    pairs = [(scores[arch], accuracy[arch]) for arch in accuracy]
    assert found["agreement"][0]["part"] == "all"
    assert found["agreement"][0]["kendall"]["value"] == pytest.approx(kendalltau(*zip(*pairs, strict=True)).statistic)
    best = max(searched, key=lambda entry: (entry.top1, -entry.flops))
    choices = {row["choice"]: row for row in found["choices"]}
    own = choices["the winner of the search in this run"]
    assert own["accuracy"] == pytest.approx(accuracy[best.architecture])
    assert own["regret"] == pytest.approx(max(accuracy.values()) - accuracy[best.architecture])
    assert choices["evolution"]["seeds"] == 5
    check_another_limit(whole)
    check_less_truth(whole)
    check_report(whole)


def check_another_limit(spos: Spos) -> None:
    """Another limit takes the scores that are there."""
    journal = (spos.run / "truth" / "journal.jsonl").read_bytes()
    limit = sorted(entry.flops for entry in Journal(spos.run / "truth" / "journal.jsonl").read())[100]
    said = spos.here("audit", "--truth", "truth.csv", "--set", f"search.flops_limit={limit}", "--json").stdout
    found = json.loads(said)
    assert "at or under" in found["limits"]
    assert found["agreement"][1]["networks"] >= 101
    assert (spos.run / "truth" / "journal.jsonl").read_bytes() == journal
    assert not (spos.run / "config.yaml").exists()  # It has only asked a question.


def check_less_truth(spos: Spos) -> None:
    """A sample, or a smaller truth, is compared by itself, though more scores are there."""
    said = spos.here("audit", "--truth", "truth.csv", "--sample", "20").stdout
    assert "20 of 256 networks" in said
    assert "searches are repeated only if all" in said
    lines = (spos.folder / "truth.csv").read_text().splitlines(keepends=True)
    (spos.folder / "part.csv").write_text("".join(lines[:61]))
    assert "60 of 60 networks" in spos.here("audit", "--truth", "part.csv").stdout
    (spos.folder / "few.csv").write_text("".join(lines[:6]))
    assert "has 5 networks; a rank correlation needs 8" in spos.here("audit", "--truth", "few.csv", code=2).stderr
    spos.here("audit", "--truth", "truth.csv")


def check_report(spos: Spos) -> None:
    findings = read_findings(RunFolder(spos.run))
    assert findings.truth is not None
    assert len(findings.truth.points) == 256
    spos.here("report", spos.run)
    page = (spos.run / "search" / "report.html").read_text()
    assert "Against the truth" in page
    assert "the best of 50 random ones, each trained" in page


def test_a_sample_grows_and_a_run_needs_no_search(finished: Spos, tmp_path: Path) -> None:
    spos = copy_of(finished, tmp_path)
    shutil.rmtree(spos.run / "search")
    write_truth(spos)
    said = spos.here("audit", spos.run, "--truth", "truth.csv", "--sample", "20").stdout
    assert "20 of 256 networks" in said
    assert "searches are repeated only if all" in said
    before = (spos.run / "truth" / "journal.jsonl").read_bytes()
    spos.here("audit", spos.run, "--truth", "truth.csv", "--sample", "30")
    after = (spos.run / "truth" / "journal.jsonl").read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == 30


def test_mistakes(finished: Spos, spos: Spos, mistake: Mistake) -> None:
    assert "--sample is for --truth FILE" in mistake("audit", "--sample", "20")
    assert "no supernet in runs/tiny yet; run spos supernet-train first" in mistake("audit", "--truth", "truth.csv")
    assert "there is no supernet in nowhere" in mistake("audit", "nowhere", "--truth", "truth.csv")
    copy_of(finished, spos.folder)
    assert "cannot read truth.csv" in mistake("audit", "--truth", "truth.csv")
    write_truth(spos, flops_times=2)
    cheapest = min(entry.flops for entry in Journal(spos.run / "search" / "journal.jsonl").read())
    limited = ("--set", f"search.flops_limit={cheapest // 2}")
    assert "networks of the truth is at or under" in mistake("audit", "--truth", "truth.csv", *limited)
    done = spos.here("audit", "--truth", "truth.csv", "--sample", "8")
    assert "other FLOPs than this space for 256 of 256 architectures" in done.stderr
    assert "holds a comparison with the truth with other settings (search.images: " in mistake(
        "audit", "--truth", "truth.csv", "--sample", "8", "--set", "search.images=50"
    )
