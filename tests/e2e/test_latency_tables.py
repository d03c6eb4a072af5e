"""Latencies measured elsewhere: from the template to a search under a limit, as with a measured table."""

from __future__ import annotations

import itertools
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from spos_cli.models import latency
from spos_cli.stages import flops_table
from tests.conftest import Mistake, Spos
from tests.runs import SHORT_AUDIT

OPTIONS = range(4)  # choices of each layer of the tiny space


def microseconds(layer: int, choice: int) -> int:
    """Return the latency of a choice; where one has more FLOPs than another, it is faster."""
    return 100 * (layer + 1) + 37 * (3 - choice)


def latency_of(arch: list[int]) -> int:
    """Return the latency of an architecture by the table that `fill` writes."""
    return 1500 + sum(microseconds(layer, choice) for layer, choice in enumerate(arch))


def fill(template: Path, device: str = "Pixel 8") -> None:
    """Fill in a template, as a script would that has measured every op."""
    lines = []
    for line in template.read_text().splitlines():
        layer, choice, *_ = line.split(",") if line.endswith(",") else ("", "")
        if line == "# device:":
            line += f" {device}"
        elif layer == "fixed":
            line += "1.5"
        elif layer:
            line += f"{microseconds(int(layer), int(choice)) / 1000}"
        lines.append(line)
    template.write_text("\n".join(lines) + "\n")


def import_table(spos: Spos, *options: object, device: str = "Pixel 8") -> None:
    """Write a template, fill it in and import it."""
    template = spos.folder / "phone.csv"
    template.unlink(missing_ok=True)
    spos.here("flops-table", "--latency-template", "phone.csv", *options)
    fill(template, device)
    spos.here("flops-table", "--import-latency", "phone.csv", *options)


def test_from_the_template_to_the_table(spos: Spos, mistake: Mistake) -> None:
    done = spos.here("flops-table", "--latency-template", "phone.csv")
    assert "next: spos flops-table --import-latency phone.csv\n" in done.stdout
    message = mistake("flops-table", "--import-latency", "phone.csv")
    assert "phone.csv:5: the row fixed: milliseconds is empty" in message
    assert not (spos.run / "latency_table.json").exists()
    fill(spos.folder / "phone.csv")
    assert "phone.csv already exists" in mistake("flops-table", "--latency-template", "phone.csv")
    done = spos.here("flops-table", "--import-latency", "phone.csv")
    for phrase in ("Pixel 8", "not compared", "1.5ms", "0: 211us", "next: spos search --latency-limit 2."):
        assert phrase in done.stdout
    table = json.loads((spos.run / "latency_table.json").read_text())
    assert table["fixed"] == 1500
    assert table["table"] == [[microseconds(layer, choice) for choice in OPTIONS] for layer in range(4)]
    assert table["conditions"] == {"device": "Pixel 8", "imported": True}
    assert json.loads(spos.here("flops-table", "--import-latency", "phone.csv", "--json").stdout) == table
    assert "device Pixel 8, imported" in spos.here("status").stdout


@pytest.mark.slow
def test_a_search_under_a_limit(finished: Spos, spos: Spos) -> None:
    """It keeps the limit, and is not resumed with the table of another device."""
    import_table(spos)
    search = ("search", "--weights", finished.run / "supernet" / "last.pt", "--latency-limit", "2640us")
    assert "at or under 2.64ms" in spos.here(*search).stdout
    lines = (spos.run / "search" / "journal.jsonl").read_text().splitlines()
    latencies = [latency_of(json.loads(line)["architecture"]) for line in lines]
    assert len(latencies) == 18
    assert max(latencies) <= 2640
    everything = [latency_of(list(arch)) for arch in itertools.product(OPTIONS, repeat=4)]
    assert sum(latency <= 2640 for latency in everything) < 200  # of 256
    import_table(spos)  # The same latencies of the same device are the same table.
    spos.here(*search)
    spos.here("audit", *search[1:3], *SHORT_AUDIT, "--set", "search.latency_limit=2640us")
    lines = (spos.run / "audit" / "journal.jsonl").read_text().splitlines()
    compared = [(one["costs"]["latency"], latency_of(one["architecture"])) for one in map(json.loads, lines)]
    assert compared
    assert all(written == expected <= 2640 for written, expected in compared)
    import_table(spos, device="Pixel 9")
    assert "holds a search with other settings (search.latency_table:" in spos.here(*search, code=2).stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        ("onnxruntime", "ONNX Runtime, 1 threads, float32, batch 2"),
        ("onnxruntime-int8", "ONNX Runtime with 8 bits, 1 threads, int8, batch 2"),
    ],
)
def test_a_search_by_latencies_of_onnx_runtime(
    finished: Spos, spos: Spos, monkeypatch: pytest.MonkeyPatch, runtime: str, words: str
) -> None:
    """The runtime is a part of the table: a search is not resumed with the same latencies of PyTorch."""
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    monkeypatch.setattr(flops_table, "FITTED_NETWORKS", 2)
    monkeypatch.setattr(latency, "MEASURED_ROUNDS", 3)
    done = spos.here("flops-table", "--latency", "--runtime", runtime, "--latency-batch", "2")
    assert words in done.stdout
    path = spos.run / "latency_table.json"
    table = json.loads(path.read_text())
    assert table["conditions"]["runtime"] == runtime
    assert len(table["whole"]) == 2
    assert all(cost > 0 for row in table["table"] for cost in row)
    search = ("search", "--weights", finished.run / "supernet" / "last.pt", "--latency-limit", "10s")
    for _ in range(2):  # The second time, there is nothing left to score.
        spos.here(*search)
    result = yaml.safe_load((spos.run / "search" / "result.yaml").read_text())
    assert result["latency_of"].endswith(f", {words}")
    lines = (spos.run / "search" / "journal.jsonl").read_text().splitlines()
    for one in map(json.loads, lines):
        added = sum(row[choice] for row, choice in zip(table["table"], one["architecture"], strict=True))
        assert one["costs"]["latency"] == table["fixed"] + added
    path.write_text(path.read_text().replace(f'"{runtime}"', '"torch"'))
    assert "holds a search with other settings (search.latency_table:" in spos.here(*search, code=2).stderr


def find_front(lines: list[dict[str, Any]], cost: str) -> list[list[int]]:
    """Return the architectures that no other one dominates, the cheapest first, by comparing all pairs."""
    pairs = [({**one, **one.get("costs", {})}[cost], -one["top1"]) for one in lines]
    kept = [
        number
        for number, (ours, score) in enumerate(pairs)
        if not any(c <= ours and s <= score and (c, s) != (ours, score) for c, s in pairs)
    ]
    return [lines[number]["architecture"] for number in sorted(kept, key=lambda number: pairs[number][0])]


@pytest.mark.slow
@pytest.mark.parametrize("cost", ["latency", "params"])
def test_a_search_for_the_front(finished: Spos, tmp_path: Path, cost: str) -> None:
    """Over latency or parameters: killed and resumed, or by two processes, it ends in the same bytes."""
    whole, broken, two = (Spos(tmp_path / name) for name in ("whole", "broken", "two"))
    # With this seed, the front has several candidates, and is not that of FLOPs.
    weights = ("--weights", finished.run / "supernet" / "last.pt", "--seed", 1)
    chosen = ("--objective", "pareto", "--pareto-cost", cost)
    if cost == "latency":
        for spos in (whole, broken, two):
            import_table(spos)
    told = json.loads(whole.here("search", *weights, *chosen, "--json").stdout)
    folders = [spos.run / "search" for spos in (whole, broken, two)]
    code, _ = broken.interrupt(signal.SIGKILL, lambda: count_lines(folders[1]) >= 8, "search", *weights, *chosen)
    assert code == -signal.SIGKILL
    assert (
        f"search.pareto_cost: 'flops', was '{cost}'"
        in broken.here("search", *weights, "--objective", "pareto", code=2).stderr
    )
    said = broken.here("search", *weights, *chosen).stdout
    assert f"the front ({'parameters' if cost == 'params' else 'latency'}) of 18 candidates" in said
    two.together("search", *weights, *chosen)
    for name in ("journal.jsonl", "result.yaml", "outcomes.bits"):
        content = (folders[0] / name).read_bytes()
        assert [(folder / name).read_bytes() == content for folder in folders] == [True] * 3

    lines = [json.loads(line) for line in (folders[0] / "journal.jsonl").read_text().splitlines()]
    assert all(("costs" in line) == (cost == "latency") for line in lines)
    front = find_front(lines, cost)
    assert [one["architecture"] for one in told] == front
    result = yaml.safe_load((folders[0] / "result.yaml").read_text())
    assert [one["architecture"] for one in result["front"]] == front
    assert len(front) > 1
    assert front != find_front(lines, "flops")
    exported = json.loads(whole.here("export-arch", "--pareto", "--json").stdout)
    assert [one["architecture"] for one in exported] == front
    if cost == "latency":
        assert [line["costs"]["latency"] for line in lines] == [latency_of(line["architecture"]) for line in lines]
        assert (result["latency_of"], result["reference"]) == ("Pixel 8, imported", {"latency": 2944, "top1": 0})
        table = whole.here("export-arch", "--pareto").stdout
        for text in (said, table):
            assert "latency (ms)" in text
            assert f" {told[0]['costs']['latency'] / 1000:.4g} " in text
        best = max(lines, key=lambda line: (line["top1"], -line["flops"]))
        assert f"{best['costs']['latency'] / 1000:.4g}ms" in whole.here("status").stdout
        fitness = yaml.safe_load(Path(whole.folder, exported[0]["file"]).read_text())
        assert fitness["costs"] == told[0]["costs"]
        page = (folders[0] / "report.html").read_text(encoding="utf-8")
        assert "by the table of Pixel 8, imported" in page
        assert re.search('data-cost="latency" aria-pressed="true"', page)


def count_lines(folder: Path) -> int:
    journal = folder / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


@pytest.mark.slow
def test_a_front_over_latency_needs_a_table(finished: Spos, spos: Spos) -> None:
    weights = ("--weights", finished.run / "supernet" / "last.pt", "--objective", "pareto", "--pareto-cost", "latency")
    message = spos.here("search", *weights, code=2).stderr
    flags = "--set search.objective=pareto --set search.pareto_cost=latency"
    assert f"run spos flops-table --latency {flags} first, or import latencies with --import-latency FILE" in message
    assert message.count("\n") == 1
    assert not (spos.run / "search" / "journal.jsonl").exists()
    message = spos.here("search", *weights[:2], "--pareto-cost", "latency", code=2).stderr
    assert "set objective: pareto" in message


@pytest.mark.slow
def test_candidates_of_another_search_get_their_latency(finished: Spos, spos: Spos) -> None:
    """It is by this run's table, also where the other search had none; scores of the same images count as they are."""
    import_table(spos)
    journal = finished.run / "search" / "journal.jsonl"
    front = ("--objective", "pareto", "--pareto-cost", "latency", "--from", journal)
    search = ("search", "--weights", finished.run / "supernet" / "last.pt", *front)
    spos.here(*search)
    lines = [json.loads(line) for line in (spos.run / "search" / "journal.jsonl").read_text().splitlines()]
    assert sum(line.get("earlier", False) for line in lines) == 18
    assert [line["costs"]["latency"] for line in lines] == [latency_of(line["architecture"]) for line in lines]
    found = yaml.safe_load((spos.run / "search" / "result.yaml").read_text())["front"]
    assert [one["architecture"] for one in found] == find_front(lines, "latency")
    before = (spos.run / "search" / "journal.jsonl").read_bytes()
    spos.here(*search)
    assert (spos.run / "search" / "journal.jsonl").read_bytes() == before


def test_a_file_has_no_rows_for_image_sizes(mistake: Mistake) -> None:
    sizes = ("--set", "space.image_sizes=[4, 8]")
    for option, file in (("--latency-template", "new.csv"), ("--import-latency", __file__)):
        assert "one number for each option, but with space.image_sizes" in mistake("flops-table", option, file, *sizes)


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        (("--latency", "--import-latency", "x.csv"), "--import-latency and --latency do different things"),
        (("--import", "x.pkl", "--latency-template", "x.csv"), "--import and --latency-template do different things"),
        (("0,0,0,0", "--import-latency", "x.csv"), "do not pass architectures with --import-latency"),
        (("--import-latency", "x.csv"), "cannot read x.csv: No such file"),
        (("--latency-template", "."), "already exists"),
        (("--latency-template", "spos.yaml/x.csv"), "cannot write spos.yaml/x.csv"),
    ],
)
def test_mistakes(mistake: Mistake, options: tuple[str, ...], phrase: str) -> None:
    assert phrase in mistake("flops-table", *options)
